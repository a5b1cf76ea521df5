"""Tiny seeded models of the real architecture classes: examples, laws and tests run on them, nothing is downloaded."""

from typing import Any

import torch
from torch import nn

__all__ = ["byte_tokenizer", "tiny_llama", "tiny_model"]


def byte_tokenizer(vocabulary: int = 272) -> Any:
    """A byte-level tokenizer of the ordinary transformers class: a token a byte (in no byte order), two special."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(
        models.BPE(vocab={character: index for index, character in enumerate(alphabet)}, merges=[])
    )
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>", pad_token="<|pad|>")
    assert len(made) <= vocabulary
    return made


def tiny_model(config: Any, seed: int = 0) -> nn.Module:
    """A model with random weights of a transformers configuration; the global generator is left as it was."""
    import copy

    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # noqa: TID251 - inside fork_rng; transformers initialises from the global one
        return AutoModelForCausalLM.from_config(copy.deepcopy(config)).float().eval()


def tiny_llama(seed: int = 0) -> tuple[nn.Module, Any]:
    """Two layers of Llama with grouped queries over bytes, and its tokenizer."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=272,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        eos_token_id=256,
        bos_token_id=None,
        pad_token_id=257,
    )
    return tiny_model(config, seed), byte_tokenizer()
