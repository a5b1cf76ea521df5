"""All laws hold on all toys, on pipelines of them, and on the example of every system in the catalogue."""

import pytest
from toys import TOYS, Average, Delay, Smooth

from unending import catalogue, laws
from unending.core import Operator


@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: toy.__name__)
def test_laws_hold_on_a_toy(toy: type[Operator]) -> None:
    report = laws.check(toy.example())
    assert report.ok, str(report)


@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: toy.__name__)
@pytest.mark.slow
def test_laws_hold_on_a_toy_at_length(toy: type[Operator], seed: int) -> None:
    report = laws.check(toy.example(), laws.Profile("long", 20, 300, 10.0, 400, 10.0, 20, 200), seed)
    assert report.ok, str(report)


@pytest.mark.parametrize(
    "pipeline",
    [Smooth() | Smooth(), Delay() | Delay(), Average(every=1) | Average(every=1)],
    ids=lambda pipeline: pipeline.spec.name,
)
def test_laws_hold_on_a_pipeline(pipeline: Operator) -> None:
    report = laws.check(pipeline)
    assert report.ok, str(report)


@pytest.mark.parametrize("name", catalogue.names())
def test_laws_hold_on_a_system(name: str) -> None:
    report = laws.check(catalogue.load(name).example())
    assert report.ok, str(report)
