"""`unending run`."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import tyro

from unending.cli.answers import Answers
from unending.cli.drawing import Drawing
from unending.cli.interrupts import whole
from unending.cli.monitor import Monitor
from unending.cli.options import parse_with_operator
from unending.cli.pictures import plot, require_picture
from unending.cli.run_store import RunStore
from unending.cli.shown import ANSWERS, Shown, missed, roles
from unending.core import Chunk, Control, Event, Operator, Query, Session, Text
from unending.core.errors import InputError, UnendingError
from unending.io.sources import StreamSource, fitted, open_source

__all__ = ["main"]


@dataclass(frozen=True)
class _Options:
    """Run a system on a stream, with a live table."""

    system: tyro.conf.Positional[str]
    """name in the catalogue, or module:Operator"""
    source: tyro.conf.Positional[str] = ""
    """a text file, .npy, .csv, .jsonl (prompts), - (standard input), or python:topics"""
    env: Annotated[str, tyro.conf.arg(metavar="NAME")] = ""
    """instead of a source: a gymnasium environment that the system acts in, such as Ant-v5"""
    ask: Annotated[str, tyro.conf.arg(metavar="QUESTION")] = ""
    """a question to put at the end of the stream, or before it where the system has to know it first"""
    show: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ROLE...")] = ()
    """print outputs of these roles as they come: thoughts, deep, answer, text, segments, actions, all"""
    plot: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """write a picture of memory, time and metric along the stream"""
    draw: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """keep a picture of the graph that the system has learned so far in this file (.svg, .png, .pdf, .dot)"""
    store: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """keep snapshots in this folder, and go on from them after Ctrl-C or a crash"""
    every: float = 15.0
    """seconds between snapshots"""
    items: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """stop after this many items of the stream"""
    read: int = 512
    """items that are pushed at a time"""
    seed: int = 0
    """seed of the stream's randomness"""
    errors: Literal["strict", "replace", "ignore"] = "strict"
    """what to do with bytes that are not text"""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """print a summary as JSON"""


class _Sees(Protocol):
    def see(self, events: Sequence[Event]) -> None: ...


class _Outputs:
    """Where outputs go: the monitor, the answers to prompts, the roles that are shown, the source and the picture."""

    def __init__(
        self, monitor: Monitor, answers: Answers, shown: Shown, others: Sequence[_Sees] = ()
    ) -> None:
        self.monitor, self.answers, self.shown, self.others = monitor, answers, shown, others
        self.answer = ""
        """What was said in answer to a question so far."""

    def see(self, events: Sequence[Event]) -> None:
        """Take note of outputs, and show them."""
        everyone: tuple[_Sees, ...] = (self.monitor, self.answers, self.shown, *self.others)
        for each in everyone:
            each.see(events)
        for event in events:
            if isinstance(event.data, Text) and event.final and event.data.role in ANSWERS:
                self.answer += event.data.text


def _drain(session: Session[Any], outputs: _Outputs) -> None:
    """Take all outputs that can be had."""
    while events := session.poll():
        outputs.see(events)


def _usual(operator: Operator[Any], source: StreamSource) -> frozenset[str]:
    """The roles that are shown unasked: answers, and plain text where that is all that comes of a stream of text."""
    text = operator.spec.gives == (Text,) and source.kind is Text
    return ANSWERS if text else frozenset({"answer"})


def _asks_first(operator: Operator[Any]) -> bool:
    """Whether a question has to come before what it is about."""
    return "first" in operator.domain().get(Query, {})


def _close(operator: Operator[Any]) -> list[Chunk]:
    """What tells a system that the stream is over while it can still speak token by token, if it knows that."""
    return [Control("end")] if "end" in operator.domain().get(Control, {}) else []


def _start(operator: Operator[Any]) -> list[Chunk]:
    """What starts a system that gathers its input first, if this is one."""
    return [Control("run")] if "run" in operator.domain().get(Control, {}) else []


def _left(session: Session[Any], options: _Options) -> float:
    """Items that are still to be read."""
    return inf if options.items is None else options.items - round(session.time)


def _inputs(session: Session[Any], source: StreamSource, options: _Options) -> Iterator[Chunk]:
    """The chunks of the source from where the session stands, and what starts a system that gathers first."""
    chunks = source.chunks(options.read, skip=round(session.time))
    # What is not wanted is not asked for: an environment must not take a step that its agent does not learn from.
    while (left := _left(session, options)) > 0 and (chunk := next(chunks, None)):
        yield chunk[: int(left)] if chunk.items and left < len(chunk) else chunk
    yield from _start(session.operator)


def _follow(
    session: Session[Any],
    source: StreamSource,
    options: _Options,
    store: RunStore | None,
    monitor: Monitor,
    outputs: _Outputs,
) -> bool:
    """Push the stream; True at its end, False when Ctrl-C cut it short."""
    saved = time.monotonic()

    def work(chunk: Chunk | None) -> None:
        """Push one chunk, if any, and take what comes of it; Ctrl-C waits no longer than for the next output."""
        nonlocal saved
        while chunk or session.pending:
            with whole():
                if chunk:
                    session.push(chunk)
                events = session.poll()
                outputs.see(events)
                monitor.sample(session.meters, lambda: session.nbytes)
            chunk = None
            if store and time.monotonic() - saved > options.every:
                store.save(session, monitor)
                saved = time.monotonic()

    try:
        work(None)
        for chunk in _inputs(session, source, options):
            work(chunk)
    except KeyboardInterrupt:
        return False
    finally:
        if store:
            with whole():
                store.save(session, monitor)
    return True


