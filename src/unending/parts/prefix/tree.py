"""Radix trees over token ids: what prompts have in common, found while they are put in."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

__all__ = ["RadixNode", "RadixTree", "longest_common_prefix"]


def longest_common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    """Tokens that two sequences of ids `[n]` and `[m]` have in common from the start on."""
    n = min(len(a), len(b))
    differ = np.not_equal(a[:n], b[:n])
    first = int(differ.argmax()) if n else 0
    return first if n and differ[first] else n


@dataclass(eq=False)
class RadixNode:
    """A stretch of tokens that follows its parent's, with the sequences that end where it ends."""

    span: np.ndarray
    """int64 `[n]`; empty at the root alone."""
    parent: "RadixNode | None" = None
    children: dict[bytes, "RadixNode"] = field(default_factory=dict)
    """By the first page of their span."""
    members: list[int] = field(default_factory=list)
    """Numbers of the sequences that end here; equal ones are all in it."""
    values: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """int64 `[n // page]`: one number a page (a KV block); empty where none are kept."""
    used: int = 0
    """When it was last looked at, on the tree's clock."""

    @property
    def leaves(self) -> int:
        """Sequences that end here or below."""
        return sum(len(node.members) for node in self.walk())

    def walk(self) -> Iterator["RadixNode"]:
        """This node and all below it, parents first."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += reversed(node.children.values())


class RadixTree:
    """A radix tree (Morrison 1968; for KV memory: Zheng et al. 2023, arXiv 2312.07104).

    Parameters
    ----------
    page
        tokens that are matched and split as one; 1 for a plain tree, the block size for one over KV blocks.
    """

    def __init__(self, page: int = 1) -> None:
        self.page = page
        self.root = RadixNode(np.zeros(0, dtype=np.int64))
        self._clock = 0

    @property
    def size(self) -> int:
        """Tokens in all spans: what a computation that shares at every level reads once."""
        return sum(len(node.span) for node in self.root.walk())

    def insert(
        self, ids: np.ndarray, member: int | None = None, values: np.ndarray | None = None
    ) -> tuple[RadixNode, int]:
        """Put in a sequence of ids `[n]`, n a multiple of the page.

        A node is split where the sequence leaves it. `values`, one a page, are kept for the part that is new.

        Returns
        -------
        node, known
            where the sequence ends, and how many of its tokens were in the tree before.
        """
        node, known = self._descend(ids)
        if known < len(ids):
            kept = np.zeros(0, dtype=np.int64) if values is None else np.array(values[known // self.page :])
            new = RadixNode(np.array(ids[known:]), node, values=kept, used=self._clock)
            node.children[self._key(ids, known)] = new
            node = new
        if member is not None:
            node.members.append(member)
        return node, known

    def match(self, ids: np.ndarray) -> tuple[np.ndarray, int]:
        """The values along the longest prefix of ids `[n]` that is in the tree, and its length in tokens.

        The node in which it ends is split there, so that the two parts age apart.
        """
        node, known = self._descend(ids)
        parts = []
        each: RadixNode | None = node
        while each is not None:
            parts.append(each.values)
            each = each.parent
        return np.concatenate(parts[::-1]), known

    def oldest(self) -> list[RadixNode]:
        """Nodes without children, the one whose use lies furthest back first."""
        found = [node for node in self.root.walk() if not node.children and node is not self.root]
        return sorted(found, key=lambda node: node.used)

    def trim(self, node: RadixNode, pages: int) -> np.ndarray:
        """Cut the last pages off a node without children, and give their values; cut to nothing, it is removed."""
        keep = len(node.span) // self.page - pages
        first = self._key(node.span, 0)
        node.span, gone, node.values = node.span[: keep * self.page], node.values[keep:], node.values[:keep]
        if not keep and node.parent is not None:
            del node.parent.children[first]
        return gone

    def _key(self, ids: np.ndarray, at: int) -> bytes:
        return np.ascontiguousarray(ids[at : at + self.page], dtype=np.int64).tobytes()

    def _descend(self, ids: np.ndarray) -> tuple[RadixNode, int]:
        """Follow ids as far as they go; the node that ends there (made by a split if need be), and how far."""
        self._clock += 1
        ids = np.asarray(ids, dtype=np.int64)
        node, at = self.root, 0
        while at < len(ids) and (child := node.children.get(self._key(ids, at))) is not None:
            common = longest_common_prefix(child.span, ids[at:]) // self.page * self.page
            if common < len(child.span):
                child = self._split(child, common)
            node, at = child, at + common
            node.used = self._clock
        return node, at

    def _split(self, node: RadixNode, at: int) -> RadixNode:
        """Cut a node in two after `at` tokens; gives the upper one."""
        assert node.parent is not None
        pages = at // self.page
        upper = RadixNode(node.span[:at], node.parent, values=node.values[:pages], used=node.used)
        node.parent.children[self._key(node.span, 0)] = upper
        node.span, node.values, node.parent = node.span[at:], node.values[pages:], upper
        upper.children[self._key(node.span, 0)] = node
        return upper
