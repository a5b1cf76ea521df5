"""Operators that are wrong in one way each; `BITES` says which laws catch each.

All begin from `Running`, which is honest. (Real operators are final; these inherit to keep the wrong line in sight.)
"""

import time
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, Self

import numpy as np

from unending.core import TICK, Bound, Control, Event, Exactness, Operator, Query, Rows, Spec, Tick, state
from unending.core.errors import InputError, NoOfflineError, UnendingError


@state
class RunningState:
    total: np.ndarray
    seen: int
    seed: int
    left: int


def spec(name, **changes):
    described = {
        "name": name,
        "family": "saboteurs",
        "title": "wrong on purpose",
        "takes": (Rows, Query, Control),
        "gives": (Rows,),
        "exactness": Exactness.bitwise(),
    }
    return Spec(**{**described, **changes})


@dataclass(frozen=True)
class Running(Operator[RunningState]):
    """The running sum of rows, after each row; a query gives it twice more, one a tick."""

    width: int = 1
    spec: ClassVar[Spec] = spec("running")

    @classmethod
    def example(cls) -> Self:
        return cls()

    def domain(self):
        return {Rows: {"width": self.width}}

    def init(self, seed=0):
        return RunningState(np.zeros(self.width), 0, seed, 0)

    def bound(self):
        return Bound(24 + 8 * self.width)

    def pending(self, state):
        return state.left > 0

    def event(self, total, seen, length=1):
        return Event(Rows(total[None].copy()), seen - length, seen)

    def add(self, total, row):
        return total + row

    def _step(self, state, chunk):
        if isinstance(chunk, Query):
            return replace(state, left=2), []
        if isinstance(chunk, Control):
            return replace(state, left=0), []
        if isinstance(chunk, Tick):
            return replace(state, left=state.left - 1), [self.event(state.total, state.seen, 0)]
        total, seen, events = state.total, state.seen, []
        for row in chunk.values:
            total = self.add(total, row)
            seen += 1
            events.append(self.event(total, seen))
        return replace(state, total=total, seen=seen), events

    def offline(self, stream):
        total, seen, events = np.zeros(self.width), 0, []
        for chunk in stream:
            if isinstance(chunk, Query):
                events += [self.event(total, seen, 0)] * 2
            for row in chunk.values if isinstance(chunk, Rows) else ():
                total = self.add(total, row)
                seen += 1
                events.append(self.event(total, seen))
        return events


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


class Gossip(Running):
    """L6: a session sees the mean of those that are stepped with it."""

    spec = spec("gossip")
    loudness: ClassVar[float] = 1e-2

    def _step_many(self, states, chunks):
        results = super()._step_many(states, chunks)
        mean = np.mean([state.total for state in states], axis=0)
        return [
            r
            if isinstance(r, UnendingError)
            else (replace(r[0], total=r[0].total + self.loudness * mean), r[1])
            for r in results
        ]


class Whisper(Gossip):
    """L6: the same, too quiet for a tolerance; only equal slots with other neighbours tell."""

    spec = spec("whisper")
    loudness = 1e-9


class AllForOne(Running):
    """L6: where one session fails, all do."""

    spec = spec("all-for-one")

    def _step_many(self, states, chunks):
        results = super()._step_many(states, chunks)
        failed = next((r for r in results if isinstance(r, UnendingError)), None)
        return [failed for _ in results] if failed else results


class Hasty(Running):
    """L7, L9: adds to the array that it was given."""

    spec = spec("hasty")

    def add(self, total, row):
        total += row
        return total


class Borrower(Running):
    """L7: works in the committed array and puts it right again, if nothing comes between."""

    spec = spec("borrower")

    def add(self, total, row):
        kept = total.copy()
        total += row
        result = total.copy()
        total[:] = kept
        return result


