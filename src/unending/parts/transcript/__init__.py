"""Transcripts: segments of a source and a target as ids, labels, positions and masks, for training and as reference."""

from unending.parts.transcript.batch import Batch, collate, loss
from unending.parts.transcript.layout import (
    LAYOUTS,
    positions,
    reach_aligned,
    reach_all,
    reach_wait_k,
    streaming_mask,
    visible_counts,
)
from unending.parts.transcript.segments import Transcript

__all__ = [
    "LAYOUTS",
    "Batch",
    "Transcript",
    "collate",
    "loss",
    "positions",
    "reach_aligned",
    "reach_all",
    "reach_wait_k",
    "streaming_mask",
    "visible_counts",
]
