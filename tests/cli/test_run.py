"""`unending run`: sources, answers, pictures, and stores that survive Ctrl-C and kill."""

import errno
import fcntl
import io
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from unending.cli import main
from unending.core import Bound, Event, Exactness, Operator, Rows, Session, Spec, state

TEXT = "Streams that never end: language, vidéo, 音声, all behind one contract. " * 14
EVERY = ["--read", "16", "--every", "0"]
"""A snapshot after each chunk of sixteen characters."""


@state
class Sum:
    total: np.ndarray
    count: int


@dataclass(frozen=True)
class Mean(Operator[Sum]):
    """The mean so far."""

    scale: float = 1.0

    spec: ClassVar[Spec] = Spec("mean-of-tests", "toys", "a mean", (Rows,), (Rows,), Exactness.bitwise())

    @classmethod
    def example(cls):
        return cls()

    def init(self, seed=0):
        return Sum(np.zeros(()), 0)

    def bound(self):
        return Bound(16)

    def _step(self, state, chunk):
        total, events = state.total, []
        for index, row in enumerate(chunk.values, start=state.count + 1):
            total = np.asarray(total + self.scale * row[0])
            events.append(Event(Rows(np.array([[total / index]])), index, index))
        return Sum(total, state.count + len(chunk)), events


MEAN = f"{__name__}:Mean"


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def numbers(tmp_path):
    path = tmp_path / "numbers.csv"
    path.write_text("value\n" + "\n".join(str(n % 7) for n in range(100)) + "\n")
    return path


