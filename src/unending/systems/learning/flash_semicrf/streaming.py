"""A trained semi-Markov CRF on a stream: filtered labels row by row, and segments once they are certain."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from unending.core import fork, state
from unending.core.errors import InputError, NumericalError
from unending.systems.learning.flash_semicrf import online
from unending.systems.learning.flash_semicrf.potentials import IMPOSSIBLE
from unending.systems.learning.flash_semicrf.segments import Segment

__all__ = ["OnlineState", "Scores", "Seen", "StreamingSemiCRF"]

SPREAD = 1e9
"""The largest difference within a row of emissions; beyond it, what cannot be is no longer told apart."""
LARGEST = 1e15
"""The largest emission, of either sign; beyond it, the log partition so far would be lost."""


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of a trained CRF, float64: `transition` `[C, C]`, `duration` `[K, C]`, `initial`, `final` `[C]`."""

    transition: np.ndarray
    duration: np.ndarray
    initial: np.ndarray
    final: np.ndarray
    survival: np.ndarray = field(init=False)
    """`[K, C]`: log-sum of the duration scores from k on."""

    def __post_init__(self) -> None:
        sizes = list(np.shape(self.duration))
        if len(sizes) != 2 or not min(sizes):
            raise InputError(f"duration is [K, C] with K, C >= 1, got {sizes}")
        labels = sizes[1]
        if np.ndim(self.transition) == 3:
            raise InputError("the online filter takes transitions [C, C], not [K, C, C]")
        shapes = ((labels, labels), (len(self.duration), labels), (labels,), (labels,))
        for name, shape in zip(("transition", "duration", "initial", "final"), shapes, strict=True):
            given = np.ascontiguousarray(getattr(self, name), dtype=np.float64)
            if given.shape != shape:
                raise InputError(f"{name} is {list(shape)}, got {list(given.shape)}")
            if not (given < np.inf).all():
                raise InputError(f"{name} holds NaN or infinity")
            object.__setattr__(self, name, np.maximum(given, IMPOSSIBLE))
        survival = np.logaddexp.accumulate(self.duration[::-1], axis=0)[::-1].copy()
        object.__setattr__(self, "survival", survival)

    @classmethod
    def load(cls, path: str | Path) -> "Scores":
        """From a safetensors file with `transition` and `duration`, and `initial` and `final` where they count.

        Raises
        ------
        InputError
            if the file is not there, is no safetensors file, or its tensors do not fit.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            held: Mapping[str, np.ndarray] = load_file(path)
        except (OSError, SafetensorError) as error:
            raise InputError(f"cannot read the scores in {path}: {error}") from error
        if not {"transition", "duration"} <= held.keys():
            raise InputError(f"{path} holds {', '.join(sorted(held))}; wanted are transition and duration")
        labels = held["duration"].shape[-1:]
        rest = [held.get(name, np.zeros(labels)) for name in ("initial", "final")]
        return cls(held["transition"], held["duration"], *rest)

    @classmethod
    def of(cls, module: Any) -> "Scores":
        """Those of a `SemiMarkovCRF`.

        Raises
        ------
        InputError
            if it centres by label without putting the means back: a mean over a stream is not known before its end.
        """
        if module.centering == "label" and not module.restore:
            raise InputError('online, centering is "position" or "none", or "label" with restore=True')
        tensors = (module.transition, module.duration(), module.initial, module.final)
        return cls(*(each.detach().cpu().double().numpy() for each in tensors))

    def save(self, path: str | Path) -> None:
        """Write the file that `load` reads."""
        from safetensors.numpy import save_file

        save_file(
            {name: getattr(self, name) for name in ("transition", "duration", "initial", "final")}, path
        )


@state
class OnlineState:
    """All that the stream leaves behind: O(K C) for the filter, O(max_lag C) for the segments still open."""

    levels: np.ndarray
    """float64 `[K, C]`: log-weight of an open segment by start (modulo K) and label, shifted to a largest of 0."""
    bests: np.ndarray
    """The same for the best past alone."""
    sources: np.ndarray
    """int16 `[K, C]`: the label before, on that best past."""
    ended: np.ndarray
    """float64 `[2, C]`: log-weight and best score of a segment that ends at the newest position."""
    trace_length: np.ndarray
    """int32 `[max_lag + hop + 1, C]`: duration of the best segment that ends at a position (modulo their number)."""
    trace_source: np.ndarray
    """int16 of the same shape: the label before it."""
    taken: np.ndarray
    """float64 `[1]`: what the shifts of `levels` add up to."""
    position: int
    base: int
    """Segments up to here are decided."""
    forced: int
    """Decisions that were made at the cap of the lag."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What some rows brought: `losses` `[n]`, `filtered` labels `[n, C]`, newly decided `segments`, and for each of
    these the stream position at which it was decided.
    """

    losses: np.ndarray
    filtered: np.ndarray
    segments: list[Segment]
    decided_at: list[int]


def start(scores: Scores, hop: int, max_lag: int) -> OnlineState:
    """The state before the first row."""
    size, labels = scores.duration.shape
    if max_lag < 2 * size or hop < 1:
        raise InputError(
            f"max_lag is {max_lag}, accepted is 2 K = {2 * size} or more, and a hop of 1 or more"
        )
    levels = np.full((size, labels), IMPOSSIBLE)
    levels[0] = scores.initial
    room = max_lag + hop + 1
    return OnlineState(
        levels, levels.copy(), np.zeros((size, labels), np.int16), np.full((2, labels), IMPOSSIBLE),
        np.ones((room, labels), np.int32), np.zeros((room, labels), np.int16), np.zeros(1), 0, 0, 0,
    )  # fmt: skip


def push(scores: Scores, held: OnlineState, rows: np.ndarray, hop: int) -> tuple[OnlineState, Seen]:
    """Take emissions `[n, C]`; segments are looked for at stream positions that `hop` divides.

    Raises
    ------
    InputError
        if emissions are not finite, of another width, beyond 1e15, or differ by more than 1e9 within a row.
    NumericalError
        if the scores leave no segmentation possible.
    """
    labels = len(scores.initial)
    try:
        rows = np.ascontiguousarray(rows, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"emissions are [n, {labels}] numbers: {error}") from error
    if rows.ndim != 2 or rows.shape[1] != labels:
        raise InputError(f"emissions are [n, {labels}], got {list(rows.shape)}")
    if not np.isfinite(rows).all():
        raise InputError("emissions hold NaN or infinity; finite numbers are accepted")
    reach = np.abs(rows).max(1)
    if (reach > LARGEST).any():
        at = int(np.argmax(reach))
        raise InputError(
            f"emissions of row {held.position + at} reach {reach[at]:.3g}; accepted is at most {LARGEST:.0e}"
        )
    tops = rows.max(1, keepdims=True)
    rows = rows - tops
    spread = -rows.min(1)
    if (spread > SPREAD).any():
        at = int(np.argmax(spread))
        raise InputError(
            f"emissions of row {held.position + at} differ by {spread[at]:.3g}; accepted is at most {SPREAD:.0e}"
        )
    new = fork(held)
    position, base, forced = new.position, new.base, new.forced
    room = len(new.trace_length)
    max_lag = room - hop - 1
    losses, filtered = np.empty(len(rows)), np.empty(rows.shape)
    out = np.empty((room, 3), np.int64)
    lengths, before = np.empty(labels, np.int64), np.empty(labels, np.int64)
    parameters = (scores.transition, scores.duration, scores.survival)
    rings = (new.levels, new.bests, new.sources, new.ended)
    traces = (new.trace_length, new.trace_source)
    segments: list[Segment] = []
    decided_at: list[int] = []
    for n, row in enumerate(rows):
        losses[n], shift = online.advance(row, position, *rings, lengths, before, parameters, filtered[n])
        if losses[n] > 1e29:
            raise NumericalError(f"the scores leave no segmentation possible at position {position}")
        new.taken[0] += shift + tops[n, 0]
        position += 1
        new.trace_length[position % room], new.trace_source[position % room] = lengths, before
        while position % hop == 0:
            count = online.settle(position, base, *rings[1:], *traces, out)
            if not count:
                if position - base < max_lag:
                    break
                online.force(position, base, *rings[1:], scores.survival, *traces, out)
                count, forced = 1, forced + 1
            segments += [Segment(*each) for each in out[:count][::-1].tolist()]
            decided_at += [position] * (len(segments) - len(decided_at))
            base = segments[-1].end
    return replace(new, position=position, base=base, forced=forced), Seen(
        losses, filtered, segments, decided_at
    )


def finish(scores: Scores, held: OnlineState) -> tuple[OnlineState, list[Segment]]:
    """The best end: the segments that were still open. Nothing more is open after it."""
    if held.position == held.base:
        return held, []
    out = np.empty((len(held.trace_length), 3), np.int64)
    label = int(np.argmax(held.ended[1] + scores.final))
    traces = (held.trace_length, held.trace_source)
    count = online.trace(held.position, label, held.base, *traces, out)
    return replace(held, base=held.position), [Segment(*each) for each in out[:count][::-1].tolist()]


class StreamingSemiCRF:
    """Online filtering and decoding with a trained semi-Markov CRF, at constant memory: O(K C) and O(max_lag C).

    Parameters
    ----------
    scores
        from `Scores.of(module)`, `Scores.load(path)`, or tables of one's own.
    hop
        rows between two looks for segments that have become certain.
    max_lag
        rows after which the oldest undecided segment is decided as things stand; at least 2 K.
    """

    def __init__(self, scores: Scores, hop: int = 16, max_lag: int = 1024) -> None:
        self.scores, self.hop = scores, hop
        self.state = start(scores, hop, max_lag)

    @property
    def log_partition(self) -> float:
        """Log partition of the rows so far, as if the stream ended here; 0 before the first."""
        if not self.state.position:
            return 0.0
        return float(np.logaddexp.reduce(self.state.ended[0] + self.scores.final) + self.state.taken[0])

    def push(self, emissions: np.ndarray) -> Seen:
        """Take emissions float `[n, C]`; the errors of bad ones leave the state as it was."""
        self.state, seen = push(self.scores, self.state, emissions, self.hop)
        return seen

    def finish(self) -> list[Segment]:
        """The segments that the end of the stream decides."""
        self.state, segments = finish(self.scores, self.state)
        return segments
