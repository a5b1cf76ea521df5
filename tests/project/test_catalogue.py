"""catalogue.json is what the live classes say, and every entry has its page and its benchmark."""

from importlib.metadata import entry_points
from pathlib import Path

import pytest

from unending import catalogue

ROOT = Path(__file__).parents[2]
NAMES = sorted(entry.name for entry in entry_points(group="unending.systems"))


def test_stored_catalogue_equals_the_live_classes() -> None:
    assert catalogue.stored() == catalogue.describe_all(), "regenerate it: python -m unending.catalogue"


def test_every_system_is_in_the_catalogue() -> None:
    assert sorted(entry["name"] for entry in catalogue.stored()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_system_has_a_page_and_a_benchmark(name: str) -> None:
    assert (ROOT / "docs" / "systems" / f"{name}.md").is_file()
    assert (ROOT / "benchmarks" / f"{name.replace('-', '_')}.py").is_file()
