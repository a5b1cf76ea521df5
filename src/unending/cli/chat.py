"""`unending chat`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from unending.cli.options import operator_class, parse_with_operator, system_in
from unending.core import Operator, Query, Session, Text
from unending.core.errors import InputError, UnendingError

__all__ = ["main"]

_HELP = """\
/memory        what the conversation holds in memory
/save FILE     write a snapshot
/load FILE     go on from a snapshot
/exit          leave (or Ctrl-D); Ctrl-C stops an answer"""


@dataclass(frozen=True)
class _Options:
    """Talk without end: memory stays the same however long the conversation lasts. /help lists the commands."""

    system: tyro.conf.Positional[str] = "streaming-llm"
    """name in the catalogue, or module:Operator"""
    seed: int = 0
    """seed of the answers, where the temperature is above 0"""
    load: Path | None = None
    """go on from this snapshot"""


def _memory(session: Session[Any]) -> str:
    bound = session.operator.bound().resident
    return (
        f"{session.nbytes / 2**20:.2f} MiB of at most {bound / 2**20:.2f} MiB,"
        f" {session.in_seq} turns and chunks in, {session.meters.ticks} tokens generated in this run"
    )


def _obey(session: Session[Any], line: str) -> Session[Any] | None:
    """Carry out a command; the session to go on with, `None` to leave."""
    command, _, rest = line.partition(" ")
    if command == "/exit":
        return None
    if command == "/memory":
        print(_memory(session))
    elif command in ("/save", "/load") and not rest.strip():
        print(f"{command} needs the name of a file", file=sys.stderr)
    elif command == "/save":
        session.save(rest.strip())
        print(f"saved to {rest.strip()}")
    elif command == "/load":
        session = Session.resume(session.operator, rest.strip())
        print(f"loaded {rest.strip()}: {_memory(session)}")
    else:
        print(_HELP)
    return session


def _answer(session: Session[Any], question: str) -> None:
    session.push(Query(question))
    try:
        _show(session)
    except KeyboardInterrupt:
        session.interrupt()
        _show(session)
        print(" [stopped]", end="")
    print()


def _show(session: Session[Any]) -> None:
    while events := session.poll():
        for event in events:
            if isinstance(event.data, Text):
                print(event.data.text, end="", flush=True)


def _read_line() -> str | None:
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None
    except KeyboardInterrupt:
        print()
        return ""


def main(arguments: Sequence[str]) -> int:
    """Read lines, answer them, until the end of input."""
    name = system_in(arguments, "streaming-llm") or "streaming-llm"
    options, operator = parse_with_operator(_Options, operator_class(name), arguments, "chat")
    if Query not in operator.spec.takes or Text not in operator.spec.gives:
        raise InputError(f"{operator.spec.name} does not answer questions in text")
    opened = _open(options, operator)
    if sys.stdin.isatty():
        print(f"{operator.spec.name}, {_memory(opened)}. /help lists the commands.")
    session: Session[Any] | None = opened
    while session is not None and (line := _read_line()) is not None:
        if not line:
            continue
        try:
            if line.startswith("/"):
                session = _obey(session, line)
            else:
                _answer(session, line)
        except UnendingError as error:
            print(f"unending: {error}", file=sys.stderr)
    return 0


def _open(options: _Options, operator: Operator[Any]) -> Session[Any]:
    if options.load:
        return Session.resume(operator, options.load)
    return Session(operator, seed=options.seed)
