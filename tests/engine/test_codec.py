import json
from typing import Any

import numpy as np
import pytest

from unending.core import (
    Audio,
    Chunk,
    Control,
    Edges,
    Frames,
    Query,
    Rows,
    Symbols,
    Text,
    Tick,
    Tokens,
    Transitions,
)
from unending.core.chunk import kinds
from unending.core.errors import InputError, StoreCorruptError
from unending.engine.codec import decode_chunk, encode_chunk

CHUNKS = [
    Tokens([1, 2, 3], t=0.1 + 0.2),
    Tokens([]),
    Tokens(np.arange(20)[::3]),
    Text("héllo\n\0 \ud800", t=1e300),
    Query("why?"),
    Tick(),
    Audio(np.linspace(-1, 1, 9), rate=16_000),
    Audio(np.zeros((4, 2)), rate=8_000, t=2),
    Frames(np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3), rate=29.97),
    Rows(np.arange(6.0, dtype=np.float32).reshape(2, 3).T, names=("a", "b")),
    Rows(np.array([[0.0, -0.0, 5e-324]], dtype=">f8")),
    Symbols([7]),
    Edges(np.array([[0, 1]]), np.array([-1.0])),
    Transitions(np.zeros((2, 3)), np.array([0, 1]), [1, 2], np.ones((2, 3)), [True, False], [False, True]),
    Control("interrupt"),
    Control("options", {"a": [1, 2.5, None, True], "b": {"c": "text"}, "d": float("nan")}),
    Control("prompt", np.array(3.5, dtype=np.float16)),
    Control("mask", np.array([[True], [False]])),
]


def parts(chunk: Chunk) -> Any:
    plain, arrays = chunk.encode()
    told = {
        name: (a.dtype.newbyteorder("="), a.shape, a.astype(a.dtype.newbyteorder("=")).tobytes())
        for name, a in arrays.items()
    }
    return json.dumps(plain), told


@pytest.mark.parametrize("chunk", CHUNKS, ids=lambda chunk: type(chunk).__name__)
def test_a_chunk_comes_back_as_it_was(chunk: Chunk) -> None:
    content = encode_chunk(chunk)
    again = decode_chunk(content)
    assert type(again) is type(chunk)
    assert parts(again) == parts(chunk)
    assert encode_chunk(again) == content
    assert all(array.flags.writeable and array.base is None for array in again.encode()[1].values())


def test_every_kind_is_tried() -> None:
    own = {name for name, kind in kinds().items() if kind.__module__.startswith("unending.core")}
    assert {type(chunk).__name__ for chunk in CHUNKS} == own


@pytest.mark.parametrize(
    "value",
    [(1, 2), {1: "a"}, {"a": (1,)}, b"bytes", {1, 2}, object(), np.float32(1), [np.zeros(2)], 1j],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_would_come_back_otherwise_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="Control"):
        encode_chunk(Control("options", value))


def test_dtypes_that_cannot_be_kept_are_refused() -> None:
    with pytest.raises(InputError, match="a chunk of kind Control cannot be kept"):
        encode_chunk(Control("prompt", np.zeros(2, dtype=np.longdouble)))


@pytest.mark.parametrize("chunk", [Tokens([1, 2, 3]), Text("some text")], ids=["arrays", "plain"])
def test_damage_is_noticed_wherever_it_is(chunk: Chunk) -> None:
    content = encode_chunk(chunk)
    for length in range(len(content)):
        with pytest.raises(StoreCorruptError, match="a stored chunk is damaged"):
            decode_chunk(content[:length])
    for place in range(len(content) * 8):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        with pytest.raises(StoreCorruptError, match="a stored chunk is damaged"):
            decode_chunk(bytes(flipped))


def test_a_kind_that_is_not_known_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode_chunk(Query("why?"))
    monkeypatch.setattr("unending.core.chunk.kinds", dict)
    with pytest.raises(StoreCorruptError, match="cannot be read here: KeyError\\('Query'\\)"):
        decode_chunk(content)
