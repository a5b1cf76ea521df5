"""The public surface is exactly what docs/reference documents."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
DIRECTIVE = re.compile(r"^::: ([\w.]+)", re.MULTILINE)


def documented() -> dict[str, list[str]]:
    """The names that the reference documents, by module: a page's `::: module.Name` lines."""
    names: dict[str, list[str]] = {}
    for page in sorted(REFERENCE.glob("*.md")):
        for target in DIRECTIVE.findall(page.read_text(encoding="utf-8")):
            module, _, name = target.rpartition(".")
            names.setdefault(module, []).append(name)
    return names


def public(module: str) -> set[str]:
    """`__all__`, less what a package hands on from one whose own page documents it."""
    names = set(importlib.import_module(module).__all__)
    if module == "unending":
        handed_on = importlib.import_module("unending.core")
        names -= {*handed_on.__all__, "core"}
    return names


@pytest.mark.parametrize("module", sorted(documented()))
def test_reference_and_all_hold_the_same_names(module: str) -> None:
    names = documented()[module]
    assert len(set(names)) == len(names), "documented twice"
    missing, stale = public(module) - set(names), set(names) - public(module)
    assert not missing, f"{module}.__all__ has names that docs/reference lacks: {sorted(missing)}"
    assert not stale, f"docs/reference has names that {module}.__all__ lacks: {sorted(stale)}"


def test_the_public_modules_are_documented() -> None:
    assert {"unending", "unending.core", "unending.laws", "unending.parts.memory"} <= set(documented())


def undocumented(module: str) -> list[str]:
    """Public classes, functions and methods without a docstring of their own or of the class they override."""
    found = []
    for name in importlib.import_module(module).__all__:
        value = getattr(importlib.import_module(module), name)
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        if not inspect.getdoc(value):
            found.append(name)
        for method, member in vars(value).items() if inspect.isclass(value) else ():
            is_method = isinstance(member, property | classmethod | staticmethod) or inspect.isfunction(
                member
            )
            if is_method and not method.startswith("_") and not inspect.getdoc(getattr(value, method)):
                found.append(f"{name}.{method}")
    return found


@pytest.mark.parametrize("module", sorted(documented()))
def test_all_that_is_public_has_a_docstring(module: str) -> None:
    assert not undocumented(module)
