"""Files of prompts: one JSON value a line."""

import json
from collections.abc import Iterator
from typing import Any

from unending.core import Chunk, Control, Query
from unending.core.errors import InputError, StorageError

__all__ = ["count_prompts", "read_prompts"]

_ACCEPTED = '"text", {"prompt": "text"} or {"messages": [{"role": "user", "content": "text"}, ...]}'


def _lines(name: str) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers from 1."""
    try:
        with open(name, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except OSError as error:
        raise StorageError(f"cannot read {name}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not a file in UTF-8 ({error})") from error


def count_prompts(name: str) -> int:
    """Prompts in a file, every one of which is looked at.

    Raises
    ------
    InputError
        if a line is no prompt, with its number.
    StorageError
        if the file cannot be read.
    """
    return sum(1 for _ in read_prompts(name))


def read_prompts(name: str, skip: int = 0) -> Iterator[Chunk]:
    """The prompts of a `.jsonl` file from number `skip` on, the k-th (counted from 1) at stream time k.

    A line is a text or `{"prompt": text}`, which give a `Query`, or `{"messages": [...]}`, which gives a `Query` if it
    is one message of a user, and `Control("messages", [...])` otherwise. Other entries of a line are not looked at;
    blank lines do not count.

    Raises
    ------
    InputError
        if a line is none of these, with its number, or if the file ends before `skip`.
    StorageError
        if the file cannot be read.
    """
    count = 0
    for count, (number, line) in enumerate(_lines(name), 1):
        if count > skip:
            yield _prompt(name, number, line, float(count))
    if count < skip:
        raise InputError(f"{name} ends at {count:,}, before {skip:,} where reading was to go on")


def _prompt(name: str, number: int, line: str, t: float) -> Chunk:
    try:
        value: Any = json.loads(line)
    except ValueError as error:
        raise InputError(f"{name}: line {number} is not JSON ({error})") from error
    if isinstance(value, dict):
        if "messages" in value:
            return _messages(name, number, value["messages"], t)
        value = value.get("prompt")
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{name}: line {number} is no prompt; accepted are {_ACCEPTED}")
    return _query(name, number, value, t)


def _query(name: str, number: int, text: str, t: float) -> Query:
    query = Query(text, t)
    try:
        query.check({})
    except InputError as error:
        raise InputError(f"{name}: line {number}: {error}") from error
    return query


def _messages(name: str, number: int, messages: Any, t: float) -> Chunk:
    if (
        not isinstance(messages, list)
        or not messages
        or not all(
            isinstance(each, dict) and all(isinstance(each.get(key), str) for key in ("role", "content"))
            for each in messages
        )
    ):
        raise InputError(f"{name}: line {number} has no list of messages; accepted are {_ACCEPTED}")
    if len(messages) == 1 and messages[0]["role"] == "user" and messages[0]["content"].strip():
        return _query(name, number, messages[0]["content"], t)
    return Control("messages", [{key: each[key] for key in ("role", "content")} for each in messages], t)
