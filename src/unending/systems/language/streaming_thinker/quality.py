"""Streaming chains of thought from a teacher, and the three checks that they have to pass."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from unending.core.errors import InputError
from unending.systems.language.streaming_thinker.layout import MARKS, Sample

__all__ = ["QualityReport", "Teacher", "build_streaming_cot", "check_streaming_cot"]

_WORD = re.compile(r"[^\W\d_]+")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_LETTERS = 3
"""A word of so many letters, or with a capital, says what a thought is about."""


class Teacher(Protocol):
    """Who thinks for the training data: a large language model, a program, a person."""

    def think(self, question: str, sentences: Sequence[str], thoughts: Sequence[str]) -> str:
        """A thought on the last of the sentences, with nothing known of those that follow; `<ignore>` if irrelevant."""

    def conclude(
        self, question: str, sentences: Sequence[str], thoughts: Sequence[str]
    ) -> tuple[str, str, str]:
        """How the thoughts combine, a second look at that, and the answer."""


@dataclass(frozen=True)
class QualityReport:
    """What is wrong with a streaming chain of thought; nothing, if it is good to train on."""

    granularity: tuple[str, ...]
    """Thoughts that do not stand one to one with the sentences."""
    consistency: tuple[str, ...]
    """Thoughts that know what comes later, or are rather about another sentence."""
    answer: tuple[str, ...]
    """An answer that is missing or wrong."""

    @property
    def ok(self) -> bool:
        """Whether there is nothing wrong."""
        return not (self.granularity or self.consistency or self.answer)

    def __str__(self) -> str:
        return "; ".join((*self.granularity, *self.consistency, *self.answer)) or "ok"


def build_streaming_cot(sample: Sample, teacher: Teacher, tries: int = 3) -> Sample:
    """A sample with the thoughts of a teacher, who gets to see no sentence before its time.

    Parameters
    ----------
    sample
        question and sentences; its answer, where there is one, is what the teacher's is held against.
    teacher
        who thinks.
    tries
        how often the teacher may begin anew when a check fails.

    Raises
    ------
    InputError
        if no try passes `check_streaming_cot`, with what was wrong at the last.
    """
    for _ in range(tries):
        thoughts: list[str] = []
        for end in range(1, len(sample.sentences) + 1):
            thoughts.append(teacher.think(sample.question, sample.sentences[:end], tuple(thoughts)))
        deep, reflection, answer = teacher.conclude(sample.question, sample.sentences, tuple(thoughts))
        made = replace(sample, thoughts=tuple(thoughts), deep=deep, reflection=reflection, answer=answer)
        report = check_streaming_cot(made, sample.answer or None)
        if report.ok:
            return made
    raise InputError(f"no chain of thought passed the checks in {tries} tries; the last: {report}")


def check_streaming_cot(sample: Sample, expected: str | None = None) -> QualityReport:
    r"""The three checks of the paper on a sample; its thresholds are not published, these are ours.

    Granularity: as many thoughts as sentences, each of them one unit. Sequential consistency: no thought holds a name
    or a number that first appears in a later sentence (a number may also follow from two known ones by one
    operation), and its words overlap with its own sentence at least as much as with any later one. Answer: there is
    one, and it is `expected`, where that is given; in ``\boxed{}`` or plain.
    """
    return QualityReport(_granularity(sample), _consistency(sample), _answer(sample, expected))


def _granularity(sample: Sample) -> tuple[str, ...]:
    wrong = []
    if len(sample.thoughts) != len(sample.sentences):
        wrong.append(f"{len(sample.thoughts)} thoughts for {len(sample.sentences)} sentences")
    for index, thought in enumerate(sample.thoughts):
        if thought == MARKS[-1]:
            continue
        if not thought.strip():
            wrong.append(f"thought {index + 1} is empty")
        if marks := [mark for mark in MARKS if mark in thought]:
            wrong.append(f"thought {index + 1} holds {marks[0]}, so it is more than one unit")
    return tuple(wrong)


def _consistency(sample: Sample) -> tuple[str, ...]:
    wrong = []
    given = [sample.question, *sample.sentences]
    for index, thought in enumerate(sample.thoughts[: len(sample.sentences)]):
        if thought == MARKS[-1]:
            continue
        before = " ".join([*given[: index + 2], *sample.thoughts[:index]])
        later = sample.sentences[index + 1 :]
        early = [
            name for name in _names(thought) - _words(before) if any(name in _words(each) for each in later)
        ]
        numbers = [float(number) for number in _NUMBER.findall(before)]
        early += [
            number
            for number in _NUMBER.findall(thought)
            if not _derived(float(number), numbers) and any(number in _NUMBER.findall(each) for each in later)
        ]
        if early:
            wrong.append(f"thought {index + 1} knows {early[0]!r} before it is said")
        own = _overlap(thought, sample.sentences[index])
        ahead = [index + 2 + n for n, each in enumerate(later) if _overlap(thought, each) > own]
        if ahead:
            wrong.append(f"thought {index + 1} is rather about sentence {ahead[0]}")
    return tuple(wrong)


def _answer(sample: Sample, expected: str | None) -> tuple[str, ...]:
    found = _plain(sample.answer)
    if not found:
        return ("there is no answer",)
    if expected is not None and found != _plain(expected):
        return (f"the answer is {found!r}, not {_plain(expected)!r}",)
    return ()


def _plain(answer: str) -> str:
    boxed = _BOXED.findall(answer)
    return (boxed[-1] if boxed else answer).strip().rstrip(".")


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text))


def _names(text: str) -> set[str]:
    """Words with a capital: who is spoken of."""
    return {word for word in _WORD.findall(text) if word[0].isupper()}


def _content(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text) if len(word) >= _LETTERS or word[0].isupper()}


def _overlap(thought: str, sentence: str) -> float:
    """Share of what the thought is about that the sentence speaks of."""
    about = _content(thought)
    return len(about & _content(sentence)) / len(about) if about else 0.0


_OPERATIONS: tuple[Callable[[float, float], float], ...] = (
    lambda a, b: a + b,
    lambda a, b: a - b,
    lambda a, b: a * b,
    lambda a, b: a / b if b else a,
)


def _derived(number: float, known: Sequence[float]) -> bool:
    """Whether a number is known, or follows from two that are by one operation."""
    return number in known or any(
        abs(operation(a, b) - number) < 1e-6 for operation in _OPERATIONS for a in known for b in known
    )
