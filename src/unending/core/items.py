"""The kinds of chunk that hold items: tokens, text, sound, pictures, rows, symbols, edges, transitions."""

from typing import Any

import numpy as np

from unending.core.chunk import Chunk, Domain, chunk_kind, require_unicode
from unending.core.errors import InputError

__all__ = ["Audio", "Edges", "Frames", "Rows", "Symbols", "Text", "Tokens", "Transitions"]


def _array(values: Any, dtype: Any, ndim: int, what: str) -> np.ndarray:
    given = _as_array(values, what)
    if given.size == 0 and given.ndim == 1 and ndim > 1:
        given = given.reshape((0,) * ndim)
    wants_integers = dtype is not None and np.issubdtype(dtype, np.integer)
    if wants_integers and given.size and not np.issubdtype(given.dtype, np.integer):
        raise InputError(f"{what} must be integers, got {given.dtype}")
    if given.ndim != ndim:
        raise InputError(f"{what} must have {ndim} dimension(s), got shape {given.shape}")
    return given.astype(dtype, copy=False) if dtype is not None else given


def _as_array(values: Any, what: str) -> np.ndarray:
    try:
        given = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} cannot be read as an array: {error}") from error
    if given.dtype.kind not in "biuf":
        raise InputError(f"{what} must be real numbers, got {given.dtype}")
    return given


def _require_finite(values: np.ndarray, what: str) -> None:
    if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
        where = int(np.argwhere(~np.isfinite(values))[0][0])
        raise InputError(f"{what} hold NaN or infinity (first in item {where}); finite numbers are accepted")


def _require_range(ids: np.ndarray, size: int | None, what: str) -> None:
    if ids.size == 0:
        return
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or (size is not None and high >= size):
        allowed = f"0 to {size - 1}" if size is not None else "0 upwards"
        raise InputError(f"{what} {low if low < 0 else high} is outside the accepted {allowed}")


def _require_size(found: int, wanted: int | None, what: str) -> None:
    if wanted is not None and found != wanted:
        raise InputError(f"{what} is {found}, accepted is {wanted}")


