"""catalogue.json and the table in README.md are what the live classes say; every entry has a page and a benchmark."""

import runpy
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from unending import catalogue

ROOT = Path(__file__).parents[2]
NAMES = sorted(entry.name for entry in entry_points(group="unending.systems"))


def test_stored_catalogue_equals_the_live_classes() -> None:
    assert catalogue.stored() == catalogue.describe_all(), "regenerate it: python scripts/catalogue.py"


def test_readme_has_the_table_of_the_catalogue() -> None:
    table = runpy.run_path(str(ROOT / "scripts" / "catalogue.py"))["table"]
    assert table(catalogue.stored()) in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_system_is_in_the_catalogue() -> None:
    assert sorted(entry["name"] for entry in catalogue.stored()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_system_has_a_page_and_a_benchmark(name: str) -> None:
    assert (ROOT / "docs" / "systems" / f"{name}.md").is_file()
    assert (ROOT / "benchmarks" / f"{name.replace('-', '_')}.py").is_file()
