"""How a problem and its thoughts become tokens: the seven marks, the fixed texts, the segments."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from unending.core.errors import InputError, ModelUnsupportedError
from unending.parts.transcript import Transcript

__all__ = ["DEPTHS", "MARKS", "Layout", "Marks", "Sample", "add_marks", "direct", "transcript"]

MARKS = ("<SEP>", "<EOQ>", "<EOS>", "<EOT>", "<EOR>", "<EOA>", "<ignore>")
"""End of the instruction and of the header, of the question, of a sentence, of a thought, of the reasoning, of the
answer; and the whole thought on a sentence that says nothing of the question."""
DEPTHS = ("D1", "D2", "D3")
"""Thoughts and the answer; then all thoughts combined before the answer; then the combination looked at again."""
_KEY = "streaming_thinker"


@dataclass(frozen=True)
class Sample:
    """A problem, and what is thought of it where that is known."""

    question: str
    """May be empty: then there is no question segment."""
    sentences: tuple[str, ...]
    thoughts: tuple[str, ...] = ()
    """One a sentence."""
    deep: str = ""
    """How the thoughts combine."""
    reflection: str = ""
    """A second look at it, for depth D3."""
    answer: str = ""
    restated: str = ""
    """The question in the words of the thinker; the question itself where it is empty."""

    @classmethod
    def of(cls, problem: Any) -> Self:
        """From an object or a mapping that has (some of) these fields.

        Raises
        ------
        InputError
            if a field is missing that has no default, or is not text.
        """
        found: dict[str, Any] = {}
        for each in fields(cls):
            value = problem.get(each.name) if isinstance(problem, dict) else getattr(problem, each.name, None)
            many = each.name in ("sentences", "thoughts")
            if value is None and each.name in ("question", "sentences"):
                raise InputError(f"a sample has question and sentences; {each.name} is missing")
            if value is None:
                continue
            entries = list(value) if many and not isinstance(value, str) else [value]
            if (many and isinstance(value, str)) or not all(isinstance(entry, str) for entry in entries):
                raise InputError(f"{each.name} of a sample must be {'a list of texts' if many else 'a text'}")
            found[each.name] = tuple(entries) if many else value
        return cls(**found)


@dataclass(frozen=True)
class Layout:
    """The fixed texts around question, sentences and thoughts; special tokens may stand in them by their names."""

    instruction: str = "Think about each sentence as it comes, then answer the question."
    """Source segment 0, before `<SEP>`."""
    header: str = "<think>\n"
    """Target segment 0, before `<SEP>`."""
    end_of_turn: str = ""
    """The last source segment, when no more comes. A stream does not know which sentence is its last, so this is a
    segment of its own, which the deep part alone sees."""
    connectors: tuple[str, str, str] = (
        "Now, the streaming reasoning is completed.",
        "Now, the streaming reasoning is completed. Let's combine the thoughts to answer the question.",
        "Now, the streaming reasoning is completed. Let's combine the thoughts, and check the result.",
    )
    """What the deep part begins with, a depth each."""
    think_end: str = "\n</think>\n"
    """Between `<EOR>` and the answer."""
    end: str = ""
    """After `<EOA>`."""

    @classmethod
    def of(cls, model: nn.Module | None, tokenizer: Any) -> Self:
        """What a model was trained with, else the turns of the tokenizer's chat template, else plain text."""
        noted = getattr(getattr(model, "config", None), _KEY, None)
        if noted is not None:
            return cls(**{**noted, "connectors": tuple(noted["connectors"])})
        if not getattr(tokenizer, "chat_template", None):
            return cls()
        instruction, content = cls().instruction, "\N{OBJECT REPLACEMENT CHARACTER}"
        turn = [{"role": "user", "content": f"{instruction}\n{content}"}]
        closed, opened = (
            tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=prompt)
            for prompt in (False, True)
        )
        before, _, after = closed.partition(content)
        header = opened[len(closed) :] if opened.startswith(closed) else ""
        return cls(instruction=before, header=f"{header}{cls().header}", end_of_turn=after, end=after.strip())

    def note(self, model: nn.Module) -> None:
        """Write it into the configuration of a model, where `of` finds it."""
        config: Any = model.config
        setattr(config, _KEY, asdict(self))


