"""Naming an operator in plain values, so that another process (or this one) can build it again."""

import importlib
from dataclasses import fields
from typing import Any

from unending.core import Operator
from unending.core.errors import InputError, UnendingError

__all__ = ["build", "describe"]


def describe(value: Any) -> Any:
    """An operator, or a value of one of its fields, as plain JSON.

    Raises
    ------
    InputError
        if the class cannot be imported by name or a field is not a plain value.
    """
    if isinstance(value, Operator):
        cls = type(value)
        if cls.__module__ == "__main__" or "<locals>" in cls.__qualname__:
            raise InputError(
                f"{cls.__qualname__} cannot be imported by name: define it at the top of a module"
            )
        described = {"class": f"{cls.__module__}:{cls.__qualname__}", "digest": _digest(value)}
        if _is_example(value):
            return described
        names = [field.name for field in fields(value)]  # type: ignore[arg-type]
        return {**described, "fields": {name: describe(getattr(value, name)) for name in names}}
    if isinstance(value, tuple):
        return {"tuple": [describe(each) for each in value]}
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise InputError(f"a field holds {type(value).__name__}; fields of an operator are plain values")


def build(described: Any) -> Any:
    """The inverse of `describe`.

    Raises
    ------
    InputError
        if what is built is not what was described.
    """
    if not isinstance(described, dict):
        return described
    if "tuple" in described:
        return tuple(build(each) for each in described["tuple"])
    module, _, name = described["class"].partition(":")
    cls: Any = importlib.import_module(module)
    for part in name.split("."):
        cls = getattr(cls, part)
    if "fields" in described:
        operator = cls(**{field: build(value) for field, value in described["fields"].items()})
    else:
        operator = cls.example()
    if _digest(operator) != described["digest"]:
        raise InputError(
            f"{described['class']} built from its settings has another digest of settings or weights"
        )
    return operator


def _digest(operator: Operator[Any]) -> str:
    return f"{operator.digest()} {operator.weights_digest()}"


def _is_example(operator: Operator[Any]) -> bool:
    try:
        return _digest(type(operator).example()) == _digest(operator)
    except UnendingError:
        return False
