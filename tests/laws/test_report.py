"""What a check reports, and how operators opt out."""

import json
import subprocess
import sys
from dataclasses import replace
from typing import ClassVar

import pytest
from saboteurs import Forgetful, Running, Understating, spec

from unending import laws
from unending.core import Exactness
from unending.core.errors import InputError

QUICK = laws.Profile("quick", 1, 3, 0.05, 2, 0.2, 2, 2)


class Excused(Forgetful):
    opt_outs: ClassVar = {"L2": "the first row is a header"}


class Silent(Forgetful):
    opt_outs: ClassVar = {"L2": " "}


class Confused(Forgetful):
    opt_outs: ClassVar = {"L13": "no such law"}


class Loose(Forgetful):
    spec = spec("loose", exactness=Exactness.statistical("regret", (0.9, 1.1)))


class Ticking(Running):
    spec = spec("ticking", takes=())


def test_there_are_twelve_laws_in_order() -> None:
    assert [law.id for law in laws.LAWS] == [f"L{number}" for number in range(1, 13)]
    assert all(law.statement.endswith(".") and law.function.__doc__ for law in laws.LAWS)


def test_report_as_table_and_json() -> None:
    report = laws.check(Understating(), QUICK, seed=7)
    assert not report.ok
    assert report.failed == ("L4",)
    lines = str(report).splitlines()
    assert len(lines) == 13
    assert lines[0].startswith("understating: BROKEN")
    assert "failed" in lines[4]
    told = json.loads(report.to_json())
    assert told["system"] == "understating"
    assert told["ok"] is False
    assert told["seed"] == 7
    assert [law["law"] for law in told["laws"]] == [law.id for law in laws.LAWS]
    assert told["laws"][3]["detail"] == "32 bytes after 0 items; the bound is 30"


def test_opt_out_takes_a_reason() -> None:
    report = laws.check(Excused(), QUICK)
    assert report.ok
    assert report["L2"].status == "opted out"
    assert report["L2"].detail == "the first row is a header"
    assert laws.check(Silent(), QUICK).failed == ("L2",)
    with pytest.raises(InputError, match="L13"):
        laws.check(Confused(), QUICK)


def test_statistical_exactness_opts_out_of_equalities_only() -> None:
    report = laws.check(Loose(), QUICK)
    opted = [result.law for result in report if result.status == "opted out"]
    assert opted == ["L1", "L2"]
    assert "regret" in report["L1"].detail


def test_not_applicable_is_for_operators_without_items() -> None:
    report = laws.check(Ticking(), QUICK)
    assert report.ok, str(report)
    assert [result.law for result in report if result.status == "not applicable"] == ["L1", "L3"]


def test_equal_seeds_give_equal_reports() -> None:
    unhurried = replace(QUICK, seconds=60.0)  # a busy machine would else try fewer cases
    first, second = (laws.check(Forgetful(), unhurried, seed=3) for _ in range(2))
    assert first["L2"].detail == second["L2"].detail


def test_operator_that_cannot_be_imported_fails_l5() -> None:
    class Local(Running):
        spec = spec("local")

    report = laws.check(Local(), QUICK)
    assert set(report.failed) == {"L5", "L10"}
    assert "top of a module" in report["L5"].detail


def test_unknown_profile_is_one_line() -> None:
    with pytest.raises(InputError, match="fast, thorough"):
        laws.check(Running(), "slow")


def test_without_hypothesis_the_extra_is_named() -> None:
    program = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "from unending.core.errors import MissingExtraError\n"
        "try:\n    import unending.laws\n"
        "except MissingExtraError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'unending[laws]'" in done.stdout
