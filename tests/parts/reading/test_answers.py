"""Choosing tokens: temperature, top-k and top-p against a plain reference, and draws that depend on nothing else."""

import numpy as np
import pytest
import torch

from unending.core import random
from unending.parts.backbones import LanguageBackbone
from unending.parts.backbones.tiny import byte_tokenizer, tiny_llama
from unending.parts.reading import answers
from unending.parts.reading.answers import choose

LOGITS = torch.tensor([2.0, -1.0, 3.0, 3.0, 0.5, 1.0])


def reference(logits, temperature, seed, position, top_k, top_p):
    """In loops: sort, cut, renormalise, walk the cumulative sum."""
    weights = np.exp(np.array(logits.tolist()) / temperature)
    weights /= weights.sum()
    order = sorted(range(len(weights)), key=lambda i: (-weights[i], i))[: top_k or len(weights)]
    total, kept, seen = sum(weights[i] for i in order), [], 0.0
    for index in order:
        if seen >= top_p * total:
            break
        kept.append(index)
        seen += weights[index]
    draw, walked = random.philox(seed, position).random() * sum(weights[i] for i in kept), 0.0
    for index in sorted(kept):
        walked += weights[index]
        if walked >= draw:
            return index
    return max(kept)


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (3, 1.0), (0, 0.7), (4, 0.9), (1, 1.0), (0, 1e-9)])
def test_draws_are_those_of_the_reference(top_k, top_p):
    for position in range(60):
        found = choose(LOGITS, 0.8, 5, position, top_k=top_k, top_p=top_p)
        assert found == reference(LOGITS, 0.8, 5, position, top_k, top_p)


def test_what_is_cut_is_never_drawn():
    drawn = {choose(LOGITS, 5.0, 1, position, top_k=2) for position in range(200)}
    assert drawn == {2, 3}
    assert {choose(LOGITS, 5.0, 1, position) for position in range(400)} == set(range(6))


def test_temperature_zero_takes_the_likeliest():
    assert choose(LOGITS, 0.0, 0, 0, top_k=3, top_p=0.5) == 2


def test_a_character_cut_at_the_end_of_an_answer_comes_out_when_it_is_closed():
    backbone = LanguageBackbone("", tiny_llama()[0], byte_tokenizer(), "")
    first = backbone.tokenizer("é").input_ids[0]
    answer, text = answers.take(answers.begin(answers.no_answer(4)), first, backbone)
    assert text == ""
    answer, text = answers.close(answer, backbone)
    assert text == "\N{REPLACEMENT CHARACTER}"
    assert (answer.left, answer.shown) == (0, 1)
