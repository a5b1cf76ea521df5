"""Transcripts as one padded batch of tensors, and the loss of the target."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from unending.core.errors import InputError
from unending.parts.transcript.layout import positions, streaming_mask, visible_counts
from unending.parts.transcript.segments import Transcript

__all__ = ["Batch", "collate", "loss"]

_IGNORED = -100


@dataclass(frozen=True, eq=False)
class Batch:
    """Padded transcripts. Padding is on the right and sees itself alone, so that no row of attention is empty."""

    ids: Tensor
    """int64 `[B, N]`."""
    positions: Tensor
    """int64 `[B, N]`."""
    mask: Tensor
    """bool `[B, 1, N, N]`; True is seen. Pass it on: without a mask transformers takes restarting positions for
    packed sequences that do not see each other."""
    labels: Tensor
    """int64 `[B, T]`: the target tokens, -100 at padding."""
    rows: Tensor
    """int64 `[B, T]`: the row of logits that predicts each label."""


def collate(
    transcripts: Sequence[Transcript],
    reaches: Sequence[np.ndarray],
    *,
    layout: str = "grouped",
    phi: int = 0,
    shift: bool = True,
    source_sees_target: bool = False,
    header_row: str = "last",
    pad: int = 0,
) -> Batch:
    """One batch of transcripts.

    Parameters
    ----------
    transcripts, reaches
        a reach each (`reach_wait_k`, `reach_aligned`, `reach_all`).
    layout, phi
        of `positions`.
    shift
        of `visible_counts`.
    source_sees_target
        of `streaming_mask`.
    header_row
        the source row that predicts the first target token: "last", or "prompt", the first one after the prompt.
    pad
        id of padding.
    """
    if header_row not in ("last", "prompt"):
        raise InputError(f"header_row {header_row!r} is unknown; accepted are last, prompt")
    longest = max(len(each.ids) for each in transcripts)
    most = max(len(each.target_ids) for each in transcripts)
    shape = (len(transcripts), longest)
    ids, places = np.full(shape, pad, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    mask = np.tile(np.eye(longest, dtype=bool), (len(transcripts), 1, 1))
    labels = np.full((len(transcripts), most), _IGNORED, dtype=np.int64)
    rows = np.zeros_like(labels)
    for index, (each, reach) in enumerate(zip(transcripts, reaches, strict=True)):
        n_source, n_target = len(each.source_ids), len(each.target_ids)
        counts = visible_counts(each.source_lengths, each.target_lengths, reach, shift)
        n = n_source + n_target
        ids[index, :n] = each.ids
        places[index, :n] = positions(counts, n_source, layout, phi)
        mask[index, :n, :n] = streaming_mask(counts, n_source, source_sees_target=source_sees_target)
        labels[index, :n_target] = each.target_ids
        first = n_source - 1 if header_row == "last" else min(len(each.source[0]), n_source - 1)
        rows[index, :n_target] = [first, *range(n_source, n - 1)]
    return Batch(*map(torch.from_numpy, (ids, places, mask[:, None], labels, rows)))


def loss(logits: Tensor, batch: Batch) -> Tensor:
    """Mean cross entropy in nats over the target tokens, of logits `[B, N, vocabulary]`."""
    predicted = logits.gather(1, batch.rows[..., None].expand(-1, -1, logits.shape[-1]))
    return nn.functional.cross_entropy(
        predicted.flatten(0, 1).float(), batch.labels.flatten(), ignore_index=_IGNORED
    )