def run(capsys, *arguments):
    """Exit code, standard output and error of a run in this process."""
    code = main(["run", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def summary(capsys, *arguments):
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def complaint(capsys, *arguments):
    """Exit code, and the last line on standard error."""
    code, _, err = run(capsys, *arguments)
    line = err.splitlines()[-1]
    assert line.startswith("unending: ")
    return code, line


def progress(store):
    """What the monitor had noted at the newest snapshot, less the times."""
    (path,) = store.glob("progress-*.json")
    record = json.loads(path.read_text())
    record["samples"] = [[at, nbytes, metric] for at, _, nbytes, metric in record["samples"]]
    return record


def outcome(found):
    return {key: found[key] for key in ("position", "rows", "metric", "state_bytes")}


def test_a_text(capsys, book, flags):
    found = summary(capsys, "streaming-llm", book, *flags)
    assert found["position"] == len(TEXT)
    # Each byte is a token of the tiny model, and each token but the first has a loss.
    assert found["rows"] == len(TEXT.encode()) - 1
    assert found["metric_name"] == "perplexity"
    assert found["metric"] > 1
    assert 0 < found["state_bytes"] <= found["bound_bytes"]
    assert found["answer"] is None
    assert found["latency_ms"]["50"] <= found["latency_ms"]["99"]


def test_lines_for_a_person_go_to_standard_error(capsys, book, flags):
    code, out, err = run(capsys, "streaming-llm", book, *flags)
    assert (code, out) == (0, "")
    assert "\x1b" not in err
    assert f"position {len(TEXT):,} of {len(TEXT):,} characters (100 %)" in err.splitlines()[-1]


def test_items_and_read(capsys, book, flags):
    found = summary(capsys, "streaming-llm", book, *flags, "--items", 70, "--read", 32)
    assert found["position"] == 70


def test_a_question_is_answered_on_standard_output(capsys, book, flags):
    code, out, _ = run(capsys, "streaming-llm", book, *flags, "--items", 40, "--ask", "why?")
    assert code == 0
    assert out.strip()
    found = summary(capsys, "streaming-llm", book, *flags, "--items", 40, "--ask", "why?")
    assert found["answer"] + "\n" == out


def test_a_picture(capsys, book, flags, tmp_path):
    code, _, err = run(capsys, "streaming-llm", book, *flags, "--items", 64, "--plot", "run.png")
    assert code == 0
    assert err.splitlines()[-1] == "picture: run.png"
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_standard_input(capsys, book, flags, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    piped = summary(capsys, "streaming-llm", "-", *flags)
    assert outcome(piped) == outcome(summary(capsys, "streaming-llm", book, *flags))


def test_a_pipe_with_a_name(capsys, book, flags):
    # What a shell passes for <(command).
    reading, writing = os.pipe()
    os.write(writing, TEXT[:60].encode())
    os.close(writing)
    assert summary(capsys, "streaming-llm", f"/dev/fd/{reading}", *flags)["position"] == 60
    os.close(reading)


def test_token_ids(capsys, book, flags, tmp_path):
    np.save(tmp_path / "ids.npy", np.frombuffer(TEXT[:22].encode(), np.uint8).astype(np.int32))
    found = summary(capsys, "streaming-llm", "ids.npy", *flags)
    assert (found["position"], found["rows"]) == (22, 21)


def test_token_ids_outside_the_vocabulary(capsys, flags, tmp_path):
    np.save(tmp_path / "ids.npy", np.array([1, 272]))
    assert complaint(capsys, "streaming-llm", "ids.npy", *flags) == (
        2,
        "unending: token id 272 is outside the accepted 0 to 271",
    )


def test_rows(capsys, numbers):
    found = summary(capsys, MEAN, numbers, "--scale", 2)
    assert (found["position"], found["rows"], found["metric_name"]) == (100, 100, "mean of the first column")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nowhere.txt"], 1, "cannot read nowhere.txt: no such file"),
        (["."], 1, "cannot read .: it is a folder"),
        (["empty.txt"], 2, "empty.txt is an empty stream"),
        (["bad.txt"], 2, "bad.txt: byte 10 is not UTF-8 text; errors 'replace'"),
        (["bad.txt", "--errors", "guess"], 2, "guess"),
        (["numbers.csv"], 2, "numbers.csv gives Rows, but the system takes Tokens, Text"),
        (["book.txt", "--model", "nothing"], 2, "no model 'nothing': known are smollm2-135m"),
        (["book.txt", "--window-size", "60"], 2, "sinks + window + chunk make 66 positions, but"),
        (["book.txt", "--read", "0"], 2, "--read and --items are 1 or more"),
        (["book.txt", "--items", "-1"], 2, "--read and --items are 1 or more"),
        (["book.txt", "--plot", "nowhere/run.png"], 1, "cannot write the picture"),
        (["book.txt", "--ask", "why? " * 9], 2, "47 tokens do not fit in one turn"),
        (["book.txt", "--ask", " "], 2, "a query must be a text that is not blank"),
        (["book.txt", "--store", "book.txt"], 1, "cannot use the folder book.txt: File exists"),
    ],
)
def test_mistakes_are_one_line(capsys, flags, book, numbers, tmp_path, arguments, code, says):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "bad.txt").write_bytes(b"good text \xff.")
    source, *others = arguments
    assert main(["run", "streaming-llm", source, *flags, *others]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.startswith("unending: ")
    assert err.count("\n") == 1


def test_bytes_that_are_no_text_can_be_read_over(capsys, flags, tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"good text \xff.")
    assert summary(capsys, "streaming-llm", "bad.txt", *flags, "--errors", "replace")["position"] == 12
    assert summary(capsys, "streaming-llm", "bad.txt", *flags, "--errors", "ignore")["position"] == 11


def test_a_kind_without_questions(capsys, numbers):
    assert complaint(capsys, MEAN, numbers, "--ask", "why?") == (
        2,
        "unending: mean-of-tests takes Rows; got Query",
    )


def test_standard_input_that_is_no_text(capsys, flags, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"good text \xff.")))
    code, line = complaint(capsys, "streaming-llm", "-", *flags)
    assert code == 2
    assert "standard input: byte 10 is not UTF-8 text" in line


