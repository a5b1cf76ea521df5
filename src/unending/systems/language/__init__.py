"""Language systems."""

from unending.systems.language.streaming_llm import StreamingCache, StreamingLLM

__all__ = ["StreamingCache", "StreamingLLM"]
