"""`unending chat`."""

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from unending.cli.monitor import readable
from unending.cli.options import parse_with_operator
from unending.core import Query, Session, Text
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
    load: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """go on from this snapshot"""


def _memory(session: Session[Any]) -> str:
    bound = session.operator.bound().resident
    return (
        f"{readable(session.nbytes)} of at most {readable(bound)},"
        f" {session.in_seq} turns and chunks in, {session.meters.ticks} tokens generated in this run"
    )


def _obey(session: Session[Any], line: str) -> Session[Any] | None:
    """Carry out a command; the session to go on with, `None` to leave."""
    command, _, rest = line.partition(" ")
    name = rest.strip()
    if command == "/exit":
        return None
    if command == "/memory":
        print(_memory(session))
    elif command in ("/save", "/load") and not name:
        print(f"{command} needs the name of a file", file=sys.stderr)
    elif command == "/save":
        session.save(name)
        print(f"saved to {name}")
    elif command == "/load":
        session = Session.resume(session.operator, name)
        print(f"loaded {name}: {_memory(session)}")
    else:
        if command != "/help":
            print(f"there is no {command}", file=sys.stderr)
        print(_HELP)
    return session


def _answer(session: Session[Any], question: str) -> None:
    try:
        session.push(Query(question))
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
        if sys.stdin.isatty():
            print()
        return None
    except KeyboardInterrupt:
        print()
        return ""


def main(arguments: Sequence[str]) -> int:
    """Read lines, answer them, until the end of input."""
    options, operator = parse_with_operator(_Options, arguments, "chat")
    if Query not in operator.spec.takes or Text not in operator.spec.gives:
        raise InputError(f"{operator.spec.name} does not answer questions in text")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    session: Session[Any] | None = (
        Session.resume(operator, options.load) if options.load else Session(operator, seed=options.seed)
    )
    if session and sys.stdin.isatty():
        print(f"{operator.spec.name}, {_memory(session)}. /help lists the commands.")
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
