"""`unending run`."""

import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from unending.cli.answers import Answers
from unending.cli.interrupts import whole
from unending.cli.monitor import Monitor, plot, require_picture
from unending.cli.options import parse_with_operator
from unending.core import Chunk, Control, Operator, Query, Session, Text, snapshot
from unending.core.errors import (
    InputError,
    SnapshotCorruptError,
    SnapshotForeignError,
    StorageError,
)
from unending.io.sources import Source, open_source

__all__ = ["main"]


@dataclass(frozen=True)
class _Options:
    """Run a system on a stream, with a live table."""

    system: tyro.conf.Positional[str]
    """name in the catalogue, or module:Operator"""
    source: tyro.conf.Positional[str]
    """a text file, .npy, .csv, .jsonl (prompts), - (standard input), or python:topics"""
    ask: Annotated[str, tyro.conf.arg(metavar="QUESTION")] = ""
    """a question to put at the end of the stream"""
    plot: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """write a picture of memory, time and metric along the stream"""
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


class _Store:
    """A folder with the newest snapshot of one run, and what the monitor knew at that moment."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._snapshot, self._about = folder, folder / "snapshot", folder / "run.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StorageError(f"cannot use the folder {folder}: {error.strerror or error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise StorageError(f"another run is at work in {folder}") from error
        for left_over in folder.glob(".*.tmp"):
            left_over.unlink(missing_ok=True)

    def __enter__(self) -> "_Store":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def open(self, operator: Operator[Any], source: str, seed: int, monitor: Monitor) -> Session[Any]:
        """The session of an earlier run, or a new one."""
        about = {"source": str(Path(source).resolve()) if Path(source).exists() else source, "seed": seed}
        if not self._snapshot.exists():
            session = Session(operator, seed=seed)
            snapshot.write(self._about, json.dumps(about).encode())
            self.save(session, monitor)
            return session
        found = self._load(self._about)
        if found != about:
            raise SnapshotForeignError(
                f"{self._folder} holds a run on {found['source']} with seed {found['seed']};"
                " give this one a folder of its own"
            )
        try:
            session = Session.resume(operator, self._snapshot)
        except SnapshotCorruptError as error:
            raise SnapshotCorruptError(f"{error}; {self._anew}") from error
        monitor.restore(self._load(self._progress(session)))
        return session

    @property
    def _anew(self) -> str:
        return f"delete {self._folder} to begin anew"

    def _load(self, path: Path) -> Any:
        try:
            return json.loads(snapshot.read(path))
        except ValueError as error:
            raise SnapshotCorruptError(f"{path} is damaged; {self._anew}") from error

    def _progress(self, session: Session[Any]) -> Path:
        return self._folder / f"progress-{session.in_seq}.json"

    def save(self, session: Session[Any], monitor: Monitor) -> None:
        """Save both; killed in between, the older pair is still there."""
        now = self._progress(session)
        snapshot.write(now, json.dumps(monitor.record()).encode())
        session.save(self._snapshot)
        for older in self._folder.glob("progress-*.json"):
            if older != now:
                older.unlink(missing_ok=True)


def _drain(
    session: Session[Any], monitor: Monitor, answers: Answers | None = None, *, show: bool = False
) -> str:
    """Take all outputs that can be had; the text among them, shown as it comes or not."""
    text = []
    while events := session.poll():
        monitor.see(events)
        if answers:
            answers.see(events)
        for event in events:
            if isinstance(event.data, Text) and event.final:
                text.append(event.data.text)
                if show:
                    print(event.data.text, end="", flush=True)
    return "".join(text)


def _start(operator: Operator[Any]) -> list[Chunk]:
    """What starts a system that gathers its input first, if this is one."""
    return [Control("run")] if "run" in operator.domain().get(Control, {}) else []


def _inputs(session: Session[Any], source: Source, options: _Options) -> Iterator[Chunk]:
    """The chunks of the source from where the session stands, and what starts a system that gathers first."""
    for chunk in source.chunks(options.read, skip=round(session.time)):
        left = None if options.items is None else options.items - round(session.time)
        if left is not None and left <= 0:
            break
        yield chunk[:left] if chunk.items else chunk
    yield from _start(session.operator)


def _follow(
    session: Session[Any],
    source: Source,
    options: _Options,
    store: _Store | None,
    monitor: Monitor,
    answers: Answers,
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
                monitor.see(events)
                answers.see(events)
                monitor.sample(session.meters, session.nbytes)
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
    if options.read < 1 or (options.items is not None and options.items < 1):
        raise InputError("--read and --items are 1 or more")
    if options.plot:
        require_picture(options.plot)


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
    source = open_source(options.source, operator.spec.takes, encoding_errors=options.errors)
    with _Store(options.store) if options.store else nullcontext() as store:
        return _run(options, operator, source, store)


def _run(options: _Options, operator: Operator[Any], source: Source, store: _Store | None) -> int:
    title = f"{operator.spec.name} on {options.source}"
    monitor = Monitor(title, operator.bound().resident, options.items or source.size, source.unit)
    if store:
        session = store.open(operator, options.source, options.seed, monitor)
    else:
        session = Session(operator, seed=options.seed)
    answers = Answers(source, show=not options.json)
    query = _question(session, options.ask) if options.ask else None
    if session.time:
        onwards = "; what comes in now is taken to follow" if options.source == "-" else ""
        print(f"resumed at {session.time:,.0f} of {options.source}{onwards}", file=sys.stderr)
    with monitor:
        ended = _follow(session, source, options, store, monitor, answers)
    monitor.close(session.meters)
    if ended and session.in_seq == 0:
        raise InputError(f"{options.source} is an empty stream")
    answer = None
    if ended and query:
        answers.close()
        for chunk in (query, *_start(operator)):
            session.push(chunk)
        answer = _drain(session, monitor, show=not options.json)
        if not options.json:
            print()
    elif ended:
        session.finish()
        _drain(session, monitor, answers)
    answers.close()
    if options.json:
        summary = _summary(session, operator, monitor, answer)
        if source.kind is Query:
            summary["answers"] = answers.whole
        print(json.dumps(summary, indent=2))
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
