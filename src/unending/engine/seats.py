"""Slots: who sits in one, and who gives his up."""

from collections.abc import Iterable
from typing import Any

from unending.engine.entry import Entry
from unending.engine.limits import Limits

__all__ = ["Seats", "victim"]


class Seats:
    """A fixed number of slots, each free or held by one session."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.free = list(range(total - 1, -1, -1))
        self.held: dict[int, Entry[Any]] = {}
        """Who sits where: the only sessions that are in memory, or on their way there."""

    def take(self, entry: Entry[Any], now: float) -> None:
        """Give the session a free slot."""
        entry.slot = self.free.pop()
        self.held[entry.slot] = entry
        entry.seated = entry.touched = now
        entry.turns = 0

    def leave(self, entry: Entry[Any]) -> None:
        """Take the session's slot back, if it has one."""
        if entry.slot >= 0:
            self.free.append(entry.slot)
            del self.held[entry.slot]
            entry.slot = -1


def victim(
    entries: Iterable[Entry[Any]], limits: Limits, now: float, idle: Iterable[Entry[Any]], *, new: bool
) -> Entry[Any] | None:
    """The session whose state goes to the store so that another can have its slot; None if all must stay.

    Those that nobody holds go first, then those idle for long. When accepted input waits for a slot (`new` is
    false) any idle session goes, then one whose client does not take its output, then one that has had its turn:
    so somebody can always be chosen, also when nothing runs.
    """
    resting = set(idle)

    def rank(entry: Entry[Any]) -> int | None:
        if entry in resting:
            if not entry.held:
                return 0
            if now - entry.touched >= limits.idle:
                return 1
            return None if new else 2
        if new:
            return None
        if entry.outbox_bytes > limits.outbox_bytes:
            return 3
        return 4 if entry.turns and now - entry.seated >= limits.turn else None

    ranked = [
        (place, entry.touched, index, entry)
        for index, entry in enumerate(entries)
        if entry.record is not None
        and not (entry.stepping or entry.job or entry.opening)
        and (place := rank(entry)) is not None
    ]
    return min(ranked)[3] if ranked else None
