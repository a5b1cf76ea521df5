"""The operator: arms arrive as rows, pulls are drawn, the regret comes out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Self

import numpy as np

from unending.core import (
    Bound,
    Chunk,
    Control,
    Domain,
    Event,
    Exactness,
    Operator,
    Paper,
    Rows,
    Spec,
    nbytes,
    state,
)
from unending.core.errors import InputError
from unending.systems.learning.streaming_bandits.arms import Arm
from unending.systems.learning.streaming_bandits.exploration import HAND, Algorithm, Draft, Exploration
from unending.systems.learning.streaming_bandits.game_of_arms import GameOfArms
from unending.systems.learning.streaming_bandits.naive import Arena, play_naively
from unending.systems.learning.streaming_bandits.screening import NaiveEpsBest, UniformExploration
from unending.systems.learning.streaming_bandits.simulation import Ledger, Match
from unending.systems.learning.streaming_bandits.tower import AggressiveTower

__all__ = ["ALGORITHMS", "COLUMNS", "BanditState", "StreamingBandits"]

ALGORITHMS: Mapping[str, Callable[..., Algorithm]] = {
    "uniform": UniformExploration,
    "naive": NaiveEpsBest,
    "game-of-arms": GameOfArms,
    "game-of-arms-side": partial(GameOfArms, side_run=True),
    "tower-logstar": AggressiveTower,
    "tower-theory": partial(AggressiveTower, constants="theory"),
    "tower-log": partial(AggressiveTower, levels="log"),
    "tower-loglog": partial(AggressiveTower, levels="loglog"),
}
"""By the name that `StreamingBandits.algorithm` takes; each is called with K and T."""

COLUMNS = ("regret", "pulls", "stored", "champion", "round")


@state
class BanditState:
    """What a session of `StreamingBandits` remembers."""

    exploration: Exploration
    means: np.ndarray
    """float64 `[slots]`: success probability of each slot's arm, which pulls are drawn with."""
    ledger: np.ndarray
    """float64 `[2]`: regret of this round, best mean seen in it."""
    time: np.ndarray
    """float64 `[]`: stream time of the next arm."""
    position: int
    """Arms that have arrived."""
    round: int
    draws: int
    seed: int


