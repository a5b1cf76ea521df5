"""Segmentations as lists of segments: what they are, how labels become one, what one scores."""

import operator
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unending.core.errors import InputError
from unending.systems.learning.flash_semicrf.potentials import Potentials

__all__ = ["Segment", "gold_score", "labels_to_segments", "segments_to_labels"]


class Segment(NamedTuple):
    """Tokens [start, end) of one label."""

    start: int
    end: int
    label: int


def labels_to_segments(labels: Sequence[int] | Tensor | np.ndarray, max_duration: int) -> list[Segment]:
    """Segments from one label a position: cut where the label changes, and runs longer than K into pieces of K.

    Raises
    ------
    InputError
        if there is no label, or one is no whole number.
    """
    values = np.asarray(labels)
    if values.ndim != 1 or not len(values):
        raise InputError(f"labels of a row are one number a position, at least one; got shape {values.shape}")
    if values.dtype.kind not in "biu":
        raise InputError(f"labels are whole numbers, got {values.dtype}")
    if max_duration < 1:
        raise InputError(f"the largest duration is {max_duration}, accepted is 1 or more")
    changes = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), len(values)]
    return [
        Segment(start, min(start + max_duration, stop), int(values[start]))
        for begin, stop in pairwise(changes)
        for start in range(begin, stop, max_duration)
    ]


def segments_to_labels(segments: Sequence[Segment]) -> Tensor:
    """One label a position, int64 `[T]`."""
    columns = torch.tensor([*segments], dtype=torch.int64).reshape(-1, 3)
    return torch.repeat_interleave(columns[:, 2], columns[:, 1] - columns[:, 0])


def _segment(given: Sequence[int]) -> Segment:
    try:
        start, end, label = map(operator.index, given)
    except (TypeError, ValueError) as error:
        raise InputError(f"a segment is (start, end, label), whole numbers; got {given!r}") from error
    return Segment(start, end, label)


def _check(path: Sequence[Segment], length: int, p: Potentials) -> None:
    labels, at = p.duration.shape[1], 0
    for start, end, label in path:
        if end <= start:
            raise InputError(f"segment {start}..{end} is empty; a segment holds at least one token")
        if start != at:
            raise InputError(f"a segment starts at {start}, the one before it ends at {at}")
        if end - start > p.max_duration:
            raise InputError(f"segment {start}..{end} is longer than the largest duration {p.max_duration}")
        if not 0 <= label < labels:
            raise InputError(f"label {label} is outside the accepted 0 to {labels - 1}")
        at = end
    if at != length:
        raise InputError(f"the segments cover {at} of {length} tokens")


def gold_score(
    potentials: Potentials, segments: Sequence[Sequence[Segment | tuple[int, int, int]]]
) -> Tensor:
    """Score `[batch]` of one given segmentation a row; differentiable.

    Raises
    ------
    InputError
        if a row's segments are empty, too long, of an unknown label, or do not cover its tokens one by one.
    """
    p = potentials
    lengths = p.lengths.tolist()
    if len(segments) != len(lengths):
        raise InputError(f"there are {len(segments)} lists of segments for {len(lengths)} rows")
    paths = [[_segment(each) for each in path] for path in segments]
    for path, length in zip(paths, lengths, strict=True):
        _check(path, length, p)
    columns = [
        (b, start, end, label, path[index - 1].label if index else -1)
        for b, path in enumerate(paths)
        for index, (start, end, label) in enumerate(path)
    ]
    b, start, end, label, before = torch.tensor(columns, device=p.cum_scores.device).T
    k = end - start - 1
    first = before < 0
    moves = p.transition[before, label] if p.static else p.transition[k, before, label]
    score = p.cum_scores[b, end, label] - p.cum_scores[b, start, label] + p.duration[k, label]
    score = score + torch.where(first, p.initial[label] if p.static else p.initial[k, label], moves)
    if p.start_scores.shape[1]:
        score = score + p.start_scores[b, start, label]
    if p.end_scores.shape[1]:
        score = score + p.end_scores[b, end - 1, label]
    score = score + torch.where(end == p.lengths[b], p.final[label], 0.0)
    return torch.zeros_like(p.cum_scores[:, 0, 0]).index_add(0, b, score)
