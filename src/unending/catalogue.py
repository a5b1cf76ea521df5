"""The catalogue: every system by its dashed name, from the entry points `unending.systems`.

`catalogue.json` beside this file holds what listings need, so that they import no system; a test keeps it equal to
the live classes and `scripts/catalogue.py` writes it anew.
"""

import json
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from unending.core.errors import MissingExtraError, SystemNotFoundError
from unending.core.operator import Operator

__all__ = ["describe", "describe_all", "load", "names", "stored"]

_GROUP = "unending.systems"
_STORED = Path(__file__).with_name("catalogue.json")


def names() -> list[str]:
    """The dashed names of all systems, those of installed plug-ins included."""
    return sorted(entry_points(group=_GROUP).names)


def load(name: str) -> type[Operator[Any]]:
    """The operator class of a system.

    Raises
    ------
    SystemNotFoundError
        if there is none of that name; the text lists those there are.
    MissingExtraError
        if an optional package is absent, with the command that installs it.
    """
    found = entry_points(group=_GROUP, name=name)
    if not found:
        raise SystemNotFoundError(f"no system {name!r}; there are: {', '.join(names())}")
    try:
        return next(iter(found)).load()  # type: ignore[no-any-return]
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] == "unending":
            raise
        family = next((each["family"] for each in stored() if each["name"] == name), "all")
        raise MissingExtraError(
            f"{name} needs the package {error.name}: pip install 'unending[{family}]'"
        ) from error


def describe(cls: type[Operator[Any]]) -> dict[str, Any]:
    """What listings show of a system: plain JSON values. `bound` is that of its `example()`."""
    spec = cls.spec
    example = cls.example()
    paper = spec.paper
    return {
        "name": spec.name,
        "family": spec.family,
        "title": spec.title,
        "paper": str(paper) if paper else "",
        "arxiv": paper.arxiv if paper else "",
        "takes": [kind.__name__ for kind in spec.takes],
        "gives": [kind.__name__ for kind in spec.gives],
        "bound": f"example: {example.bound()}",
        "exactness": str(spec.exactness),
        "opt_outs": dict(cls.opt_outs),
    }


def describe_all() -> list[dict[str, Any]]:
    """`describe` of every live class; imports them all."""
    return [describe(load(name)) for name in names()]


def stored() -> list[dict[str, Any]]:
    """The descriptions in `catalogue.json`; imports no system."""
    return json.loads(_STORED.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
