"""Flags from the fields of an operator."""

import re
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest

from unending import catalogue
from unending.cli import main
from unending.cli.options import operator_class, parse_with_operator, system_in
from unending.core import Bound, Exactness, Operator, Rows, Spec
from unending.core.errors import InputError


@dataclass(frozen=True)
class Command:
    """Do it."""

    system: str
    """which one"""


@dataclass(frozen=True)
class Toy(Operator[int]):
    """A toy.

    Parameters
    ----------
    low, high
        ends of the range,
        both inclusive.
    name : str
        what it is called.

    Notes
    -----
    width
        is no parameter.
    """

    low: int
    high: int = 3
    name: str = "toy"
    width: int | None = None

    spec: ClassVar[Spec] = Spec("toy-of-tests", "toys", "a toy", (Rows,), (), Exactness.bitwise())

    @classmethod
    def example(cls):
        return cls(0)

    def init(self, seed=0):
        return 0

    def bound(self):
        return Bound(8)

    def _step(self, state, chunk):
        return state, []


TOY = f"{__name__}:Toy"


def parse(*flags):
    return parse_with_operator(Command, ["--system", TOY, *flags], "do", default=TOY)


def test_fields_are_flags():
    command, operator = parse("--low", "1", "--width", "7")
    assert command == Command(TOY)
    assert operator == Toy(1, width=7)


def test_a_field_without_default_must_be_given():
    with pytest.raises(InputError, match=r"--low.*; see unending do --help"):
        parse()


def test_what_the_operator_refuses_is_its_own_error():
    with pytest.raises(InputError, match="sinks of 0 or more"):
        parse_with_operator(Command, ["--system", "streaming-llm", "--sink-size", "-1"], "do")


def test_help_says_of_each_field_what_its_docstring_says(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    out = " ".join(re.sub("[│╭╮╰╯─]", "", capsys.readouterr().out).split())
    assert "--low INT ends of the range, both inclusive. (required)" in out
    assert "--high INT ends of the range, both inclusive. (default: 3)" in out
    assert "--name STR what it is called. (default: toy)" in out
    assert "is no parameter" not in out
    assert "toy-of-tests: a toy." in out


@pytest.mark.parametrize("system", catalogue.names())
def test_every_field_of_the_catalogue_has_help(system, capsys):
    assert main(["run", system, "--help"]) == 0
    out = " ".join(re.sub("[│╭╮╰╯─]", "", capsys.readouterr().out).split())
    assert re.findall(r"(--[\w-]+)(?: \S+)? \((?:default|required)", out) == []


def test_the_system_is_the_first_word():
    assert system_in(["toy", "a.txt"], "other") == "toy"
    assert system_in(["--json", "toy"], "other") == "other"
    assert system_in([], "other") == "other"


def test_a_class_of_a_module_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "module_of_a_user.py").write_text(f"from {__name__} import Toy as Mine\n")
    assert operator_class("module_of_a_user:Mine").__name__ == "Toy"
