"""Arithmetic word problems with their reasoning, sentence by sentence, and a word-level tokenizer for them."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from unending.core.random import philox

__all__ = ["MOST", "Problem", "WordProblems", "held_out", "word_tokenizer"]

MOST = 99
"""No number of a problem is larger."""
_NAMES = ("Ann", "Ben", "Cat", "Dan", "Eva", "Fay")
_FILLERS = (
    "The sun is shining.",
    "It is cold today.",
    "A dog sleeps on the road.",
    "The train is late.",
    "They all like music.",
    "The road is long.",
)
_SKIP = "<ignore>"
_NUMBER = re.compile(r"\d+")
_TRIES = 1_000
_SHARE = 8
"""One in so many pairs of neighbouring templates is held out."""


class _Template(NamedTuple):
    """A sentence about entity `a` (and the known entity `b`) with the number `n`, and the value it gives `a`."""

    text: str
    value: Callable[[int, int], int]
    of: str
    """Whose value goes in: "" nobody's, "a" its own, "b" another's."""
    sign: str


_TEMPLATES = {
    "set": _Template("{a} has {n}.", lambda old, n: n, "", ""),
    "start": _Template("{a} starts with {n}.", lambda old, n: n, "", ""),
    "more": _Template("{a} gets {n} more.", lambda old, n: old + n, "a", "+"),
    "more than": _Template("{a} has {n} more than {b}.", lambda old, n: old + n, "b", "+"),
    "loses": _Template("{a} loses {n}.", lambda old, n: old - n, "a", "-"),
    "fewer than": _Template("{a} has {n} fewer than {b}.", lambda old, n: old - n, "b", "-"),
    "times": _Template("{a} now has {n} times as many.", lambda old, n: old * n, "a", "*"),
    "times as": _Template("{a} has {n} times as many as {b}.", lambda old, n: old * n, "b", "*"),
}
_TIMES = ("times", "times as")
_WORDS = (
    *("How", "many", "do", "does", "have", "than", "more", "together", "or", "and", "What", "is", "the"),
    *("most", "that", "check", "combine", "max", "Solve", "think"),
    *("?", ".", ",", ":", "=", "+", "-", "*", "<", ">", "\\boxed{", "}"),
)


@dataclass(frozen=True)
class Problem:
    r"""A problem as it is told, and its streaming chain of thought.

    Attributes
    ----------
    question, sentences
        the text; the question comes first.
    restated : str
        the question in short.
    thoughts : tuple of str
        one a sentence: how the new value comes about, or `<ignore>`.
    deep : str
        how the values combine, in one to three steps.
    reflection : str
        a check of the last step.
    answer : str
        in ``\boxed{}``.
    templates : tuple of str
        which sentences were used, and the question's kind last.
    """

    question: str
    sentences: tuple[str, ...]
    restated: str
    thoughts: tuple[str, ...]
    deep: str
    reflection: str
    answer: str
    templates: tuple[str, ...]


def held_out(templates: Sequence[str]) -> bool:
    """Whether two neighbours among the templates are a pair that training problems never have."""
    return any(crc32(f"{one}, {two}".encode()) % _SHARE == 0 for one, two in pairwise(templates))


@dataclass(frozen=True)
class WordProblems:
    """Problems by number: entities are set, added to, multiplied, and some of them asked for.

    Everything follows from the seed and the number. Problems to train on hold no pair of neighbouring templates
    that is held out; problems to test on hold at least one.

    Attributes
    ----------
    seed : int
        names the stream of problems.
    sentences : (int, int)
        fewest and most sentences.
    filler : float
        share of sentences that say nothing of the question.
    values, operands : int
        largest value of an entity, and largest number that is added to it; it is multiplied by 2 or 3.
    test : bool
        to test on.
    """

    seed: int = 0
    sentences: tuple[int, int] = (3, 6)
    filler: float = 0.15
    values: int = 20
    operands: int = 3
    test: bool = False

    def __post_init__(self) -> None:
        low, high = self.sentences
        if not 2 <= low <= high or not 0 <= self.filler < 0.5:
            raise ValueError(
                "problems have 2 or more sentences, fewest first, and less than half of them filler"
            )
        if not 9 <= self.values <= MOST or not 1 <= self.operands <= 9:
            raise ValueError(f"values are 9 to {MOST} at most, operands 1 to 9")

    def problem(self, index: int) -> Problem:
        """The problem of that number."""
        rng = philox(self.seed, index, int(self.test))
        for _ in range(_TRIES):
            made = self._drawn(rng)
            if made is not None and held_out(made.templates) == self.test:
                return made
        raise ValueError(f"no problem of {self.sentences} sentences came out in {_TRIES} draws")

    def _drawn(self, rng: np.random.Generator) -> Problem | None:
        low, high = self.sentences
        names = rng.permutation(_NAMES)[: rng.choice((2, 3, 4), p=(0.55, 0.35, 0.1))].tolist()
        values: dict[str, int] = {}
        sentences, thoughts, templates = [], [], []
        for _ in range(int(rng.integers(low, high + 1))):
            if rng.random() < self.filler:
                sentences.append(str(rng.choice(_FILLERS)))
                thoughts.append(_SKIP)
                continue
            kind, a, b, n = self._sentence(rng, names, values)
            template = _TEMPLATES[kind]
            whose = a if template.of == "a" else b
            old = values.get(whose, 0)
            value = template.value(old, n)
            if not 1 <= value <= self.values:
                return None
            values[a] = value
            templates.append(kind)
            sentences.append(template.text.format(a=a, b=b, n=n))
            # Whose value goes in is said first: then each token needs one thing to be looked up, not two.
            thoughts.append((f"{whose} {old} {template.sign} {n}, " if template.of else "") + f"{a}: {value}")
        if len(values) < 2:
            return None
        asked = _ask(rng, values)
        if asked is None:
            return None
        question, restated, kind, steps, answer = asked
        return Problem(
            question,
            tuple(sentences),
            restated,
            tuple(thoughts),
            ", ".join(steps),
            f"check {_reversed(steps[-1])}",
            f"\\boxed{{{answer}}}",
            (*templates, kind),
        )

    def _sentence(
        self, rng: np.random.Generator, names: list[str], values: dict[str, int]
    ) -> tuple[str, str, str, int]:
        """Template, the entity it sets, the one it refers to, and its number."""
        new = [name for name in names if name not in values]
        if not values or (new and rng.random() < 0.3):
            kind = str(rng.choice(["set", "start"]))
            return kind, str(rng.choice(new)), "", int(rng.integers(2, 10))
        kind = str(rng.choice(["more", "more than", "loses", "fewer than", *_TIMES]))
        b = str(rng.choice(list(values)))
        others = new or [name for name in names if name != b]
        a = str(rng.choice(others)) if _TEMPLATES[kind].of == "b" else b
        n = int(rng.integers(2, 4) if kind in _TIMES else rng.integers(1, self.operands + 1))
        return kind, a, b, n


def _ask(rng: np.random.Generator, values: dict[str, int]) -> tuple[str, str, str, list[str], int] | None:
    """Question, its short form, its kind, the steps to the answer, the answer."""
    asked = rng.permutation(list(values)).tolist()
    kind = str(rng.choice(["sum", "difference", "max"]))
    *first, last = asked
    answer, so_far, steps = values[asked[0]], f"{asked[0]} {values[asked[0]]}", []
    if kind == "difference":
        a, b = asked[:2]
        answer -= values[b]
        if answer < 0:
            return None
        steps = [f"{so_far} - {b} {values[b]} = {answer}"]
        return f"How many more does {a} have than {b}?", f"{a} - {b}", kind, steps, answer
    if kind == "sum":
        for name in asked[1:]:
            answer += values[name]
            steps.append(f"{so_far} + {name} {values[name]} = {answer}")
            so_far = str(answer)
        question = f"How many do {', '.join(first)} and {last} have together?"
        return (question, " + ".join(asked), kind, steps, answer) if answer <= MOST else None
    for name in asked[1:]:
        sign = "<" if answer < values[name] else ">" if answer > values[name] else "="
        steps.append(f"{so_far} {sign} {name} {values[name]}")
        if values[name] > answer:
            answer, so_far = values[name], f"{name} {values[name]}"
    question = f"What is the most that {', '.join(first)} or {last} has?"
    return question, f"max {' '.join(asked)}", kind, steps, answer


def _reversed(step: str) -> str:
    """The step the other way round: `Ann 3 + Ben 4 = 7` as `7 - 4 = 3`, `Ann 3 < Ben 4` as `4 > 3`."""
    first, second, *rest = _NUMBER.findall(step)
    if not rest:
        return f"{second} {'>' if '<' in step else '<' if '>' in step else '='} {first}"
    return f"{rest[0]} {'-' if '+' in step else '+'} {second} = {first}"


def word_tokenizer(marks: Sequence[str] = ()) -> Any:
    """A tokenizer of the ordinary transformers class: a token a word of the problems, numbers digit by digit.

    Parameters
    ----------
    marks
        special tokens, which no text is split into. `<end>`, `<pad>` and `<unk>` are there anyhow.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    text = " ".join([*_FILLERS, *(each.text for each in _TEMPLATES.values())]).replace(".", " ")
    words = {word for word in text.split() if "{" not in word} | set(_NAMES) | set(_WORDS)
    digits = [str(digit) for digit in range(10)]
    spaced = [f"▁{word}" for word in sorted(words - {"?", ".", ",", ":", "}"}) + digits]
    entries = ["<pad>", "<unk>", "<end>", *spaced, *"?.,:}", *digits, "\\boxed{"]
    inner = Tokenizer(models.WordLevel({entry: index for index, entry in enumerate(entries)}, "<unk>"))
    inner.normalizer = normalizers.Sequence([normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()])
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="always", split=False),
            pre_tokenizers.Split(Regex(r"▁?\\boxed\{|▁?\p{L}+|▁?\p{N}|▁?[^\p{L}\p{N}▁]|▁"), "isolated"),
        ]
    )
    inner.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<end>", pad_token="<pad>", unk_token="<unk>"
    )
    made.add_tokens(list(marks), special_tokens=True)
    return made
