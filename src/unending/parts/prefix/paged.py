"""One forward pass over many sequences at once: decodes and pieces of prefill, on paged keys, prefixes read once."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from unending.core.errors import InputError
from unending.parts.backbones.routing import routed
from unending.parts.prefix.attention import attention, merge_attention
from unending.parts.prefix.pool import PagedKVPool

__all__ = ["PagedRouter", "Piece", "forward_pieces"]

_SCORES = 1 << 22
"""Scores a head that one padded product may hold."""


@dataclass(frozen=True, eq=False)
class Piece:
    """The next tokens of one sequence, and where all it may see lies in the pool."""

    ids: np.ndarray
    """int64 `[n]`, n of 1 or more: the new tokens."""
    rows: np.ndarray
    """int64 `[m]`: pool rows (see `PagedKVPool.rows`) of all its tokens in order; the last n are the new ones'."""
    shared: int = 0
    """The first so many rows are those of a prefix that all pieces of its group share; new tokens are never in it."""
    group: int = -1
    """Pieces of one group have the same rows in `shared`; -1 is no group."""

    @property
    def positions(self) -> np.ndarray:
        """int64 `[n]`: positions of the new tokens."""
        return np.arange(len(self.rows) - len(self.ids), len(self.rows))


@dataclass(frozen=True, eq=False)
class _Bucket:
    """Pieces of like size, padded to one shape."""

    queries: Tensor
    """int64 `[s, n]`: places among the tokens of the pass."""
    keys: np.ndarray
    """int64 `[s, m]`: pool rows."""
    mask: Tensor
    """bool `[s, n, m]`."""
    places: Tensor
    """int64: which of the s x n queries are no padding, flat, and ..."""
    targets: Tensor
    """... their places among the tokens of the pass."""


@dataclass(eq=False)
class PagedRouter:
    """Attention of a mixed batch over a `PagedKVPool` (a `Router` of `unending.parts.backbones.routing`).

    What a sequence has of its own is attended to in padded products of like sizes. A prefix that several pieces
    share is attended to once, by the queries of all of them in one product, and the two are merged by their
    log-sum-exp (BatchLLM, Zheng et al. 2024, arXiv 2412.03594; Hydragen, Juravsky et al. 2024, arXiv 2402.05099).

    Parameters
    ----------
    pool
        rows of the new tokens must be open for writing (`PagedKVPool.extend`).
    pieces
        the batch, in the order of its tokens.
    shared_rows
        prefixes are attended to once only if the largest group has so many queries; below that it does not pay.
    """

    pool: PagedKVPool
    pieces: Sequence[Piece]
    shared_rows: int = 16
    _buckets: list[_Bucket] = field(init=False)
    _prefixes: list[tuple[Tensor, np.ndarray]] = field(init=False)
    _written: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        if any(not 0 < len(each.ids) <= len(each.rows) - each.shared for each in self.pieces):
            raise InputError("a piece has 1 new token or more, none of them in its shared prefix")
        starts = np.cumsum([0, *(len(each.ids) for each in self.pieces)])
        self._prefixes, split = [], set()
        groups: dict[int, list[int]] = {}
        for index, each in enumerate(self.pieces):
            if each.group >= 0 and each.shared:
                groups.setdefault(each.group, []).append(index)
        rows = {group: sum(len(self.pieces[i].ids) for i in members) for group, members in groups.items()}
        if rows and max(rows.values()) >= self.shared_rows:
            for members in groups.values():
                first = self.pieces[members[0]]
                if len(members) == 1:
                    continue
                if any(self.pieces[i].shared != first.shared for i in members):
                    raise InputError("the pieces of a group share prefixes of different length")
                places = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in members])
                self._prefixes.append((torch.from_numpy(places), first.rows[: first.shared]))
                split |= set(members)
        own = [
            each.rows[each.shared :] if index in split else each.rows
            for index, each in enumerate(self.pieces)
        ]
        device = self.pool.blocks.keys[0].device
        self._buckets = [
            _bucket([(int(starts[i]), len(self.pieces[i].ids), own[i]) for i in members], device)
            for members in _alike([len(each.ids) for each in self.pieces], [len(each) for each in own])
        ]
        self._written = np.concatenate([each.rows[len(each.rows) - len(each.ids) :] for each in self.pieces])

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """See `Router.attend`; b is 1, and n all tokens of the batch."""
        self.pool.write(layer, self._written, key[0].transpose(0, 1), value[0].transpose(0, 1))
        queries = query[0].transpose(0, 1)
        out = torch.empty_like(queries, dtype=torch.float32)
        lse = out.new_empty(out.shape[:-1])
        for bucket in self._buckets:
            keys, values = (
                each.unflatten(0, bucket.keys.shape) for each in self.pool.read(layer, bucket.keys.ravel())
            )
            own, own_lse = attention(queries[bucket.queries], keys, values, scaling, bucket.mask)
            out[bucket.targets] = own.flatten(0, 1)[bucket.places]
            lse[bucket.targets] = own_lse.flatten(0, 1)[bucket.places]
        for places, rows in self._prefixes:
            shared, shared_lse = attention(queries[places], *self.pool.read(layer, rows), scaling)
            out[places], lse[places] = merge_attention(shared, shared_lse, out[places], lse[places])
        return out[None].to(query.dtype)


