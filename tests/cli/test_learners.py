"""`unending run` on learners: environments, sizes that the source knows, pictures of what was learned."""

import itertools
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from tests.io.acting import Corridor, registered

from unending.cli import main
from unending.cli.drawing import Drawing
from unending.core import Bound, Event, Exactness, Operator, Rows, Spec, Text, state
from unending.core.errors import InputError, MissingExtraError, StorageError

WANDERER = "tests.io.acting:Wanderer"
ENV, BROKEN = registered("CorridorRun-v0"), registered("CorridorRunBroken-v0", broken=3)


@state
class Count:
    rows: int


@dataclass(frozen=True)
class Widths(Operator[Count]):
    """Says how wide its rows are, and draws how many came.

    Parameters
    ----------
    width
        columns of a row.
    """

    width: int = 0

    spec: ClassVar[Spec] = Spec(
        "widths-of-tests", "toys", "widths", (Rows,), (Rows, Text), Exactness.bitwise()
    )

    @classmethod
    def example(cls):
        return cls(2)

    def init(self, seed=0):
        return Count(0)

    def bound(self):
        return Bound(8)

    def domain(self):
        return {Rows: {"width": self.width}}

    def _step(self, state, chunk):
        at = state.rows + len(chunk)
        rows = Rows(np.full((len(chunk), 2), [float(self.width), at]), ("width", "rows"))
        return Count(at), [Event(rows, at, at), Event(Text(f"digraph {{ n{at} }}", role="graph"), at, at)]


WIDTHS = f"{__name__}:Widths"


