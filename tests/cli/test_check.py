"""`unending check`."""

import json

BROKEN = '''
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from unending.core import Bound, Event, Exactness, Operator, Rows, Spec, state


@state
class Count:
    calls: int


@dataclass(frozen=True)
class Calls(Operator[Count]):
    """Counts calls where it should count rows."""

    spec: ClassVar[Spec] = Spec("calls", "toys", "a toy", (Rows,), (Rows,), Exactness.bitwise())

    @classmethod
    def example(cls):
        return cls()

    def init(self, seed=0):
        return Count(0)

    def bound(self):
        return Bound(8)

    def _step(self, state, chunk):
        return Count(state.calls + 1), [Event(Rows(np.array([[state.calls]])), 0.0, 0.0)]
'''


def test_a_system_that_holds_is_exit_code_0(shell):
    code, out, err = shell("check", "streaming-llm", "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["system"] == "streaming-llm"
    assert report["ok"] is True
    assert [result["law"] for result in report["laws"]] == [f"L{number}" for number in range(1, 13)]


def test_an_operator_that_breaks_a_law_is_exit_code_1(shell, tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    code, out, err = shell("check", "broken:Calls", "--json", cwd=tmp_path)
    assert (code, err) == (1, "")
    report = json.loads(out)
    assert report["ok"] is False
    failed = {result["law"] for result in report["laws"] if result["status"] == "failed"}
    assert "L1" in failed
    # The process in which L5 restores finds the module of the user too.
    held = {result["law"] for result in report["laws"] if result["status"] == "held"}
    assert "L5" in held


def test_the_report_for_a_person_names_the_laws(shell, tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    code, out, _ = shell("check", "broken:Calls", cwd=tmp_path)
    assert code == 1
    for law in ("chunking", "snapshot", "robustness"):
        assert law in out
    assert "\x1b" not in out


def test_an_unknown_system_is_exit_code_2(shell):
    code, out, err = shell("check", "nope")
    assert (code, out) == (2, "")
    assert err.startswith("unending: no system 'nope'; there are: ")
    assert err.count("\n") == 1
