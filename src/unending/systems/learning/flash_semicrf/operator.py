"""The operator: emission rows in, prequential losses and certain segments out."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch

from unending.core import (
    Bound,
    Chunk,
    Control,
    Domain,
    Event,
    Exactness,
    Paper,
    Rows,
    Spec,
)
from unending.core.errors import InputError
from unending.core.operator import Operator
from unending.systems.learning.flash_semicrf import streaming
from unending.systems.learning.flash_semicrf.durations import geometric, poisson
from unending.systems.learning.flash_semicrf.reference import naive_decisions, naive_losses
from unending.systems.learning.flash_semicrf.segments import Segment
from unending.systems.learning.flash_semicrf.streaming import OnlineState, Scores

__all__ = ["FlashSemiCRF"]

DURATIONS = ("geometric", "poisson", "uniform")


@dataclass(frozen=True)
class FlashSemiCRF(Operator[OnlineState]):
    """Flash-SemiCRF (Johnson et al. 2026) as a stream operator: a stream of emission scores, cut into segments.

    Rows of emission scores go in, one score a label. Out come, for every row, the prequential loss in nats as
    `Rows` `[n, 1]`, and for every segment, as soon as no row to come can change it, `Control("segment", {"start":
    row, "end": row, "label": number})` at the stream time of that decision. Stream time counts rows.

    The loss is `-log sum_c p(c) q(c)`: p is the label that the model predicts from the rows before, q the softmax of
    the row, which is what the encoder holds to be true there. So it is the log loss of the prediction against a soft
    label, taken before the row is used; it is at least 0, does not change when a row is shifted by a constant, is
    `log C` for a model that knows nothing, and `-log p(x)` up to the row's own normaliser where emissions are log
    likelihoods.

    Parameters
    ----------
    width
        labels C, the columns of a row; 0 takes it from the scores or the source.
    max_duration
        the longest segment K; a file of scores has its own.
    scores
        path of a safetensors file with `transition` `[C, C]` and `duration` `[K, C]`, in rows also `initial` and
        `final` `[C]`; empty for constant scores made from the fields below.
    durations
        distribution of durations without a file: geometric, poisson, uniform.
    mean_duration
        its mean, in rows.
    stay
        probability that a segment is followed by one of its own label, without a file.
    hop_rows
        rows between two looks for certain segments.
    max_lag
        rows after which the oldest open segment is decided as things stand; at least 2 K.
    transition, duration, initial, final
        scores as flat tuples, row by row, as `from_module` sets them.
    """

    width: int = 0
    max_duration: int = 32
    scores: str = ""
    durations: str = "geometric"
    mean_duration: float = 8.0
    stay: float = 0.01
    hop_rows: int = 16
    max_lag: int = 1024
    transition: tuple[float, ...] = ()
    duration: tuple[float, ...] = ()
    initial: tuple[float, ...] = ()
    final: tuple[float, ...] = ()

    spec: ClassVar[Spec] = Spec(
        name="flash-semicrf",
        family="learning",
        title="an exact semi-Markov CRF over a stream of scores: segments as soon as they are certain",
        takes=(Rows,),
        gives=(Rows, Control),
        exactness=Exactness.allclose(1e-6),
        paper=Paper("Streaming Structured Inference with Flash-SemiCRF", "B. K. Johnson and others", 2026),
        hop=1,
        unit="row",
    )

    def __post_init__(self) -> None:
        if self.durations not in DURATIONS:
            raise InputError(f"durations are {', '.join(DURATIONS)}, got {self.durations!r}")
        if self.width < 0 or self.max_duration < 1 or self.hop_rows < 1:
            raise InputError("width is 0 or more, max_duration and hop_rows are 1 or more")
        if not (self.mean_duration > 1 and 0 <= self.stay < 1):
            raise InputError("mean_duration is more than 1, and stay is from 0 to less than 1")
        if not self.scores and self.max_lag < 2 * self.max_duration:
            raise InputError(f"max_lag is {self.max_lag}, accepted is 2 K = {2 * self.max_duration} or more")

    @classmethod
    def example(cls) -> Self:
        """Three labels, durations to 4; no label follows itself, so that no two segmentations tie."""
        rng = np.random.Generator(np.random.Philox(7))
        transition = rng.standard_normal((3, 3))
        np.fill_diagonal(transition, -1e9)
        return cls.from_tables(transition, rng.standard_normal((4, 3)), hop_rows=4, max_lag=256)

    @classmethod
    def from_tables(
        cls, transition: Any, duration: Any, initial: Any = None, final: Any = None, *, hop_rows: int = 16,
        max_lag: int = 1024,
    ) -> Self:  # fmt: skip
        """From arrays `[C, C]`, `[K, C]` and, if given, `[C]` and `[C]`."""
        given = [np.asarray(each, np.float64) for each in (transition, duration)]
        labels = given[1].shape[-1] if given[1].ndim else 0
        given += [np.zeros(labels) if each is None else np.asarray(each) for each in (initial, final)]
        Scores(*given)
        named = zip(("transition", "duration", "initial", "final"), given, strict=True)
        flat = {name: tuple(each.ravel().tolist()) for name, each in named}
        return cls(labels, len(given[1]), hop_rows=hop_rows, max_lag=max_lag, **flat)  # type: ignore[arg-type]

    @classmethod
    def from_module(cls, module: Any, *, hop_rows: int = 16, max_lag: int = 1024) -> Self:
        """With the scores of a trained `SemiMarkovCRF`; its encoder stays outside, and makes the rows.

        Raises
        ------
        InputError
            if the module's transitions depend on durations, or it centres by label without `restore`.
        """
        held = Scores.of(module)
        return cls.from_tables(
            held.transition, held.duration, held.initial, held.final, hop_rows=hop_rows, max_lag=max_lag
        )

    def tables(self) -> Scores:
        """The scores in use.

        Raises
        ------
        InputError
            if the number of labels is not known, or the file's tables do not fit `width`.
        """
        path = Path(self.scores)
        return _tables(self, path.stat().st_mtime_ns if self.scores and path.is_file() else 0)

    def weights_digest(self) -> str:
        if not self.scores:
            return ""
        try:
            return hashlib.sha256(Path(self.scores).read_bytes()).hexdigest()[:16]
        except OSError as error:
            raise InputError(f"cannot read the scores in {self.scores}: {error.strerror}") from error

    def domain(self) -> Mapping[type[Chunk], Domain]:
        return {Rows: {"width": self.tables().duration.shape[1]}}

    def init(self, seed: int = 0) -> OnlineState:
        return streaming.start(self.tables(), self.hop_rows, self.max_lag)

    def bound(self) -> Bound:
        size, labels = self.tables().duration.shape
        room = self.max_lag + self.hop_rows + 1
        return Bound(labels * (size * (8 + 8 + 2) + 2 * 8 + room * (4 + 2)) + 4 * 8)

    def _step(self, state: OnlineState, chunk: Rows) -> tuple[OnlineState, list[Event]]:
        new, seen = streaming.push(self.tables(), state, chunk.values, self.hop_rows)
        decisions = list(zip(seen.decided_at, seen.segments, strict=True))
        return new, _events(seen.losses, decisions, state.position)

    def _finish(self, state: OnlineState) -> tuple[OnlineState, list[Event]]:
        new, segments = streaming.finish(self.tables(), state)
        return new, _events(np.empty(0), [(state.position, each) for each in segments], state.position)

    def offline(self, stream: Sequence[Chunk]) -> list[Event]:
        """The whole stream at once: losses from the alphas of the checkpointed scan, decisions from whole paths."""
        rows = [chunk.values for chunk in stream if isinstance(chunk, Rows) and len(chunk)]
        if not rows:
            return []
        emissions = np.concatenate(rows).astype(np.float64)
        decisions, _ = naive_decisions(self.tables(), emissions, self.hop_rows, self.max_lag)
        return _events(naive_losses(self.tables(), emissions), decisions, 0)


def _events(losses: np.ndarray, decisions: Sequence[tuple[int, Segment]], position: int) -> list[Event]:
    """Losses from `position` on, cut where segments were decided."""
    events = []
    end = position + len(losses)
    for stop in sorted({at for at, _ in decisions} | {end}):
        if stop > position:
            part = losses[len(losses) - (end - position) : len(losses) - (end - stop)]
            events.append(Event(Rows(part[:, None], ("loss",)), float(position), float(stop)))
            position = stop
        events += [
            Event(Control("segment", each._asdict()), float(stop), float(stop))
            for at, each in decisions
            if at == stop
        ]
    return events


@lru_cache(maxsize=8)
def _tables(operator: FlashSemiCRF, written: int) -> Scores:
    if operator.scores:
        held = Scores.load(operator.scores)
    elif operator.duration:
        labels = operator.width
        shapes = ((labels, labels), (operator.max_duration, labels), (labels,), (labels,))
        given = [
            np.array(each or [0.0] * labels)
            for each in (operator.transition, operator.duration, operator.initial, operator.final)
        ]
        if any(each.size != math.prod(shape) for each, shape in zip(given, shapes, strict=True)):
            raise InputError(
                f"the tables do not fit {labels} labels and durations to {operator.max_duration}"
            )
        held = Scores(*(each.reshape(shape) for each, shape in zip(given, shapes, strict=True)))
    else:
        held = _constant(operator)
    if operator.width not in (0, held.duration.shape[1]):
        raise InputError(f"the scores are for {held.duration.shape[1]} labels, width is {operator.width}")
    if operator.max_lag < 2 * len(held.duration):
        raise InputError(f"max_lag is {operator.max_lag}, accepted is 2 K = {2 * len(held.duration)} or more")
    return held


def _constant(operator: FlashSemiCRF) -> Scores:
    labels, size = operator.width, operator.max_duration
    if not labels:
        raise InputError("the number of labels is not known: give width, or a file of scores")
    like = torch.ones(labels, dtype=torch.float64)
    match operator.durations:
        case "geometric":
            table = geometric(like / operator.mean_duration, size)
        case "poisson":
            table = poisson(like * operator.mean_duration, size)
        case _:
            table = torch.zeros(size, labels, dtype=torch.float64)
    stay, leave = operator.stay, (1 - operator.stay) / max(1, labels - 1)
    with np.errstate(divide="ignore"):
        transition = np.log(np.where(np.eye(labels, dtype=bool), stay if labels > 1 else 1.0, leave))
    duration = torch.log_softmax(table, 0).numpy()
    return Scores(transition, duration, np.full(labels, -np.log(labels)), np.zeros(labels))
