"""PDFAStreams: the learner as a stream operator; lines of text or symbols in, metric and automaton out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from unending.core import (
    Bound,
    Chunk,
    Domain,
    Event,
    Exactness,
    Operator,
    Paper,
    Rows,
    Spec,
    Symbols,
    Text,
    state,
)
from unending.core.errors import InputError
from unending.systems.learning.pdfa_streams.learning import (
    Learned,
    Learning,
    begin,
    close_batch,
    learn,
    refused_without_room,
    state_bytes,
)
from unending.systems.learning.pdfa_streams.lines import (
    MATCHES,
    SKIPPED,
    Ended,
    Lines,
    Reading,
    Weaver,
    empty_lines,
    expression,
    line_bytes,
    names_of,
)
from unending.systems.learning.pdfa_streams.model import PDFA
from unending.systems.learning.pdfa_streams.settings import Settings

__all__ = ["PDFAStreams", "PDFAStreamsState"]

NAMES = ("perplexity", "states", "nodes")
_TOLD = 10
"""Lines, all without a match, from which a stream that ends is an error and not just an empty one."""


@state
class PDFAStreamsState:
    """Learner, reader, and where the stream is."""

    learning: Learning
    lines: Lines
    position: int
    """Items so far: characters of text, ids of symbols."""
    began: int
    """Position at which the unfinished batch began."""
    drawn: int
    """1 if the newest hypothesis was given out as a graph."""


@dataclass(frozen=True)
class PDFAStreams(Operator[PDFAStreamsState]):
    """PDFA learned from a stream of strings (Baumgartner, Verwer, arXiv 2604.02244) as a stream operator.

    `Text`: each line is a string, made of the matches of `symbols` in it; or, where the expression has a group named
    `key`, the matches of one key in many lines are one string. A blank line is the empty string (without keys), a
    line without a match is skipped. `Symbols`: ids 0 to `alphabet - 1`; the id `alphabet` ends a string.
    After each batch comes `Rows` `[1, 3]` (perplexity of a step under the automaton before the batch, states, nodes),
    and if states or transitions changed the automaton as `Text(dot, role="graph")`; the last one comes at the end.

    Parameters
    ----------
    symbols
        regular expression. A match gives a symbol: its groups other than `key`, joined by a space, or all of it; a
        group within another adds nothing.
    alphabet
        most symbols; a further one is a `CapacityError`.
    rest
        name of one symbol, the last of the alphabet, that stands for all further ones instead; "" is none.
    batch_size
        strings between two hypotheses.
    nodes, strategy, heuristic, delta, min_state, sink, future_steps, sketch, futures, minhash, correction
        see `Settings`.
    max_length
        symbols of the longest string; at this length it ends and what follows begins another.
    line_size, name_size
        characters of a line and bytes of a symbol's name that are read; a longer name keeps its start and a hash.
    clients, gap
        strings that are open at once under keys (the one untouched for longest ends when another needs its place),
        and lines of the stream after which an untouched one ends; 0 is never.
    draw_from
        transitions of at least this probability are drawn.
    """

    symbols: str = r"\S+"
    alphabet: int = 64
    rest: str = ""
    batch_size: int = 500
    nodes: int = 4096
    strategy: str = "new"
    heuristic: str = "css"
    delta: float = 0.01
    min_state: int = 10
    sink: int = 25
    future_steps: int = 5
    sketch: tuple[int, int] = (1, 20)
    futures: str = "conditional"
    minhash: int = 2
    correction: float = 1.0
    max_length: int = 256
    line_size: int = 4096
    name_size: int = 48
    clients: int = 256
    gap: int = 2000
    draw_from: float = 0.01

    spec: ClassVar[Spec] = Spec(
        name="pdfa-streams",
        family="learning",
        title="a probabilistic automaton learned from an endless stream of strings, in bounded memory",
        takes=(Text, Symbols),
        gives=(Rows, Text),
        exactness=Exactness.allclose(1e-9),
        paper=Paper(
            "PAC learning PDFA from data streams", "Robert Baumgartner, Sicco Verwer", 2026, "2604.02244"
        ),
        unit="character",
    )

    def __post_init__(self) -> None:
        expression(self.symbols)
        for name, least in (
            ("batch_size", 1),
            ("line_size", 1),
            ("name_size", 16),
            ("clients", 1),
            ("gap", 0),
        ):
            if not least <= getattr(self, name) < 2**31:
                raise InputError(f"{name} is {getattr(self, name)}, accepted is {least} upwards, below 2^31")
        if "\0" in self.rest or len(self.rest.encode(errors="replace")) > self.name_size:
            raise InputError(
                f"rest is {self.rest[:80]!r}, accepted is a name of at most {self.name_size} bytes"
            )
        if self.line_size >= MATCHES:
            raise InputError(f"line_size is {self.line_size}, accepted is up to {MATCHES - 1}")
        if not 0 <= self.draw_from <= 1:
            raise InputError(f"draw_from is {self.draw_from}, accepted is 0 to 1")
        self.settings_of()

    @classmethod
    def example(cls) -> Self:
        return cls(
            symbols=r"\w", alphabet=32, batch_size=4, nodes=48, min_state=2, sink=3, future_steps=2, sketch=(1, 4),
            max_length=12, line_size=40, name_size=16, delta=0.5,
        )  # fmt: skip

    def settings_of(self) -> Settings:
        """The learner's settings."""
        return Settings(
            alphabet=self.alphabet,
            nodes=self.nodes,
            batch_size=self.batch_size,
            strategy=self.strategy,
            heuristic=self.heuristic,
            delta=self.delta,
            min_state=self.min_state,
            sink=self.sink,
            future_steps=self.future_steps,
            sketch=self.sketch,
            futures=self.futures,
            minhash=self.minhash,
            max_length=self.max_length,
            correction=self.correction,
        )

    def reading(self) -> Reading:
        """How text is read."""
        return Reading(
            self.symbols,
            self.alphabet,
            self.max_length,
            self.line_size,
            self.name_size,
            self.clients,
            self.gap,
            self.rest,
        )

    def domain(self) -> dict[type[Chunk], Domain]:
        return {Symbols: {"alphabet": self.alphabet + 1}}

    def init(self, seed: int = 0) -> PDFAStreamsState:
        with refused_without_room(self.bound().resident):
            return PDFAStreamsState(begin(self.settings_of(), seed), empty_lines(self.reading()), 0, 0, 0)

    def bound(self) -> Bound:
        return Bound(state_bytes(self.settings_of()) + line_bytes(self.reading()) + 3 * 8)

    def model(self, state: PDFAStreamsState) -> PDFA:
        """The newest hypothesis, for queries; `InputError` before the first."""
        return PDFA.of(state.learning.hypothesis, names_of(state.lines), self.correction)

    def _step(self, state: PDFAStreamsState, chunk: Chunk) -> tuple[PDFAStreamsState, list[Event]]:
        weaver = Weaver(state.lines, self.reading())
        if isinstance(chunk, Text):
            weaver.text(chunk.text, state.position)
        elif isinstance(chunk, Symbols):
            weaver.symbols(chunk.ids, state.position)
        return self._learned(state, weaver, state.position + len(chunk), last=False)

    def _finish(self, state: PDFAStreamsState) -> tuple[PDFAStreamsState, list[Event]]:
        weaver = Weaver(state.lines, self.reading())
        weaver.finish(state.position)
        learning, unmatched = state.learning, int(weaver.counts[SKIPPED])
        if unmatched >= _TOLD and not learning.seen and not weaver.ended:
            raise InputError(
                f"none of the {unmatched} lines read has a match of symbols, {self.symbols[:80]!r}"
            )
        return self._learned(state, weaver, state.position, last=True)

    def _learned(
        self, state: PDFAStreamsState, weaver: Weaver, position: int, *, last: bool
    ) -> tuple[PDFAStreamsState, list[Event]]:
        settings, lines = self.settings_of(), weaver.done()
        before = state.learning.seen
        learning, reports = learn(state.learning, settings, [each.ids for each in weaver.ended])
        if last:
            learning, more = close_batch(learning, settings)
            reports += more
        events: list[Event] = []
        began, drawn = state.began, state.drawn
        for report in reports:
            at = report.strings - before
            closing = weaver.ended[at - 1] if at > 0 else Ended(position, -1, [])
            end = closing.position
            events.append(Event(self._row(report), began, end))
            drawn = int(report.changed)
            if report.changed:
                graph = PDFA.of(report.hypothesis, names_of(lines, closing.named), self.correction)
                events.append(Event(self._graph(graph), began, end))
            began = end
        if last and not drawn and learning.hypothesis.meta[0]:
            graph = PDFA.of(learning.hypothesis, names_of(lines), self.correction)
            events.append(Event(self._graph(graph), position, position))
            drawn = 1
        return PDFAStreamsState(learning, lines, position, began, drawn), events

    def _row(self, report: Learned) -> Rows:
        return Rows(np.array([[report.perplexity, report.states, report.nodes]]), NAMES)

    def _graph(self, pdfa: PDFA) -> Text:
        return Text(pdfa.to_dot(self.draw_from), role="graph")

    def offline(self, stream: Sequence[Chunk]) -> list[Event]:
        """The whole stream by the plain reference of `naive_stream`: lists, dictionaries, and copies of the tree."""
        from unending.systems.learning.pdfa_streams.naive_stream import offline

        return offline(self, stream)
