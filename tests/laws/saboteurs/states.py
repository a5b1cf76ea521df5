"""What an operator remembers, or whose memory it uses, is wrong: L4, L5, L9 and L10."""

from dataclasses import replace
from typing import ClassVar

import numpy as np

from saboteurs.running import Running, RunningState, spec
from unending.core import Bound, Event, Rows


class Hoarder(Running):
    """L4: its state grows, slowly."""

    spec = spec("hoarder")

    def init(self, seed=0):
        return replace(super().init(seed), total=np.zeros(5))

    def bound(self):
        return Bound(1_000_000)

    def event(self, total, seen, length=1):
        return super().event(total[:1], seen, length)

    def add(self, total, row):
        total = total.copy()
        total[0] += row[0]
        return total

    def _step(self, state, chunk):
        state, events = super()._step(state, chunk)
        longer = 5 + state.seen // 200
        return replace(state, total=np.resize(state.total, longer)), events

    def offline(self, stream):
        return Running().offline(stream)


class Understating(Running):
    """L4: says that it holds less than it does."""

    spec = spec("understating")

    def bound(self):
        return Bound(30)


class Overstating(Running):
    """L4: promises nothing, by a bound that nothing could reach."""

    spec = spec("overstating")

    def bound(self):
        return Bound(10**9)


class Widening(Running):
    """L4: bytes stay, the type of a leaf does not."""

    spec = spec("widening")

    def _step(self, state, chunk):
        state, events = super()._step(state, chunk)
        if state.seen > 300:
            state = replace(state, total=state.total.astype(np.complex64))
        return state, events


class Parochial(Running):
    """L5: what it gives depends on the process it runs in (the hash of a string)."""

    spec = spec("parochial")

    def event(self, total, seen, length=1):
        return super().event(total + hash("stream") % 1009, seen, length)


_LOW_DIGITS: dict[tuple[float, int], np.ndarray] = {}


class Amnesiac(Running):
    """L5: its state holds a rounded sum, and a table of the process the rest."""

    spec = spec("amnesiac")

    def _step(self, state, chunk):
        exact = _LOW_DIGITS.get((state.total.item(), state.seen), state.total)
        state, events = super()._step(replace(state, total=exact), chunk)
        rounded = state.total.astype(np.float32).astype(np.float64)
        _LOW_DIGITS[rounded.item(), state.seen] = state.total
        return replace(state, total=rounded), events


class Clinger(Running):
    """L9: keeps the memory of its caller in its state."""

    spec = spec("clinger")

    def _step(self, state, chunk):
        new, events = super()._step(state, chunk)
        if isinstance(chunk, Rows):
            last = chunk.values[-1]
            last = last if (last == new.total).all() else new.total
            new = replace(new, total=last)
        return new, events


class Spoiler(Running):
    """L9: changes its input."""

    spec = spec("spoiler")

    def _step(self, state, chunk):
        result = super()._step(state, chunk)
        if isinstance(chunk, Rows):
            chunk.values[:] = 0
        return result


_ZERO = np.zeros(1)


class Sharing(Running):
    """L9: all its states begin on one array."""

    spec = spec("sharing")

    def init(self, seed=0):
        return RunningState(_ZERO, 0, seed, 0)


class Untidy(Running):
    """L9: a leaf that is neither an array nor an integer."""

    spec = spec("untidy")

    def _step(self, state, chunk):
        new, events = super()._step(state, chunk)
        return replace(new, seed=float(new.seed)), events


class Window(Running):
    """L9: its outputs are views of memory that it writes again."""

    spec = spec("window")
    room: ClassVar[dict] = {}

    def event(self, total, seen, length=1):
        room = self.room.setdefault("one", np.zeros((1, 1)))
        room[:] = total
        return Event(Rows(room), seen - length, seen)


class Gambler(Running):
    """L10: adds noise from the global generator."""

    spec = spec("gambler")

    def event(self, total, seen, length=1):
        noise = np.random.random()  # noqa: NPY002 - the point
        return super().event(total + 1e-3 * noise, seen, length)


class Seeder(Running):
    """L10: right outputs, but the global generator is seeded on the way."""

    spec = spec("seeder")

    def _step(self, state, chunk):
        np.random.seed(state.seed % 2**32)  # noqa: NPY002 - the point
        return super()._step(state, chunk)
