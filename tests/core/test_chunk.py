import numpy as np
import pytest

from unending.core import (
    TICK,
    Audio,
    Chunk,
    Control,
    Edges,
    Frames,
    Query,
    Rows,
    Symbols,
    Text,
    Tokens,
    Transitions,
    kinds,
)
from unending.core.errors import InputError


def transitions(n: int = 4, **changes) -> Transitions:
    held = {
        "observations": np.arange(n * 2.0).reshape(n, 2),
        "actions": np.arange(n) % 2,
        "rewards": np.ones(n),
        "nexts": np.ones((n, 2)),
        "terminated": np.zeros(n, bool),
        "truncated": np.zeros(n, bool),
    }
    return Transitions(**{**held, **changes})


WITH_ITEMS = [
    Tokens([1, 2, 3, 4]),
    Text("añ🙂b"),
    Text("so..", role="thought"),
    Audio(np.linspace(-1, 1, 4), 8000),
    Audio(np.zeros((4, 2)), 8000, t=1.5),
    Frames(np.zeros((4, 2, 3, 1), np.uint8), 25.0),
    Rows(np.arange(8.0).reshape(4, 2), ("a", "b"), t=10),
    Symbols([0, 1, 0, 2]),
    Edges([[0, 1], [1, 2], [2, 0], [0, 1]], [1.0, 2.0, 0.5, -1.0]),
    transitions(),
]
INSTANTS = [Query("why?", t=3), Control("interrupt"), Control("prompt", {"text": "a", "weight": 0.5}), TICK]


def same(one: Chunk, two: Chunk) -> bool:
    (plain, held), (other, others) = one.encode(), two.encode()
    return plain == other and all(
        held[name].dtype == others[name].dtype and np.array_equal(held[name], others[name]) for name in held
    )


@pytest.mark.parametrize("chunk", WITH_ITEMS, ids=lambda chunk: type(chunk).__name__)
def test_cut_and_join(chunk: Chunk) -> None:
    assert len(chunk) == 4
    assert same(type(chunk).join([chunk[:1], chunk[1:1], chunk[1:4]]), chunk)
    assert len(chunk[4:]) == 0
    assert len(chunk[-1:]) == 1


@pytest.mark.parametrize("chunk", WITH_ITEMS + INSTANTS, ids=lambda chunk: type(chunk).__name__)
def test_encode_and_decode(chunk: Chunk) -> None:
    import json

    plain, held = chunk.encode()
    assert same(Chunk.decode(json.loads(json.dumps(plain)), held), chunk)


def test_a_piece_knows_its_time() -> None:
    assert Tokens([1, 2, 3])[1:].t is None
    assert Tokens([1, 2, 3], t=10)[2:].t == 12
    assert Audio(np.zeros(8), 4, t=1)[2:].t == 1.5
    assert Frames(np.zeros((4, 1, 1, 1)), 2.0, t=0)[3:].t == 1.5


def test_instants_are_not_cut() -> None:
    assert len(Query("a")) == 0
    assert Query("a")
    with pytest.raises(TypeError, match="no items"):
        Query("a")[:1]
    with pytest.raises(ValueError, match="stride"):
        Tokens([1, 2])[::2]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Tokens([1.5]),
        lambda: Tokens([[1]]),
        lambda: Tokens([2**70]),
        lambda: Tokens("abc"),
        lambda: Tokens([1, [2, 3]]),
        lambda: Tokens([True]),
        lambda: Text(b"bytes"),
        lambda: Text("text", role=None),
        lambda: Audio([0.0], 0),
        lambda: Audio(np.zeros((1, 1, 1)), 8),
        lambda: Audio([1j], 8),
        lambda: Frames(np.zeros((2, 2))),
        lambda: Frames(np.zeros((1, 1, 1, 1)), 0),
        lambda: Frames(np.zeros((1, 1, 1, 1)), float("nan")),
        lambda: Rows([["a", "b"]]),
        lambda: Rows([1.0, 2.0]),
        lambda: Rows([[1.0], [1.0, 2.0]]),
        lambda: Rows([[None]]),
        lambda: Edges([[1, 2, 3]], [1.0]),
        lambda: Edges([[1, 2]], [1.0, 2.0]),
        lambda: transitions(rewards=np.ones(3)),
        lambda: transitions(rewards=1.0),
        lambda: transitions(actions="jump"),
        lambda: transitions(terminated=["no"] * 4),
        lambda: Query(" "),
        lambda: Query(None),
    ],
)
def test_what_cannot_be_a_chunk_is_an_input_error_of_one_line(make) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("chunk", "domain"),
    [
        (Tokens([5]), {"vocabulary": 5}),
        (Tokens([-1]), {}),
        (Symbols([3]), {"alphabet": 3}),
        (Text("a\ud800"), {}),
        (Audio([0.0], 8), {"rate": 16}),
        (Audio([0.0], 8), {"channels": 2}),
        (Audio([np.nan], 8), {}),
        (Frames(np.zeros((1, 2, 2, 3))), {"height": 4}),
        (Frames(np.full((1, 2, 2, 3), np.inf, np.float32)), {}),
        (Rows([[1.0]]), {"width": 2}),
        (Rows([[np.inf]]), {}),
        (Edges([[0, 9]], [1.0]), {"nodes": 9}),
        (Edges([[0, 1]], [np.nan]), {}),
        (transitions(), {"observation": 3}),
        (transitions(nexts=np.ones((4, 3))), {"observation": 2}),
        (transitions(), {"actions": 1}),
        (transitions(actions=np.zeros(4)), {"actions": 2}),
        (transitions(actions=np.zeros((4, 3))), {"action_width": 2}),
        (transitions(actions=np.zeros(4)), {"action_width": 2}),
        (transitions(actions=np.array([[np.nan]] * 4)), {}),
        (transitions(rewards=np.array([1, 2, np.nan, 4])), {}),
        (Query("\udfff"), {}),
    ],
)
def test_what_is_outside_the_domain_is_an_input_error_of_one_line(chunk: Chunk, domain: dict) -> None:
    with pytest.raises(InputError) as caught:
        chunk.check(domain)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("chunk", WITH_ITEMS + INSTANTS, ids=lambda chunk: type(chunk).__name__)
def test_good_chunks_pass(chunk: Chunk) -> None:
    chunk.check({})
    if chunk.items:
        chunk[:0].check({"vocabulary": 1, "width": 99, "alphabet": 1, "nodes": 1, "observation": 99})


def test_empty_lists_are_empty_chunks() -> None:
    assert [len(kind([])) for kind in (Tokens, Symbols, Rows)] == [0, 0, 0]
    assert len(Edges([], [])) == 0
    assert len(Text("")) == 0


def test_values_take_their_declared_type() -> None:
    assert Tokens(np.array([1], np.int32)).ids.dtype == np.int64
    assert Rows([[1, 2]]).values.dtype == np.float64
    assert Rows(np.zeros((1, 1), np.float32)).values.dtype == np.float32
    assert Audio([0, 1], 8).samples.dtype == np.float32
    assert Edges([[0, 1]], [1]).weights.dtype == np.float64


def test_the_set_of_kinds_is_closed() -> None:
    names = {
        "Tokens",
        "Text",
        "Audio",
        "Frames",
        "Rows",
        "Symbols",
        "Edges",
        "Transitions",
        "Query",
        "Control",
        "Tick",
    }
    assert set(kinds()) == names
