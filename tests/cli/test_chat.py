"""`unending chat`, over piped standard input."""

import io
import sys

import pytest

from unending.cli import main
from unending.core import Query, Session
from unending.systems.language import StreamingLLM


@pytest.fixture
def chat(capsys, flags, monkeypatch):
    """Type lines, the last of them followed by the end of input; exit code, standard output and error."""

    def typed(*lines, flags=flags, encoding="utf-8"):
        content = "".join(f"{line}\n" for line in lines).encode(encoding)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
        code = main(["chat", *flags])
        return code, *capsys.readouterr()

    return typed


def test_answers_come_on_standard_output(chat):
    code, out, err = chat("why?", "", "and how?")
    assert (code, err) == (0, "")
    assert out.count("\n") >= 2
    assert out.strip()


def test_the_same_conversation_gives_the_same_answers(chat):
    assert chat("why?", "and how?") == chat("why?", "and how?")


def test_no_input_is_no_mistake(chat):
    assert chat() == (0, "", "")


def test_exit_leaves(chat):
    assert chat("/exit", "why?") == (0, "", "")


def test_help_lists_the_commands(chat):
    code, out, err = chat("/help")
    assert (code, err) == (0, "")
    for command in ("/memory", "/save FILE", "/load FILE", "/exit"):
        assert f"{command} " in out


def test_an_unknown_command_is_said(chat):
    code, out, err = chat("/hepl")
    assert (code, err) == (0, "there is no /hepl\n")
    assert "/memory" in out


def test_memory_against_its_bound(chat):
    code, out, _ = chat("/memory", "why?", "/memory")
    lines = [line for line in out.splitlines() if " of at most " in line]
    assert code == 0
    assert [line.split(", ", 1)[0] for line in lines] == ["7.54 KiB of at most 7.54 KiB"] * 2
    assert lines[0].endswith("0 turns and chunks in, 0 tokens generated in this run")
    assert "1 turns and chunks in" in lines[1]


def test_a_saved_conversation_goes_on(chat, flags, tmp_path):
    whole = chat("why?", "and how?")[1]
    first = chat("why?", "/save talk")[1]
    assert (tmp_path / "talk").is_file()
    assert first.endswith("saved to talk\n")
    loaded = chat("and how?", flags=["--load", "talk", *flags])[1]
    assert first.removesuffix("saved to talk\n") + loaded == whole
    within = chat("something else", "/load talk", "and how?")[1]
    assert within.endswith(loaded)
    assert "loaded talk: " in within


@pytest.mark.parametrize("command", ["/save", "/load "])
def test_a_file_must_be_named(chat, command):
    assert chat(command) == (0, "", f"{command.strip()} needs the name of a file\n")


def test_a_file_that_is_not_there(chat):
    code, out, err = chat("/load nowhere", "why?")
    assert code == 0
    assert err == "unending: cannot read nowhere: No such file or directory\n"
    assert out.strip()


def test_a_file_that_is_no_snapshot(chat, tmp_path):
    (tmp_path / "talk").write_text("hello")
    code, _, err = chat("/load talk", "/save nowhere/talk")
    assert code == 0
    first, second = err.splitlines()
    assert first.startswith("unending: talk is not an intact snapshot")
    assert second.startswith("unending: cannot write nowhere/talk: No such file or directory")


def test_a_snapshot_to_begin_with_that_is_not_there(chat, flags):
    assert chat(flags=["--load", "nowhere", *flags]) == (
        1,
        "",
        "unending: cannot read nowhere: No such file or directory\n",
    )


def test_a_question_that_does_not_fit(chat):
    code, out, err = chat("why? " * 9, "why?")
    assert code == 0
    assert err == "unending: 46 tokens do not fit in one turn: the window holds 14 beside the sinks\n"
    assert out == chat("why?")[1]


def test_bytes_that_are_no_text(chat):
    code, _, err = chat("vidéo?", encoding="latin-1")
    assert (code, err) == (0, "")


def raising(method, times):
    """The method, with a Ctrl-C in its `times`-th call."""
    calls = []

    def interrupted(self, *given):
        calls.append(1)
        if len(calls) == times:
            raise KeyboardInterrupt
        return method(self, *given)

    return interrupted


def test_ctrl_c_stops_an_answer_and_the_conversation_goes_on(chat, monkeypatch):
    monkeypatch.setattr(StreamingLLM, "_decode", raising(StreamingLLM._decode, 2))
    code, out, err = chat("why?", "and how?", "/save talk")
    assert (code, err) == (0, "")
    assert out.count(" [stopped]\n") == 1
    stopped, went_on = out.split(" [stopped]\n")
    assert went_on.strip()
    assert stopped in chat("why?")[1]


def test_ctrl_c_before_the_first_token(chat, monkeypatch):
    monkeypatch.setattr(StreamingLLM, "_ask", raising(StreamingLLM._ask, 1))
    code, out, err = chat("why?", "/memory", "and how?")
    assert (code, err) == (0, "")
    assert out.startswith(" [stopped]\n")
    # The question was taken back as a whole.
    assert "0 turns and chunks in" in out
    assert out.endswith(chat("and how?")[1])


def test_ctrl_c_at_the_prompt_clears_the_line(chat, monkeypatch):
    lines = iter([KeyboardInterrupt, "/memory", EOFError])

    def typed(prompt):
        line = next(lines)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", typed)
    code, out, _ = chat()
    assert code == 0
    assert "KiB of at most" in out


def test_a_system_without_answers_is_refused(capsys):
    assert main(["chat", "tests.cli.test_run:Mean"]) == 2
    assert capsys.readouterr().err == "unending: mean-of-tests does not answer questions in text\n"


def test_what_is_said_is_what_the_session_says(chat, model):
    session = Session(StreamingLLM(str(model), 2, 14, 4, max_new_tokens=2))
    session.push(Query("why?"))
    said = []
    while events := session.poll():
        said += [event.data.text for event in events]
    assert chat("why?")[1] == "".join(said) + "\n"
