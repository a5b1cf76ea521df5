"""Tiny configurations of real architecture classes, seeded."""

import numpy as np
import torch
from transformers import (
    Gemma3TextConfig,
    GemmaConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MptConfig,
    Qwen2Config,
    Qwen3Config,
)

from unending.parts.backbones.tiny import tiny_model

_COMMON = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    # Random weights of the usual size give nearly flat attention, which would hide a wrong position.
    "initializer_range": 0.2,
}

CONFIGS = {
    "llama": lambda: LlamaConfig(**_COMMON, num_key_value_heads=2),
    "llama-multihead": lambda: LlamaConfig(**_COMMON, num_key_value_heads=4),
    "llama3-rope": lambda: LlamaConfig(
        **_COMMON,
        num_key_value_heads=2,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ),
    "yarn-rope": lambda: LlamaConfig(
        **_COMMON,
        num_key_value_heads=2,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ),
    "qwen2": lambda: Qwen2Config(**_COMMON, num_key_value_heads=2),
    "qwen3": lambda: Qwen3Config(**_COMMON, num_key_value_heads=2, head_dim=16),
    "mistral": lambda: MistralConfig(**_COMMON, num_key_value_heads=2, sliding_window=None),
    "mistral-sliding": lambda: MistralConfig(**_COMMON, num_key_value_heads=2, sliding_window=64),
    "gemma": lambda: GemmaConfig(**_COMMON, num_key_value_heads=1, head_dim=16),
    "gemma3": lambda: Gemma3TextConfig(
        **_COMMON,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=64,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "neox-partial": lambda: GPTNeoXConfig(
        **_COMMON,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
    ),
}


def model(name: str, seed: int = 0) -> torch.nn.Module:
    """A seeded model of a configuration above."""
    return tiny_model(CONFIGS[name](), seed)


def mpt(seed: int = 0) -> torch.nn.Module:
    """A seeded MPT, whose positions are an ALiBi bias."""
    config = MptConfig(
        vocab_size=97, d_model=64, n_heads=4, n_layers=2, max_seq_len=128, initializer_range=0.2
    )
    return tiny_model(config, seed)


def tokens(count: int, seed: int = 0, vocabulary: int = 97) -> np.ndarray:
    """Random token ids above the special ones, int64 `[count]`."""
    return np.random.default_rng(seed).integers(3, vocabulary, count)
