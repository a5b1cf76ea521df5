"""`unending train`."""

import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, make_dataclass
from importlib.metadata import entry_points
from typing import Any

import tyro

from unending.cli.options import parse, system_in
from unending.core.errors import InputError, MissingExtraError, SystemNotFoundError

__all__ = ["main", "training_class"]

_GROUP = "unending.training"


@dataclass(frozen=True)
class _Options:
    """Train what a system needs: its gates, its adapters, its small model."""

    system: tyro.conf.Positional[str]
    """name of a system that has something to train, or module:Class"""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """print what came out as JSON"""


def training_class(name: str) -> type[Any]:
    """The training of a system: a dataclass whose fields are flags, with `run() -> dict`.

    Raises
    ------
    SystemNotFoundError
        if there is none; the text lists those there are.
    MissingExtraError
        if an optional package is absent.
    InputError
        if `module:Class` is no such dataclass.
    """
    if ":" in name:
        return _given(name)
    found = entry_points(group=_GROUP, name=name)
    if not found:
        known = ", ".join(sorted(entry_points(group=_GROUP).names)) or "none"
        raise SystemNotFoundError(f"nothing to train for {name!r}; there is for: {known}")
    try:
        return next(iter(found)).load()  # type: ignore[no-any-return]
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] == "unending":
            raise
        raise MissingExtraError(
            f"training {name} needs the package {error.name}: pip install 'unending[all]'"
        ) from error


def _given(target: str) -> type[Any]:
    module, _, name = target.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, SyntaxError, ValueError) as error:
        raise SystemNotFoundError(f"cannot load {target}: {error}") from error
    if not (isinstance(found, type) and is_dataclass(found) and callable(getattr(found, "run", None))):
        raise InputError(f"{target} is not a training: a dataclass with run()")
    return found


def main(arguments: Sequence[str]) -> int:
    """Run the training of a system and print what came out."""
    if not arguments or arguments[0].startswith("-"):
        parse(_Options, arguments, "train")  # prints the help, or says that the system is missing
        raise InputError("the system comes first: unending train SYSTEM ...")
    name = system_in(arguments, "")
    cls = training_class(name)
    joined = make_dataclass(
        "Joined",
        [("train", tyro.conf.OmitArgPrefixes[_Options]), ("training", tyro.conf.OmitArgPrefixes[cls])],  # type: ignore[misc, valid-type]
    )
    joined.__doc__ = cls.__doc__
    parsed: Any = parse(joined, arguments, "train")
    facts = parsed.training.run()
    if parsed.train.json:
        settings = {each.name: getattr(parsed.training, each.name) for each in fields(cls)}
        print(json.dumps({"system": name, "settings": settings, **facts}, indent=2, default=str))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    for fact, value in facts.items():
        table.add_row(fact, f"{value:.6g}" if isinstance(value, float) else str(value))
    Console().print(table)
    return 0
