"""What the contract needs to know of an array leaf, for numpy and torch alike.

torch is never imported here: a torch leaf can exist only where somebody imported torch before.
"""

import sys
from typing import Any, TypeAlias

import numpy as np

from unending.core.errors import StateError

__all__ = ["Array", "Leaf", "copy", "equal", "from_numpy", "is_array", "is_leaf", "storage", "to_numpy"]

Array: TypeAlias = Any
"""A `numpy.ndarray` or a `torch.Tensor`."""
Leaf: TypeAlias = Any
"""An `Array` or an `int`."""


def _torch() -> Any:
    return sys.modules.get("torch")


def is_tensor(leaf: object) -> bool:
    """Whether the leaf is a torch tensor."""
    torch = _torch()
    return torch is not None and isinstance(leaf, torch.Tensor)


def is_array(leaf: object) -> bool:
    """Whether the leaf is a numpy array or a torch tensor."""
    return isinstance(leaf, np.ndarray) or is_tensor(leaf)


def is_leaf(leaf: object) -> bool:
    """Whether the contract allows this object as a leaf of a state (arrays and plain integers)."""
    return type(leaf) is int or is_array(leaf)


def storage(leaf: Leaf) -> tuple[int, int]:
    """Identity and size in bytes of the memory that the leaf keeps alive.

    A view keeps its whole parent alive, so the parent's size is what counts.
    """
    if type(leaf) is int:
        return id(leaf), 8
    if is_tensor(leaf):
        held = leaf.untyped_storage()
        return held.data_ptr(), held.nbytes()
    while isinstance(leaf.base, np.ndarray):
        leaf = leaf.base
    return leaf.__array_interface__["data"][0], leaf.nbytes


def copy(leaf: Leaf) -> Leaf:
    """A leaf of equal value that shares no memory with this one."""
    if type(leaf) is int:
        return leaf
    return leaf.detach().clone() if is_tensor(leaf) else np.array(leaf)


def equal(left: Leaf, right: Leaf) -> bool:
    """Whether two leaves are the same bit for bit (so that NaN equals NaN and 0.0 differs from -0.0)."""
    (one, one_type), (two, two_type) = to_numpy(left), to_numpy(right)
    return one_type == two_type and one.shape == two.shape and one.tobytes() == two.tobytes()


def to_numpy(leaf: Leaf) -> tuple[np.ndarray, str]:
    """The leaf as a contiguous numpy array and the name of its dtype.

    numpy has no bfloat16: such a leaf comes as its bit patterns in uint16, and the name says so.
    """
    if not is_tensor(leaf):
        if type(leaf) is int and not -(2**63) <= leaf < 2**63:
            raise StateError(f"a leaf of a state is {leaf}; an integer leaf has 64 bits")
        array = np.asarray(leaf, dtype=np.int64) if type(leaf) is int else leaf
        return np.array(array, order="C", copy=None), array.dtype.name
    torch = _torch()
    host = leaf.detach().contiguous().cpu()
    if host.dtype == torch.bfloat16:
        return host.view(torch.uint16).numpy(), "bfloat16"
    return host.numpy(), str(host.dtype).removeprefix("torch.")


def from_numpy(template: Leaf, array: np.ndarray) -> Leaf:
    """The inverse of `to_numpy`, in the library, dtype and device of `template`; shares no memory with `array`."""
    if type(template) is int:
        return int(array)
    if not is_tensor(template):
        return array.copy()
    torch = _torch()
    host = torch.from_numpy(array.copy())
    return (host.view(torch.bfloat16) if template.dtype == torch.bfloat16 else host).to(template.device)
