from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from unending.core import canonical, fork, leaves, nbytes, state
from unending.core.errors import OwnershipError, StateError
from unending.core.state import consume, restore


@state
class Inner:
    values: np.ndarray
    count: int


@state
class Outer:
    parts: tuple[Inner, ...]
    flags: np.ndarray
    seed: int


def outer() -> Outer:
    return Outer((Inner(np.arange(3.0), 3), Inner(np.zeros((2, 2), np.float32), 0)), np.array([True]), 7)


def test_leaves_have_dotted_paths_in_a_fixed_order() -> None:
    names = ["parts.0.values", "parts.0.count", "parts.1.values", "parts.1.count", "flags", "seed"]
    assert list(leaves(outer())) == names


def test_a_state_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        outer().seed = 8


@pytest.mark.parametrize("leaf", [None, 1.5, True, "text", np.float64(1), [1, 2], {"a": 1}])
def test_illegal_leaves_are_named(leaf: object) -> None:
    with pytest.raises(StateError, match=r"^Inner\.\S+ is \w+; a leaf is an array or an int$"):
        leaves(Inner(np.zeros(1), leaf))


def test_nbytes_is_exact() -> None:
    assert nbytes(outer()) == 3 * 8 + 8 + 4 * 4 + 8 + 1 + 8


def test_nbytes_counts_the_parent_of_a_view_once() -> None:
    parent = np.zeros(1000)
    one = Inner(parent[10:12], 0)
    assert nbytes(one) == 8000 + 8
    both = Outer((one, Inner(parent[::2].reshape(-1, 1), 0)), parent.view(np.uint8)[:3], 0)
    assert nbytes(both) == 8000 + 3 * 8


def test_nbytes_of_empty_leaves_is_nothing() -> None:
    assert nbytes(Inner(np.zeros((0, 4)), 0)) == 8


def test_nbytes_counts_a_torch_storage_once() -> None:
    torch = pytest.importorskip("torch")
    whole = torch.zeros(100)
    assert nbytes(Outer((Inner(whole[:2], 0), Inner(whole[50:], 0)), whole.view(10, 10), 0)) == 400 + 24


def test_fork_shares_no_memory() -> None:
    original = outer()
    twin = fork(original)
    for one, two in zip(leaves(original).values(), leaves(twin).values(), strict=True):
        if isinstance(one, np.ndarray):
            assert not np.shares_memory(one, two)
            assert np.array_equal(one, two)
        else:
            assert one == two
    assert type(twin.parts[0]) is Inner


def test_fork_of_a_view_lets_the_parent_go() -> None:
    assert nbytes(fork(Inner(np.zeros(1000)[:2], 0))) == 16 + 8


def test_consumed_state_says_what_happened() -> None:
    consumed = outer()
    consume(consumed)
    message = (
        r"^this Outer was consumed by step\(\) or finish\(\): use the state they returned, or fork\(state\)"
        " before the step to keep both$"
    )
    for use in (
        lambda: consumed.seed,
        lambda: leaves(consumed),
        lambda: fork(consumed),
        lambda: nbytes(consumed),
    ):
        with pytest.raises(OwnershipError, match=message):
            use()
    assert repr(consumed) == "<consumed state>"


def test_consuming_lets_arrays_go() -> None:
    import weakref

    consumed = outer()
    watched = weakref.ref(consumed.flags)
    consume(consumed)
    assert watched() is None


def test_restore_is_the_inverse_of_leaves() -> None:
    named = dict(leaves(outer()))
    named["seed"] = 99
    again = restore(outer(), named)
    assert again.seed == 99
    assert np.array_equal(again.parts[0].values, np.arange(3.0))


@state
class Ring:
    items: np.ndarray
    count: int

    def canonical(self) -> "Ring":
        items = np.zeros_like(self.items)
        items[: self.count] = self.items[: self.count]
        return Ring(items, self.count)


@state
class Held:
    ring: Ring
    other: np.ndarray


def test_canonical_reaches_nested_states_and_leaves_the_rest() -> None:
    held = Held(Ring(np.array([1, 2, 3, 4]), 2), np.array([5]))
    plain = canonical(held)
    assert plain.ring.items.tolist() == [1, 2, 0, 0]
    assert plain.other.tolist() == [5]
    assert held.ring.items.tolist() == [1, 2, 3, 4]
    assert canonical(Ring(np.array([9, 9]), 0)).items.tolist() == [0, 0]
