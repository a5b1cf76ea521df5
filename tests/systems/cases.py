"""Every system at a tiny size with streams for it, for tests that hold for all of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from unending import catalogue
from unending.core import Chunk, Control, Operator, Query, Text, Tokens
from unending.laws.streams import Source


@dataclass(frozen=True)
class Case:
    """One system.

    Parameters
    ----------
    make
        a new operator.
    script
        a stream of its own for each number.
    index, pushed, got
        of the stream that is cut by a death: its number, the chunks pushed before, the outputs received before.
    joint
        whether its sessions go through the model together.
    """

    make: Callable[[], Operator[Any]]
    script: Callable[[int], list[Chunk]]
    index: int = 2
    pushed: int = 2
    got: int = 1
    joint: bool = True


def _streaming_llm() -> Operator[Any]:
    from unending.parts.backbones.tiny import tiny_llama
    from unending.systems.language import StreamingLLM

    settings = {"sink_size": 2, "window_size": 40, "chunk": 4, "max_new_tokens": 12}
    return StreamingLLM.from_model(*tiny_llama(), **settings, temperature=1.0, chat=False)


def _duo_attention() -> Operator[Any]:
    from unending.parts.backbones.tiny import tiny_llama
    from unending.systems.language import DuoAttention

    settings = {"sink_size": 2, "recent_size": 8, "full_size": 44, "chunk": 4, "max_new_tokens": 12}
    return DuoAttention.from_model(
        *tiny_llama(), pattern="1 0 / 0 1", **settings, temperature=1.0, chat=False
    )


def _jrt() -> Operator[Any]:
    from unending.systems.language.jrt import JRT

    return replace(JRT.example(), enc_length=6, max_new_tokens=12)


def _group_position_encoding() -> Operator[Any]:
    from tests.systems.language.group_position_encoding.forcing import model

    from unending.parts.backbones.tiny import byte_tokenizer
    from unending.systems.language.group_position_encoding import GroupPositionEncoding

    settings = {"k": 2, "source_capacity": 96, "target_capacity": 48, "per_write": 6}
    return GroupPositionEncoding.from_model(model(), byte_tokenizer(), **settings)


def _streaming_thinker() -> Operator[Any]:
    from unending.systems.language.streaming_thinker import StreamingThinking
    from unending.systems.language.streaming_thinker.examples import tiny_thinker

    settings = {"source_tokens": 160, "max_sentences": 6, "max_sentence": 64, "max_unit_tokens": 6}
    return StreamingThinking.from_model(*tiny_thinker(), **settings, max_new_tokens=8, temperature=1.0)


def _reading(index: int) -> list[Chunk]:
    ids = np.random.default_rng(index).integers(0, 200, 3 + 7 * index)
    return [Tokens(ids), Query("why?"), Text("and so it went on " * index), Query("how?")]


def _translating(index: int) -> list[Chunk]:
    lines = ("so it goes on", "and on\nand on we go", "where to, then?", "the old cat. sat down there\n")
    texts = lines[index % len(lines) :] + lines[: index % len(lines)]
    first, *others = (Text(text + " ") for text in texts[: 2 + index % 3])
    return [first, Control("end"), *others]


def _thinking(index: int) -> list[Chunk]:
    sentences = ("Ann has 12. ", "Ben has 3 more. ", "It rains. ", "Cat has 4. ")
    question = Query("how many?" * (1 + index % 2))
    told = [Text(each) for each in sentences[index % 3 :]]
    return [question, *told, Control("end"), Query("who?"), Text("Ida has 1. And")]


def _typical(name: str) -> Case:
    cls = catalogue.load(name)

    def script(index: int) -> list[Chunk]:
        return Source(cls.example()).typical(index, repeats=3)

    return Case(cls.example, script, got=0, joint=False)


CASES: dict[str, Case] = {
    "duo-attention": Case(_duo_attention, _reading, got=9),
    "group-position-encoding": Case(_group_position_encoding, _translating, got=4),
    "jrt": Case(_jrt, _reading, got=7),
    "streaming-llm": Case(_streaming_llm, _reading, got=9),
    "streaming-thinker": Case(_streaming_thinker, _thinking, index=0, pushed=3, got=4),
}


def cases() -> dict[str, Case]:
    """All of them, by name; a system that needs no stream of its own gets what the laws try it on."""
    return {name: CASES.get(name) or _typical(name) for name in catalogue.names()}
