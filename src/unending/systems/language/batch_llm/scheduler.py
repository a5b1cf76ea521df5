"""Which tokens run in the next iteration: admission by memory, prefill mixed with decodes. Counts only, no model."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from unending.core.errors import StateError
from unending.systems.language.batch_llm.progress import DONE, RUNNING, WAITING, Policy, Progress

__all__ = ["Reuse", "Scheduler", "Work"]

Reuse = Callable[[int, Progress], int | None]
"""Admission of a prompt without a group: how many of its tokens memory holds already, or `None` if it does not fit."""


@dataclass(frozen=True)
class Work:
    """A run of tokens of one sequence in one iteration."""

    prompt: int
    """Whose tokens they are; for a prefix, the prompt that it is taken from."""
    group: int
    """The group whose prefix is read; -1 for a prompt's own tokens."""
    start: int
    """Position of the first token in the sequence (prefix included)."""
    tokens: int
    decode: bool
    samples: tuple[int, ...] = ()
    """Prompts whose next token the logits after the last of these tokens give."""


class Scheduler:
    """Puts iterations together and keeps the books; it knows no model and no memory, only counts.

    An iteration has, in this order and until the tokens are used up: a token of every prompt that decodes, prompts
    and prefixes that are partly read, members whose prefix is held, then what is new, head of the line first. A
    prefix is let go when its last member ends. What is admitted is certain to fit in memory to its end, so nothing is
    ever swapped or thrown out: each live group counts its prefix once, and at least its largest waiting member, so
    that a group larger than the memory goes through in parts with its prefix kept.

    Parameters
    ----------
    progress
        where the batch stands; it is not written.
    policy
        see `Policy`.
    reuse
        decides about prompts without a group, in place of the promise above.
    """

    def __init__(self, progress: Progress, policy: Policy, reuse: Reuse | None = None) -> None:
        self.policy, self._reuse = policy, reuse
        self.progress = replace(
            progress,
            **{
                name: getattr(progress, name).copy() for name in ("own", "generated", "phase", "read", "held")
            },
        )
        self._base = progress.base
        self._own_length = progress.length - self._base
        self._order = np.argsort(progress.rank, kind="stable")
        self._need = policy.blocks_for(self._own_length + progress.limit - 1)

    @property
    def finished(self) -> bool:
        """Whether all prompts are done."""
        return not np.isin(self.progress.phase, (WAITING, RUNNING)).any()

    def promised(self, extra: int = -1, prefix: int = -1) -> int:
        """Blocks that what is admitted takes until its end; with a further prompt, or a further group's prefix."""
        now = self.progress
        running = now.phase == RUNNING
        held = now.held == RUNNING
        if extra >= 0:
            running = running.copy()
            running[extra] = True
        if prefix >= 0:
            held = held.copy()
            held[prefix] = True
        total = int(self._need[running & (now.group < 0)].sum())
        if held.any():
            groups = len(now.held)
            member = (now.group >= 0) & (now.phase != DONE)
            inside = np.bincount(now.group[member & running], self._need[member & running], groups)
            largest = np.zeros(groups)
            np.maximum.at(largest, now.group[member], self._need[member])
            total += int((self.policy.blocks_for(now.prefix) + np.maximum(inside, largest))[held].sum())
        return total

    def _fits(self, extra: int = -1, prefix: int = -1) -> bool:
        return self._seats() and self.promised(extra, prefix) <= self.policy.budget

    def _seats(self) -> bool:
        """Whether the number of sequences, if that is limited, allows one more."""
        if self.policy.admission != "num_seqs":
            return True
        now = self.progress
        reading = np.count_nonzero((now.held == RUNNING) & (now.read < now.prefix))
        return int(np.count_nonzero(now.phase == RUNNING) + reading) < self.policy.max_num_seqs

    def plan(self) -> list[Work]:
        """The next iteration; whatever it admits is admitted."""
        now = self.progress
        running = self._order[now.phase[self._order] == RUNNING]
        reads = now.own[running] < self._own_length[running]
        works = [self._own(prompt, 1) for prompt in running[~reads].tolist()]
        room = self.policy.max_batched_tokens - len(works)
        partial = [(prompt, -1) for prompt in running[reads].tolist()]
        reading = np.flatnonzero((now.held == RUNNING) & (now.read < now.prefix))
        reading = reading[np.argsort(now.rank[now.source[reading]])]
        partial += [(int(now.source[group]), group) for group in reading.tolist()]
        for prompt, group in partial:
            if room <= 0:
                break
            works.append(self._read(prompt, group, room))
            room -= works[-1].tokens
        refused: dict[int, int] = {}
        for prompt, group in self._candidates():
            if room <= 0:
                break
            own = int(now.group[prompt]) if group < 0 else -1
            if own >= 0 and self._need[prompt] >= refused.get(own, self.policy.budget + 1):
                continue
            if not self._admit(prompt, group):
                if own < 0:
                    break
                refused[own] = int(self._need[prompt])
                continue
            works.append(self._read(prompt, group, room))
            room -= works[-1].tokens
        if not works:
            raise StateError("nothing of the batch can run: more was promised than there is memory for")
        return works

    def _candidates(self) -> Iterator[tuple[int, int]]:
        """What may be admitted, as `(prompt, group whose prefix it is, or -1)`: members first, then what is new."""
        now = self.progress
        waiting = self._order[now.phase[self._order] == WAITING]
        group = now.group[waiting]
        held, read = now.held[group], now.read[group] == now.prefix[group]
        ready = waiting[(group >= 0) & (held == RUNNING) & read]
        new = waiting[(group < 0) | (held == WAITING)]
        yield from ((prompt, -1) for prompt in ready.tolist())
        seen: set[int] = set()
        for prompt in new.tolist():
            own = int(now.group[prompt])
            if own < 0:
                yield prompt, -1
            elif own not in seen:
                seen.add(own)
                yield int(now.source[own]), own

    def _admit(self, prompt: int, group: int) -> bool:
        """Admit a group's prefix, or a prompt, if there is room."""
        now = self.progress
        if group >= 0:
            if not self._fits(prefix=group):
                return False
            now.held[group] = RUNNING
            return True
        if self._reuse is not None and now.group[prompt] < 0:
            known = self._reuse(prompt, now) if self._seats() else None
            if known is None:
                return False
            now.own[prompt] = known
        elif not self._fits(extra=prompt):
            return False
        now.phase[prompt] = RUNNING
        return True

    def _read(self, prompt: int, group: int, room: int) -> Work:
        """Prefill of a prompt's own tokens or of a prefix, or the first decode where nothing is left to read."""
        now = self.progress
        if group < 0:
            left = int(self._own_length[prompt] - now.own[prompt])
            return self._own(prompt, min(room, left) if left > 0 else 1)
        start = int(now.read[group])
        tokens = min(room, int(now.prefix[group]) - start)
        samples: tuple[int, ...] = ()
        if start + tokens == now.prefix[group]:
            # A prompt that is all prefix has nothing of its own to read: its first token comes from here.
            alike = (now.group == group) & (now.length == now.prefix[group]) & (now.phase == WAITING)
            samples = tuple(np.flatnonzero(alike).tolist())
        return Work(prompt, group, start, tokens, False, samples)

    def _own(self, prompt: int, tokens: int) -> Work:
        now = self.progress
        start = int(self._base[prompt] + now.own[prompt])
        length = int(now.length[prompt])
        samples = (prompt,) if start + tokens >= length else ()
        return Work(prompt, -1, start, tokens, start >= length, samples)

    def advance(self, works: Sequence[Work], ended: Collection[int] = ()) -> tuple[list[int], list[int]]:
        """The iteration was run; `ended` are prompts whose new token ends them and does not count.

        Returns
        -------
        done, let_go
            prompts that are done now, and groups whose prefix nobody needs any more.
        """
        now = self.progress
        done = []
        for work in works:
            if work.group >= 0:
                now.read[work.group] += work.tokens
            else:
                now.own[work.prompt] += work.tokens
            for prompt in work.samples:
                now.generated[prompt] += prompt not in ended
                if prompt in ended or now.generated[prompt] == now.limit[prompt]:
                    now.phase[prompt] = DONE
                    done.append(prompt)
        unfinished = now.group[(now.phase == WAITING) | (now.phase == RUNNING)]
        over = (now.held == RUNNING) & ~np.isin(np.arange(len(now.held)), unfinished)
        now.held[over] = DONE
        return done, np.flatnonzero(over).tolist()
