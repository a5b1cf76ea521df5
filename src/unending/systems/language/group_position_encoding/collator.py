"""Pairs of sentences as the training batches of the paper, and of the ways it is compared with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unending.core.errors import InputError
from unending.parts.transcript import Batch, Transcript, collate, reach_all, reach_wait_k
from unending.systems.language.group_position_encoding.template import Template

__all__ = ["MODES", "StreamingSFTCollator"]

MODES = ("group", "batch", "interleaved", "interleaved-mask", "batch-streaming")
"""The paper; an ordinary batch; arrival order; arrival order where the source sees no target; and prefixes of source
and target as they stand when a word is written, in batch order (the training of re-encoding)."""

Pair = tuple[Sequence[str] | str, Sequence[str] | str]


@dataclass(frozen=True, eq=False)
class StreamingSFTCollator:
    """A data collator for fine-tuning under a wait-k read policy (Tong et al. 2025, arXiv 2505.16983).

    Called on pairs (source, target) of sentences, as text or as lists of words, it gives what `model(**batch)`
    takes, with the mean cross entropy over the target as its loss.

    Parameters
    ----------
    template
        what stands around the words.
    k
        lag in words.
    phi
        where target positions begin, of "group".
    mode
        one of `MODES`.
    header_row
        which source row predicts the first token of the header: "prompt", the one after the prompt, as upstream, or
        "last".
    additive
        give the mask as float, which models with eager attention need, instead of bool.
    seed
        of the prefixes of "batch-streaming".
    """

    template: Template
    k: int = 5
    phi: int = 0
    mode: str = "group"
    header_row: str = "prompt"
    additive: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"mode {self.mode!r} is unknown; accepted are {', '.join(MODES)}")
        if self.k < 1:
            raise InputError(f"k is {self.k}, accepted is 1 or more words")

    def __call__(self, pairs: Sequence[Pair]) -> dict[str, Tensor]:
        """`input_ids`, `position_ids`, `labels` int64 `[B, N]` and `attention_mask` `[B, 1, N, N]`.

        The mask must go with the positions: without one transformers takes positions that begin anew for packed
        sequences, and the target would not see the source.
        """
        batch = self.batch(pairs)
        # transformers predicts the label of column i from row i - 1; source rows have no other labels.
        labels = torch.full_like(batch.ids, -100)
        row, column = torch.nonzero(batch.labels != -100, as_tuple=True)
        labels[row, batch.rows[row, column] + 1] = batch.labels[row, column]
        mask = batch.mask
        if self.additive:
            mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
        return {
            "input_ids": batch.ids,
            "position_ids": batch.positions,
            "attention_mask": mask,
            "labels": labels,
        }

    def batch(self, pairs: Sequence[Pair]) -> Batch:
        """The same as tensors of rows and labels, for `unending.parts.transcript.loss`."""
        whole = [self.template.transcript(_words(source), _words(target)) for source, target in pairs]
        pad = self.template.stop
        if self.mode == "batch-streaming":
            return self._prefixes(whole, pad)
        if self.mode == "batch":
            reaches = [reach_all(len(each.source), len(each.target)) for each in whole]
            return collate(whole, reaches, layout="continued", pad=pad)
        reaches = [reach_wait_k(len(each.source), len(each.target), self.k) for each in whole]
        if self.mode == "group":
            return collate(whole, reaches, phi=self.phi, header_row=self.header_row, pad=pad)
        sees = self.mode == "interleaved"
        return collate(
            whole, reaches, layout="arrival", source_sees_target=sees, header_row=self.header_row, pad=pad
        )

    def _prefixes(self, whole: Sequence[Transcript], pad: int) -> Batch:
        """One target word of each pair, and what is there when it is written."""
        draw = np.random.default_rng([self.seed, *(int(each.ids.sum()) for each in whole)])
        cut, first = [], []
        for each in whole:
            word = int(draw.integers(1, len(each.target)))
            seen = int(reach_wait_k(len(each.source), len(each.target), self.k)[word])
            cut.append(Transcript(each.source[:seen], each.target[: word + 1]))
            first.append(int(each.target_lengths[:word].sum()))
        batch = collate(
            cut, [reach_all(len(e.source), len(e.target)) for e in cut], layout="continued", pad=pad
        )
        before = torch.arange(batch.labels.shape[1]) < torch.tensor(first)[:, None]
        return replace(batch, labels=batch.labels.masked_fill(before, -100))


def _words(sentence: Any) -> list[str]:
    return sentence.split() if isinstance(sentence, str) else list(sentence)
