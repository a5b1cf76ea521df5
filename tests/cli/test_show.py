"""`unending run --show`: outputs of chosen roles as they come, and questions that come first."""

import io
import json
import sys

import pytest
import torch

from unending.cli import main
from unending.cli.shown import Shown, missed, roles
from unending.core import Control, Event, Query, Session, Text
from unending.core.errors import InputError
from unending.systems.language.streaming_thinker import StreamingThinking
from unending.systems.language.streaming_thinker.examples import tiny_thinker

SYSTEM = "unending.systems.language.streaming_thinker:StreamingThinking"
PROBLEM = "Ann has 12. Ben has 3 more than Ann. It rains. "
SMALL = ["--source-tokens", "160", "--max-sentences", "8", "--max-unit-tokens", "4", "--max-new-tokens", "4"]


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models") / "thinker"
    for part in tiny_thinker():
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def command(thinker, tmp_path):
    (tmp_path / "problem.txt").write_text(PROBLEM)
    return ["run", SYSTEM, "problem.txt", "--model", str(thinker), *SMALL, "--temperature", "1"]


def expected(thinker, *chunks):
    """Role and text of each unit."""
    op = StreamingThinking(
        model=str(thinker),
        source_tokens=160,
        max_sentences=8,
        max_unit_tokens=4,
        max_new_tokens=4,
        temperature=1.0,
    )
    shown = Shown(None, out=False)
    shown.see(Session(op).run(chunks))
    return [(each["role"], each["text"]) for each in shown.whole]


def test_thoughts_and_answer_are_printed(capsys, command, thinker):
    assert main([*command, "--ask", "How many?", "--show", "all", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    units = expected(thinker, Query("How many?"), Text(PROBLEM))
    assert [(each["role"], each["text"]) for each in summary["shown"]] == units
    assert [role for role, _ in units].count("thought") >= 3
    assert summary["answer"] == "".join(text for role, text in units if role == "answer").strip()
    assert main([*command, "--ask", "How many?", "--show", "thoughts"]) == 0
    out = capsys.readouterr().out
    assert out == "".join(f"{text.lstrip()}\n" for role, text in units if role == "thought")


def test_several_roles_are_told_apart(capsys, command):
    assert main([*command, "--ask", "How many?", "--show", "deep", "answer"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("deep: ", "answer: "))]
    assert len(lines) == 2


def test_without_show_the_answer_is_printed(capsys, command, thinker):
    assert main([*command, "--ask", "How many?"]) == 0
    answer = dict(expected(thinker, Query("How many?"), Text(PROBLEM)))["answer"]
    assert capsys.readouterr().out == f"{answer.lstrip()}\n"


def test_a_role_that_nothing_had_is_told(capsys, command):
    assert main([*command, "--ask", "How many?", "--show", "doubts"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "no output had a role of --show doubts; there were: answer, deep, thought" in err


def test_thoughts_come_while_the_text_is_still_arriving(shell, thinker):
    """On standard input, the thought on a sentence is there before the next sentence is."""
    process = shell.start(
        *("run", SYSTEM, "-", "--model", thinker, *SMALL, "--temperature", "0", "--ask", "How many?"),
        *("--show", "thoughts", "deep"),
        stdin=-1,
    )
    for sentence in (b"Ann has 12.\n", b"Ben has 3.\n"):
        process.stdin.write(sentence)
        process.stdin.flush()
        assert process.stdout.read(1)  # waits for it
    assert process.poll() is None  # it still waits for more
    out, _ = process.communicate(timeout=60)
    assert b"deep: " in out


def test_a_question_goes_with_its_store(capsys, command, tmp_path):
    store = ["--store", str(tmp_path / "store"), "--json", "--show", "answer"]
    assert main([*command, "--ask", "How many?", *store]) == 0
    first = json.loads(capsys.readouterr().out)
    assert main([*command, "--ask", "How many?", *store]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["shown"] == first["shown"]
    assert main([*command, "--ask", "Who?", *store]) == 1
    assert "and the question 'How many?'; give this one a folder of its own" in capsys.readouterr().err


def test_an_empty_problem_is_said_to_be_one(capsys, command, tmp_path):
    (tmp_path / "problem.txt").write_text("")
    assert main([*command, "--ask", "How many?"]) == 2
    assert "problem.txt is an empty stream" in capsys.readouterr().err


def test_the_first_sentence_may_be_the_question(capsys, command, monkeypatch, thinker):
    command[2] = "-"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"How many? {PROBLEM}".encode())))
    assert main([*command, "--show", "all", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["shown"]
    asked = expected(thinker, Query("How many?"), Text(PROBLEM))
    assert [(each["role"], each["text"]) for each in shown] == asked


def test_ordinary_systems_show_their_text(capsys, flags, tmp_path):
    (tmp_path / "book.txt").write_text("It was a dark and stormy night. " * 3)
    asked = ["run", "streaming-llm", "book.txt", *flags, "--ask", "why?"]
    assert main(asked) == 0
    plain = capsys.readouterr().out
    assert main([*asked, "--show", "text"]) == 0
    assert capsys.readouterr().out.strip() == plain.strip()


def test_names_of_roles():
    assert roles(["Thoughts", "text"]) == {"thoughts", ""}
    assert roles(["all", "deep"]) is None
    with pytest.raises(InputError, match="thoughts, deep, answer"):
        roles([" "])


def test_stretches_of_one_role_and_time_are_one_line(capsys):
    shown = Shown(roles(["thoughts"]), out=True)
    pieces = (("thought", " a", 1), ("thought", "b", 1), ("answer", "x", 1), ("thought", "c", 2))
    shown.see(Event(Text(text, role=role), t, t) for role, text, t in pieces)
    shown.end_line()
    assert capsys.readouterr().out == "ab\nc\n"
    assert missed(shown, ["thoughts"]) == ""


def test_what_is_printed_is_not_kept(capsys):
    shown = Shown(None, out=True)
    for at in range(1000):
        shown.see([Event(Text("a thought", role="thought"), at, at), Event(Control("action", 1), at, at)])
        shown.see([Event(Text("and on"), at, at)])
    shown.end_line()
    assert len(capsys.readouterr().out.splitlines()) == 3000
    assert len(shown.whole) == 1
    assert shown.whole[0]["text"] == ""
