"""A tiny random model that knows the marks, for examples, laws and tests."""

from typing import Any

from torch import nn

from unending.parts.backbones.tiny import byte_tokenizer, tiny_model
from unending.systems.language.streaming_thinker.layout import Layout, add_marks

__all__ = ["tiny_thinker"]


def tiny_thinker(seed: int = 0) -> tuple[nn.Module, Any]:
    """Two layers of Qwen3 (queries and keys are normed before their rotation) over bytes, and its tokenizer."""
    from transformers import Qwen3Config

    config = Qwen3Config(
        vocab_size=272,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        eos_token_id=256,
        bos_token_id=None,
        pad_token_id=257,
    )
    module, tokenizer = tiny_model(config, seed), byte_tokenizer()
    add_marks(tokenizer, module)
    Layout("i", "h", "\n", ("a", "b", "c"), ".", "").note(module)
    return module, tokenizer
