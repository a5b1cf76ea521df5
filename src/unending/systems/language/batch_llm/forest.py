"""Global prefix grouping: a prefix tree of all prompts, flattened to one level of sharing that saves nearly most."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unending.core.errors import InputError
from unending.parts.prefix import RadixNode, RadixTree

__all__ = ["PrefixForest", "PrefixGroup"]

Ids = Sequence[int] | np.ndarray


@dataclass(frozen=True, eq=False)
class PrefixGroup:
    """Prompts that are run together because they begin alike; a group of one shares nothing."""

    prefix: np.ndarray
    """int64 `[n]`: what is computed once; empty in a group of one."""
    members: tuple[int, ...]
    """Numbers of the prompts, in input order."""
    suffixes: tuple[np.ndarray, ...]
    """int64 `[m]` each, possibly empty: what each member has after the prefix."""

    @property
    def prefill(self) -> int:
        """Tokens that are computed for it."""
        return len(self.prefix) + sum(map(len, self.suffixes))


@dataclass(eq=False)
class _Node:
    """A node that may have siblings which begin alike, as the radix tree's may not."""

    span: np.ndarray
    children: list["_Node"]
    markers: list[int]
    """Numbers of the prompts that end here: children without a span, in the words of the paper."""
    leaves: int


class PrefixForest:
    """The prefix tree of a batch of prompts (Zheng et al. 2024, arXiv 2412.03594, section on prefix identification).

    Every child of the root is a group, whose prefix is the child's span. As built, those are the first-level common
    prefixes; `enlarge` flattens deeper levels into them where that saves tokens.
    """

    def __init__(self, prompts: Sequence[np.ndarray], root: _Node, multi_level: int) -> None:
        self._prompts, self._root = prompts, root
        self.multi_level = multi_level
        """Tokens that sharing at every level of the tree would compute: no grouping computes fewer."""

    @classmethod
    def from_prompts(cls, prompts: Sequence[Ids]) -> "PrefixForest":
        """The tree of prompts, each a sequence of token ids; equal ones and empty ones are fine."""
        arrays = [np.asarray(prompt, dtype=np.int64).reshape(-1) for prompt in prompts]
        tree = RadixTree()
        for number, prompt in enumerate(arrays):
            tree.insert(prompt, number)
        return cls(arrays, _copied(tree.root), tree.size)

    @classmethod
    def from_groups(cls, groups: Sequence[Sequence[Sequence[Ids]]]) -> "PrefixForest":
        """Groups that the caller has made, each `[[prefix], [suffix, ...]]`; prompts are numbered as they stand.

        Raises
        ------
        InputError
            if an entry is not of that form.
        """
        prompts: list[np.ndarray] = []
        children = []
        for number, group in enumerate(groups):
            if len(group) != 2 or len(group[0]) != 1 or not len(group[1]):
                raise InputError(f"group {number} is not [[prefix], [suffix, ...]] with one suffix or more")
            prefix = np.asarray(group[0][0], dtype=np.int64).reshape(-1)
            ends = []
            for suffix in group[1]:
                span = np.asarray(suffix, dtype=np.int64).reshape(-1)
                ends.append(_Node(span, [], [len(prompts)], 1))
                prompts.append(np.concatenate([prefix, span]))
            children.append(_Node(prefix, ends, [], len(ends)))
        root = _Node(np.zeros(0, dtype=np.int64), children, [], len(prompts))
        return cls(prompts, root, cls.from_prompts(prompts).multi_level)

    @property
    def prompts(self) -> Sequence[np.ndarray]:
        """All prompts, int64 `[n]` each."""
        return self._prompts

    def enlarge(self) -> "PrefixForest":
        """Flatten to one level, from the bottom up; gives this forest back.

        A grandchild of a node becomes its child, with the span of the child between them put before its own, if
        sharing its span among its own members saves more than computing the other span once more costs.
        """
        order = [self._root]
        for node in order:
            order += node.children
        for node in reversed(order):
            _lift(node)
        return self

    def groups(self) -> list[PrefixGroup]:
        """The groups, in the order of their first members; every prompt is in exactly one."""
        found = [
            PrefixGroup(np.zeros(0, dtype=np.int64), (number,), (self._prompts[number],))
            for number in self._root.markers
        ]
        for child in self._root.children:
            members = tuple(sorted(_members(child)))
            prefix = child.span if len(members) > 1 else child.span[:0]
            suffixes = tuple(self._prompts[number][len(prefix) :] for number in members)
            found.append(PrefixGroup(prefix, members, suffixes))
        return sorted(found, key=lambda group: group.members[0])

    @property
    def logical(self) -> int:
        """Tokens of all prompts."""
        return sum(map(len, self._prompts))

    @property
    def physical(self) -> int:
        """Tokens that are computed, each group's prefix once."""
        return sum(group.prefill for group in self.groups())

    def saving_ratio(self) -> float:
        """Share of the prompts' tokens that need not be computed."""
        return 1 - self.physical / self.logical if self.logical else 0.0


def _copied(root: RadixNode) -> _Node:
    """The tree as `_Node`s, with the leaves of each counted."""
    nodes = list(root.walk())
    made: dict[int, _Node] = {}
    for node in reversed(nodes):
        children = [made[id(child)] for child in node.children.values()]
        leaves = len(node.members) + sum(child.leaves for child in children)
        made[id(node)] = _Node(node.span, children, list(node.members), leaves)
    return made[id(root)]


def _lift(node: _Node) -> None:
    """Move grandchildren up to this node where that saves tokens; below its children, that is done already."""
    for child in list(node.children):
        for deeper in list(child.children):
            if (deeper.leaves - 1) * len(deeper.span) <= len(child.span):
                continue
            child.children.remove(deeper)
            child.leaves -= deeper.leaves
            deeper.span = np.concatenate([child.span, deeper.span])
            node.children.append(deeper)
            if len(child.children) == 1 and not child.markers:
                last = child.children[0]
                child.span = np.concatenate([child.span, last.span])
                child.children, child.markers = last.children, last.markers
                break
        if not child.children and not child.markers:
            node.children.remove(child)


def _members(node: _Node) -> list[int]:
    found, waiting = [], [node]
    while waiting:
        each = waiting.pop()
        found += each.markers
        waiting += each.children
    return found