def test_ctrl_c_between_two_chunks_keeps_what_was_read(capsys, numbers, monkeypatch, tmp_path):
    step, store = Mean._step, tmp_path / "store"
    whole = summary(capsys, MEAN, numbers, "--read", 8)

    def interrupted(self, state, chunk):
        if state.count == 40:
            raise KeyboardInterrupt
        return step(self, state, chunk)

    monkeypatch.setattr(Mean, "_step", interrupted)
    code, line = complaint(capsys, MEAN, numbers, "--read", 8, "--store", store)
    assert code == 130
    hint = f"the same command goes on from there (--store {store})"
    assert line == f"unending: interrupted at 40; {hint}"
    assert Session.resume(Mean(), store / "snapshot").state.count == 40
    monkeypatch.setattr(Mean, "_step", step)
    code, out, err = run(capsys, MEAN, numbers, "--read", 8, "--store", store, "--json")
    assert code == 0
    assert err.startswith(f"resumed at 40 of {numbers}\n")
    assert outcome(json.loads(out)) == outcome(whole)
    assert [sample[0] for sample in progress(store)["samples"]] == [*range(8, 100, 8), 100]


def test_ctrl_c_without_a_store_says_where(capsys, numbers, monkeypatch):
    def interrupted(self, state, chunk):
        raise KeyboardInterrupt

    monkeypatch.setattr(Mean, "_step", interrupted)
    assert complaint(capsys, MEAN, numbers) == (130, "unending: interrupted at 0")


def test_a_signal_within_a_chunk_waits_for_its_end(capsys, numbers, monkeypatch, tmp_path):
    step, store = Mean._step, tmp_path / "store"

    def signalled(self, state, chunk):
        if state.count == 40:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, state, chunk)

    monkeypatch.setattr(Mean, "_step", signalled)
    code, line = complaint(capsys, MEAN, numbers, "--read", 8, "--store", store)
    assert code == 130
    assert line.startswith("unending: interrupted at 48; ")
    assert progress(store)["rows"] == 48


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_cut_ends_as_one_that_was_not(capsys, shell, book, flags, tmp_path, sign):
    whole, store = tmp_path / "whole", tmp_path / "store"
    command = ["streaming-llm", book, *flags, *EVERY, "--items", 600, "--store"]
    expected = summary(capsys, *command, whole)

    # A pipe in the book's place gives less than is asked for, so that the run cannot end before the signal comes.
    book.unlink()
    os.mkfifo(book)
    pipe = os.open(book, os.O_RDWR)
    os.write(pipe, TEXT[:300].encode())
    process = shell.start("run", *command, store)
    deadline = time.monotonic() + 60
    while not any(int(path.stem.split("-")[1]) >= 5 for path in store.glob("progress-*.json")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    process.send_signal(sign)
    _, err = process.communicate(timeout=60)
    os.close(pipe)
    book.unlink()
    book.write_text(TEXT, encoding="utf-8")
    if sign == signal.SIGINT:
        assert process.returncode == 130
        last = err.decode().splitlines()[-1]
        assert last.startswith("unending: interrupted at ")
        assert last.endswith(f"; the same command goes on from there (--store {store})")
    else:
        assert process.returncode == -signal.SIGKILL

    code, out, err = run(capsys, *command, store, "--json")
    assert code == 0
    resumed = int(err.split()[2])
    assert resumed % 16 == 0
    assert 64 <= resumed <= 300
    assert outcome(json.loads(out)) == outcome(expected)
    assert progress(store) == progress(whole)
    assert (store / "snapshot").read_bytes() == (whole / "snapshot").read_bytes()
    assert sorted(path.name for path in store.iterdir()) == sorted(path.name for path in whole.iterdir())


def test_a_run_that_has_ended_ends_again(capsys, book, flags, tmp_path):
    command = ["streaming-llm", book, *flags, *EVERY, "--store", tmp_path / "new" / "store"]
    first = summary(capsys, *command, "--items", 50)
    assert outcome(summary(capsys, *command, "--items", 50)) == outcome(first)
    assert summary(capsys, *command, "--items", 80)["position"] == 80


def test_what_was_asked_is_not_in_the_store(capsys, book, flags, tmp_path):
    command = ["streaming-llm", book, *flags, "--items", 64, "--store", tmp_path / "store"]
    asked = summary(capsys, *command, "--ask", "why?")
    assert asked["answer"]
    assert summary(capsys, *command, "--ask", "why?")["answer"] == asked["answer"]
    assert summary(capsys, *command, "--items", 80)["position"] == 80


def test_standard_input_goes_on_where_the_run_stopped(capsys, flags, monkeypatch, tmp_path):
    command = ["streaming-llm", "-", *flags, "--store", tmp_path / "store", "--json"]
    for piece, position in ((TEXT[:40], 40), (TEXT[40:72], 72)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piece.encode())))
        code, out, err = run(capsys, *command)
        assert code == 0
        assert json.loads(out)["position"] == position
    assert err.startswith("resumed at 40 of -; what comes in now is taken to follow\n")


