"""Who sees what, and at which position: the rules of a target that is written while its source still arrives.

Rows and columns are always those of the grouped order, the source and then the target, whatever arrives when: a key
carries its position in its rotation, so attention does not ask for the order of the keys.
"""

from collections.abc import Sequence

import numpy as np

from unending.core.errors import InputError

__all__ = [
    "LAYOUTS",
    "positions",
    "reach_aligned",
    "reach_all",
    "reach_wait_k",
    "streaming_mask",
    "visible_counts",
]

LAYOUTS = ("grouped", "continued", "arrival")


def reach_wait_k(n_source: int, n_target: int, k: int) -> np.ndarray:
    """Source segments, the prompt counted, that each target segment may see under wait-k: `min(k + j, n_source)`.

    int64 `[n_target]`. Ma et al. 2019, "STACL", arXiv 1810.08398.
    """
    if k < 0:
        raise InputError(f"k is {k}, accepted is 0 or more")
    return np.minimum(k + np.arange(n_target, dtype=np.int64), n_source)


def reach_aligned(n_source: int, n_target: int, lookahead: int = 0) -> np.ndarray:
    """Source segments that each target segment may see when target segment j speaks of source segment j.

    int64 `[n_target]`: `j + 1 + lookahead`; the last target segment, and any beyond the source, sees all.
    """
    if lookahead < 0:
        raise InputError(f"lookahead is {lookahead}, accepted is 0 or more")
    reach = np.minimum(np.arange(1, n_target + 1, dtype=np.int64) + lookahead, n_source)
    reach[-1:] = n_source
    return reach


def reach_all(n_source: int, n_target: int) -> np.ndarray:
    """All source segments for every target segment: a batch. int64 `[n_target]`."""
    return np.full(n_target, n_source, dtype=np.int64)


def visible_counts(
    source_lengths: Sequence[int] | np.ndarray,
    target_lengths: Sequence[int] | np.ndarray,
    reach: np.ndarray,
    shift: bool = True,
) -> np.ndarray:
    """Source tokens that each target row may see, int64 `[|T|]`.

    Row i predicts token i + 1, so with `shift` it sees what the segment of token i + 1 may see; the last row keeps
    its own. Without it the first token of a segment would be predicted from what the segment before it knew.
    """
    source, target = np.asarray(source_lengths), np.asarray(target_lengths)
    if len(reach) != len(target):
        raise InputError(f"reach has {len(reach)} entries for {len(target)} target segments")
    if len(reach) and (reach.min() < 0 or reach.max() > len(source)):
        raise InputError(f"reach holds {reach.min()} to {reach.max()} of {len(source)} source segments")
    ends = np.concatenate([[0], np.cumsum(source)])
    counts = np.repeat(ends[reach], target)
    return np.concatenate([counts[1:], counts[-1:]]) if shift else counts


def streaming_mask(counts: np.ndarray, n_source: int, *, source_sees_target: bool = False) -> np.ndarray:
    """What each row may attend to, bool `[N, N]` with N = n_source + `len(counts)`; True is seen.

    Source rows are causal in the source, target rows causal in the target, and target row i sees the first
    `counts[i]` source tokens. With `source_sees_target` a source row also sees the target rows that came before it,
    as they would in one interleaved sequence.
    """
    counts = np.asarray(counts)
    total = n_source + len(counts)
    mask = np.tril(np.ones((total, total), dtype=bool))
    mask[n_source:, :n_source] = np.arange(n_source) < counts[:, None]
    if source_sees_target:
        mask[:n_source, n_source:] = counts <= np.arange(n_source)[:, None]
    return mask


def positions(counts: np.ndarray, n_source: int, layout: str = "grouped", phi: int = 0) -> np.ndarray:
    """Position ids, int64 `[n_source + len(counts)]`.

    Parameters
    ----------
    counts
        of `visible_counts`; its values matter to the layout "arrival" alone.
    n_source
        source tokens.
    layout
        "grouped": source from 0, target from `phi`. "continued": target behind the whole source. "arrival": the
        place in the order of arrival, where target row i comes right after the source tokens it may see.
    phi
        where target positions begin.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout {layout!r} is unknown; accepted are {', '.join(LAYOUTS)}")
    if phi < 0:
        raise InputError(f"phi is {phi}, accepted is 0 or more")
    counts = np.asarray(counts, dtype=np.int64)
    source, target = np.arange(n_source, dtype=np.int64), np.arange(len(counts), dtype=np.int64)
    if layout == "grouped":
        target = target + phi
    elif layout == "continued":
        target = target + n_source
    else:
        source = source + np.searchsorted(counts, source, side="right")
        target = target + counts
    return np.concatenate([source, target])
