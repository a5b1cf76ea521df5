"""StreamingThinker for a model and a tokenizer at hand: sentences in, thoughts out, with one thread or with two."""

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from threading import Condition, Thread
from time import perf_counter
from typing import Any, Self

import torch
from torch import nn

from unending.core.errors import CapacityError, SessionClosedError
from unending.parts.backbones import LanguageBackbone
from unending.parts.memory import DualCache, forward
from unending.parts.reading.answers import choose
from unending.systems.language.streaming_thinker.layout import Layout, add_marks
from unending.systems.language.streaming_thinker.script import DONE, ROLES, Script
from unending.systems.language.streaming_thinker.sentences import SentenceSplitter, Units
from unending.systems.language.streaming_thinker.thoughts import Source, Thought

__all__ = ["StreamingThinker"]


class StreamingThinker:
    """Thinks about each sentence while the next ones arrive (Tong et al. 2025, arXiv 2510.17238).

    Reading and writing keep a KV cache each, and reading never looks at what was written. So with `concurrent`
    a reader thread extends the source while a writer thread extends the target. The reader publishes a segment once
    its keys and values are complete; the writer takes a view of exactly the segments that its unit may see, however
    many more have been read, and waits where one has not come. The tokens are the same for any interleaving.

    Parameters
    ----------
    model, tokenizer
        a causal language model of transformers trained to think so, and its tokenizer; both get the seven marks.
    depth
        "D1", "D2" or "D3"; see `DEPTHS`.
    units, layout
        what cuts the text into units, `SentenceSplitter()` by default; the fixed texts, by default those of training.
    question
        comes first; without one, a first sentence that ends with "?" is the question.
    lookahead
        source segments that a unit sees beyond its own; 0 is as trained, 1 is upstream's inference.
    temperature, top_p, top_k, seed
        of sampling; a draw depends on the seed and the number of the token alone.
    max_unit_tokens, max_new_tokens
        after which a thought, and the deep part or the answer, is ended by force.
    source_tokens, max_sentences
        room of the source.
    concurrent
        read and write in two threads.

    Raises
    ------
    InputError
        if a setting is out of range.
    CapacityError
        if the question does not fit into the source.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        depth: str = "D2",
        units: Units | None = None,
        *,
        question: str = "",
        layout: Layout | None = None,
        lookahead: int = 0,
        temperature: float = 0.6,
        top_p: float = 0.95,
        top_k: int = 20,
        seed: int = 0,
        max_unit_tokens: int = 64,
        max_new_tokens: int = 2048,
        source_tokens: int = 4096,
        max_sentences: int = 256,
        concurrent: bool = False,
    ) -> None:
        add_marks(tokenizer, model)
        self.model, self.tokenizer = model, tokenizer
        self.layout, self.units = layout or Layout.of(model, tokenizer), units or SentenceSplitter()
        self._backbone = LanguageBackbone("", model, tokenizer, "")
        self.script = Script.of(
            tokenizer,
            self.layout,
            depth,
            lookahead=lookahead,
            max_unit_tokens=max_unit_tokens,
            max_new_tokens=max_new_tokens,
            stops=self._backbone.stops,
        )
        self._sampling, self._seed, self._asked = (temperature, top_k, top_p), seed, bool(question.strip())
        self._most, self._sentences, self._held = max_sentences, 0, ""
        self._room, self._tokens = source_tokens, 0
        target = self.script.target_tokens(max_sentences)
        self._reading = DualCache.of(model, source_tokens, target, segments=max_sentences + 3)
        self._began = perf_counter()
        self._changed = Condition()
        self._arrived: deque[tuple[list[int], bool]] = deque()
        self._source = Source(self._reading.memory(), False)
        self._thoughts: deque[Thought] = deque()
        self._error: BaseException | None = None
        self._progress, self._spoken, self._target = self.script.start(), 0, 0
        self._ended = self._closing = False
        self._threads: list[Thread] = []
        marks = self.script.marks
        given = [self._ids(self.layout.instruction, marks.sep)]
        if self._asked:
            given.append(self._ids(question.strip(), marks.eoq))
        self._require_room(given, 0)
        for segment in given:
            self._put(segment)
        if concurrent:
            self._threads = [
                Thread(target=self._guarded, args=(each,), daemon=True)
                for each in (self._read_on, self._write_on)
            ]
            for thread in self._threads:
                thread.start()

    def feed(self, text: str, *, whole: bool = False) -> None:
        """Text that has arrived, in pieces of any length; `whole` says that a sentence ends with it.

        Raises
        ------
        SessionClosedError
            after `close`.
        CapacityError
            if it does not fit beside what came before; none of it is taken then.
        """
        if self._closing:
            raise SessionClosedError("the thinker is closed: no more text can come")
        held, done, texts = self._held + text, 0, []
        for unit in self.units.split(held):
            texts += [unit.text] if unit.text else []
            done = unit.end
        rest = held[done:]
        if whole and rest.strip():
            texts.append(rest.strip())
        rest = "" if whole else rest
        marks, sentences, asked = self.script.marks, self._sentences, self._asked
        segments = []
        for each in texts:
            question = not asked and not sentences and each.endswith("?")
            segments.append(self._ids(each, marks.eoq if question else marks.eos))
            asked, sentences = asked or question, sentences + (not question)
        self._require_room(segments, sentences + bool(rest.strip()))
        self._held, self._asked, self._sentences = rest, asked, sentences
        for segment in segments:
            self._put(segment)

    def _require_room(self, segments: list[list[int]], sentences: int) -> None:
        if sentences > self._most:
            raise CapacityError(f"a passage has {self._most} sentences at most (max_sentences)")
        total = self._tokens + sum(map(len, segments)) + len(self._ids(self.layout.end_of_turn))
        if total > self._room:
            raise CapacityError(
                f"a passage has {self._room} source tokens at most (source_tokens), not {total}"
            )

    def close(self) -> None:
        """No more text comes: what was held back is the last sentence. Closing twice is fine."""
        if not self._closing:
            self.feed("", whole=True)
            self._closing = True
            self._put(self._ids(self.layout.end_of_turn), last=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Thought]:
        """The thoughts from here on.

        With two threads it waits for them, up to the answer; with one it ends where the next thought needs a sentence
        that has not been fed, and can be taken up again after more has been.
        """
        while True:
            with self._changed:
                while self._threads and not (self._thoughts or self._ended or self._error):
                    self._changed.wait()
                if not self._thoughts and self._error:
                    raise self._error
                found = self._thoughts.popleft() if self._thoughts else None
            if found is None and not self._threads and not self._ended:
                found = self._next_unit()
                self._ended = self._progress.part == DONE
            if found is None:
                return
            yield found

    def _ids(self, text: str, *marks: int) -> list[int]:
        found = self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        return [*found, *marks]

    def _put(self, segment: list[int], *, last: bool = False) -> None:
        """A segment for the reader."""
        self._tokens += len(segment)
        if not self._threads:
            self._read(segment, last)
            return
        with self._changed:
            if self._error:
                raise self._error
            self._arrived.append((segment, last))
            self._changed.notify_all()

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except BaseException as error:  # of a thread of ours: the caller gets it from the iterator
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _read_on(self) -> None:
        """The reader thread."""
        while not self._source.closed:
            with self._changed:
                while not self._arrived and not self._error:
                    self._changed.wait()
                if self._error:
                    return
                segment, last = self._arrived.popleft()
            self._read(segment, last)

    def _read(self, segment: list[int], last: bool) -> None:
        """Encode a segment and publish it; what was published before is not touched."""
        if segment:
            self._reading.mode = "read"
            forward(self.model, self._block(segment), self._reading)
        self._reading.end_segment()
        with self._changed:
            self._source = Source(self._reading.memory(), last)
            self._changed.notify_all()

    def _block(self, ids: list[int]) -> torch.Tensor:
        return torch.tensor([ids], device=next(self.model.parameters()).device)

    def _write_on(self) -> None:
        """The writer thread."""
        while not self._ended and not self._error:
            thought = self._next_unit()
            with self._changed:
                if thought is not None:
                    self._thoughts.append(thought)
                # Together with the last thought, so that nobody takes its absence for the end.
                self._ended = self._progress.part == DONE
                self._changed.notify_all()

    def _view(self) -> tuple[DualCache, Source] | None:
        """The source as far as the next unit sees it; None while that has not come."""
        with self._changed:
            while True:
                source = self._source
                sees = self.script.sees(self._progress, source.memory.segments, closed=source.closed)
                if sees is not None:
                    break
                if not self._threads or self._error:
                    return None
                self._changed.wait()
        view = DualCache(replace(source.memory, target_count=self._target))
        view.mode, view.visible = "write", view.end_of(sees - 1)
        return view, source

    def _next_unit(self) -> Thought | None:
        """Write one unit of the target; None if it has to wait."""
        found = self._view()
        if found is None:
            return None
        start, received = perf_counter() - self._began, self._source.memory.source_count
        view, source = found
        if not self._target and (given := list(self.script.header[:-1])):
            wanted, view.visible = view.visible, view.end_of(0)
            forward(self.model, self._block(given), view)
            view.visible = wanted
        script, now = self.script, self._progress
        part, unit = script.part(now, source.memory.segments, closed=source.closed), now.unit
        ids: list[int] = []
        own: list[int] = []
        temperature, top_k, top_p = self._sampling
        while not ids or (now.part, now.unit) == (part, unit):
            logits = forward(self.model, self._block([now.token]), view)[0, -1]
            token = script.forced(now, part, question=self._asked)
            if token is None:
                chosen = choose(logits, temperature, self._seed, self._spoken, top_k=top_k, top_p=top_p)
                token = script.admit(now, part, chosen, question=self._asked)
            ids.append(token)
            own += [] if script.silent(now, part, token) else [token]
            self._spoken += 1
            now = script.after(now, part, token)
        self._progress, self._target = now, view.target_count
        text = self._backbone.decode(own)
        return Thought(ROLES[part], unit, tuple(ids), text, start, perf_counter() - self._began, received)
