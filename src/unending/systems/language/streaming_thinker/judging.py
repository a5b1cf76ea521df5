"""Greedy targets of any arm on a batch of samples, by masked passes without a cache: how arms are judged."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unending.parts.transcript import positions, streaming_mask
from unending.systems.language.streaming_thinker.layout import Layout, Marks, Sample, direct, transcript
from unending.systems.language.streaming_thinker.training import ARMS

__all__ = ["Judged", "greedy_targets", "judge"]


@dataclass(frozen=True)
class Judged:
    """What an arm makes of samples, as shares of them."""

    answers: float
    """The answer is right."""
    thoughts: float
    """All thoughts are right, token by token; 0 where there are none."""
    whole: float
    """The target is the expected one to the last token."""


def judge(
    model: nn.Module,
    tokenizer: Any,
    samples: Sequence[Sample],
    arm: str,
    *,
    streaming: bool | None = None,
    most: int = 64,
) -> Judged:
    """Right answers of an arm on samples, of which `most` go through the model at a time; see `greedy_targets`."""
    layout, marks = Layout.of(model, tokenizer), Marks.of(tokenizer)
    make = transcript if ARMS[arm].thinks else direct
    wanted = [make(each, tokenizer, layout) for each in samples]
    expected = [_until(each.target_ids.tolist(), marks.eoa) for each in wanted]
    longest = max(map(len, expected)) + 8
    found: list[list[int]] = []
    for start in range(0, len(samples), most):
        part = slice(start, start + most)
        sources, headers = (
            [each.source for each in wanted[part]],
            [len(each.target[0]) for each in wanted[part]],
        )
        likely = _as_far_as_right(model, sources, expected[part], headers, arm, marks, streaming)
        found += greedy_targets(model, sources, likely, headers, arm, marks, longest, streaming=streaming)
    right = {"answers": 0, "thoughts": 0, "whole": 0}
    for each, gold, said in zip(wanted, expected, found, strict=True):
        thoughts = sum(map(len, each.target[:-1])) if ARMS[arm].thinks else 0
        right["answers"] += _answer(said, marks) == _answer(gold, marks)
        right["thoughts"] += bool(thoughts) and said[:thoughts] == gold[:thoughts]
        right["whole"] += said == gold
    return Judged(**{name: count / len(samples) for name, count in right.items()})


def _until(ids: list[int], last: int) -> list[int]:
    return ids[: ids.index(last) + 1]


@torch.no_grad()
def _as_far_as_right(
    model: nn.Module,
    sources: Sequence[Sequence[np.ndarray]],
    expected: Sequence[list[int]],
    headers: Sequence[int],
    arm: str,
    marks: Marks,
    streaming: bool | None,
) -> list[list[int]]:
    """How the greedy targets begin: the expected ones up to the first token that is not the likeliest, and that one.

    One pass over the expected target tells; a greedy target is the same up to there.
    """
    logits, rows = _pass(model, sources, expected, headers, arm, marks, streaming)
    found = []
    for index, (gold, header) in enumerate(zip(expected, headers, strict=True)):
        n = len(rows[index][0]) - len(gold)
        likeliest = logits[index, n + header - 1 : n + len(gold) - 1].argmax(dim=-1).tolist()
        wrong = next((at for at, token in enumerate(likeliest) if token != gold[header + at]), None)
        found.append(list(gold) if wrong is None else [*gold[: header + wrong], likeliest[wrong]])
    return found


def _answer(ids: list[int], marks: Marks) -> list[int] | None:
    if marks.eor not in ids or marks.eoa not in ids:
        return None
    return ids[len(ids) - ids[::-1].index(marks.eor) : ids.index(marks.eoa)]


@torch.no_grad()
def greedy_targets(
    model: nn.Module,
    sources: Sequence[Sequence[np.ndarray]],
    begun: Sequence[list[int]],
    headers: Sequence[int],
    arm: str,
    marks: Marks,
    longest: int,
    *,
    streaming: bool | None = None,
) -> list[list[int]]:
    """The likeliest targets, token by token up to `<EOA>`, of sources cut into segments.

    Parameters
    ----------
    sources, begun, headers
        source segments of each, its target so far (at least the header), and the length of its header.
    arm
        whose layout the model runs in.
    longest
        tokens of a target at most.
    streaming
        let a thought see only the source up to its own sentence, whatever the arm was trained with, and its position
        follow what has been read rather than what is to come.
    """
    targets = [list(each) for each in begun]
    while places := [i for i, each in enumerate(targets) if each[-1] != marks.eoa and len(each) < longest]:
        logits, rows = _pass(
            model,
            [sources[i] for i in places],
            [targets[i] for i in places],
            [headers[i] for i in places],
            arm,
            marks,
            streaming,
        )
        for at, index in enumerate(places):
            targets[index].append(int(logits[at, len(rows[at][0]) - 1].argmax()))
    return targets


def _pass(
    model: nn.Module,
    sources: Sequence[Sequence[np.ndarray]],
    targets: Sequence[list[int]],
    headers: Sequence[int],
    arm: str,
    marks: Marks,
    streaming: bool | None,
) -> "tuple[Tensor, list[_Row]]":
    """Logits `[B, N, vocabulary]` of one padded pass, and its rows."""
    how = ARMS[arm]
    narrow = how.streaming if streaming is None else streaming
    rows = [
        _row(source, target, header, how.layout, narrow, how.interleaved, streaming, marks)
        for source, target, header in zip(sources, targets, headers, strict=True)
    ]
    size = max(len(row[0]) for row in rows)
    ids, where, mask = zip(*(_padded(row, size) for row in rows), strict=True)
    logits: Tensor = model(
        input_ids=torch.stack(ids),
        position_ids=torch.stack(where),
        attention_mask=torch.stack(mask)[:, None],
        use_cache=False,
    ).logits
    return logits, rows


_Row = tuple[np.ndarray, np.ndarray, np.ndarray]


def _row(
    source: Sequence[np.ndarray],
    target: list[int],
    header: int,
    layout: str,
    narrow: bool,
    interleaved: bool,
    truly: bool | None,
    marks: Marks,
) -> _Row:
    """Ids, positions and mask of a source and the target so far, the next token's visibility included."""
    ends = np.cumsum([len(each) for each in source])
    units = [0]
    for index, token in enumerate(target):
        # The unit of the token after this one.
        ended = index == header - 1 or (index >= header and token in marks.boundaries)
        units.append(units[-1] + ended)
    # Target segment j sees the source up to segment j; the one behind the last sentence sees all of it.
    last = len(source) - 1
    reach = np.minimum(units[1:], last) if narrow else np.full(len(target), last)
    counts = ends[reach]
    n = int(ends[-1])
    where = positions(counts, n, layout)
    if layout == "continued" and truly:
        where[n:] = np.arange(len(target)) + counts
    mask = streaming_mask(counts, n, source_sees_target=interleaved)
    return np.concatenate([*source, np.array(target)]), where, mask


def _padded(row: _Row, size: int) -> tuple[Tensor, Tensor, Tensor]:
    ids, where, mask = row
    n = len(ids)
    out = np.eye(size, dtype=bool)
    out[:n, :n] = mask
    fill = (0, size - n)
    return torch.from_numpy(np.pad(ids, fill)), torch.from_numpy(np.pad(where, fill)), torch.from_numpy(out)
