"""A tiny random JRT model of every kind of layer."""

import torch

from unending.parts.backbones.tiny import tiny_model
from unending.systems.language.jrt import JRTConfig

torch.set_num_threads(1)

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 24,
    "num_hidden_layers": 4,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "feature_dim": 4,
    "enc_length": 8,
    "linear_layers": (1, 3),
    "window_layers": (2,),
    "window": 5,
    # Random weights of the usual size would hide what a layer does.
    "initializer_range": 0.3,
    "mask_token_id": 63,
    "pad_token_id": 62,
    "eos_token_id": None,
}


def model(dtype=torch.float64, seed=0, **changes):
    return tiny_model(JRTConfig(**{**SHAPE, **changes}), seed).to(dtype)


def tokens(rows, n, seed=0):
    return torch.randint(0, 60, (rows, n), generator=torch.Generator().manual_seed(seed))
