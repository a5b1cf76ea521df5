"""What an operator gives is wrong: L1, L2, L3 and L11."""

import time
from dataclasses import replace

import numpy as np

from saboteurs.running import Running, spec
from unending.core import Event, Rows
from unending.core.errors import NoOfflineError


class Chunky(Running):
    """L1: counts the chunks in what it gives."""

    spec = spec("chunky")

    def _step(self, state, chunk):
        state, events = super()._step(state, chunk)
        return (replace(state, total=state.total + 1e-3) if isinstance(chunk, Rows) else state), events


class Tailless(Running):
    """L1: works in blocks of four and forgets the tail of a chunk."""

    spec = spec("tailless")

    def _step(self, state, chunk):
        if isinstance(chunk, Rows):
            chunk = chunk[: len(chunk) // 4 * 4]
        return super()._step(state, chunk)


class Bookkeeper(Running):
    """L1: outputs are right, but the state tells how the stream was cut."""

    spec = spec("bookkeeper")

    def _step(self, state, chunk):
        state, events = super()._step(state, chunk)
        return (replace(state, seed=state.seed + 1) if isinstance(chunk, Rows) else state), events


class Forgetful(Running):
    """L2: leaves the first row of the stream out."""

    spec = spec("forgetful")

    def _step(self, state, chunk):
        if isinstance(chunk, Rows) and state.seen == 0:
            values = chunk.values.copy()
            values[:1] = 0
            chunk = Rows(values)
        return super()._step(state, chunk)


class Unaccountable(Running):
    """L2: has no reference and gives no reason."""

    spec = spec("unaccountable")

    def offline(self, stream):
        raise NoOfflineError("there is none")


class Slipshod(Running):
    """L2: claims to be exact to the last bit and is nearly."""

    spec = spec("slipshod")

    def offline(self, stream):
        events = super().offline(stream)
        return [replace(event, data=Rows(event.data.values * (1 + 1e-12))) for event in events]


class Clairvoyant(Running):
    """L3: holds a row back to look at the next, and dates the output as if it had not."""

    spec = spec("clairvoyant")

    def _held_back(self, total, row, seen):
        return [Event(Rows((total + row)[None]), seen - 1, seen)] if seen else []

    def _step(self, state, chunk):
        if not isinstance(chunk, Rows):
            return replace(state, left=0), []
        total, seen, events = state.total, state.seen, []
        for row in chunk.values:
            events += self._held_back(total, row, seen)
            total, seen = total + row, seen + 1
        return replace(state, total=total, seen=seen), events

    def offline(self, stream):
        rows = np.concatenate([np.zeros((0, 1)), *(c.values for c in stream if isinstance(c, Rows))])
        total, events = np.zeros(1), []
        for seen, row in enumerate(rows):
            events += self._held_back(total, row, seen)
            total = total + row
        return events


class Backdated(Running):
    """L11: its outputs begin after they end."""

    spec = spec("backdated")

    def event(self, total, seen, length=1):
        return Event(Rows(total[None].copy()), seen + 2, seen)


class Shuffled(Running):
    """L11: the ends of its outputs go back."""

    spec = spec("shuffled")

    def event(self, total, seen, length=1):
        return Event(Rows(total[None].copy()), 0, seen + 5 * (seen % 2))


class Clockwatcher(Running):
    """L11: dates its outputs by the wall clock."""

    spec = spec("clockwatcher")

    def event(self, total, seen, length=1):
        return Event(Rows(total[None].copy()), seen, seen + time.time() // 1e8 * 1e-4)
