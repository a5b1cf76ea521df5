"""`unending run`."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from unending.cli.monitor import Monitor, plot
from unending.cli.options import operator_class, parse_with_operator, system_in
from unending.core import Operator, Query, Session, Text
from unending.core.errors import InputError, SnapshotForeignError, StorageError
from unending.io.sources import Source, open_source

__all__ = ["main"]


@dataclass(frozen=True)
class _Options:
    """Run a system on a stream, with a live table."""

    system: tyro.conf.Positional[str]
    """name in the catalogue, or module:Operator"""
    source: tyro.conf.Positional[str]
    """a text file, .npy, .csv, - (standard input), or python:topics"""
    ask: str | None = None
    """a question to put at the end of the stream"""
    plot: Path | None = None
    """write a picture of memory, time and metric along the stream"""
    store: Path | None = None
    """keep snapshots in this folder, and resume from it"""
    every: float = 15.0
    """seconds between snapshots"""
    items: int | None = None
    """stop after this many items of the stream"""
    read: int = 512
    """items that are pushed at a time"""
    seed: int = 0
    """seed of the stream's randomness"""
    errors: str = "strict"
    """what to do with bytes that are no text: strict, replace, ignore"""
    json: bool = False
    """print a summary as JSON"""


class _Store:
    """A folder with the newest snapshot of one run, and its samples."""

    def __init__(self, folder: Path) -> None:
        self.snapshot, self.samples, self._about = (
            folder / "snapshot",
            folder / "samples.jsonl",
            folder / "run.json",
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make the folder {folder}: {error.strerror or error}") from error

    def session(self, operator: Operator[Any], source: str, seed: int) -> Session[Any]:
        about = {"source": str(Path(source).resolve()) if Path(source).is_file() else source, "seed": seed}
        if self.snapshot.is_file():
            if self._about.is_file() and (found := json.loads(self._about.read_text())) != about:
                raise SnapshotForeignError(
                    f"{self.snapshot} is of a run on {found['source']}, seed {found['seed']}"
                )
            return Session.resume(operator, self.snapshot)
        session = Session(operator, seed=seed)
        session.save(self.snapshot)
        self._about.write_text(json.dumps(about))
        return session


def _print_text(session: Session[Any], monitor: Monitor) -> str:
    """Show the answer as it comes; give it back whole."""
    answer = []
    while events := session.poll():
        monitor.see(events)
        for event in events:
            if isinstance(event.data, Text):
                answer.append(event.data.text)
                print(event.data.text, end="", flush=True)
    print()
    return "".join(answer)


def _follow(
    session: Session[Any], source: Source, options: _Options, store: _Store | None, monitor: Monitor
) -> bool:
    """Push the stream; True at its end, False when Ctrl-C cut it short."""
    left = options.items - round(session.time) if options.items is not None else None
    saved = time.monotonic()
    try:
        for chunk in source.chunks(options.read, skip=round(session.time)):
            if left is not None:
                if left <= 0:
                    break
                chunk, left = chunk[:left], left - len(chunk)
            session.push(chunk)
            while events := session.poll():
                monitor.see(events)
            monitor.sample(session.meters, session.nbytes)
            if store and time.monotonic() - saved > options.every:
                session.save(store.snapshot)
                saved = time.monotonic()
    except KeyboardInterrupt:
        return False
    finally:
        if store:
            session.save(store.snapshot)
    return True


def main(arguments: Sequence[str]) -> int:
    """Run, resume, ask, draw."""
    name = system_in(arguments)
    if name is None:
        name = "streaming-llm"
    options, operator = parse_with_operator(_Options, operator_class(name), arguments, "run")
    source = open_source(options.source, operator.spec.takes, encoding_errors=options.errors)
    if options.ask and Query not in operator.spec.takes:
        raise InputError(f"{operator.spec.name} takes no questions")
    store = _Store(options.store) if options.store else None
    session = (
        store.session(operator, options.source, options.seed)
        if store
        else Session(operator, seed=options.seed)
    )
    if session.time:
        print(f"resumed at {session.time:,.0f} of {options.source}", file=sys.stderr)
    size = options.items or source.size
    with Monitor(f"{operator.spec.name} on {options.source}", operator.bound().resident, size) as monitor:
        if store:
            monitor.keep(store.samples, session.time)
        ended = _follow(session, source, options, store, monitor)
    if monitor.samples:
        print(monitor.line(session.meters), file=sys.stderr)
    answer = None
    if ended and options.ask:
        session.push(Query(options.ask))
        answer = _print_text(session, monitor)
    elif ended:
        session.finish()
        while events := session.poll():
            monitor.see(events)
    if session.in_seq == 0:
        print(f"unending: {options.source} is an empty stream", file=sys.stderr)
    if options.plot and monitor.samples:
        plot(
            options.plot,
            {operator.spec.name: monitor.samples},
            unit=operator.spec.unit,
            metric=monitor.metric_name,
        )
        print(f"picture: {options.plot}", file=sys.stderr)
    if options.json:
        print(json.dumps(_summary(session, operator, monitor, answer), indent=2))
    if not ended:
        where = f"; go on with the same command (--store {options.store})" if store else ""
        print(f"unending: interrupted at {session.time:,.0f}{where}", file=sys.stderr)
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
