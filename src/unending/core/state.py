"""State: a frozen dataclass of arrays and integers that a step consumes and never changes."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Never, TypeVar, cast, dataclass_transform

import optree

from unending.core import arrays
from unending.core.arrays import Leaf
from unending.core.errors import OwnershipError, StateError

__all__ = ["canonical", "consume", "fork", "leaves", "nbytes", "require_alive", "restore", "state"]

T = TypeVar("T")
_NAMESPACE = "unending"


@dataclass_transform(frozen_default=True, eq_default=False)
def state(cls: type[T]) -> type[T]:
    """Make a class a state: a frozen dataclass whose fields are leaves, states, or tuples of them.

    A leaf is a numpy array, a torch tensor or an `int`, never `None`. What varies in length is an array of
    fixed capacity and a count, so that the shape of a state does not change along the stream.
    """
    made: Any = dataclass(frozen=True, eq=False)(cls)
    names = tuple(field.name for field in fields(made))

    def flatten(node: Any) -> tuple[tuple[Any, ...], None, tuple[str, ...]]:
        return tuple(getattr(node, name) for name in names), None, names

    def unflatten(_: Any, children: Any) -> Any:
        return made(*children)

    optree.register_pytree_node(made, flatten, unflatten, namespace=_NAMESPACE)
    return cast(type[T], made)


class _Consumed:
    """What a consumed state turns into: any use says what happened and how to avoid it."""

    def __getattribute__(self, name: str) -> Never:
        raise OwnershipError(_consumed_message(self))

    def __repr__(self) -> str:
        return "<consumed state>"


def _consumed_message(shell: object) -> str:
    name = object.__getattribute__(shell, "__dict__").get("name", "state")
    return (
        f"this {name} was consumed by step() or finish(): use the state they returned,"
        " or fork(state) before the step to keep both"
    )


def require_alive(value: object) -> None:
    """Raise `OwnershipError` if a step has consumed this state."""
    if type(value) is _Consumed:
        raise OwnershipError(_consumed_message(value))


def consume(value: object) -> None:
    """Turn the shell of a state into a tombstone; the arrays it pointed to are let go."""
    name = type(value).__name__
    held = vars(value)
    held.clear()
    held["name"] = name
    object.__setattr__(value, "__class__", _Consumed)


def _is_mutable(node: object) -> bool:
    # A container that could be changed behind the state's back is no part of a tree; as a leaf it is refused.
    return isinstance(node, list | dict | deque)


def leaves(value: object) -> dict[str, Leaf]:
    """The leaves of a state by their dotted path, in a fixed order.

    Raises
    ------
    OwnershipError
        if the state was consumed.
    StateError
        if a leaf is neither an array nor an integer.
    """
    require_alive(value)
    tree: Any = value
    paths, found, _ = optree.tree_flatten_with_path(
        tree, is_leaf=_is_mutable, none_is_leaf=True, namespace=_NAMESPACE
    )
    named = {".".join(map(str, path)): leaf for path, leaf in zip(paths, found, strict=True)}
    for name, leaf in named.items():
        if not arrays.is_leaf(leaf):
            raise StateError(
                f"{type(value).__name__}.{name} is {type(leaf).__name__}; a leaf is an array or an int"
            )
    return named


def _map(function: Callable[[Leaf], Leaf], value: T) -> T:
    require_alive(value)
    tree: Any = value
    return cast(T, optree.tree_map(function, tree, none_is_leaf=True, namespace=_NAMESPACE))


def fork(value: T) -> T:
    """A state of equal value that shares no memory with this one; both may go on."""
    return _map(arrays.copy, value)


def canonical(value: T) -> T:
    """A state of equal meaning in the one form that its classes call canonical.

    A state class may define `canonical(self)`, which puts to zero what no pointer of the state reaches (spare room
    may hold traces of steps that were dropped) and puts in order what has an order. Snapshots and comparisons use it.
    """
    require_alive(value)
    return optree.tree_map(  # type: ignore[return-value]
        lambda node: node.canonical() if _has_canonical(node) else node,
        value,  # type: ignore[arg-type]
        is_leaf=_has_canonical,
        none_is_leaf=True,
        namespace=_NAMESPACE,
    )


def _has_canonical(node: Any) -> bool:
    return callable(getattr(type(node), "canonical", None))


def nbytes(value: object) -> int:
    """Exact bytes of memory that a state keeps alive, each piece of memory counted once."""
    total = 0
    seen: set[int] = set()
    for leaf in leaves(value).values():
        if type(leaf) is int:
            total += 8
            continue
        identity, size = arrays.storage(leaf)
        if size and identity not in seen:
            seen.add(identity)
            total += size
    return total


def restore(template: T, named: dict[str, Leaf]) -> T:
    """A state of the template's structure with the given leaves."""
    values = iter([named[name] for name in leaves(template)])
    return _map(lambda _: next(values), template)
