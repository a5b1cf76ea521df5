"""What a semi-Markov CRF scores: prefix sums of emissions, durations, transitions, boundaries."""

import math
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

from unending.core.errors import InputError

__all__ = [
    "IMPOSSIBLE",
    "LARGEST",
    "LEAST",
    "Potentials",
    "checkpoint_interval",
    "prefix_sums",
    "require_lengths",
]

IMPOSSIBLE = -1e30
"""The score of what cannot be. It is finite, so that no difference of two of them is NaN; scores of users such as
-1e9 are ordinary numbers beside it."""

LEAST = -1e29
"""What lies below this is impossible."""

LARGEST = 1e28
"""The largest score, of either sign, that is accepted beside minus infinity: a sum of them stays above `LEAST`."""


@dataclass(frozen=True, eq=False)
class Potentials:
    """Everything that decides the score of a segmentation, without a tensor of edges.

    A segment of label c over tokens [t - k, t), after one of label c', scores
    `cum_scores[t, c] - cum_scores[t - k, c] + duration[k - 1, c] + transition[c', c]`, and with projections also
    `start_scores[t - k, c] + end_scores[t - 1, c]`. The first segment takes `initial[c]` in place of a transition
    and the last one adds `final[c]`.

    Parameters
    ----------
    cum_scores
        float `[batch, T + 1, C]`, prefix sums with zeros in front.
    transition
        `[C, C]` from row to column, or `[K, C, C]` where it depends on the duration of the segment it leads into.
    duration
        `[K, C]`; row k - 1 is for duration k.
    lengths
        int64 `[batch]`, each 1 to T.
    initial
        `[C]`, or `[K, C]` with transitions that depend on the duration.
    final
        `[C]`. Of these tables, minus infinity forbids.
    start_scores, end_scores
        `[batch, T, C]`, or empty `[batch, 0, C]`.
    """

    cum_scores: Tensor
    transition: Tensor
    duration: Tensor
    lengths: Tensor
    initial: Tensor
    final: Tensor
    start_scores: Tensor
    end_scores: Tensor

    @classmethod
    def of(
        cls,
        cum_scores: Tensor,
        transition: Tensor,
        duration: Tensor,
        lengths: Tensor | None = None,
        start: str = "virtual",
        initial: Tensor | None = None,
        final: Tensor | None = None,
        start_scores: Tensor | None = None,
        end_scores: Tensor | None = None,
    ) -> Self:
        """Potentials of one dtype, checked.

        `start="virtual"`: the first segment pays the transition from a virtual source, summed over all labels (the
        convention of torch-struct). `start="pi"`: it pays `initial[c]` (zeros if not given) and no transition, so
        that the probabilities of all segmentations sum to 1.

        Raises
        ------
        InputError
            if shapes, lengths, devices or settings do not fit, on NaN, and on scores beyond 1e28.
        """
        sizes = list(cum_scores.shape)
        if len(sizes) != 3 or sizes[1] < 2 or not sizes[0] or not sizes[2]:
            raise InputError(f"cum_scores are [batch, T + 1, C] with batch, T, C >= 1, got {sizes}")
        if not cum_scores.is_floating_point():
            raise InputError(f"cum_scores are float32 or float64, got {cum_scores.dtype}")
        for name, each in (
            ("transition", transition), ("duration", duration), ("lengths", lengths), ("initial", initial),
            ("final", final), ("start_scores", start_scores), ("end_scores", end_scores),
        ):  # fmt: skip
            if isinstance(each, Tensor) and each.device != cum_scores.device:
                raise InputError(f"{name} is on {each.device}, cum_scores are on {cum_scores.device}")
        dtype = cum_scores.dtype
        transition, duration = transition.to(dtype), duration.to(dtype)
        least = max(IMPOSSIBLE, torch.finfo(dtype).min)
        batch, positions, labels = cum_scores.shape
        if duration.ndim != 2 or duration.shape[1] != labels or not len(duration):
            raise InputError(f"duration is [K, {labels}] with K >= 1, got {list(duration.shape)}")
        accepted = ((labels, labels), (len(duration), labels, labels))
        if tuple(transition.shape) not in accepted:
            raise InputError(
                f"transition is {list(accepted[0])} or {list(accepted[1])}, got {list(transition.shape)}"
            )
        if start == "virtual":
            if initial is not None:
                raise InputError('initial scores need start="pi"')
            initial = torch.logsumexp(transition.clamp(min=least), -2)
        elif start == "pi":
            initial = cum_scores.new_zeros(labels) if initial is None else initial
            if transition.ndim == 3 and initial.ndim == 1:
                initial = initial.expand(len(duration), -1)
        else:
            raise InputError(f'start is "virtual" or "pi", got {start!r}')
        empty = cum_scores.new_zeros(batch, 0, labels)
        found = cls(
            cum_scores,
            transition,
            duration,
            require_lengths(lengths, batch, positions - 1, cum_scores.device),
            initial,
            cum_scores.new_zeros(labels) if final is None else final,
            empty if start_scores is None else start_scores,
            empty if end_scores is None else end_scores,
        )
        for name in ("start_scores", "end_scores"):
            shape = tuple(getattr(found, name).shape)
            if shape not in ((batch, 0, labels), (batch, positions - 1, labels)):
                raise InputError(f"{name} are [{batch}, {positions - 1}, {labels}], got {list(shape)}")
        for name, wanted in (("final", (labels,)), ("initial", (*transition.shape[:-2], labels))):
            if getattr(found, name).shape != wanted:
                got = list(getattr(found, name).shape)
                raise InputError(f"{name} scores are {list(wanted)}, got {got}")
        found = found.to(dtype)
        for name, each in found.scores.items():
            wrong = ~(each <= LARGEST)
            if name not in ("transition", "duration", "initial", "final"):
                wrong = wrong | (each < -LARGEST)
            if bool(wrong.any()):
                raise InputError(f"{name} holds NaN, infinity or a score beyond {LARGEST:.0e}")
        tables = {name: getattr(found, name) for name in ("transition", "duration", "initial", "final")}
        return replace(found, **{name: each.clamp(min=least) for name, each in tables.items()})

    @property
    def scores(self) -> dict[str, Tensor]:
        """The score tensors by name, in the order of the fields."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "lengths"}

    @property
    def max_duration(self) -> int:
        """K."""
        return len(self.duration)

    @property
    def static(self) -> bool:
        """Whether transitions are the same for every duration."""
        return self.transition.ndim == 2

    def to(self, dtype: torch.dtype, device: torch.device | None = None) -> Self:
        """All scores in another dtype, all tensors on another device."""
        held = {name: each.to(device, dtype) for name, each in self.scores.items()}
        return replace(self, lengths=self.lengths.to(device), **held)

    def detach(self) -> Self:
        """Without gradients, contiguous."""
        return replace(self, **{name: each.detach().contiguous() for name, each in self.scores.items()})


def require_lengths(lengths: Tensor | None, batch: int, most: int, device: torch.device) -> Tensor:
    """Lengths as int64 `[batch]`.

    Raises
    ------
    InputError
        if one is not within 1 to `most`: an empty sequence has no segmentation.
    """
    if lengths is None:
        return torch.full((batch,), most, dtype=torch.int64, device=device)
    lengths = torch.as_tensor(lengths, device=device)
    if lengths.shape != (batch,) or lengths.is_floating_point():
        raise InputError(f"lengths are {batch} integers, got {lengths.dtype} {list(lengths.shape)}")
    outside = lengths[(lengths < 1) | (lengths > most)]
    if len(outside):
        raise InputError(f"length {int(outside[0])} is outside the accepted 1 to {most}")
    return lengths.to(torch.int64)


def checkpoint_interval(positions: int, max_duration: int, dtype: torch.dtype = torch.float64) -> int:
    """Positions between two checkpoints: the memory optimum sqrt(TK), capped to bound drift, at least K."""
    cap = 64 if dtype == torch.float64 else 32
    return max(max_duration, min(math.isqrt(positions * max_duration), max(max_duration, cap)))


def prefix_sums(
    emissions: Tensor,
    lengths: Tensor | None = None,
    centering: str = "label",
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """Prefix sums `[batch, T + 1, C]` of centred emissions, and the means `[batch, C]` that were taken off.

    Parameters
    ----------
    emissions
        `[batch, T, C]`, any float dtype.
    centering
        `"label"`: subtract each label's mean over the true length; scores stay O(sqrt T), and the model becomes
        another one, whose duration scores are `duration[k - 1, c] - mean[c] * k`. `"position"`: subtract each
        position's largest emission; the distribution over segmentations is unchanged. `"none"`.

    Raises
    ------
    InputError
        on emissions that are not finite, an unknown mode, or lengths outside 1 to T.
    """
    if emissions.ndim != 3 or not emissions.shape[1] or not emissions.shape[2]:
        raise InputError(f"emissions are [batch, T, C] with T, C >= 1, got {list(emissions.shape)}")
    if not bool(torch.isfinite(emissions).all()):
        raise InputError("emissions hold NaN or infinity; finite numbers are accepted")
    batch, positions, labels = emissions.shape
    lengths = require_lengths(lengths, batch, positions, emissions.device)
    wide = emissions.to(torch.float64)
    inside = torch.arange(positions, device=emissions.device)[None, :, None] < lengths[:, None, None]
    wide = torch.where(inside, wide, 0.0)
    mean = wide.new_zeros(batch, labels)
    if centering == "label":
        # A single position would be centred to nothing.
        mean = (wide.sum(1) / lengths[:, None]) * (lengths > 1)[:, None]
        wide = wide - mean[:, None]
    elif centering == "position":
        wide = wide - wide.amax(2, keepdim=True)
    elif centering != "none":
        raise InputError(f'centering is "label", "position" or "none", got {centering!r}')
    wide = torch.where(inside, wide, 0.0)
    summed = torch.cat([wide.new_zeros(batch, 1, labels), wide.cumsum(1)], 1)
    return summed.to(dtype), mean.to(dtype)