@chunk_kind
class Tokens(Chunk):
    """Token ids, int64 `[n]`. Domain: `vocabulary`."""

    ids: np.ndarray
    t: float | None = None
    items = ("ids",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", _array(self.ids, np.int64, 1, "token ids"))

    def check(self, domain: Domain) -> None:
        _require_range(self.ids, domain.get("vocabulary"), "token id")


@chunk_kind
class Text(Chunk):
    """Text; an item is one character (Unicode code point).

    `role` says who speaks where an output has several voices ("thought", "deep", "answer"); "" is plain text. Of
    input it means nothing.
    """

    text: str
    t: float | None = None
    role: str = ""
    items = ("text",)

    def __post_init__(self) -> None:
        for name in ("text", "role"):
            if not isinstance(getattr(self, name), str):
                raise InputError(f"{name} must be a str, got {type(getattr(self, name)).__name__}")

    def encode(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        plain, held = super().encode()
        if not self.role:  # plain text is written as it was before there were roles
            del plain["role"]
        return plain, held

    def check(self, domain: Domain) -> None:
        require_unicode(self.text, "text")


@chunk_kind
class Audio(Chunk):
    """Sound, float32 `[n]` or `[n, channels]` within -1..1, at `rate` samples a second. Domain: `rate`, `channels`."""

    samples: np.ndarray
    rate: int
    t: float | None = None
    items = ("samples",)

    def __post_init__(self) -> None:
        given = _as_array(self.samples, "samples")
        object.__setattr__(self, "samples", _array(given, np.float32, 2 if given.ndim == 2 else 1, "samples"))
        if self.rate <= 0:
            raise InputError(f"rate is {self.rate}, accepted is a positive number of samples a second")

    @property
    def period(self) -> float:
        return 1.0 / self.rate

    def check(self, domain: Domain) -> None:
        _require_size(self.rate, domain.get("rate"), "sample rate")
        _require_size(
            self.samples.shape[1] if self.samples.ndim == 2 else 1, domain.get("channels"), "channels"
        )
        _require_finite(self.samples, "samples")


@chunk_kind
class Frames(Chunk):
    """Pictures, uint8 or float32 `[n, height, width, channels]`, `rate` a second.

    Domain: `height`, `width`, `channels`.
    """

    images: np.ndarray
    rate: float = 1.0
    t: float | None = None
    items = ("images",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", _array(self.images, None, 4, "images"))
        if not self.rate > 0:
            raise InputError(f"rate is {self.rate}, accepted is a positive number of frames a second")

    @property
    def period(self) -> float:
        return 1.0 / self.rate

    def check(self, domain: Domain) -> None:
        for axis, name in enumerate(("height", "width", "channels"), start=1):
            if len(self):
                _require_size(self.images.shape[axis], domain.get(name), f"image {name}")
        _require_finite(self.images, "images")


@chunk_kind
class Rows(Chunk):
    """Numeric rows, float `[n, width]`; `names` may name the columns. Domain: `width`."""

    values: np.ndarray
    names: tuple[str, ...] = ()
    t: float | None = None
    items = ("values",)

    def __post_init__(self) -> None:
        given = _array(self.values, None, 2, "rows")
        if not np.issubdtype(given.dtype, np.floating):
            given = given.astype(np.float64)
        object.__setattr__(self, "values", given)
        object.__setattr__(self, "names", tuple(self.names))

    def check(self, domain: Domain) -> None:
        if len(self):
            _require_size(self.values.shape[1], domain.get("width"), "row width")
        _require_finite(self.values, "rows")


@chunk_kind
class Symbols(Chunk):
    """Symbols of a finite alphabet, int64 `[n]`. Domain: `alphabet`."""

    ids: np.ndarray
    t: float | None = None
    items = ("ids",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", _array(self.ids, np.int64, 1, "symbols"))

    def check(self, domain: Domain) -> None:
        _require_range(self.ids, domain.get("alphabet"), "symbol")


@chunk_kind
class Edges(Chunk):
    """Graph edges, int64 `[n, 2]`, with float64 `weights` `[n]` (negative removes). Domain: `nodes`."""

    ends: np.ndarray
    weights: np.ndarray
    t: float | None = None
    items = ("ends", "weights")

    def __post_init__(self) -> None:
        object.__setattr__(self, "ends", _array(self.ends, np.int64, 2, "edges"))
        object.__setattr__(self, "weights", _array(self.weights, np.float64, 1, "edge weights"))
        if len(self.ends) and self.ends.shape[1] != 2:
            raise InputError(f"edges must be pairs of nodes, got shape {self.ends.shape}")
        _require_size(len(self.weights), len(self.ends), "number of edge weights")

    def check(self, domain: Domain) -> None:
        _require_range(self.ends, domain.get("nodes"), "node")
        _require_finite(self.weights, "edge weights")


@chunk_kind
class Transitions(Chunk):
    """Steps of an environment: what was seen, done, got, and seen next.

    Domain: `observation` (width), `actions` (number of discrete ones) or `action_width` (of continuous ones).

    `observations` and `nexts` float `[n, d]`, `actions` int64 `[n]` or float `[n, k]`, `rewards` float64 `[n]`,
    `terminated` and `truncated` bool `[n]`.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    nexts: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    t: float | None = None
    items = ("observations", "actions", "rewards", "nexts", "terminated", "truncated")

    def __post_init__(self) -> None:
        for name, dtype, ndim in (
            ("observations", np.float64, 2),
            ("nexts", np.float64, 2),
            ("rewards", np.float64, 1),
        ):
            object.__setattr__(self, name, _array(getattr(self, name), dtype, ndim, name))
        for name in ("terminated", "truncated"):
            object.__setattr__(self, name, _array(getattr(self, name), np.bool_, 1, name))
        actions = _as_array(self.actions, "actions")
        object.__setattr__(self, "actions", _array(actions, None, 2 if actions.ndim == 2 else 1, "actions"))
        sizes = {len(getattr(self, name)) for name in self.items}
        if len(sizes) != 1:
            raise InputError(f"the fields of transitions differ in length: {sorted(sizes)}")

    def check(self, domain: Domain) -> None:
        if len(self):
            _require_size(self.observations.shape[1], domain.get("observation"), "observation width")
            _require_size(self.nexts.shape[1], domain.get("observation"), "width of the next observation")
        if "action_width" in domain and len(self):
            found = self.actions.shape[1] if self.actions.ndim == 2 else 1
            _require_size(found, domain["action_width"], "action width")
        if "actions" in domain and len(self) and not np.issubdtype(self.actions.dtype, np.integer):
            raise InputError(
                f"actions are numbers from 0 to {domain['actions'] - 1}, got {self.actions.dtype}"
            )
        if np.issubdtype(self.actions.dtype, np.integer):
            _require_range(self.actions, domain.get("actions"), "action")
        for name in ("observations", "actions", "nexts", "rewards"):
            _require_finite(getattr(self, name), name)
