"""What can be seen of a session from outside, in plain values."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from unending.engine.entry import Entry
from unending.engine.floor import Floor

__all__ = ["SessionView", "Totals", "totals", "view"]


@dataclass(frozen=True)
class SessionView:
    """One session at one moment. `position`, `lag` are stream time; `rate` is items a second of compute."""

    key: str
    system: str
    status: str
    """`running`, `idle`, `waiting` (for a slot), `parked` (in the store), `finished` or `failed`."""
    held: bool
    position: float
    in_seq: int
    out_seq: int
    acknowledged: int
    ticks: int
    queued_bytes: int
    outbox_bytes: int
    state_bytes: int
    lag: float
    rate: float
    latency_p50: float
    """Seconds from the arrival of an input to the end of its step."""
    latency_p99: float
    shed: int
    faults: int
    history: tuple[tuple[float, ...], ...]
    """Points of position, lag, rate, slowest latency since the point before, state bytes; at most 256."""


def _status(floor: Floor[Any], entry: Entry[Any]) -> str:
    if entry.failed:
        return "failed"
    if entry.over:
        return "finished"
    if entry.record is None:
        return "waiting" if entry.waiting or entry.slot >= 0 else "parked"
    return "idle" if floor.is_idle(entry) else "running"


@dataclass(frozen=True)
class Totals:
    """All sessions at one moment, added up."""

    statuses: Counter[str]
    """How many have each of the values of `SessionView.status`."""
    queue_bytes: int
    outbox_bytes: int
    state_bytes: int
    """Of the states in memory."""
    lag_max: float


def totals(floor: Floor[Any]) -> Totals:
    """What all sessions add up to now."""
    entries = floor.entries.values()
    return Totals(
        statuses=Counter(_status(floor, entry) for entry in entries),
        queue_bytes=sum(entry.queued_bytes for entry in entries),
        outbox_bytes=sum(entry.outbox_bytes for entry in entries),
        state_bytes=sum(entry.state_bytes for entry in entries if entry.record is not None),
        lag_max=max((entry.lag for entry in entries), default=0.0),
    )


def view(floor: Floor[Any], entry: Entry[Any], system: str, *, history: bool) -> SessionView:
    """What is seen of a session now."""
    record = entry.record
    return SessionView(
        key=entry.key,
        system=system,
        status=_status(floor, entry),
        held=entry.held,
        position=entry.time,
        in_seq=entry.accepted,
        out_seq=entry.made,
        acknowledged=entry.acknowledged,
        ticks=record.ticks if record else 0,
        queued_bytes=entry.queued_bytes,
        outbox_bytes=entry.outbox_bytes,
        state_bytes=entry.state_bytes,
        lag=entry.lag,
        rate=entry.items / entry.seconds if entry.seconds else 0.0,
        latency_p50=entry.latency.percentile(50),
        latency_p99=entry.latency.percentile(99),
        shed=entry.shed,
        faults=entry.faults,
        history=tuple(entry.history.points) if history else (),
    )
