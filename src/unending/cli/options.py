"""Flags from dataclasses: those of a command together with the fields of an operator."""

import importlib
import inspect
import io
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import field, fields, make_dataclass
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro

from unending import catalogue
from unending.core import Operator
from unending.core.errors import InputError, SystemNotFoundError

__all__ = ["operator_class", "parse", "parse_with_operator", "system_in"]

T = TypeVar("T")


def parse(options: type[T], arguments: Sequence[str], program: str) -> T:
    """The options of a command. `--help` prints and exits.

    Raises
    ------
    InputError
        at flags or values that are not accepted.
    """
    return _parse(options, arguments, program, inspect.getdoc(options) or "")


def system_in(arguments: Sequence[str], default: str) -> str:
    """The system that a command line names: its first word, if that is not a flag."""
    return arguments[0] if arguments and not arguments[0].startswith("-") else default


def operator_class(target: str) -> type[Operator[Any]]:
    """The operator class of a catalogue name, or of `module:Class`.

    Raises
    ------
    SystemNotFoundError
        if there is none.
    InputError
        if the class is not an operator.
    """
    if ":" not in target:
        return catalogue.load(target)
    module_name, _, class_name = target.partition(":")
    # A console script does not look into the current folder by itself; the user's module is usually there.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, SyntaxError, ValueError) as error:
        raise SystemNotFoundError(f"cannot load {target}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Operator)):
        raise InputError(f"{target} is not an Operator class")
    return found


def parse_with_operator(
    options: type[T], arguments: Sequence[str], program: str, default: str = "streaming-llm"
) -> tuple[T, Operator[Any]]:
    """The options of a command, and the operator it names, whose fields are flags beside them.

    Raises
    ------
    InputError
        at flags or values that are not accepted.
    """
    name = system_in(arguments, default)
    cls = operator_class(name)
    of_operator = cls.spec.name.replace("-", "_")
    joined = make_dataclass(
        "Joined",
        [
            (program, tyro.conf.OmitArgPrefixes[options]),  # type: ignore[valid-type, misc]
            (of_operator, tyro.conf.OmitArgPrefixes[_settings(cls)]),  # type: ignore[misc]
        ],
    )
    parsed: Any = _parse(joined, arguments, program, f"{cls.spec.name}: {cls.spec.title}.")
    command = getattr(parsed, program)
    if command.system != name:
        raise InputError(f"the system comes first: unending {program} {command.system} ...")
    settings = getattr(parsed, of_operator)
    return command, cls(**{each.name: getattr(settings, each.name) for each in fields(settings)})


def _parse(options: type[T], arguments: Sequence[str], program: str, description: str) -> T:
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(
                options,
                args=list(arguments),
                prog=f"unending {program}",
                description=description,
                config=(tyro.conf.PositionalMetavarFromFieldName,),
            )
    except SystemExit as end:
        if not end.code:
            raise
        raise InputError(f"{_first_part(said.getvalue())}; see unending {program} --help") from end


def _first_part(box: str) -> str:
    """What tyro says in its box, up to the first rule, as one line."""
    rows = [line.strip("│ ") for line in re.sub(r"\x1b\[[\d;]*m", "", box).splitlines()[1:]]
    end = next((index for index, row in enumerate(rows) if set(row) <= set("─╰╯")), len(rows))
    return " ".join(rows[:end]).strip(" .")


def _settings(cls: type[Operator[Any]]) -> type:
    """A dataclass with the fields of an operator, each with what the docstring of the operator says of it."""
    doc, _, parameters = (inspect.getdoc(cls) or "").partition("Parameters\n----------\n")
    parameters = re.split(r"^\w+\n-+\n", parameters, maxsplit=1, flags=re.M)[0]
    helps = {
        name: " ".join(text.split())
        for names, text in re.findall(r"^(\w[\w, ]*?)(?: *:.*)?\n((?:(?: {4}.*)?\n?)+)", parameters, re.M)
        for name in names.split(", ")
    }
    hints = get_type_hints(cls)
    made = make_dataclass(
        "Settings",
        [
            (
                each.name,
                Annotated[hints[each.name], tyro.conf.arg(help=helps.get(each.name))],
                field(default=each.default, default_factory=each.default_factory),  # type: ignore[call-overload]
            )
            for each in fields(cls)  # type: ignore[arg-type]
        ],
        kw_only=True,
    )
    made.__doc__ = doc
    return made
