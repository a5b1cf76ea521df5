"""`unending run` on learners: environments, sizes that the source knows, pictures of what was learned."""

import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from tests.io.acting import registered

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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((WANDERER,), "run takes one source"),
        ((WANDERER, "book.txt", "--env", ENV), "run takes one source"),
        ((WIDTHS, "--env", ENV), "widths-of-tests acts in no environment: it takes Rows"),
        ((WANDERER, "--env", "NoSuch-v0"), "there is no environment 'NoSuch-v0'"),
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
