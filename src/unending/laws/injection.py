"""An exception in the middle of an operator's code, at a line of choice."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = ["code_of", "count_lines", "interrupt"]


def code_of(operator: Any) -> str:
    """Path prefix of the code that is the operator's: the package it is in, or its file."""
    module = sys.modules[type(operator).__module__]
    package = sys.modules[module.__name__.partition(".")[0]]
    where = getattr(package, "__path__", None)
    file = module.__file__ or ""
    folder = next((each for each in where or () if file.startswith(each)), None)
    return str(Path(folder)) if folder else file


def _traced(call: Callable[[], Any], prefix: str | tuple[str, ...], at_line: Callable[[], None]) -> None:
    def local(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            at_line()
        return local

    def anywhere(frame: FrameType, event: str, argument: Any) -> Any:
        return local if frame.f_code.co_filename.startswith(prefix) else None

    before = sys.gettrace()
    sys.settrace(anywhere)
    try:
        call()
    finally:
        sys.settrace(before)


def count_lines(call: Callable[[], Any], prefix: str | tuple[str, ...]) -> int:
    """Lines of files under the prefix (or one of several) that the call runs."""
    lines = 0

    def count() -> None:
        nonlocal lines
        lines += 1

    _traced(call, prefix, count)
    return lines


def interrupt(
    call: Callable[[], Any], prefix: str | tuple[str, ...], line: int, error: type[BaseException]
) -> bool:
    """Call, and raise `error` when the given line comes up (from 1); whether it came out of the call."""
    left = line

    def strike() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise error("injected")

    try:
        _traced(call, prefix, strike)
    except error:
        return True
    return False
