"""A finite stream said more than once, for systems that must choose what to keep before they know what is asked."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from unending.core import Chunk, Query, Text
from unending.core.errors import InputError

__all__ = ["jrt_prompt", "read_twice"]

_ENDING = ". \t\r\n\v\f"
"""White space and full stops at the end of a text, which one full stop takes the place of."""


def read_twice(
    chunks: Iterable[Chunk], question: str = "", *, repeats: int = 2, hint: bool = True
) -> Iterator[Chunk]:
    """JRT-Prompt of a stream, for any operator: a hint, the context so many times, the question.

    A recurrent state must choose what to keep before it knows the question; on the second reading it knows what
    there is, and what will be asked. It costs `repeats` times the reading. Arora et al. 2024, arXiv 2407.05483.

    Of text: `Information about {question}. `, the context that ends with a single full stop, a new line, the context
    again, and ` {question}:` as a `Query`. Of other kinds: the chunks again, without a hint, and the question as it
    is. The stream is read anew each time and not kept.

    Parameters
    ----------
    chunks
        a stream that can be read again: a list, or an object whose `iter` begins anew. Stream times are left out.
    question
        without one, nothing is asked and there is no hint.
    repeats
        how often the context is said; 1 without a hint is the ordinary prompt.
    hint
        say first what will be asked.

    Raises
    ------
    InputError
        if the stream can be read only once, `repeats` is less than 1, or it is empty.
    """
    if repeats < 1:
        raise InputError(f"a stream is read once or more, got repeats={repeats}")
    if iter(chunks) is chunks:
        raise InputError(
            "the stream can be read only once: give a list, or an object that can be iterated again"
        )
    return _said(chunks, question.strip(), repeats, hint)


def _said(chunks: Iterable[Chunk], question: str, repeats: int, hint: bool) -> Iterator[Chunk]:
    first = next((chunk for chunk in chunks if chunk.items and len(chunk)), None)
    if first is None:
        raise InputError("the stream is empty: there is nothing to read twice")
    is_text = isinstance(first, Text)
    if is_text and question and hint:
        yield Text(f"Information about {question}. ")
    for reading in range(repeats):
        if is_text and reading:
            yield Text("\n")
        yield from _ended(chunks) if is_text else (_untimed(chunk) for chunk in chunks)
    if question:
        yield Query(f" {question}:" if is_text else question)


def _untimed(chunk: Any) -> Chunk:
    return replace(chunk, t=None)


def _ended(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """The text with a single full stop at its end; other kinds pass by."""
    held = ""
    for chunk in chunks:
        if not isinstance(chunk, Text):
            yield _untimed(chunk)
            continue
        text = held + chunk.text
        body = text.rstrip(_ENDING)
        held = text[len(body) :]
        if body:
            yield Text(body)
    yield Text(".")


def jrt_prompt(context: str, question: str, repeats: int = 2, hint: bool = True) -> str:
    """JRT-Prompt as one string, for any model: hint, context, context again, question.

    `Information about {question}. D`, a new line, and `D {question}:`, where D is the context with a single full stop
    at its end. `repeats=1, hint=False` is the ordinary prompt. The prompt is `repeats` times as long, and all of it
    must fit where the model has a limit.

    Raises
    ------
    InputError
        if the context or the question is blank, or `repeats` is less than 1.
    """
    if not context.strip() or not question.strip():
        raise InputError("a prompt needs a context and a question that are not blank")
    said = read_twice([Text(context)], question, repeats=repeats, hint=hint)
    return "".join(chunk.text for chunk in said if isinstance(chunk, Text | Query))
