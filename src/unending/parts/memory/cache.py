"""The library's one `transformers.Cache`: retention x positions over slots, as a view on a `KVMemory` or on its own."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from unending.core.errors import CapacityError, InputError, ModelUnsupportedError
from unending.parts.backbones.rotary import Rotary, rotate
from unending.parts.memory.kv import KVMemory
from unending.parts.memory.retention import SinksAndWindow

__all__ = ["FRAMES", "MemoryCache"]

FRAMES = ("cache", "absolute")
_PRECISE_UNTIL = 100_000
"""Position up to which float32 phases of the absolute frame err by less than 1e-3 in a score."""


class MemoryCache(Cache):
    """A cache of bounded size whose kept tokens stand, for the model, directly behind each other.

    Parameters
    ----------
    rotaries
        a layer each; `None` for a layer whose positions follow from the order of the keys.
    retention
        what stays after each forward pass.
    frame
        `"cache"`: position = index in the cache; keys are held un-rotated and turned at each use, exact for ever; for
        loops that pass no `position_ids`. `"absolute"`: recent keys stay at their true position and the tokens before
        a gap are turned forward; for `generate()`, to about 100,000 tokens.
    limit
        keys that one query can see at most (trained positions, sliding window).
    padding
        left padding of each row; needed where the rows of a batch are padded.
    """

    def __init__(
        self,
        rotaries: Sequence[Rotary | None],
        retention: SinksAndWindow,
        frame: str = "absolute",
        *,
        limit: int | None = None,
        padding: Sequence[int] | None = None,
    ) -> None:
        if frame not in FRAMES:
            raise InputError(f"frame is {frame!r}, accepted are {', '.join(FRAMES)}")
        if limit is not None and retention.budget + 1 > limit:
            raise CapacityError(
                f"sinks + window + the token itself make {retention.budget + 1} positions,"
                f" but the model attends over at most {limit}"
            )
        if frame == "absolute" and any(each is not None and each.depends_on_maximum for each in rotaries):
            raise ModelUnsupportedError(
                "this model's rotary frequencies depend on the largest position (dynamic or longrope):"
                ' use frame="cache"'
            )
        super().__init__(layers=[_Layer(self, index) for index in range(len(rotaries))])
        self.rotaries = list(rotaries)
        self.retention = retention
        self.frame = frame
        self.limit = limit
        self.padding = np.asarray(padding if padding is not None else [0], dtype=np.int64)
        self._clear(retention.budget + 1)

    def _clear(self, capacity: int) -> None:
        rows = len(self.padding)
        self.keys: list[torch.Tensor | None] = [None] * len(self.rotaries)
        self.values: list[torch.Tensor | None] = [None] * len(self.rotaries)
        self.slots = np.tile(np.arange(capacity, dtype=np.int64), (rows, 1))
        self.positions = np.zeros_like(self.slots)
        self.count = 0
        self.seen = 0
        # Slots of a state that this cache is a view of: they are not written, so that the view can be dropped.
        self._protected = np.zeros((rows, 0), dtype=np.int64)
        self._plan: _Plan | None = None
        self._angles: dict[tuple[int, str], tuple[torch.Tensor, torch.Tensor]] = {}

    @classmethod
    def view(
        cls,
        memory: KVMemory,
        rotaries: Sequence[Rotary | None],
        retention: SinksAndWindow,
        frame: str,
        limit: int | None = None,
    ) -> Self:
        """A cache over the tensors of a state. The state's own tokens are never overwritten; see `memory`."""
        self = cls(rotaries, retention, frame, limit=limit)
        self.keys, self.values = list(memory.keys), list(memory.values)
        self.slots, self.positions = memory.slots, memory.positions
        self.count, self.seen = memory.count, memory.seen
        self._protected = memory.slots[:, : memory.count]
        return self

    def memory(self) -> KVMemory:
        """The state after the forward passes made through this view."""
        keys = tuple(each for each in self.keys if each is not None)
        values = tuple(each for each in self.values if each is not None)
        return KVMemory(keys, values, self.slots, self.positions, self.count, self.seen)

    @property
    def capacity(self) -> int:
        """Number of slots."""
        return int(self.slots.shape[1])

    @property
    def seen_tokens(self) -> int:
        """Tokens that ever came in."""
        return self.seen

    @property
    def kept_positions(self) -> np.ndarray:
        """Stream positions of the kept tokens, int64 `[rows, count]` (padding has negative ones)."""
        return self.positions[:, : self.count] - self.padding[:, None]

    @property
    def nbytes(self) -> int:
        """Bytes of the key and value tensors."""
        return sum(each.nbytes for each in (*self.keys, *self.values) if each is not None)

    def make_room(self, coming: int) -> None:
        """Make room so that `coming` tokens fit without eviction: a turn of a conversation stays whole.

        Raises
        ------
        CapacityError
            if they do not fit beside the sinks.
        """
        rows = [self.retention.keep_for(self.count, coming, pad) for pad in self._padding_left()]
        self._reorder(np.stack(rows))

    def evict_range(self, start: int, end: int) -> None:
        """Drop the kept tokens with index `start` to `end` (exclusive) and close the gap."""
        if not 0 <= start <= end <= self.count:
            raise InputError(f"range {start}..{end} is outside the {self.count} kept tokens")
        kept = np.delete(np.arange(self.count), slice(start, end))
        self._reorder(np.tile(kept, (len(self.slots), 1)))

    def _padding_left(self) -> np.ndarray:
        """Padding that is still among the kept tokens, by row."""
        return np.maximum(self.padding - (self.seen - self.count), 0)

    def _reorder(self, kept: np.ndarray) -> None:
        """Keep the given indices `[rows, k]` of the kept tokens."""
        self.positions = _padded(np.take_along_axis(self.positions, kept, axis=1), self.capacity)
        self.slots = _complete(np.take_along_axis(self.slots, kept, axis=1), self.capacity)
        self.count = int(kept.shape[1])

    def _begin(self, new: int) -> "_Plan":
        """Decide, once for all layers, where `new` tokens go and what is kept after this forward pass."""
        total = self.count + new
        self._angles.clear()
        if self.limit is not None and total > self.limit:
            raise CapacityError(
                f"{new} tokens on top of {self.count} kept exceed the {self.limit} positions of the model: feed them"
                f" in pieces (generate: prefill_chunk_size={max(1, self.limit - self.retention.budget)} or less)"
            )
        if self.frame == "absolute" and self.seen <= _PRECISE_UNTIL < self.seen + new:
            warnings.warn(
                f'beyond {_PRECISE_UNTIL:,} tokens the absolute frame loses precision; frame="cache" does not',
                stacklevel=2,
            )
        old = self.slots[:, : self.count]
        kept = np.stack([self.retention.keep(total, int(pad)) for pad in self._padding_left()])
        free = _complete(np.concatenate([old, self._protected], axis=1), self.capacity)[
            :, -self._free_slots() :
        ]
        together = self._free_slots() >= new
        if together:
            stored, targets = np.tile(np.arange(new), (len(old), 1)), free[:, :new]
            after = np.take_along_axis(np.concatenate([old, targets], axis=1), kept, axis=1)
        else:
            # More new tokens than free slots: only those that outlive the step are stored, in place of what goes.
            staying = int((kept[0] < self.count).sum())
            stays = np.take_along_axis(old, kept[:, :staying], axis=1)
            stored = kept[:, staying:] - self.count
            targets = _complete(stays, self.capacity)[:, staying : staying + stored.shape[1]]
            after = np.concatenate([stays, targets], axis=1)
        arrived = np.tile(np.arange(self.seen, self.seen + new), (len(old), 1))
        positions = np.concatenate([self.positions[:, : self.count], arrived], axis=1)
        return _Plan(
            new=new,
            old=old,
            stored=stored,
            targets=targets,
            together=together,
            copies=not together and self._protected.shape[1] > 0,
            slots=_complete(after, self.capacity),
            positions=_padded(np.take_along_axis(positions, kept, axis=1), self.capacity),
            count=int(kept.shape[1]),
        )

    def _free_slots(self) -> int:
        busy = np.union1d(self.slots[0, : self.count], self._protected[0])
        return self.capacity - len(busy)

    def _end(self, plan: "_Plan") -> None:
        """Evict, after the last layer has attended."""
        self.slots, self.positions, self.count = plan.slots, plan.positions, plan.count
        self.seen += plan.new
        if plan.copies:
            self._protected = self._protected[:, :0]
        self._plan = None
        self._angles.clear()

    def _update(
        self, index: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if index == 0 or self._plan is None:
            self._plan = self._begin(keys.shape[2])
        plan, rotary = self._plan, self.rotaries[index]
        entering = self._enter(keys, rotary)
        held_keys, held_values = self._buffers(index, entering, values)
        if plan.together:
            _scatter(held_keys, plan.targets, entering)
            _scatter(held_values, plan.targets, values)
            order = np.concatenate([plan.old, plan.targets], axis=1)
            all_keys, all_values = _gather(held_keys, order), _gather(held_values, order)
        else:
            all_keys = torch.cat([_gather(held_keys, plan.old), entering], dim=2)
            all_values = torch.cat([_gather(held_values, plan.old), values], dim=2)
            if plan.copies:
                self.keys[index] = held_keys = held_keys.clone()
                self.values[index] = held_values = held_values.clone()
            _scatter(held_keys, plan.targets, _gather(entering, plan.stored))
            _scatter(held_values, plan.targets, _gather(values, plan.stored))
        turned = self._leave(all_keys, rotary, plan)
        if index == len(self.rotaries) - 1:
            self._end(plan)
        return turned, all_values

    def _buffers(
        self, index: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        held_keys, held_values = self.keys[index], self.values[index]
        if held_keys is None or held_values is None:
            batch, heads, _, dim = keys.shape
            held_keys = keys.new_zeros((batch, heads, self.capacity, dim))
            held_values = values.new_zeros((batch, heads, self.capacity, values.shape[-1]))
            self.keys[index], self.values[index] = held_keys, held_values
            if len(self.padding) not in (1, batch):
                raise InputError(f"padding has {len(self.padding)} rows, the batch {batch}")
        return held_keys, held_values

    def _enter(self, keys: torch.Tensor, rotary: Rotary | None) -> torch.Tensor:
        """What is stored of new keys: in the cache frame, the keys before their rotation."""
        if rotary is None or self.frame == "absolute":
            return keys
        cos, sin = self._slot_angles(rotary, self.count + keys.shape[2], keys.device)
        new = slice(self.count, None)
        return rotate(keys, cos[new] / rotary.scaling, -sin[new] / rotary.scaling)

    def _slot_angles(
        self, rotary: Rotary, total: int, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Angles of the slots 0 to `total`, computed once a forward pass for all layers that rotate alike."""
        key = (id(rotary.module), rotary.layer_type)
        if key not in self._angles:
            self._angles[key] = rotary.angles(torch.arange(total, device=device))
        return self._angles[key]

    def _leave(self, keys: torch.Tensor, rotary: Rotary | None, plan: "_Plan") -> torch.Tensor:
        """The keys `[batch, heads, count + new, head_dim]` as the attention must see them."""
        if rotary is None:
            return keys
        if self.frame == "cache":
            cos, sin = self._slot_angles(rotary, keys.shape[2], keys.device)
            return rotate(keys, cos * rotary.scaling, sin * rotary.scaling)
        # Each kept token belongs right behind the one before it; the newest is where it says it is.
        old = plan.old.shape[1]
        due = self.seen - old + np.arange(old)
        shift = due - self.positions[:, :old]
        moved = np.flatnonzero((shift != 0).any(axis=0))
        if not len(moved):
            return keys
        last = int(moved[-1]) + 1
        cos, sin = rotary.angles(torch.from_numpy(shift[:, :last]).to(keys.device))
        return torch.cat([rotate(keys[:, :, :last], cos[:, None], sin[:, None]), keys[:, :, last:]], dim=2)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Take rows of the batch in another order (beam search)."""
        if len(self.slots) > 1:
            rows = beam_idx.cpu().numpy()
            self.slots, self.positions, self.padding = (
                self.slots[rows],
                self.positions[rows],
                self.padding[rows],
            )
            self._protected = self._protected[rows]
        for held in (self.keys, self.values):
            held[:] = [None if each is None else each.index_select(0, beam_idx) for each in held]

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep only the given rows of the batch."""
        self.reorder_cache(indices)

    def reset(self) -> None:
        """Forget everything."""
        self._clear(self.capacity)


@dataclass(frozen=True)
class _Plan:
    """Where the tokens of one forward pass go; all slot arrays are int64 `[rows, n]`."""

    new: int
    old: np.ndarray
    stored: np.ndarray
    targets: np.ndarray
    together: bool
    copies: bool
    slots: np.ndarray
    positions: np.ndarray
    count: int


class _Layer(CacheLayerMixin):
    """One layer of a `MemoryCache` as transformers wants to see it."""

    is_sliding = False
    is_croppable = False

    def __init__(self, cache: MemoryCache, index: int) -> None:
        super().__init__()
        self._cache, self._index = cache, index

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.is_initialized = True
        return self._cache._update(self._index, key_states, value_states)

    def get_seq_length(self) -> int:
        return self._cache.count if self._cache.frame == "cache" else self._cache.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        offset = 0 if self._cache.frame == "cache" else self._cache.seen - self._cache.count
        return self._cache.count + query_length, offset

    def get_max_length(self) -> int:
        return self._cache.retention.budget

    def reset(self) -> None:
        self.is_initialized = False


def _complete(chosen: np.ndarray, capacity: int) -> np.ndarray:
    """A row's chosen slots, then all others in ascending order: a permutation, `[rows, capacity]`.

    Slots that are chosen twice count once, in their first place.
    """
    rows = []
    for row in chosen:
        rest = np.ones(capacity, dtype=bool)
        rest[row] = False
        first = (
            row if len(row) + rest.sum() == capacity else row[np.sort(np.unique(row, return_index=True)[1])]
        )
        rows.append(np.concatenate([first, np.flatnonzero(rest)]))
    return np.stack(rows)


def _padded(values: np.ndarray, capacity: int) -> np.ndarray:
    out = np.zeros((len(values), capacity), dtype=np.int64)
    out[:, : values.shape[1]] = values
    return out


def _gather(held: torch.Tensor, order: np.ndarray) -> torch.Tensor:
    """`held` `[batch, heads, slots, dim]` at `order` `[rows, n]`: `[batch, heads, n, dim]`."""
    index = torch.from_numpy(np.ascontiguousarray(order)).to(held.device)
    if len(order) == 1:
        return held.index_select(2, index[0])
    return held.gather(2, index[:, None, :, None].expand(-1, held.shape[1], -1, held.shape[3]))


def _scatter(held: torch.Tensor, order: np.ndarray, new: torch.Tensor) -> None:
    """Write `new` `[batch, heads, n, dim]` to the slots `order` `[rows, n]` of `held`, in place."""
    index = torch.from_numpy(np.ascontiguousarray(order)).to(held.device)
    if len(order) == 1:
        held.index_copy_(2, index[0], new)
    else:
        held.scatter_(2, index[:, None, :, None].expand(-1, held.shape[1], -1, held.shape[3]), new)
