"""Language systems."""

from unending.systems.language.duo_attention import DuoAttention, DuoCache
from unending.systems.language.streaming_llm import StreamingCache, StreamingLLM

__all__ = ["DuoAttention", "DuoCache", "StreamingCache", "StreamingLLM"]
