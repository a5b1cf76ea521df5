"""Flags from dataclasses: those of a command together with the fields of an operator."""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import field, make_dataclass
from typing import Any, TypeVar

import tyro

from unending import catalogue
from unending.core import Operator
from unending.core.errors import InputError, SystemNotFoundError

__all__ = ["parse", "parse_with_operator", "system_in"]

T = TypeVar("T")


def parse(options: type[T], arguments: Sequence[str], program: str) -> T:
    """The options of a command; tyro prints help and usage errors and exits by itself."""
    return tyro.cli(options, args=list(arguments), prog=f"unending {program}", description=options.__doc__)


def system_in(arguments: Sequence[str], default: str | None = None) -> str | None:
    """The system that a command line names: its first word that is not a flag."""
    return next((each for each in arguments[:1] if not each.startswith("-")), default)


def operator_class(target: str) -> type[Operator[Any]]:
    """The operator class of a catalogue name, or of `module:Class`."""
    if ":" not in target:
        return catalogue.load(target)
    module_name, _, class_name = target.partition(":")
    # A console script does not look into the current folder by itself; the user's module is usually there.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise SystemNotFoundError(f"cannot load {target}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Operator)):
        raise InputError(f"{target} is not an Operator class")
    return found


def parse_with_operator(
    options: type[T], cls: type[Operator[Any]], arguments: Sequence[str], program: str
) -> tuple[T, Operator[Any]]:
    """The options of a command, and an operator whose fields are flags beside them."""
    joined = make_dataclass(
        "Options",
        [
            ("command", tyro.conf.OmitArgPrefixes[options]),  # type: ignore[valid-type, misc]
            ("operator", tyro.conf.OmitArgPrefixes[cls], field(default_factory=cls)),  # type: ignore[valid-type, misc]
        ],
    )
    summary = f"{options.__doc__}\n\n{cls.spec.name}: {cls.spec.title}."
    parsed: Any = tyro.cli(joined, args=list(arguments), prog=f"unending {program}", description=summary)
    return parsed.command, parsed.operator