def run(capsys, *arguments):
    code = main(["run", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def test_an_environment_is_lived_in_and_its_sizes_are_taken(capsys):
    code, out, err = run(capsys, WANDERER, "--env", ENV, "--items", 100, "--json")
    found = json.loads(out)
    assert code == 0, err
    assert (found["position"], found["metric_name"]) == (100, "return")
    assert found["rows"] > 5  # episodes are over after 12 steps at the latest
    assert found["metric"] < 0


def test_a_run_that_goes_on_is_as_one_that_was_not_cut(capsys, tmp_path):
    whole, store = tmp_path / "whole", tmp_path / "store"
    run(capsys, WANDERER, "--env", ENV, "--items", 100, "--store", whole)
    for items in (1, 30, 31, 77, 100):
        code, _, err = run(capsys, WANDERER, "--env", ENV, "--items", items, "--store", store)
        assert code == 0, err
    assert f"resumed at 77 of {ENV}" in err
    assert (store / "snapshot").read_bytes() == (whole / "snapshot").read_bytes()
    (one,), (two,) = store.glob("progress-*.json"), whole.glob("progress-*.json")
    one, two = json.loads(one.read_text()), json.loads(two.read_text())
    assert one["source"] == two["source"]
    assert (one["rows"], one["recent"]) == (two["rows"], two["recent"])


def test_an_environment_that_breaks_is_one_line_and_the_store_keeps_what_was_learned(capsys, tmp_path):
    code, _, err = run(capsys, WANDERER, "--env", BROKEN, "--store", tmp_path / "store")
    assert code == 1
    assert f"unending: {BROKEN} failed in episode 0 at step 2: the floor gave way" in err.splitlines()[-1]
    (progress,) = (tmp_path / "store").glob("progress-*.json")
    assert len(json.loads(progress.read_text())["source"]["actions"]) == 2


@pytest.mark.parametrize("name", [ENV, BROKEN])
def test_the_environment_is_closed_when_the_run_is_over(capsys, monkeypatch, name):
    closed = []
    monkeypatch.setattr(Corridor, "close", lambda self: closed.append(name), raising=False)
    run(capsys, WANDERER, "--env", name, "--items", 10)
    assert closed == [name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((WANDERER,), "run takes one SOURCE"),
        ((WANDERER, "book.txt", "--env", ENV), "run takes one SOURCE"),
        ((WIDTHS, "--env", ENV), "widths-of-tests acts in no environment: it takes Rows"),
        ((WANDERER, "--env", "NoSuch-v0"), "there is no environment 'NoSuch-v0'"),
        ((WANDERER, "--env", ENV, "--observation", "9"), f"observation is 9, but {ENV} has 2"),
        ((WANDERER, "--env", ENV, "--actions", "3"), f"actions is 3, but {ENV} has 2"),
        ((WANDERER, "--env", ENV, "--action-width", "1"), f"action_width is 1, but {ENV} has none"),
    ],
)
def test_what_cannot_be_run(capsys, arguments, message):
    code, _, err = run(capsys, *arguments)
    assert code in (1, 2)
    assert message in err


@pytest.mark.parametrize("ending", ["npy", "csv"])
def test_the_width_is_that_of_the_source(capsys, tmp_path, ending):
    path, values = tmp_path / f"rows.{ending}", np.arange(36.0).reshape(12, 3)
    np.save(path, values) if ending == "npy" else np.savetxt(
        path, values, delimiter=",", header="a,b,c", comments=""
    )
    code, out, err = run(capsys, WIDTHS, path, "--json")
    assert code == 0, err
    assert (json.loads(out)["metric"], json.loads(out)["metric_name"]) == (3.0, "width")
    code, _, err = run(capsys, WIDTHS, path, "--width", 4)
    assert code == 2
    assert "row width is 3, accepted is 4" in err


def test_the_newest_graph_is_in_the_file(capsys, tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, np.zeros((40, 2)))
    code, _, err = run(capsys, WIDTHS, path, "--read", 10, "--draw", tmp_path / "learned.dot")
    assert code == 0
    assert err.splitlines()[-1] == f"drawing: {tmp_path / 'learned.dot'}"
    assert (tmp_path / "learned.dot").read_text() == "digraph { n40 }"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.debian
@pytest.mark.parametrize(("ending", "begin"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_a_graph_is_drawn(tmp_path, ending, begin):
    drawing = Drawing(tmp_path / f"learned.{ending}")
    drawing.see([Event(Text("digraph { a -> b }", role="graph"), 0, 1), Event(Text("a word"), 0, 1)])
    drawing.close()
    assert (tmp_path / f"learned.{ending}").read_bytes().startswith(begin)


def test_what_cannot_be_drawn_is_said_at_once(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"may end in \.dot, \.gv, \.svg"):
        Drawing(tmp_path / "learned.jpeg2000")
    with pytest.raises(StorageError, match="no such folder"):
        Drawing(tmp_path / "nowhere" / "learned.svg")
    (tmp_path / "folder.svg").mkdir()
    with pytest.raises(StorageError, match="it is a folder"):
        Drawing(tmp_path / "folder.svg")
    with pytest.raises(StorageError, match=r"cannot write the picture /proc/learned\.dot"):
        Drawing(Path("/proc/learned.dot"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtraError, match="apt install graphviz"):
        Drawing(tmp_path / "learned.svg")
    monkeypatch.setitem(sys.modules, "graphviz", None)
    with pytest.raises(MissingExtraError, match=r"unending\[draw\]"):
        Drawing(tmp_path / "learned.svg")


def test_no_graph_is_no_file(tmp_path):
    drawing = Drawing(tmp_path / "learned.dot")
    assert "nothing drawn" in drawing.close()
    assert not os.listdir(tmp_path)


@pytest.mark.debian
def test_a_graph_that_dot_refuses_is_one_line(tmp_path):
    assert shutil.which("dot")
    drawing = Drawing(tmp_path / "learned.svg")
    with pytest.raises(InputError, match="dot cannot draw this graph"):
        drawing.see([Event(Text("digraph { -> }", role="graph"), 0, 1)])


def test_pictures_are_not_drawn_at_every_output(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    drawing, path = Drawing(tmp_path / "learned.dot"), tmp_path / "learned.dot"
    for at, expected in ((100.0, "a"), (101.0, "a"), (102.5, "c"), (103.0, "c")):
        now[0] = at
        drawing.see([Event(Text(chr(ord("a") + round(2 * (at - 100)) // 2), role="graph"), 0, 1)])
        assert path.read_text() == expected
    drawing.close()
    assert path.read_text() == "d"


def _numbers(path, columns, low=None):
    rng = np.random.default_rng(5)
    values = rng.normal(size=(400, columns)) if low is None else rng.uniform(low, 1, (400, columns))
    np.savetxt(path, values, delimiter=",")
    return path


def _log(path):
    rng = np.random.default_rng(5)
    lines = (f"{rng.integers(4)} - /page{rng.integers(3)}" for _ in range(900))
    path.write_text("\n".join(lines) + "\n")
    return path


LEARNERS = {
    "flash-semicrf": lambda folder: [_numbers(folder / "scores.csv", 3)],
    "online-dictionary-fw": lambda folder: [_numbers(folder / "rows.csv", 6)],
    "pdfa-streams": lambda folder: [
        _log(folder / "access.log"),
        "--symbols",
        r"(?P<key>\d) - (?P<page>\S+)",
        "--batch-size",
        20,
        "--gap",
        9,
    ],
    "stream-x": lambda folder: ["--env", "CartPole-v1", "--agent", "q", "--items", 400],
    "streaming-bandits": lambda folder: [
        _numbers(folder / "arms.csv", 1, 0.1),
        "--arms",
        50,
        "--horizon",
        5000,
    ],
    "streaming-top-eigenvector": lambda folder: [_numbers(folder / "rows.csv", 6)],
}


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_learns_from_what_a_user_has_and_goes_on_where_it_was_cut(capsys, tmp_path, name):
    command = [name, *LEARNERS[name](tmp_path), "--read", 16]
    code, out, err = run(capsys, *command, "--json", "--store", tmp_path / "whole")
    assert code == 0, err
    found = json.loads(out)
    assert found["rows"] > 2
    assert found["metric"] is not None
    assert found["metric_name"] not in ("", "mean of the first column")
    assert 0 < found["state_bytes"] <= found["bound_bytes"]
    cut = [*command, "--items", 128, "--store", tmp_path / "store"]
    if "--items" in command:
        del cut[cut.index("--items") : cut.index("--items") + 2]
    code, _, err = run(capsys, *cut)
    assert code == 0, err
    code, _, err = run(capsys, *command, "--store", tmp_path / "store")
    assert code == 0, err
    assert "resumed at 128 of" in err
    assert (tmp_path / "store" / "snapshot").read_bytes() == (tmp_path / "whole" / "snapshot").read_bytes()


def test_a_file_without_rows_is_an_empty_stream(capsys, tmp_path):
    (tmp_path / "rows.csv").write_text("")
    code, _, err = run(capsys, WIDTHS, tmp_path / "rows.csv")
    assert code == 2
    assert "rows.csv is an empty stream" in err.splitlines()[-1]


def test_what_comes_out_at_the_end_of_a_short_log_is_told(capsys, tmp_path):
    command = [
        "pdfa-streams",
        _log(tmp_path / "access.log"),
        "--symbols",
        r"/(?P<page>\S+)",
        "--batch-size",
        5000,
    ]
    code, _, err = run(
        capsys, *command, "--draw", tmp_path / "learned.dot", "--plot", tmp_path / "learned.png"
    )
    assert code == 0, err
    lines = [line for line in err.splitlines() if line.startswith("position")]
    assert "perplexity" in lines[-1]
    assert (tmp_path / "learned.png").exists()


def test_the_newest_graph_is_drawn_when_a_run_fails(capsys, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("1,2\n" * 20 + "nan,2\n")
    code, _, err = run(capsys, WIDTHS, path, "--read", 10, "--draw", tmp_path / "learned.dot")
    assert code == 2
    assert "NaN" in err.splitlines()[-1]
    assert (tmp_path / "learned.dot").read_text() == "digraph { n20 }"


def test_segments_and_actions_are_shown_line_by_line(capsys, tmp_path):
    scores = _numbers(tmp_path / "scores.csv", 3)
    code, out, err = run(capsys, "flash-semicrf", scores, "--show", "segments")
    assert code == 0, err
    segments = [json.loads(line) for line in out.splitlines()]
    assert segments[0]["start"] == 0
    assert segments[-1]["end"] == 400
    assert all(one["end"] == two["start"] for one, two in itertools.pairwise(segments))
    code, out, err = run(capsys, WANDERER, "--env", ENV, "--items", 20, "--show", "actions")
    assert code == 0, err
    assert set(out.splitlines()) == {"0", "1"}
