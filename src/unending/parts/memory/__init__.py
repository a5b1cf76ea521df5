"""KV memory: retention x positions over slots, as a state, as a `transformers.Cache`, and the loops around it."""

from unending.parts.memory.cache import FRAMES, MemoryCache
from unending.parts.memory.decoding import (
    decode_in_cache_frame,
    forward,
    next_token_losses,
    stream_generate,
    streaming_losses,
)
from unending.parts.memory.dual import DualCache, DualMemory, dual_bytes, empty_dual
from unending.parts.memory.kv import KVMemory, empty, kv_bytes
from unending.parts.memory.retention import SinksAndWindow

__all__ = [
    "FRAMES",
    "DualCache",
    "DualMemory",
    "KVMemory",
    "MemoryCache",
    "SinksAndWindow",
    "decode_in_cache_frame",
    "dual_bytes",
    "empty",
    "empty_dual",
    "forward",
    "kv_bytes",
    "next_token_losses",
    "stream_generate",
    "streaming_losses",
]
