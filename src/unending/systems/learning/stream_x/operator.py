"""stream-x as a stream operator: transitions in, actions and returns out, one update a transition."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar, Self

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
    Transitions,
)
from unending.core.errors import InputError, MissingExtraError, NumericalError
from unending.systems.learning.stream_x.fused import RULES
from unending.systems.learning.stream_x.networks import POLICY, VALUE, flat_size, flat_start
from unending.systems.learning.stream_x.session import StreamXState, Weights, copied, randomness, work
from unending.systems.learning.stream_x.stream import AGENTS, COUNTS, DRAWN, NUMBERS, begin, draw, run

__all__ = ["StreamX"]

WIDEST = 10_000
"""Numbers of an observation that multilayer perceptrons are given; beyond are pictures, which want convolutions."""


@dataclass(frozen=True)
class StreamX(Operator[StreamXState]):
    """Stream Q, SARSA, AC and TD(lambda) (Elsayed, Vasan, Mahmood 2024, arXiv 2410.14606) as one operator.

    `Control("reset", observation)` begins an episode; each transition is learned from once. For the newest
    observation comes `Event(Control("action", int or float64 [k]))`, at the end of an episode
    `Rows([[return, length]])`. Agent "td" gives `Rows([[error, prediction]])` a transition instead. Raw
    observations and rewards are fed: they are normalised and scaled here. A transition that does not begin where
    the last one ended begins an episode. On a recording the action taken is the transition's; SARSA's error takes
    the action that it draws itself.

    Parameters
    ----------
    agent
        "q", "sarsa", "ac" or "td".
    observation, actions, action_width
        width of an observation, number of discrete actions, width of a continuous one (for "ac", unclipped).
    hidden
        widths of the hidden layers; empty is the paper's: (32, 32) for q and sarsa, (128, 128) for ac and td.
    time_limit
        steps of an episode, for the time that is appended to observations; 0 where it is not known (10,000 is taken,
        as by `AddTimeInfo`), -1 appends no time.
    lr, gamma, lamda, kappa, kappa_policy, entropy, sparsity
        the paper's settings; `kappa` is the value network's.
    epsilon_start, epsilon_end, epsilon_steps
        share of random actions of q and sarsa, falling over so many choices.
    optimizer
        "obgd", "adaptive", or the unbounded baselines "sgd" and "adam".
    layer_norm, normalize, scale
        ingredients that ablations turn off.
    bootstrap_on_truncation
        whether a truncated episode is valued as if it went on.
    dtype
        of weights and traces: "float32" or "float64".
    """

    agent: str = "ac"
    observation: int = 0
    actions: int = 0
    action_width: int = 0
    hidden: tuple[int, ...] = ()
    time_limit: int = 0
    lr: float = 1.0
    gamma: float = 0.99
    lamda: float = 0.8
    kappa: float = 2.0
    kappa_policy: float = 3.0
    entropy: float = 0.01
    sparsity: float = 0.9
    epsilon_start: float = 1.0
    epsilon_end: float = 0.01
    epsilon_steps: int = 25_000
    optimizer: str = "obgd"
    layer_norm: bool = True
    normalize: bool = True
    scale: bool = True
    bootstrap_on_truncation: bool = False
    dtype: str = "float32"

    spec: ClassVar[Spec] = Spec(
        name="stream-x",
        family="learning",
        title="deep reinforcement learning from each transition once, without buffer or batch",
        takes=(Transitions, Control),
        gives=(Control, Rows),
        exactness=Exactness.allclose(1e-6),
        paper=Paper(
            "Streaming Deep Reinforcement Learning Finally Works",
            "Mohamed Elsayed, Gautham Vasan, A. Rupam Mahmood",
            2024,
            "2410.14606",
        ),
        unit="transition",
    )

    def __post_init__(self) -> None:
        for name, value, accepted in (
            ("agent", self.agent, AGENTS),
            ("optimizer", self.optimizer, RULES),
            ("dtype", self.dtype, ("float32", "float64")),
        ):
            if value not in accepted:
                raise InputError(f"{name} is {value!r}, accepted are {', '.join(accepted)}")
        for name in ("gamma", "lamda", "sparsity", "epsilon_start", "epsilon_end"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}, accepted is 0 to 1")
        if not (0 <= self.lr < inf and 0 <= self.entropy < inf):
            raise InputError("lr and entropy are finite numbers, 0 or more")
        if not (self.kappa > 0 and self.kappa_policy > 0 and self.epsilon_steps > 0):
            raise InputError("kappa, kappa_policy and epsilon_steps are more than 0")
        if min(self.observation, self.actions, self.action_width, self.time_limit + 1) < 0:
            raise InputError("sizes are 0 or more, time_limit is -1 or more")
        if min(self.hidden, default=1) < 1:
            raise InputError(f"hidden is {self.hidden}, accepted are widths of 1 or more")

    @classmethod
    def example(cls) -> Self:
        return cls(
            agent="q", observation=3, actions=2, hidden=(6, 5), time_limit=20, sparsity=0.5,
            epsilon_start=0.5, epsilon_steps=50, dtype="float64",
        )  # fmt: skip

    @property
    def discrete(self) -> bool:
        """Whether actions are numbers of a list."""
        return self.action_width == 0

    @property
    def sizes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Widths of the value network and of the policy network.

        Raises
        ------
        InputError
            if a width that the source would tell is still 0, or the agent does not take such actions.
        """
        if not self.observation:
            raise InputError("observation is 0: give the width of an observation")
        if self.observation > WIDEST:
            raise InputError(
                f"observations of {self.observation} numbers are pictures, accepted are up to {WIDEST}: use StreamQ"
                " with AtariNetwork (unending.io.atari makes the games), or an environment that gives features"
            )
        if self.agent != "td" and not (self.actions or self.action_width):
            raise InputError("actions and action_width are 0: give the number of actions, or their width")
        if self.actions and self.action_width:
            raise InputError("give actions or action_width, not both")
        if self.agent in ("q", "sarsa") and self.action_width:
            raise InputError(f"agent {self.agent!r} takes discrete actions; continuous ones are for 'ac'")
        hidden = self.hidden or ((32, 32) if self.agent in ("q", "sarsa") else (128, 128))
        body = (self.observation + (self.time_limit >= 0), *hidden)
        return (*body, self.actions if self.agent in ("q", "sarsa") else 1), (
            *body,
            self.actions or 2 * self.action_width or 1,
        )

    @property
    def _moments(self) -> int:
        return {"obgd": 0, "sgd": 0, "adaptive": 1, "adam": 2}[self.optimizer]

    def domain(self) -> Mapping[type[Chunk], Domain]:
        inside: dict[str, int] = {"observation": self.observation}
        if self.actions and self.agent != "td":
            inside["actions"] = self.actions
        if self.action_width and self.agent != "td":
            inside["action_width"] = self.action_width
        return {Transitions: inside, Control: {"reset": 1}}

    def bound(self) -> Bound:
        value, policy = self.sizes
        parameters = flat_size(value) + (flat_size(policy) if self.agent == "ac" else 0)
        networks = parameters * (2 + self._moments) * np.dtype(self.dtype).itemsize
        seen = 3 * self.observation + value[0]
        return Bound(networks + 8 * (seen + len(NUMBERS) + len(COUNTS) + 2))

    def init(self, seed: int = 0) -> StreamXState:
        value, policy = self.sizes
        d = self.observation
        return StreamXState(
            value=self._start(value, seed, VALUE),
            policy=self._start(policy if self.agent == "ac" else (), seed, POLICY),
            mean=np.zeros(d),
            m2=np.zeros(d),
            raw=np.zeros(d),
            now=np.zeros(value[0]),
            numbers=np.zeros(len(NUMBERS)),
            counts=np.zeros(len(COUNTS), np.int64),
            time=np.zeros(()),
            seed=seed,
        )

    def _start(self, sizes: tuple[int, ...], seed: int, stream: int) -> Weights:
        w = flat_start(sizes, self.sparsity, seed, stream, self.dtype) if sizes else np.zeros(0, self.dtype)
        first, second = (np.zeros(len(w) if self._moments >= need else 0, w.dtype) for need in (2, 1))
        return Weights(w, np.zeros_like(w), first, second)

    def _step(self, state: StreamXState, chunk: Any) -> tuple[StreamXState, list[Event]]:
        if type(chunk) is Control:
            return self._control(state, chunk)
        if type(chunk) is not Transitions:
            return state, []
        return self._learn(state, chunk)

    def _control(self, state: StreamXState, chunk: Control) -> tuple[StreamXState, list[Event]]:
        if chunk.name == "interrupt":
            return state, []
        if chunk.name != "reset":
            raise InputError(f"control {chunk.name!r} is unknown; stream-x knows reset and interrupt")
        try:
            raw = np.array(chunk.value, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"a reset gives an observation of {self.observation} numbers") from error
        if raw.shape != (self.observation,) or not np.isfinite(raw).all():
            raise InputError(f"a reset gives an observation of {self.observation} finite numbers")
        if not run.overloads:  # what is compiled is compiled in one wait, at the first step
            self._learn(state, self._nothing())
        new = copied(state, chunk.t)
        value, policy, memory, setting, _ = work(self, new)
        begin(value, policy, memory, setting, raw)
        self._require_finite(bool(np.isfinite(memory.m2).all()))
        if self.agent == "td":
            return new, []
        action = np.zeros((1, max(1, self.action_width)))
        acting = policy if self.agent == "ac" else value
        noise = randomness(self, state.seed, int(memory.counts[DRAWN]), 1)[0]
        draw(acting, setting, memory.now, noise, memory, action[0])
        at = float(new.time)
        return new, [self._action(action[0], at, at)]

    def _learn(self, state: StreamXState, chunk: Transitions) -> tuple[StreamXState, list[Event]]:
        n = len(chunk)
        actions = self._taken(chunk)
        new = copied(state, chunk.t)
        value, policy, memory, setting, constants = work(self, new)
        noise = randomness(self, state.seed, int(memory.counts[DRAWN]), n)
        told, nexts, totals, fine = run(
            value, policy, memory, setting, *constants, np.ascontiguousarray(chunk.observations), actions,
            np.ascontiguousarray(chunk.rewards), np.ascontiguousarray(chunk.nexts),
            np.ascontiguousarray(chunk.terminated), np.ascontiguousarray(chunk.truncated), noise,
        )  # fmt: skip
        self._require_finite(fine)
        start = float(new.time)
        new.time[...] = start + n
        if self.agent == "td":
            return new, [Event(Rows(told, names=("error", "prediction")), start, start + n)]
        done = chunk.terminated | chunk.truncated
        return new, [
            Event(Rows(totals[i : i + 1].copy(), names=("return", "length")), start + i, start + i + 1)
            if done[i]
            else self._action(nexts[i], start + i, start + i + 1)
            for i in range(n)
        ]

    def _nothing(self) -> Transitions:
        seen, flags = np.zeros((0, self.observation)), np.zeros(0, bool)
        actions = np.zeros((0, self.action_width)) if self.action_width else np.zeros(0, np.int64)
        return Transitions(seen, actions, np.zeros(0), seen, flags, flags)

    def _taken(self, chunk: Transitions) -> np.ndarray:
        if self.agent == "td":
            return np.zeros((len(chunk), 1))
        if self.discrete and chunk.actions.ndim != 1:
            raise InputError(f"actions have shape {chunk.actions.shape}, accepted is one number a step")
        return np.ascontiguousarray(chunk.actions, dtype=np.float64).reshape(
            len(chunk), max(1, self.action_width)
        )

    def _action(self, drawn: np.ndarray, start: float, end: float) -> Event:
        return Event(Control("action", int(drawn[0]) if self.discrete else drawn.copy()), start, end)

    @staticmethod
    def _require_finite(fine: bool) -> None:
        if not fine:
            raise NumericalError("weights or statistics would leave finite numbers: the step did not happen")

    def offline(self, stream: Sequence[Chunk]) -> list[Event]:
        """The stream through the torch agents (autograd, one trace a parameter) and plain running statistics."""
        try:
            from unending.systems.learning.stream_x.reference import offline
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                f"the reference is made of agents, which need {error.name}: pip install 'unending[rl]'"
            ) from error
        return offline(self, stream)