class Stubborn(Running):
    """L7: goes on with its work after an interrupt."""

    spec = spec("stubborn")

    def _step(self, state, chunk):
        if isinstance(chunk, Control):
            return replace(state, seen=state.seen), []
        return super()._step(state, chunk)


class Farewell(Running):
    """L8: says goodbye as often as it is asked to finish."""

    spec = spec("farewell")

    def _finish(self, state):
        return state, [self.event(state.total, state.seen, 0)]

    def offline(self, stream):
        events = super().offline(stream)
        total = events[-1].data.values[0] if events else np.zeros(1)
        return [*events, self.event(total, sum(map(len, stream)), 0)]


class Endless(Running):
    """L8: its work never comes to an end, so that no session on it ever finishes."""

    spec = spec("endless", ticks=1, takes=(Rows,))

    def pending(self, state):
        return True

    def _step(self, state, chunk):
        return (state, []) if chunk is TICK or isinstance(chunk, Tick) else super()._step(state, chunk)


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


class Gullible(Running):
    """L12: takes whatever comes."""

    spec = spec("gullible")

    def admit(self, chunk):
        if not isinstance(chunk, (*self.spec.takes, Tick)):
            raise InputError("no")


class Verbose(Running):
    """L12: explains an error in two lines."""

    spec = spec("verbose")

    @classmethod
    def example(cls) -> Self:
        return cls(width=3)

    def domain(self):
        return {}

    def _step(self, state, chunk):
        if isinstance(chunk, Rows) and chunk.values.shape[1] != self.width:
            raise InputError("the width is wrong.\nPlease mind the width.")
        return super()._step(state, chunk)


class Crasher(Verbose):
    """L12: lets an error of numpy through."""

    spec = spec("crasher")

    def _step(self, state, chunk):
        return Running._step(self, state, chunk)


class Halfway(Verbose):
    """L12: refuses a chunk after it has written half of it."""

    spec = spec("halfway")

    def _step(self, state, chunk):
        if isinstance(chunk, Rows) and chunk.values.shape[1] != self.width:
            state.total[:] += 1
            raise InputError("the width is wrong")
        return Running._step(self, state, chunk)


class Bite(NamedTuple):
    """A saboteur, the law that must catch it, and the other laws that it breaks as well."""

    law: str
    operator: type[Running]
    also: tuple[str, ...] = ()


BITES = (
    Bite("L1", Chunky, ("L2",)),
    Bite("L1", Tailless, ("L2", "L3")),
    Bite("L1", Bookkeeper),
    Bite("L2", Forgetful),
    Bite("L2", Unaccountable),
    Bite("L2", Slipshod),
    Bite("L3", Clairvoyant),
    Bite("L4", Hoarder),
    Bite("L4", Understating),
    Bite("L4", Overstating),
    Bite("L4", Widening),
    Bite("L5", Parochial),
    Bite("L5", Amnesiac),
    Bite("L6", Gossip),
    Bite("L6", Whisper),
    Bite("L6", AllForOne),
    Bite("L7", Hasty, ("L9",)),
    Bite("L7", Borrower),
    Bite("L7", Stubborn),
    Bite("L8", Farewell),
    Bite("L8", Endless, ("L5", "L11", "L12")),
    Bite("L9", Clinger),
    Bite("L9", Spoiler, ("L1", "L2", "L3", "L5", "L6", "L11")),
    Bite("L9", Sharing),
    Bite("L9", Untidy, ("L1", "L4", "L5", "L6", "L7", "L8", "L10", "L11", "L12")),
    Bite("L9", Window, ("L5",)),
    Bite("L10", Gambler, ("L1", "L2", "L3", "L5", "L6", "L7", "L9", "L11", "L12")),
    Bite("L10", Seeder),
    Bite("L11", Backdated),
    Bite("L11", Shuffled),
    Bite("L11", Clockwatcher),
    Bite("L12", Gullible),
    Bite("L12", Verbose),
    Bite("L12", Crasher),
    Bite("L12", Halfway),
)
