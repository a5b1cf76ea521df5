"""Traces: when prompts open, grow, change and close; as JSON lines, from seeded generators, or recorded."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from unending.core.errors import InputError, StorageError
from unending.core.random import philox
from unending.parts.simulation import poisson_times

__all__ = [
    "TraceEvent",
    "anns_trace",
    "crawler_trace",
    "delayed",
    "read_trace",
    "waiting",
    "write_trace",
]

OPERATIONS = ("open", "append", "update", "close")
_NONE = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class TraceEvent:
    """One line of a trace."""

    t: float
    """Seconds."""
    req: str
    op: str
    """`"open"` (tokens: the first of the prompt), `"append"`, `"update"` (tokens: the whole new prompt), `"close"`."""
    tokens: np.ndarray | int = 0
    """Ids, int64 `[n]`, or their number where the content does not matter (never in an update)."""

    def ids(self, position: int) -> np.ndarray:
        """The token ids; where only their number is known, those of their positions from `position` on."""
        if isinstance(self.tokens, np.ndarray):
            return self.tokens
        return np.arange(position, position + self.tokens, dtype=np.int64)


def crawler_trace(
    n: int,
    qps: float,
    *,
    chunks: int = 14,
    gap: float = 0.7,
    tokens: tuple[int, int] = (500, 1500),
    question: int = 32,
    seed: int = 0,
) -> list[TraceEvent]:
    """Append mode, like a web crawl: pages come one by one, the question with the last.

    Parameters
    ----------
    n, qps
        requests, and how many open a second (a Poisson process).
    chunks, gap
        pages of a request, and seconds between them on average (exponential).
    tokens
        fewest and most of a page.
    question
        tokens of the question.
    """
    events = []
    for index, opened in enumerate(poisson_times(n, qps, seed)):
        draw = philox(seed, index + 1, 2)
        times = opened + draw.exponential(gap, chunks).cumsum()
        sizes = draw.integers(tokens[0], tokens[1] + 1, chunks)
        name = f"crawl-{index}"
        events.append(TraceEvent(float(opened), name, "open"))
        events += [
            TraceEvent(float(t), name, "append", int(size)) for t, size in zip(times, sizes, strict=True)
        ]
        events.append(TraceEvent(float(times[-1]), name, "close", question))
    return _ordered(events)


def anns_trace(
    n: int,
    qps: float,
    *,
    pools: tuple[int, int] = (5, 10),
    topk: int = 10,
    churn: float = 0.5,
    duration: float = 4.5,
    document: int = 200,
    question: int = 32,
    vocabulary: int = 32_000,
    seed: int = 0,
) -> list[TraceEvent]:
    """Update mode, like a vector search that refines its result: lists of documents that become more and more stable.

    A prompt is an instruction, the documents in order of rank, and the question, so that a document that changes
    invalidates what follows it.

    Parameters
    ----------
    n, qps
        requests, and how many open a second (a Poisson process).
    pools
        fewest and most result lists of a request.
    topk
        documents of a list.
    churn
        probability that a rank changes from the first list to the second; it falls linearly to 0 after the last.
    duration
        seconds of a search.
    document, question, vocabulary
        tokens of a document, of instruction and question, and the range of ids.
    """
    events = []
    for index, opened in enumerate(poisson_times(n, qps, seed)):
        draw = philox(seed, index + 1, 3)
        lists = int(draw.integers(pools[0], pools[1] + 1))
        times = opened + duration * np.sort(draw.random(lists))
        asked, next_document = draw.integers(0, vocabulary, question), topk
        ranks = np.arange(topk)
        name = f"search-{index}"
        for step, t in enumerate(times):
            if step:
                changes = np.flatnonzero(draw.random(topk) < churn * (1 - (step - 1) / lists))
                ranks = ranks.copy()
                ranks[changes] = next_document + np.arange(len(changes))
                next_document += len(changes)
            texts = [_document(seed, index, int(each), document, vocabulary) for each in ranks]
            prompt = np.concatenate([np.arange(question) % vocabulary, *texts, asked])
            if not step:
                events.append(TraceEvent(float(opened), name, "open"))
            events.append(TraceEvent(float(t), name, "update", prompt))
        events.append(TraceEvent(float(times[-1]), name, "close"))
    return _ordered(events)


def _document(seed: int, request: int, number: int, tokens: int, vocabulary: int) -> np.ndarray:
    return philox(seed, (request << 20) + number, 4).integers(0, vocabulary, tokens)


def _ordered(events: list[TraceEvent]) -> list[TraceEvent]:
    return sorted(events, key=lambda event: event.t)


def delayed(trace: Sequence[TraceEvent], multiplier: float) -> list[TraceEvent]:
    """The trace with the gaps inside each request `multiplier` times as long; requests open when they did."""
    if not (isfinite(multiplier) and multiplier >= 0):
        raise InputError(f"a delay multiplier is 0 or more, got {multiplier}")
    opened = {event.req: event.t for event in trace if event.op == "open"}
    return _ordered(
        [replace(each, t=opened[each.req] + multiplier * (each.t - opened[each.req])) for each in trace]
    )


def waiting(trace: Iterable[TraceEvent]) -> list[TraceEvent]:
    """The trace of a server without streaming: each prompt is submitted as a whole when it closes.

    The `open` events stay where they are, without tokens: that is from when a person waits.
    """
    prompts: dict[str, np.ndarray] = {}
    events = []
    for event in trace:
        before = _NONE if event.op == "update" else prompts.get(event.req, _NONE)
        prompts[event.req] = np.concatenate([before, event.ids(len(before))])
        if event.op == "open":
            events.append(replace(event, tokens=0))
        elif event.op == "close":
            events.append(replace(event, tokens=prompts.pop(event.req)))
    return events


def write_trace(path: str | Path, trace: Iterable[TraceEvent]) -> None:
    """Write a trace as JSON lines `{"t": seconds, "req": id, "op": operation, "tokens": ids or their number}`."""
    lines = [
        json.dumps(
            {
                "t": event.t,
                "req": event.req,
                "op": event.op,
                "tokens": event.tokens if isinstance(event.tokens, int) else event.tokens.tolist(),
            }
        )
        for event in trace
    ]
    try:
        Path(path).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def read_trace(path: str | Path) -> list[TraceEvent]:
    """Read a trace that `write_trace` or another program wrote.

    Raises
    ------
    InputError
        at a line that is no event of a trace in order, with its number.
    StorageError
        if the file cannot be read.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text") from error
    trace: list[TraceEvent] = []
    stands: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        try:
            event = _event(json.loads(line))
            _require_order(event, trace, stands)
        except (ValueError, KeyError, TypeError) as error:
            reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
            raise InputError(f"{path}, line {number}: {reason}") from error
        stands[event.req] = event.op
        trace.append(event)
    return trace


def _event(entry: dict[str, Any]) -> TraceEvent:
    t, op, tokens = float(entry["t"]), entry["op"], entry.get("tokens", 0)
    if op not in OPERATIONS:
        raise InputError(f"op is one of {', '.join(OPERATIONS)}; got {op!r}")
    if isinstance(tokens, list):
        ids = np.array(tokens, dtype=np.int64) if tokens else _NONE
        if ids.ndim != 1 or (ids < 0).any():
            raise InputError("tokens are ids of 0 or more, or their number")
        return TraceEvent(t, str(entry["req"]), op, ids)
    if type(tokens) is not int or tokens < 0 or op == "update":
        raise InputError("tokens are ids of 0 or more, or (but for an update) their number")
    return TraceEvent(t, str(entry["req"]), op, tokens)


def _require_order(event: TraceEvent, trace: list[TraceEvent], stands: dict[str, str]) -> None:
    if not event.t >= (trace[-1].t if trace else 0.0) or not isfinite(event.t):
        raise InputError(f"t is {event.t:g}: a trace is in order of time, from 0 on")
    before = stands.get(event.req)
    if (event.op == "open") != (before is None) or before == "close":
        raise InputError(f"{event.op} of request {event.req} after {before or 'nothing'}")