@dataclass(frozen=True)
class Marks:
    """Ids of the seven marks."""

    sep: int
    eoq: int
    eos: int
    eot: int
    eor: int
    eoa: int
    ignore: int

    @classmethod
    def of(cls, tokenizer: Any) -> Self:
        """Their ids in a tokenizer.

        Raises
        ------
        ModelUnsupportedError
            if it lacks one, or splits it.
        """
        ids = tokenizer.convert_tokens_to_ids(list(MARKS))
        if list(tokenizer("".join(MARKS), add_special_tokens=False)["input_ids"]) != ids:
            raise ModelUnsupportedError(
                f"the tokenizer lacks some of {' '.join(MARKS)}: use add_marks(tokenizer, model), and train"
            )
        return cls(*ids)

    @property
    def boundaries(self) -> frozenset[int]:
        """The ids that end a unit of the target."""
        return frozenset((self.sep, self.eoq, self.eos, self.eot, self.eor, self.eoa, self.ignore))


def add_marks(tokenizer: Any, model: nn.Module | None = None) -> Marks:
    """Give a tokenizer the seven marks, and a model an embedding for each where its matrix has no spare row.

    The new rows get the mean of the others (transformers' own initialisation draws from the global generator).
    """
    missing = [mark for mark in MARKS if mark not in tokenizer.get_vocab()]
    tokenizer.add_tokens(missing, special_tokens=True)
    embedding: Any = None if model is None else model.get_input_embeddings()  # type: ignore[operator]
    if embedding is not None and missing and len(tokenizer) > embedding.num_embeddings:
        old = embedding.num_embeddings
        with torch.random.fork_rng(devices=[]):
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)  # type: ignore[union-attr, operator]
        for layer in {model.get_input_embeddings(), model.get_output_embeddings()} - {None}:  # type: ignore[union-attr, operator]
            layer.weight.data[old:] = layer.weight.data[:old].mean(dim=0)
    return Marks.of(tokenizer)


def _ids(tokenizer: Any, text: str, *marks: int) -> np.ndarray:
    found = list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []
    return np.array([*found, *marks], dtype=np.int64)


def transcript(sample: Sample, tokenizer: Any, layout: Layout, depth: str = "D2") -> Transcript:
    """The segments of a sample whose thoughts are known: target segment j speaks of source segment j.

    Raises
    ------
    InputError
        if thoughts and sentences differ in number, or the depth is unknown.
    """
    if depth not in DEPTHS:
        raise InputError(f"depth {depth!r} is unknown; accepted are {', '.join(DEPTHS)}")
    if len(sample.thoughts) != len(sample.sentences):
        raise InputError(f"{len(sample.thoughts)} thoughts do not fit {len(sample.sentences)} sentences")
    marks = Marks.of(tokenizer)
    source = [
        _ids(tokenizer, layout.instruction, marks.sep),
        *([_ids(tokenizer, sample.question, marks.eoq)] if sample.question else []),
        *(_ids(tokenizer, each, marks.eos) for each in sample.sentences),
        _ids(tokenizer, layout.end_of_turn),
    ]
    restated = sample.restated or sample.question
    target = [
        _ids(tokenizer, layout.header, marks.sep),
        *([_ids(tokenizer, restated, marks.eoq)] if sample.question else []),
        *(_thought(tokenizer, each, marks) for each in sample.thoughts),
        _deep(sample, tokenizer, layout, depth, marks),
    ]
    return Transcript(tuple(source), tuple(target))


def direct(sample: Sample, tokenizer: Any, layout: Layout, depth: str = "D2") -> Transcript:
    """The same source, and a target of the answer alone: no thoughts, whatever the depth."""
    marks, whole = Marks.of(tokenizer), transcript(sample, tokenizer, layout, depth)
    answer = [
        *_ids(tokenizer, "", marks.eor),
        *_ids(tokenizer, layout.think_end),
        *_ids(tokenizer, sample.answer, marks.eoa),
        *_ids(tokenizer, layout.end),
    ]
    return Transcript(whole.source, (whole.target[0], np.array(answer)))


def _thought(tokenizer: Any, thought: str, marks: Marks) -> np.ndarray:
    return np.array([marks.ignore]) if thought == MARKS[-1] else _ids(tokenizer, thought, marks.eot)


def _deep(sample: Sample, tokenizer: Any, layout: Layout, depth: str, marks: Marks) -> np.ndarray:
    """The last target segment: connector, deep part, answer; int64 `[n]`."""
    index = DEPTHS.index(depth)
    parts: Sequence[str] = ((), (sample.deep,), (sample.deep, sample.reflection))[index]
    return np.concatenate(
        [
            _ids(tokenizer, layout.connectors[index]),
            *(_ids(tokenizer, part) for part in parts),
            _ids(tokenizer, "", marks.eor),
            _ids(tokenizer, layout.think_end),
            _ids(tokenizer, sample.answer, marks.eoa),
            _ids(tokenizer, layout.end),
        ]
    )
