"""Shared prefixes: what prompts have in common, and KV memory in blocks that many sequences hold."""

from unending.parts.prefix.attention import attention, merge_attention
from unending.parts.prefix.blocks import KVBlocks, KVShapes, block_bytes, empty_blocks
from unending.parts.prefix.cache import PrefixCache
from unending.parts.prefix.paged import PagedRouter, Piece, forward_pieces
from unending.parts.prefix.pool import PagedKVPool
from unending.parts.prefix.tree import RadixNode, RadixTree, longest_common_prefix

__all__ = [
    "KVBlocks",
    "KVShapes",
    "PagedKVPool",
    "PagedRouter",
    "Piece",
    "PrefixCache",
    "RadixNode",
    "RadixTree",
    "attention",
    "block_bytes",
    "empty_blocks",
    "forward_pieces",
    "longest_common_prefix",
    "merge_attention",
]