def test_a_store_of_another_run_is_refused(capsys, numbers, tmp_path):
    store, other = tmp_path / "store", tmp_path / "other.csv"
    other.write_text(numbers.read_text())
    command = [MEAN, numbers, "--store", store]
    summary(capsys, *command)
    before = {path.name: path.read_bytes() for path in store.iterdir()}
    assert complaint(capsys, MEAN, other, "--store", store) == (
        1,
        f"unending: {store} holds a run on {numbers} with seed 0; give this one a folder of its own",
    )
    code, line = complaint(capsys, *command, "--seed", 1)
    assert (code, "with seed 0" in line) == (1, True)
    code, line = complaint(capsys, *command, "--scale", 2)
    assert code == 1
    assert line.endswith("snapshot was made with other settings: scale=1.0 (now 2.0)")
    assert {path.name: path.read_bytes() for path in store.iterdir()} == before


def test_a_source_that_has_shrunk(capsys, numbers, tmp_path):
    command = [MEAN, numbers, "--store", tmp_path / "store"]
    summary(capsys, *command)
    numbers.write_text("1\n2\n")
    assert complaint(capsys, *command) == (
        2,
        f"unending: {numbers} ends at 2, before 100 where reading was to go on",
    )


@pytest.mark.parametrize("name", ["snapshot", "run.json", "progress"])
def test_damage_in_a_store(capsys, numbers, tmp_path, name):
    store = tmp_path / "store"
    command = [MEAN, numbers, "--store", store]
    summary(capsys, *command)
    (path,) = store.glob(f"{name}*")
    path.write_bytes(path.read_bytes()[:-9])
    code, line = complaint(capsys, *command)
    assert code == 1
    assert line.startswith(f"unending: {path} ")
    assert line.endswith(f"; delete {store} to begin anew")


def test_a_store_in_use(capsys, numbers, tmp_path):
    store = tmp_path / "store"
    command = [MEAN, numbers, "--store", store]
    summary(capsys, *command)
    with open(store / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert complaint(capsys, *command) == (1, f"unending: another run is at work in {store}")
    assert summary(capsys, *command)["position"] == 100


def test_a_disk_that_fills_up(capsys, numbers, monkeypatch, tmp_path):
    store = tmp_path / "store"
    command = [MEAN, numbers, *EVERY, "--store", store]
    summary(capsys, *command, "--items", 32)

    def full(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        code, line = complaint(capsys, *command)
    assert code == 1
    assert line.startswith(f"unending: cannot write {store}")
    assert "No space left on device" in line
    assert summary(capsys, *command)["position"] == 100


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_that_may_not_be_written(capsys, numbers, tmp_path):
    store = tmp_path / "store"
    store.mkdir(mode=0o500)
    code, line = complaint(capsys, MEAN, numbers, "--store", store)
    assert code == 1
    assert line == f"unending: cannot use the folder {store}: Permission denied"