@dataclass(frozen=True)
class StreamingBandits(Operator[BanditState]):
    """Single-pass streaming bandits (Chen Wang, ICML 2023, arXiv 2306.02208) as a stream operator.

    A row is one arm that arrives: its success probability. The pulls that the algorithm asks for are drawn from it;
    the algorithm sees their sums alone. After each arm a row comes out:

    - `regret`: sum over all pulls of this round of the best mean seen so far less the mean of the arm pulled. After the
      round's last arm that best is the best of all K, so the round's last row is its regret in the paper's sense.
    - `pulls` made in this round, `stored` arms, `champion` (position in the stream of the arm that would be committed
      to), `round`.

    With the K-th arm, `Control("commit")`, or the end of the stream, the algorithm makes its final comparisons and
    commits: the rest of the T pulls goes to the champion, and one more row comes out. The next arm begins a new round.

    Parameters
    ----------
    algorithm
        one of `ALGORITHMS`.
    arms, horizon
        K arms and T pulls a round.
    eps
        how near to the best the champion should be; 0 is `(K/T)^(1/3)`.
    link
        what a row holds: `"identity"`, a probability in 0..1; `"logit"`, its log-odds, any number.

    Raises
    ------
    InputError
        for an unknown algorithm or link, or settings that the algorithm refuses; in a step, for a probability outside
        0..1 or an unknown control. The state stays as it was.
    """

    algorithm: str = "game-of-arms"
    arms: int = 100
    horizon: int = 1_000_000
    eps: float = 0.0
    link: str = "identity"

    spec: ClassVar[Spec] = Spec(
        name="streaming-bandits",
        family="learning",
        title="the best of many arms in a single pass, with one of them in memory",
        takes=(Rows, Control),
        gives=(Rows,),
        exactness=Exactness.allclose(1e-9),
        paper=Paper(
            "Tight Regret Bounds for Single-pass Streaming Multi-armed Bandits",
            "Chen Wang",
            2023,
            "2306.02208",
        ),
        unit="arm",
    )

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise InputError(f"algorithm {self.algorithm!r}; {', '.join(ALGORITHMS)} are accepted")
        if self.link not in ("identity", "logit"):
            raise InputError(f"link {self.link!r}; identity and logit are accepted")
        self.machine()

    @classmethod
    def example(cls) -> Self:
        return cls(arms=7, horizon=900, link="logit")

    def machine(self) -> Algorithm:
        """The algorithm of these settings."""
        return ALGORITHMS[self.algorithm](self.arms, self.horizon, self.eps)

    def domain(self) -> Mapping[type[Chunk], Domain]:
        return {Rows: {"width": 1}}

    def bound(self) -> Bound:
        return Bound(nbytes(self.init()))

    def init(self, seed: int = 0) -> BanditState:
        start = self.machine().start(seed)
        return BanditState(start, np.zeros(len(start.arms)), np.zeros(2), np.zeros(()), 0, 0, 0, seed)

    def probabilities(self, values: np.ndarray, first: int = 0) -> list[float]:
        """Success probabilities of rows `[n, 1]`, the first of which is arm `first` of the stream."""
        column = values[:, 0].astype(np.float64)
        if self.link == "logit":
            return (0.5 + 0.5 * np.tanh(0.5 * column)).tolist()  # type: ignore[no-any-return]
        if outside := np.flatnonzero((column < 0) | (column > 1)).tolist():
            raise InputError(
                f"arm {first + outside[0]} of the stream (counted from 0) is {column[outside[0]]:g};"
                " a success probability from 0 to 1 is accepted"
            )
        return column.tolist()  # type: ignore[no-any-return]

    def _step(self, state: BanditState, chunk: Chunk) -> tuple[BanditState, list[Event]]:
        table = _Table(self.machine(), state)
        if isinstance(chunk, Rows):
            if chunk.t is not None:
                table.time = float(chunk.t)
            for mean in self.probabilities(chunk.values, state.position):
                table.arrive(mean)
        elif isinstance(chunk, Control):
            if chunk.name not in ("commit", "interrupt"):
                raise InputError(f"control {chunk.name!r}; commit is accepted")
            if chunk.name == "commit":
                table.commit()
        return table.state(), table.events

    def _finish(self, state: BanditState) -> tuple[BanditState, list[Event]]:
        table = _Table(self.machine(), state)
        table.commit()
        return table.state(), table.events

    def offline(self, stream: Sequence[Chunk]) -> list[Event]:
        """The rows by plain loops over whole rounds (`naive.py`), under the seed 0."""
        machine = self.machine()
        rounds: list[list[tuple[float, float]]] = [[]]
        time = 0.0
        for chunk in stream:
            if isinstance(chunk, Rows):
                time = time if chunk.t is None or not len(chunk) else chunk.t
                for mean in self.probabilities(chunk.values):
                    rounds[-1].append((mean, time))
                    time += 1
                    if len(rounds[-1]) == self.arms:
                        rounds.append([])
            elif isinstance(chunk, Control) and chunk.name == "commit" and rounds[-1]:
                rounds.append([])
        events = []
        first = draws = 0
        for number, each in enumerate(rounds):
            if each:
                arena = Arena([mean for mean, _ in each], self.horizon, 0, first, draws)
                play_naively(machine, arena)
                first, draws = first + len(each), arena.draws
                for (_, begin), row in zip(each, arena.rows, strict=False):
                    events.append(_event(row, number, begin, begin + 1))
                events.append(_event(arena.rows[-1], number, each[-1][1] + 1, each[-1][1] + 1))
        return events


def _event(row: Sequence[float], number: int, begin: float, end: float) -> Event:
    return Event(Rows(np.array([[*row, number]], dtype=np.float64), names=COLUMNS), begin, end)


class _Table:
    """The match of a session, set up from a state, played on, and put back."""

    def __init__(self, machine: Algorithm, state: BanditState) -> None:
        self.machine, self.seed = machine, state.seed
        self.position, self.round, self.time = state.position, state.round, float(state.time)
        self.events: list[Event] = []
        self.match = Match(machine, Draft(state.exploration), state.seed, state.draws)
        self.match.resume(state.means)
        self.match.ledger = Ledger(float(state.ledger[0]), float(state.ledger[1]), self.match.at.used)

    def arrive(self, mean: float) -> None:
        self.match.arrive(Arm(self.position, mean))
        self.position += 1
        self._tell(self.time, self.time + 1)
        self.time += 1
        if self.match.at.arrived == self.machine.arms:
            self.commit()

    def commit(self) -> None:
        """Commit, and lay out a new round."""
        if not self.match.at.arrived:
            return
        self.match.commit()
        self._tell(self.time, self.time)
        self.round += 1
        self.match = Match(self.machine, Draft(self.machine.start(self.seed)), self.seed, self.match.draws)

    def _tell(self, begin: float, end: float) -> None:
        match = self.match
        row = match.ledger.regret, match.ledger.pulls, len(match.store), match.champion
        self.events.append(_event(row, self.round, begin, end))

    def state(self) -> BanditState:
        match = self.match
        means = np.zeros(len(match.at.arms))
        for slot, arm in enumerate(match.at.arms.tolist()):
            if slot != HAND and arm >= 0:
                means[slot] = match.store[arm].mean
        return BanditState(
            match.at.state(),
            means,
            np.array([match.ledger.regret, match.ledger.best]),
            np.asarray(self.time),
            self.position,
            self.round,
            match.draws,
            self.seed,
        )
