"""A light operator for the engine's benchmarks: a meter of speech activity, one hop of sound at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from unending.core import Audio, Bound, Event, Exactness, Operator, Rows, Spec, blocks, state

__all__ = ["Activity", "ActivityState"]

RATE = 16_000
RISE, FALL = 0.005, 0.2
"""Shares of the difference by which the noise floor follows the level upwards and downwards each hop."""
ABOVE = 9.0
"""Decibels above the noise floor that count as speech."""


@state
class ActivityState:
    """What one stream leaves behind."""

    rest: blocks.Remainder
    floor: np.ndarray
    """float64 `[1]`, the tracked noise floor in dB."""


@dataclass(frozen=True)
class Activity(Operator[ActivityState]):
    """Level above a tracked noise floor (minimum statistics), and whether somebody speaks: rows `[1, 2]` a hop.

    Parameters
    ----------
    hop_size
        samples of a hop; 320 at 16 kHz are 20 ms.
    """

    hop_size: int = 320

    spec: ClassVar[Spec] = Spec(
        name="activity",
        family="speech",
        title="speech activity by level above a tracked noise floor",
        takes=(Audio,),
        gives=(Rows,),
        exactness=Exactness.bitwise(),
        hop="hop_size",
        unit="sample",
    )

    @classmethod
    def example(cls) -> Self:
        return cls(hop_size=8)

    def bound(self) -> Bound:
        return Bound(4 * self.hop_size + 3 * 8)

    def domain(self) -> Any:
        return {Audio: {"rate": RATE, "channels": 1}}

    def init(self, seed: int = 0) -> ActivityState:
        return ActivityState(blocks.remainder(self.hop_size, dtype=np.float32), np.full(1, -60.0))

    def offline(self, stream: Sequence[Any]) -> list[Event]:
        samples = np.concatenate([np.zeros(0, np.float32), *[chunk.samples.reshape(-1) for chunk in stream]])
        whole = samples[: len(samples) // self.hop_size * self.hop_size].reshape(-1, self.hop_size)
        begin = next((chunk.t for chunk in stream if chunk.t is not None), 0.0)
        events, floor = [], -60.0
        for index, block in enumerate(whole):
            level = float(_levels(block[None])[0])
            floor += (FALL if level < floor else RISE) * (level - floor)
            events.append(self._event(level, floor, begin * RATE + (index + 1) * self.hop_size))
        return events

    def _event(self, level: float, floor: float, end: float) -> Event:
        above = level - floor
        row = np.array([[above, float(above > ABOVE)]])
        return Event(Rows(row), (end - self.hop_size) / RATE, end / RATE)

    def _step(self, state: ActivityState, chunk: Any) -> tuple[ActivityState, list[Event]]:
        rest, full = blocks.feed(state.rest, chunk.samples.reshape(-1))
        floor, events = float(state.floor[0]), []
        end = state.rest.position - state.rest.count
        for level in _levels(np.stack(full)) if full else ():
            end += self.hop_size
            floor += (FALL if level < floor else RISE) * (level - floor)
            events.append(self._event(float(level), floor, end))
        return ActivityState(rest, np.full(1, floor)), events

    def _step_many(self, states: Any, chunks: Any, width: int) -> Any:
        """Whole hops together; a row's numbers do not depend on the others, each is a sum of its own."""
        together = [
            index
            for index, (one, chunk) in enumerate(zip(states, chunks, strict=True))
            if type(chunk) is Audio
            and chunk.samples.shape == (self.hop_size,)
            and chunk.rate == RATE
            and not one.rest.count
        ]
        if len(together) < 2:
            return super()._step_many(states, chunks, width)
        levels = _levels(np.stack([chunks[index].samples for index in together]))
        results: list[Any] = [None] * len(states)
        for index, level in zip(together, levels.tolist(), strict=True):
            one = states[index]
            if not np.isfinite(level):
                results[index] = super()._step_many([one], [chunks[index]], 1)[0]
                continue
            floor = float(one.floor[0])
            floor += (FALL if level < floor else RISE) * (level - floor)
            rest = blocks.Remainder(one.rest.items, 0, one.rest.position + self.hop_size)
            event = self._event(level, floor, rest.position)
            results[index] = (ActivityState(rest, np.full(1, floor)), [event])
        left = [index for index, result in enumerate(results) if result is None]
        alone = super()._step_many(
            [states[index] for index in left], [chunks[index] for index in left], width
        )
        for index, result in zip(left, alone, strict=True):
            results[index] = result
        return results


def _levels(hops: np.ndarray) -> np.ndarray:
    """Level in dB of each row of `hops` `[n, hop]`."""
    power = np.square(hops, dtype=np.float64).mean(axis=1)
    return 10.0 * np.log10(power + 1e-12)
