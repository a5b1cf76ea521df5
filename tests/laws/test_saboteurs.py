"""The laws bite: each catches the operators that were made to break it."""

import pytest
from saboteurs import BITES, Bite, Running

from unending import laws

PROFILE = laws.Profile("bite", 12, 30, 5.0, 100, 5.0, 6, 24)


def saboteurs(law: str) -> pytest.MarkDecorator:
    bites = [bite for bite in BITES if bite.law == law]
    return pytest.mark.parametrize("bite", bites, ids=[bite.operator.__name__ for bite in bites])


def assert_caught(bite: Bite) -> None:
    report = laws.check(bite.operator.example(), PROFILE)
    assert report[bite.law].status == "failed", str(report)
    assert set(report.failed) == {bite.law, *bite.also}, str(report)
    assert "\n" not in report[bite.law].detail


def test_no_saboteur_breaks_nothing() -> None:
    report = laws.check(Running.example(), PROFILE)
    assert report.ok, str(report)
    assert {result.status for result in report} == {"held"}


def test_every_law_has_a_saboteur() -> None:
    assert {bite.law for bite in BITES} == {law.id for law in laws.LAWS}


@saboteurs("L1")
def test_saboteur_l1_chunking(bite: Bite) -> None:
    assert_caught(bite)


@saboteurs("L2")
def test_saboteur_l2_offline(bite: Bite) -> None:
    assert_caught(bite)


@saboteurs("L3")
def test_saboteur_l3_causality(bite: Bite) -> None:
    assert_caught(bite)


@saboteurs("L4")
def test_saboteur_l4_bound(bite: Bite) -> None:
    assert_caught(bite)


@saboteurs("L5")
def test_saboteur_l5_snapshot(bite: Bite) -> None:
    assert_caught(bite)


@saboteurs("L6")
def test_saboteur_l6_neighbours(bite: Bite) -> None:
    assert_caught(bite)


@saboteurs("L7")
def test_saboteur_l7_cancel(bite: Bite) -> None:
    assert_caught(bite)


@saboteurs("L8")
def test_saboteur_l8_finish(bite: Bite) -> None:
    assert_caught(bite)


@saboteurs("L9")
def test_saboteur_l9_ownership(bite: Bite) -> None:
    assert_caught(bite)


@saboteurs("L10")
def test_saboteur_l10_seed(bite: Bite) -> None:
    assert_caught(bite)


@saboteurs("L11")
def test_saboteur_l11_time(bite: Bite) -> None:
    assert_caught(bite)


@saboteurs("L12")
def test_saboteur_l12_robustness(bite: Bite) -> None:
    assert_caught(bite)