def _require_sensible(options: _Options) -> None:
    roles(options.show)
    if options.read < 1 or (options.items is not None and options.items < 1):
        raise InputError("--read and --items are 1 or more")
    if options.plot:
        require_picture(options.plot)
    if bool(options.source) == bool(options.env):
        raise InputError("run takes one SOURCE: a file (or -), or an environment (--env NAME)")


def _question(session: Session[Any], text: str) -> Query:
    """The question, refused before the stream is read if it cannot be put after it."""
    query = Query(text)
    session.operator.admit(query)
    certain = session.operator.domain().get(Query, {}).get("characters")
    if certain is not None and len(text) > certain:
        session.fork().push(query)
    return query


def main(arguments: Sequence[str]) -> int:
    """Run, resume, ask, draw."""
    options, operator = parse_with_operator(_Options, arguments, "run")
    _require_sensible(options)
    with (
        closing(_source(options, operator)) as source,
        RunStore(options.store, source) if options.store else nullcontext() as store,
    ):
        return _run(options, fitted(operator, source), source, store)


def _source(options: _Options, operator: Operator[Any]) -> StreamSource:
    if not options.env:
        return open_source(options.source, operator.spec.takes, encoding_errors=options.errors)
    from unending.io.environments import environment_for

    return environment_for(operator, options.env, options.seed)


def _run(options: _Options, operator: Operator[Any], source: StreamSource, store: RunStore | None) -> int:
    title = f"{operator.spec.name} on {source.name}"
    monitor = Monitor(
        title, operator.bound().resident, options.items or source.size, source.unit, quiet=bool(options.show)
    )
    first = options.ask if _asks_first(operator) else ""
    if store:
        session = store.open(operator, source.name, options.seed, monitor, first)
    else:
        session = Session(operator, seed=options.seed)
    answers = Answers(source, show=not options.json)
    wanted = roles(options.show) if options.show else _usual(operator, source)
    picture = Drawing(options.draw) if options.draw else None
    others = (source, picture) if picture else (source,)
    outputs = _Outputs(monitor, answers, Shown(wanted, out=not options.json), others)
    query = _question(session, options.ask) if options.ask else None
    if session.time:
        onwards = "; what comes in now is taken to follow" if options.source == "-" else ""
        print(f"resumed at {session.time:,.0f} of {source.name}{onwards}", file=sys.stderr)
    if query and first and not session.in_seq:
        session.push(query)
    begun = session.in_seq
    try:
        with monitor:
            ended = _follow(session, source, options, store, monitor, outputs)
    except UnendingError:
        if picture:
            picture.close()
        raise
    if not options.show:  # else it would stand in the middle of what is shown
        monitor.close(session.meters)
    if ended and session.in_seq == begun and not session.time:
        raise InputError(f"{source.name} is an empty stream")
    if ended and query and not first:
        answers.close()
        shown = outputs.shown if options.show else Shown(ANSWERS, out=not options.json)
        outputs = _Outputs(monitor, Answers(source, show=False), shown, others)
        for chunk in (query, *_start(operator)):
            session.push(chunk)
        _drain(session, outputs)
    elif ended:
        before = monitor.rows
        for chunk in _close(operator):
            session.push(chunk)
        _drain(session, outputs)
        session.finish()
        _drain(session, outputs)
        monitor.after(session.meters, lambda: session.nbytes, before)
    said = outputs.answer.strip() if first else outputs.answer
    answer = said if ended and query else None
    outputs.shown.end_line()
    if options.show:
        monitor.close(session.meters)
    if options.show and (hint := missed(outputs.shown, options.show)):
        print(hint, file=sys.stderr)
    answers.close()
    if options.json:
        summary = _summary(session, operator, monitor, answer)
        if source.kind is Query:
            summary["answers"] = answers.whole
        if options.show:
            summary["shown"] = outputs.shown.whole
        print(json.dumps(summary, indent=2))
    if picture:
        print(picture.close(), file=sys.stderr)
    if options.plot and monitor.samples:
        series = {operator.spec.name: monitor.samples}
        plot(options.plot, series, unit=monitor.unit, metric=monitor.metric_name, along=source.unit)
        print(f"picture: {options.plot}", file=sys.stderr)
    if not ended:
        onwards = f"; the same command goes on from there (--store {options.store})" if store else ""
        print(f"unending: interrupted at {session.time:,.0f}{onwards}", file=sys.stderr)
        return 130
    return 0


def _summary(
    session: Session[Any], operator: Operator[Any], monitor: Monitor, answer: str | None
) -> dict[str, Any]:
    meters = session.meters
    return {
        "system": operator.spec.name,
        "position": session.time,
        "rows": monitor.rows,
        "metric": monitor.metric,
        "metric_name": monitor.metric_name,
        "state_bytes": session.nbytes,
        "bound_bytes": operator.bound().resident,
        "seconds": meters.latency.seconds,
        "latency_ms": {str(p): 1000 * meters.latency.percentile(p) for p in (50, 95, 99)},
        "answer": answer,
    }
