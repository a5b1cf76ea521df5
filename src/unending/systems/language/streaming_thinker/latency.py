"""Latency of thinking while reading against thinking afterwards, in simulated time."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np

from unending.core.errors import InputError
from unending.parts.simulation import Timeline
from unending.parts.transcript import Transcript, reach_aligned, reach_all

__all__ = ["WORDS_A_SECOND", "Latency", "Rates", "Trace", "reading_times", "simulate_latency"]

WORDS_A_SECOND = 238 / 60
"""Silent reading of English non-fiction (Brysbaert 2019, "How many words do we read per minute?")."""


@dataclass(frozen=True)
class Rates:
    """How fast the machine is, in tokens a second."""

    decode: float = 20.0
    """Of the target, one after another."""
    prefill: float = float("inf")
    """Of the source."""

    def __post_init__(self) -> None:
        if not (self.decode > 0 and self.prefill > 0):
            raise InputError("rates are above 0 tokens a second")


@dataclass(frozen=True)
class Trace:
    """What is read and what is written: tokens of each source segment, and each unit of the target."""

    source: tuple[int, ...]
    """Tokens of each segment; the first, the instruction, is there from the start."""
    units: tuple[tuple[int, int], ...]
    """Of each unit that is generated, the source segments that it waits for and its tokens."""

    @classmethod
    def of(cls, transcript: Transcript, *, streaming: bool = True, lookahead: int = 0) -> Self:
        """Of a transcript: thoughts in the middle of reading, or all after it. The header is not generated."""
        sizes = len(transcript.source), len(transcript.target)
        reach = reach_aligned(*sizes, lookahead) if streaming else reach_all(*sizes)
        units = zip(reach[1:].tolist(), transcript.target_lengths[1:].tolist(), strict=True)
        return cls(tuple(transcript.source_lengths.tolist()), tuple(units))


@dataclass(frozen=True)
class Latency:
    """Delays of one problem."""

    tokens_before: int
    """Source tokens that had to arrive before the first thought could begin."""
    onset: float
    """Seconds at which the first thought begins."""
    after_last: float
    """Seconds from the last arrival to the end of the answer."""
    ends: tuple[float, ...]
    """Seconds at which each unit ends."""
    starts: tuple[float, ...]
    """Seconds at which each unit begins."""


def reading_times(words: Sequence[int], words_a_second: float = WORDS_A_SECOND) -> np.ndarray:
    """When texts of so many words have been spoken or read, one after another: seconds, float64 `[n]`."""
    if not words_a_second > 0:
        raise InputError("a reader has more than 0 words a second")
    return np.cumsum(np.asarray(words, dtype=np.float64)) / words_a_second


def simulate_latency(arrivals: Sequence[float] | np.ndarray, rates: Rates, trace: Trace) -> Latency:
    """The delays when segments arrive at given times and reader and writer work side by side.

    Parameters
    ----------
    arrivals
        seconds at which each source segment but the first has come, ascending.
    rates
        of the machine.
    trace
        what is read and written.

    Raises
    ------
    InputError
        if arrivals do not fit the segments, or go back in time.
    """
    times = [0.0, *map(float, arrivals)]
    if len(times) != len(trace.source):
        raise InputError(f"{len(times) - 1} arrivals do not fit {len(trace.source) - 1} segments")
    if any(later < earlier for earlier, later in pairwise(times)):
        raise InputError("arrivals are in ascending order")
    line = Timeline(zip(times, trace.source, strict=True))
    ready: list[float] = []
    while line:
        for time, tokens in line.until(line.next_time):
            ready.append(max(time, ready[-1] if ready else 0.0) + tokens / rates.prefill)
    starts, ends, now = [], [], 0.0
    for segments, tokens in trace.units:
        starts.append(max(now, ready[segments - 1]))
        now = starts[-1] + tokens / rates.decode
        ends.append(now)
    first = trace.units[0][0]
    return Latency(sum(trace.source[:first]), starts[0], now - times[-1], tuple(ends), tuple(starts))
