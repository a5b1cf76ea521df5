"""How an operator behaves among others, under interruption, at the end and on bad input is wrong: L6, L7, L8, L12."""

from dataclasses import replace
from typing import ClassVar, Self

import numpy as np

from saboteurs.running import Running, spec
from unending.core import TICK, Control, Rows, Tick
from unending.core.errors import InputError, UnendingError


class Gossip(Running):
    """L6: a session sees the mean of those that are stepped with it."""

    spec = spec("gossip")
    loudness: ClassVar[float] = 1e-2

    def _step_many(self, states, chunks, width):
        results = super()._step_many(states, chunks, width)
        mean = np.mean([state.total for state in states], axis=0)
        return [
            r
            if isinstance(r, UnendingError)
            else (replace(r[0], total=r[0].total + self.loudness * mean), r[1])
            for r in results
        ]


class Whisper(Gossip):
    """L6: the same, too quiet for a tolerance; only its bits tell."""

    spec = spec("whisper")
    loudness = 1e-9


class Batched(Running):
    """L6: works on a batch with a row for each slot, and what a session gets from it is not its own row alone."""

    quiet: ClassVar[float] = 1e-9

    def extra(self, batch, row, active):
        return 0.0

    def _step_many(self, states, chunks, width):
        results = super()._step_many(states, chunks, width)
        batch = np.zeros((max(width, len(states)), self.width))
        batch[: len(states)] = [state.total for state in states]
        return [
            result
            if isinstance(result, Exception)
            else (
                replace(result[0], total=result[0].total + self.quiet * self.extra(batch, row, len(states))),
                result[1],
            )
            for row, result in enumerate(results)
        ]


class Eavesdropper(Batched):
    """L6: reads the row beside its own."""

    spec = spec("eavesdropper")

    def extra(self, batch, row, active):
        return batch[row - 1]


class Headcount(Batched):
    """L6: the number of slots that are occupied changes the result; the rest of the batch is not masked."""

    spec = spec("headcount")

    def extra(self, batch, row, active):
        return active


class Seated(Batched):
    """L6: the slot changes the result, as the tail of a batch does in some matrix products."""

    spec = spec("seated")

    def extra(self, batch, row, active):
        return row


class AllForOne(Running):
    """L6: where one session fails, all do."""

    spec = spec("all-for-one")

    def _step_many(self, states, chunks, width):
        results = super()._step_many(states, chunks, width)
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