def _alike(new: Sequence[int], own: Sequence[int]) -> list[list[int]]:
    """Indices of pieces whose sizes are equal up to a factor of 2, in lots of bounded padded size."""
    by_size: dict[tuple[int, int], list[int]] = {}
    for index, sizes in enumerate(zip(new, own, strict=True)):
        by_size.setdefault((sizes[0].bit_length(), sizes[1].bit_length()), []).append(index)
    lots = []
    for members in by_size.values():
        lot = max(1, _SCORES // (max(new[i] for i in members) * max(own[i] for i in members)))
        lots += [members[start : start + lot] for start in range(0, len(members), lot)]
    return lots


def _bucket(members: Sequence[tuple[int, int, np.ndarray]], device: torch.device) -> _Bucket:
    """Pad pieces, each `(place of its first token, new tokens, rows)`."""
    starts, new = (np.array([each[index] for each in members]) for index in (0, 1))
    own = np.array([len(rows) for _, _, rows in members])
    keys = np.zeros((len(members), own.max()), dtype=np.int64)
    for index, (_, _, rows) in enumerate(members):
        keys[index, : len(rows)] = rows
    query, key = np.arange(new.max()), np.arange(own.max())
    real = query < new[:, None]
    queries = starts[:, None] + np.minimum(query, new[:, None] - 1)
    mask = key[None, None, :] <= ((own - new)[:, None] + query)[:, :, None]
    mask &= (key < own[:, None])[:, None, :]
    at, seen, places, targets = (
        torch.from_numpy(each).to(device) for each in (queries, mask, np.flatnonzero(real), queries[real])
    )
    return _Bucket(at, keys, seen, places, targets)


def forward_pieces(
    model: torch.nn.Module,
    pool: PagedKVPool,
    pieces: Sequence[Piece],
    keep: Sequence[int] | None = None,
    shared_rows: int = 16,
) -> Tensor:
    """One forward pass over the new tokens of all pieces, whose keys and values it writes to the pool.

    Parameters
    ----------
    model
        a causal language model of transformers with rotary positions.
    pool, pieces, shared_rows
        see `PagedRouter`.
    keep
        numbers of the pieces whose logits are wanted; all without it.

    Returns
    -------
    torch.Tensor
        float32 `[kept, vocabulary]`: the logits after the last token of each of those pieces.
    """
    device = next(model.parameters()).device
    router = PagedRouter(pool, pieces, shared_rows)
    ids, positions = (
        torch.from_numpy(np.concatenate(parts).astype(np.int64))[None].to(device)
        for parts in ([each.ids for each in pieces], [each.positions for each in pieces])
    )
    last = np.cumsum([len(each.ids) for each in pieces]) - 1
    wanted = last if keep is None else last[np.asarray(keep, dtype=np.int64)]
    # A model is asked for one row of logits at least.
    asked = torch.from_numpy(wanted if len(wanted) else last[:1]).to(device)
    return routed(model, ids, positions, router, asked)[0, : len(wanted)]
