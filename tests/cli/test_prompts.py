"""`unending run` on a file of prompts."""

import json
import os
import signal

import pytest

from unending.cli import main
from unending.core import Session
from unending.systems.language.batch_llm import BatchLLM

BATCH = "unending.systems.language.batch_llm:BatchLLM"
PROMPTS = [f"Question {number}: why?" for number in (3, 1, 4, 1, 5)]


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": each}) + "\n" for each in PROMPTS))
    return path


@pytest.fixture
def batch(model):
    settings = "--prompts 8 --prompt-tokens 24 --max-new-tokens 4 --kv-tokens 64 --block-size 4"
    return ["--model", str(model), *settings.split()]


def run(capsys, *arguments):
    code = main(["run", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def expected(model):
    op = BatchLLM(model=str(model), prompts=8, prompt_tokens=24, max_new_tokens=4, kv_tokens=64, block_size=4)
    from unending.core import Query

    events = op.offline([Query(each) for each in PROMPTS])
    return [{"index": index, "text": event.data.text} for index, event in enumerate(events)]


def test_answers_are_lines_of_json_in_the_order_of_the_prompts(capsys, prompts, batch, model):
    code, out, err = run(capsys, BATCH, prompts, *batch)
    assert code == 0
    assert [json.loads(line) for line in out.splitlines()] == expected(model)
    assert "position 5 of 5 prompts (100 %)  answered 5 prompts" in err.splitlines()[-1]


@pytest.mark.parametrize("size", [2, 5])
def test_batches_smaller_than_the_file(capsys, prompts, batch, model, size):
    batch[batch.index("--prompts") + 1] = str(size)
    _, out, _ = run(capsys, BATCH, prompts, *batch)
    assert [json.loads(line) for line in out.splitlines()] == expected(model)


def test_a_summary_holds_the_answers(capsys, prompts, batch, model):
    _, out, _ = run(capsys, BATCH, prompts, *batch, "--json", "--items", 3)
    found = json.loads(out)
    assert found["position"] == 3
    assert found["answers"] == expected(model)[:3]


def test_a_question_comes_after_the_prompts(capsys, prompts, batch):
    code, out, _ = run(capsys, BATCH, prompts, *batch, "--ask", PROMPTS[0])
    *lines, answer = out.splitlines()
    assert code == 0
    assert answer == json.loads(lines[0])["text"]


def test_a_system_that_answers_at_once_takes_prompts_too(capsys, prompts, model):
    settings = "--sink-size 2 --window-size 50 --chunk 4 --max-new-tokens 4"
    code, out, _ = run(capsys, "streaming-llm", prompts, "--model", model, *settings.split())
    assert code == 0
    found = [json.loads(line)["index"] for line in out.splitlines()]
    assert found
    assert found == sorted(set(found))


def test_a_bad_line_is_one_line_and_nothing_is_run(capsys, prompts, batch):
    with open(prompts, "a") as file:
        file.write("{}\n")
    code, out, err = run(capsys, BATCH, prompts, *batch)
    assert code != 0
    assert not out
    assert err.splitlines()[-1].startswith("unending: ")
    assert "line 6 is no prompt" in err


def test_ctrl_c_in_the_middle_of_a_batch_loses_nothing(capsys, prompts, batch, model, monkeypatch, tmp_path):
    """The run is cut between two outputs; the same command goes on, and every answer came once."""
    polled = 0
    poll = Session.poll

    def counted(session):
        nonlocal polled
        if session.pending:
            polled += 1
            if polled == 3:
                os.kill(os.getpid(), signal.SIGINT)
        return poll(session)

    monkeypatch.setattr(Session, "poll", counted)
    batch += ["--max-batched-tokens", "8", "--store", str(tmp_path / "store")]
    code, first, err = run(capsys, BATCH, prompts, *batch)
    assert code == 130
    assert "the same command goes on from there" in err
    code, second, err = run(capsys, BATCH, prompts, *batch)
    assert code == 0
    assert "resumed at 5" in err
    assert second
    assert [json.loads(line) for line in (first + second).splitlines()] == expected(model)
