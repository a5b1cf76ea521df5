"""The mechanism in the form of transformers: a model, its tokenizer, words pushed in and words coming out."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from unending.core.errors import CapacityError, SessionClosedError
from unending.parts.backbones import LanguageBackbone
from unending.parts.emission import Policy, WaitK
from unending.parts.memory import DualCache
from unending.systems.language.group_position_encoding.passage import (
    Limits,
    Rules,
    Word,
    Writer,
    new_passage,
)
from unending.systems.language.group_position_encoding.positions import (
    ArrivalPositions,
    GroupPositions,
    Positions,
    ReencodedPositions,
    run,
)
from unending.systems.language.group_position_encoding.template import Template

__all__ = ["StreamingGenerator"]


class StreamingGenerator:
    """Write a passage while it is being read (Tong et al. 2025, arXiv 2505.16983).

    ``generator.push(["Good", "morning"])`` gives it source words; iterating over it gives the words that it can
    write by then, each with its delay; after ``finish()`` it gives the rest. ``reset()`` begins the next passage.
    Reading never waits for writing: source tokens see source tokens only.

    Parameters
    ----------
    model
        a causal language model of transformers with rotary positions; it runs with its own attention.
    tokenizer
        its tokenizer; ignored where `template` is given.
    policy
        when to write.
    positions
        `GroupPositions`, or a baseline (`ArrivalPositions`, `ReencodedPositions`).
    instruction
        what to do with the source, put before it.
    template
        what stands around the words; from the tokenizer's chat template unless given.
    source_capacity, target_capacity
        tokens that a passage may have.
    limits
        of a write and of a target.
    header_mode
        `"exact"` treats header and end marker as training does, `"upstream"` as the authors' inference does.

    Raises
    ------
    ModelUnsupportedError
        if the tokenizer does not split at white space or names no end token.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any = None,
        policy: Policy | None = None,
        positions: Positions | None = None,
        *,
        instruction: str = "",
        template: Template | None = None,
        source_capacity: int = 1024,
        target_capacity: int = 1024,
        limits: Limits | None = None,
        header_mode: str = "exact",
    ) -> None:
        backbone = LanguageBackbone(type(model).__name__, model.eval(), tokenizer, "")
        self.model = model
        self.template = template or Template.of(backbone, instruction)
        self.positions: Positions = GroupPositions() if positions is None else positions
        reencodes = isinstance(self.positions, ReencodedPositions)
        by_arrival = isinstance(self.positions, ArrivalPositions)
        self.rules = Rules(
            self.template,
            WaitK() if policy is None else policy,
            limits or Limits(),
            header_mode,
            self.positions.after_read if reencodes else None,
            header_first=by_arrival and header_mode == "exact",
        )
        self._sizes = source_capacity, target_capacity
        self.reset()

    def reset(self) -> None:
        """Begin a new passage."""
        source, target = self._sizes
        memory = DualCache.of(self.model, source, target, segments=source).memory()
        self._writer = Writer(self.rules, new_passage(memory, target), self.positions.phi)
        self._waiting: list[tuple[str, list[int]]] = []
        self._finished = self._over = False
        self.words: list[Word] = []
        """What was written so far."""

    @property
    def cache(self) -> DualCache:
        """Keys and values of the source and of the target."""
        return self._writer.cache

    @property
    def delays(self) -> list[int]:
        """Source words that were read when each word was written."""
        return [word.delay for word in self.words if word.ids]

    @property
    def text(self) -> str:
        """What was written so far."""
        return "".join(word.text for word in self.words).strip()

    def push(self, words: str | Iterable[str]) -> None:
        """Give it source words, as a list or as text that is split at white space.

        Raises
        ------
        SessionClosedError
            after `finish`; `reset` begins a new passage.
        CapacityError
            if they do not fit in the passage; none of them is taken.
        """
        if self._finished:
            raise SessionClosedError("the source is finished; reset() begins a new passage")
        new = [
            (word, self.template.word(word)) for word in (words.split() if isinstance(words, str) else words)
        ]
        if not self._writer.room_for(sum(len(ids) for _, ids in (*self._waiting, *new))):
            raise CapacityError(
                f"{len(new)} more words do not fit in the {self._sizes[0]} tokens of a passage: finish() it"
            )
        self._waiting += new

    def finish(self) -> None:
        """No more source words come."""
        self._finished = True

    def __iter__(self) -> Iterator[Word]:
        """The words that can be written now."""
        writer = self._writer
        while not self._over:
            if writer.wants_write():
                word = writer.write(self._run)
                if word is not None:
                    self._over = word.last
                    self.words.append(word)
                    yield word
            elif self._waiting:
                writer.read(*self._waiting.pop(0), self._run)
            elif self._finished and writer.is_open:
                writer.close(self._run)
            else:
                return

    def translate(self, source: str | Iterable[str]) -> list[Word]:
        """A whole passage at once, as if it arrived word by word."""
        self.reset()
        self.push(source)
        self.finish()
        return list(self)

    def _run(self, ids: list[int], cache: DualCache, causal: bool) -> Tensor:
        return run(self.model, ids, self.positions.view(cache), causal=causal)
