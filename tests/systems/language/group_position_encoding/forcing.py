"""Tiny models of real classes over bytes, and the automaton on a target that is given."""

import functools

import torch
from transformers import GemmaConfig, LlamaConfig, Qwen2Config, Qwen3Config

from unending.parts.backbones import LanguageBackbone
from unending.parts.backbones.tiny import byte_tokenizer, tiny_model
from unending.parts.memory import DualCache, forward
from unending.systems.language.group_position_encoding import GroupPositions, Limits, Template
from unending.systems.language.group_position_encoding.passage import Rules, Writer, new_passage
from unending.systems.language.group_position_encoding.positions import Unmasked, run

_COMMON = {
    "vocab_size": 272,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": 256,
    "pad_token_id": 257,
    # Random weights of the usual size give nearly flat attention, which would hide a wrong position.
    "initializer_range": 0.2,
}
CONFIGS = {
    "llama": lambda: LlamaConfig(**_COMMON, num_key_value_heads=2),
    "qwen2": lambda: Qwen2Config(**_COMMON, num_key_value_heads=2),
    "qwen3": lambda: Qwen3Config(**_COMMON, num_key_value_heads=2, head_dim=16),
    "gemma": lambda: GemmaConfig(**_COMMON, num_key_value_heads=1, head_dim=16),
}
SOURCE, TARGET = ["the", "old", "cat.", "sat", "down"], ["le", "vieux", "chat.", "est", "assis", "là"]


@functools.cache
def model(kind="llama", seed=3):
    return tiny_model(CONFIGS[kind](), seed)


@functools.cache
def frame(kind="llama"):
    backbone = LanguageBackbone(kind, model(kind), byte_tokenizer(), "")
    ids = backbone._ids
    return Template(backbone, tuple(ids("Fr:")), tuple(ids("\n")), tuple(ids("=> ")[:2]), 256)


def writer(template, policy, *, phi=0, header_mode="exact", header_first=False, capacity=128):
    memory = DualCache.of(template.backbone.module, capacity, capacity, segments=capacity).memory()
    rules = Rules(template, policy, Limits(), header_mode, header_first=header_first)
    return Writer(rules, new_passage(memory, capacity), phi)


def runner(template, form, positions=None):
    """A forward pass through the model's own attention, or through a router."""
    module, positions = template.backbone.module, positions or GroupPositions()

    def call(ids, cache, causal):
        view = positions.view(cache)
        if form == "transformers":
            return run(module, ids, view, causal=causal)
        return forward(module, torch.tensor([ids]), view if causal else Unmasked(cache))[0]

    return call


def forced(work, source, target, call):
    """Drive the automaton over `source` with every choice made for it; logits `[|T| - 1, vocabulary]` and the words.

    A row is that of the last time its token went through the model.
    """
    template = work.rules.template
    wanted = template.transcript(source, target).target_ids.tolist()
    waiting, rows, words = list(source), {}, []

    def recorded(ids, cache, causal):
        start, writing = cache.target_count, cache.mode == "write"
        logits = call(ids, cache, causal)
        rows.update(enumerate(logits, start=start) if writing else ())
        return logits

    while not (words and words[-1].last):
        if work.wants_write():
            logits = recorded(work.pending(), work.cache, work.causal)
            choice = torch.zeros(logits.shape[-1])
            choice[wanted[work.now.tokens]] = 1
            word = work.take(choice)
            words += [word] if word else []
        elif waiting:
            word = waiting.pop(0)
            work.read(word, template.word(word), recorded)
        else:
            work.close(recorded)
    return torch.stack([rows[index] for index in range(len(wanted) - 1)]), words
