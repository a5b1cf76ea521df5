"""Chunks and messages as JSON."""

import json

import numpy as np
import pytest

from unending.core import (
    Audio,
    Control,
    Edges,
    Event,
    Frames,
    Query,
    Rows,
    Symbols,
    Text,
    Tokens,
    Transitions,
)
from unending.core.errors import InputError
from unending.serve import wire
from unending.serve.failures import Refusal

CHUNKS = [
    Text("süß \U0001f600", t=3.0),
    Text("hm", role="thought"),
    Query("why?"),
    Control("interrupt"),
    Control("prompt", {"words": ["a", 1, None], "mask": np.arange(3)}),
    Tokens([1, 2, 3]),
    Symbols([]),
    Audio(np.linspace(-1, 1, 5), rate=16_000, t=0.5),
    Audio(np.zeros((4, 2)), rate=8_000),
    Frames(np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3), rate=25.0),
    Rows(np.array([[1.5, -2.0]]), names=("a", "b")),
    Rows(np.array([[1.0], [2.0]], dtype=np.float32)),
    Edges([[0, 1], [2, 3]], [1.0, -1.0]),
    Transitions(np.ones((2, 3)), [0, 1], [0.5, 1.0], np.zeros((2, 3)), [False, True], [True, False]),
]


def same(one, other):
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one == other


@pytest.mark.parametrize("chunk", CHUNKS, ids=lambda chunk: type(chunk).__name__)
def test_a_chunk_comes_back_as_it_was(chunk):
    again = wire.chunk_from(json.loads(wire.encode(wire.chunk_to(chunk))))
    assert type(again) is type(chunk)
    assert all(same(value, vars(again)[name]) for name, value in vars(chunk).items())
    for value in vars(again).values():
        assert not isinstance(value, np.ndarray) or value.flags.writeable


def test_nested_lists_are_arrays_too():
    rows = wire.chunk_from({"kind": "Rows", "values": [[1, 2], [3, 4]], "names": ["a", "b"], "t": 2})
    assert same(rows.values, np.array([[1.0, 2.0], [3.0, 4.0]]))
    assert (rows.names, rows.t) == (("a", "b"), 2.0)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"kind": ["Text"]},
        {"kind": "Tick"},
        {"kind": "Text", "text": 7},
        {"kind": "Text", "text": "a", "t": "now"},
        {"kind": "Text", "text": "a", "path": "/"},
        {"kind": "Query", "text": "  "},
        {"kind": "Tokens", "ids": "1"},
        {"kind": "Tokens", "ids": [1.5]},
        {"kind": "Tokens", "ids": [[1], [2, 3]]},
        {"kind": "Tokens", "ids": [10**30]},
        {"kind": "Tokens", "ids": ["a"]},
        {"kind": "Tokens", "ids": [None]},
        {"kind": "Rows", "values": []},
        {"kind": "Audio", "samples": [0.0], "rate": 0},
        {"kind": "Audio", "samples": [0.0], "rate": 1.5},
        {"kind": "Audio", "samples": [0.0]},
        {"kind": "Edges", "ends": [[0, 1, 2]], "weights": [1.0]},
        {"kind": "Rows", "values": {"dtype": "object", "shape": [0], "base64": ""}},
        {"kind": "Rows", "values": {"dtype": "float64", "shape": [1, 1], "base64": "AAAA"}},
        {"kind": "Rows", "values": {"dtype": "float64", "shape": [-1, 1], "base64": ""}},
        {"kind": "Rows", "values": {"dtype": "float64", "shape": [0, True], "base64": ""}},
        {"kind": "Rows", "values": {"dtype": "float64", "shape": [0, 2**31], "base64": ""}},
        {"kind": "Rows", "values": {"dtype": "float64", "shape": [0] + [2**31 - 1] * 7, "base64": ""}},
        {"kind": "Rows", "values": {"dtype": "float64", "shape": [1] * 40, "base64": "AAAAAAAAAAA="}},
        {"kind": "Rows", "values": {"dtype": "float64", "shape": [1, 1], "base64": "!"}},
        {"kind": "Rows", "values": {"dtype": "float64", "shape": [1, 1], "base64": "\u00e9"}},
        {"kind": "Rows", "values": {"dtype": "float64", "base64": ""}},
        {"kind": "Control", "name": "x", "value": [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]},
    ],
)
def test_what_is_no_chunk_is_refused(given):
    if given == {"kind": "Rows", "values": []}:  # no rows at all are rows
        assert len(wire.chunk_from(given)) == 0
        return
    with pytest.raises(InputError) as caught:
        wire.chunk_from(given)
    assert "\n" not in str(caught.value)


def test_numbers_that_do_not_fit_become_infinite_without_a_warning():
    chunk = wire.chunk_from({"kind": "Audio", "samples": [1e300], "rate": 1})
    with pytest.raises(InputError, match="infinity"):
        chunk.check({})


def test_events_have_their_number_and_time():
    told = wire.output(Event(Text("a"), 1.0, 2.0, final=False, seq=7))
    chunk = {"kind": "Text", "text": "a"}
    assert told == {"type": "output", "seq": 7, "t_start": 1.0, "t_end": 2.0, "final": False, "chunk": chunk}


def test_a_text_says_whose_it_is_where_it_is_somebody_s():
    assert wire.chunk_to(Text("a", role="thought")) == {"kind": "Text", "text": "a", "role": "thought"}
    with pytest.raises(InputError):
        wire.chunk_from({"kind": "Text", "text": "a", "role": 7})


@pytest.mark.parametrize("name", ["a", "A.b-c_9", "x" * 100])
def test_names(name):
    message = {"type": "session.open", "system": "s", "session": name}
    assert wire.decode(json.dumps(message)).session == name


@pytest.mark.parametrize("name", ["", ".a", "-a", "a/b", "a b", "a\n", "ä", "x" * 101, "~a", "a\x00"])
def test_names_that_are_none(name):
    with pytest.raises(Refusal, match="session"):
        wire.decode(json.dumps({"type": "session.open", "system": "s", "session": name}))
