import numpy as np
import pytest

from unending.core import arrays
from unending.core.errors import StateError

NUMPY = [
    "bool",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float16",
    "float32",
    "float64",
]
TORCH = ["bool", "int8", "uint8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"]
SHAPES = [(), (0,), (3,), (2, 0, 4), (2, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", NUMPY)
def test_numpy_round_trip(dtype: str, shape: tuple[int, ...]) -> None:
    leaf = (np.arange(np.prod(shape, dtype=int)) % 2).reshape(shape).astype(dtype)
    array, name = arrays.to_numpy(leaf)
    again = arrays.from_numpy(np.zeros_like(leaf), array)
    assert name == dtype
    assert arrays.equal(leaf, again)
    assert not np.shares_memory(again, array)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", TORCH)
def test_torch_round_trip(dtype: str, shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    leaf = (torch.arange(int(np.prod(shape, dtype=int))) % 2).reshape(shape).to(getattr(torch, dtype))
    array, name = arrays.to_numpy(leaf)
    again = arrays.from_numpy(torch.zeros_like(leaf), array)
    assert name == dtype
    assert again.dtype == leaf.dtype
    assert again.shape == leaf.shape
    assert arrays.equal(leaf, again)


def test_torch_views_and_gradients() -> None:
    torch = pytest.importorskip("torch")
    leaf = torch.arange(6.0, requires_grad=True).reshape(2, 3).T
    array, _ = arrays.to_numpy(leaf)
    assert array.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert not arrays.copy(leaf).requires_grad


def test_integers() -> None:
    array, name = arrays.to_numpy(-(2**63))
    assert name == "int64"
    assert arrays.from_numpy(0, array) == -(2**63)
    with pytest.raises(StateError, match="64 bits"):
        arrays.to_numpy(2**63)


def test_equal_is_bitwise() -> None:
    nan = np.array([np.nan])
    assert arrays.equal(nan, nan.copy())
    assert not arrays.equal(np.array([0.0]), np.array([-0.0]))
    assert not arrays.equal(np.zeros(2, np.float32), np.zeros(2, np.float64))
    assert not arrays.equal(np.zeros((2, 1)), np.zeros(2))


def test_strided_arrays_become_contiguous() -> None:
    array, _ = arrays.to_numpy(np.arange(10)[::3])
    assert array.flags.c_contiguous
    assert array.tolist() == [0, 3, 6, 9]


def test_what_is_a_leaf() -> None:
    assert arrays.is_leaf(np.zeros(1))
    assert arrays.is_leaf(3)
    assert not any(arrays.is_leaf(other) for other in (True, 1.0, None, "x", [1], np.float32(1)))
