"""Gymnasium environments at the other end of a closed loop: seeded episodes that can be lived again up to a step."""

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import isfinite
from typing import Any, TypeVar

import numpy as np

from unending.core import Chunk, Control, Event, Operator, Session, Transitions
from unending.core.errors import EnvironmentFailedError, InputError, MissingExtraError, SnapshotForeignError
from unending.core.random import philox

__all__ = ["Environment", "environment_for", "interact"]

T = TypeVar("T")

_REGISTERED_BY = {"ALE": ("ale_py", "atari"), "dm_control": ("unending.io.dm_control", "rl")}
"""Namespace of a name to the module whose import knows its environments, and the extra that brings it."""


class Environment:
    """One gymnasium environment as the source of a stream of transitions.

    Episode k is reset with a seed that depends on `seed` and k alone, so an environment that is deterministic but for
    its seed can be brought back to any step: `record` tells the episode and the actions taken in it, `restore` lives
    them again. Observations are flattened to float64 `[d]`; continuous actions are clipped to the action space, as
    the agents that draw them from a normal distribution expect. All actions of an episode are kept until it is over,
    so episodes without an end, or a time limit, take memory that grows.

    Parameters
    ----------
    name
        a gymnasium id (`"CartPole-v1"`, `"Ant-v5"`), or `"dm_control/dog-walk"`.
    seed
        of the episodes.

    Raises
    ------
    MissingExtraError
        if the package of the environment is absent.
    InputError
        if there is no such environment, or its spaces are none that can be flattened to vectors.
    EnvironmentFailedError
        if it exists and cannot be made.
    """

    def __init__(self, name: str, seed: int = 0) -> None:
        self.name, self.seed = name, seed
        self.kind: type[Chunk] = Transitions
        self.size: int | None = None
        self.unit = "steps"
        self._gym = _gymnasium()
        self._env = self._made(name)
        self.sizes: Mapping[str, int] = self._sizes()
        self.episode = -1
        self._actions: list[Any] = []
        self._action: int | np.ndarray | None = None
        self._at: np.ndarray | None = None
        self._taken = self._stand()

    def _made(self, name: str) -> Any:
        namespace = name.partition("/")[0] if "/" in name else ""
        try:
            if namespace in _REGISTERED_BY:
                found = importlib.import_module(_REGISTERED_BY[namespace][0])
                if namespace == "ALE":
                    self._gym.register_envs(found)
            env = self._gym.make(name, disable_env_checker=True)
        except ImportError as error:
            known = _REGISTERED_BY.get(namespace)
            how = f"; pip install 'unending[{known[1]}]'" if known else ""
            raise MissingExtraError(
                f"{name} needs a package that is not installed: {_line(error)}{how}"
            ) from error
        except self._gym.error.DependencyNotInstalled as error:
            raise MissingExtraError(f"{name}: {error}; pip install 'unending[rl]'") from error
        except self._gym.error.Error as error:
            raise InputError(
                f"there is no environment {name!r} that gymnasium can make: {_line(error)}"
            ) from error
        except Exception as error:  # a constructor may raise anything: it wants settings, a file is missing
            raise EnvironmentFailedError(f"{name} cannot be made: {_line(error)}") from error
        space = env.observation_space
        if isinstance(space, self._gym.spaces.Box) and len(space.shape) == 1:
            return env
        if not space.is_np_flattenable:
            raise InputError(f"observations of {name} cannot be flattened to a vector: {space}")
        return self._gym.wrappers.FlattenObservation(env)

    def _sizes(self) -> dict[str, int]:
        spaces = self._gym.spaces
        (observation,) = self._env.observation_space.shape
        limit = self._env.spec.max_episode_steps if self._env.spec else None
        sizes = {"observation": int(observation), "time_limit": int(limit or 0)}
        space = self._env.action_space
        if isinstance(space, spaces.Discrete):
            return {**sizes, "actions": int(space.n)}
        if isinstance(space, spaces.Box) and len(space.shape) == 1:
            return {**sizes, "action_width": int(space.shape[0])}
        raise InputError(f"{self.name} takes {space}; accepted are discrete actions or a vector of numbers")

    def see(self, events: Iterable[Event]) -> None:
        """Take the newest action out of what the agent gave; it has learned from all that `chunks` gave before."""
        for event in events:
            if isinstance(event.data, Control) and event.data.name == "action":
                self._action = event.data.value
        self._taken = self._stand()

    def _stand(self) -> tuple[int, bool, int, Any]:
        """Episode, whether it is over, actions taken in it, action still to be taken."""
        pending = self._action
        plain = pending.tolist() if isinstance(pending, np.ndarray | np.generic) else pending
        return self.episode, self._at is None, len(self._actions), plain

    def chunks(self, size: int = 1, skip: int = 0) -> Iterator[Chunk]:
        """An endless stream: `Control("reset", observation)` at the start of an episode, then a transition for every
        action that `see` was shown. `size` is 1 whatever is asked for, and `restore` says where it goes on, not `skip`.

        Raises
        ------
        EnvironmentFailedError
            if the environment raises, answers with NaN, infinity or another width than it said, or no action came.
        """
        while True:
            if self._at is None:
                yield Control("reset", self._reset())
            yield self._step()

    def _reset(self) -> np.ndarray:
        self.episode += 1
        self._actions, self._action = [], None
        seed = int(philox(self.seed, self.episode).integers(2**31))
        self._at = self._call(lambda: self._observation(self._env.reset(seed=seed)[0]))
        return self._at

    def _step(self) -> Transitions:
        if self._action is None:
            raise EnvironmentFailedError(f"{self.name} waits for an action, but the system gave none")
        before, action = self._at, self._action
        assert before is not None
        after, reward, terminated, truncated = self._apply(action)
        self._action, self._at = None, None if terminated or truncated else after
        return Transitions(
            observations=before[None],
            actions=np.asarray(action)[None],
            rewards=np.array([reward]),
            nexts=after[None],
            terminated=np.array([terminated]),
            truncated=np.array([truncated]),
        )

    def _apply(self, action: int | np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
        def step() -> tuple[Any, np.ndarray, float, bool, bool]:
            taken, kept = self._translated(action)
            observation, reward, terminated, truncated, _ = self._env.step(taken)
            number = np.asarray(reward, dtype=np.float64).item()
            if not isfinite(number):
                raise ValueError(f"its reward is {number}")
            return kept, self._observation(observation), number, bool(terminated), bool(truncated)

        kept, after, reward, terminated, truncated = self._call(step)
        self._actions.append(kept)
        return after, reward, terminated, truncated

    def _translated(self, action: int | np.ndarray) -> tuple[Any, int | list[float]]:
        """An action as the environment takes it, and as a plain value of the agent's."""
        space = self._env.action_space
        if isinstance(space, self._gym.spaces.Discrete):
            return int(space.start) + int(action), int(action)
        vector = np.asarray(action, dtype=np.float64)
        return np.clip(vector, space.low, space.high).astype(space.dtype), vector.tolist()

    def _observation(self, given: Any) -> np.ndarray:
        found = np.asarray(given, dtype=np.float64).reshape(-1)
        if len(found) != self.sizes["observation"]:
            raise ValueError(f"its observation has {len(found)} numbers, not {self.sizes['observation']}")
        if not np.isfinite(found).all():
            raise ValueError("its observation holds NaN or infinity")
        return found

    def _call(self, what: Callable[[], T]) -> T:
        try:
            return what()
        except Exception as error:  # whatever an environment does, what was learned must not be lost with it
            raise EnvironmentFailedError(
                f"{self.name} failed in episode {self.episode} at step {len(self._actions)}: {_line(error)}"
            ) from error

    def record(self) -> dict[str, Any]:
        """Where it stands, as plain values: `restore` of it in a new object goes on from here.

        A chunk after which `see` was not called, because the agent refused it or Ctrl-C came between, is not counted:
        it is lived again.
        """
        episode, over, steps, pending = self._taken
        return {
            "environment": self.name,
            "seed": self.seed,
            "episode": episode,
            "over": over,
            "actions": [] if over else self._actions[:steps],
            "pending": pending,
        }

    def restore(self, record: Mapping[str, Any]) -> None:
        """Live the episode of a record again, up to where it stood.

        Raises
        ------
        SnapshotForeignError
            if the record is of another environment or seed.
        EnvironmentFailedError
            if the environment raises.
        """
        if (record["environment"], record["seed"]) != (self.name, self.seed):
            raise SnapshotForeignError(
                f"the record is of {record['environment']} with seed {record['seed']},"
                f" this is {self.name} with seed {self.seed}"
            )
        self.episode = record["episode"]
        if record["over"]:
            self._at = None
            self._taken = self._stand()
            return
        self.episode -= 1
        self._reset()
        for action in record["actions"]:
            self._at = self._apply(action)[0]
        pending = record["pending"]
        self._action = np.array(pending) if isinstance(pending, list) else pending
        self._taken = self._stand()

    def close(self) -> None:
        """Let the environment go: its window, its processes.

        Raises
        ------
        EnvironmentFailedError
            if the environment raises.
        """
        self._call(self._env.close)


def environment_for(operator: Operator[Any], name: str, seed: int = 0) -> Environment:
    """The environment of that name, for an operator that acts in it.

    Raises
    ------
    InputError
        if the operator takes no transitions, or was given other sizes than the environment has; and what
        `Environment` raises.
    """
    if Transitions not in operator.spec.takes:
        taken = ", ".join(kind.__name__ for kind in operator.spec.takes)
        raise InputError(f"{operator.spec.name} acts in no environment: it takes {taken}")
    environment, settings = Environment(name, seed), operator.settings()
    for size in ("observation", "actions", "action_width"):
        has = environment.sizes.get(size)
        if settings.get(size) and settings[size] != has:
            raise InputError(f"{size} is {settings[size]}, but {name} has {has or 'none'}")
    return environment


def interact(session: Session[Any], environment: Environment, steps: int) -> Iterator[Event]:
    """Let an agent and its environment go on for so many transitions; what the agent gives is given out as it comes.

    Raises
    ------
    EnvironmentFailedError
        if the environment raises; the session keeps what it has learned, and goes on with another environment.
    """
    left = steps
    for chunk in environment.chunks():
        if isinstance(chunk, Transitions):
            left -= 1
        session.push(chunk)
        environment.see(())
        while events := session.poll():
            environment.see(events)
            yield from events
        if left <= 0:
            return


def _gymnasium() -> Any:
    try:
        import gymnasium
    except ImportError as error:
        raise MissingExtraError("environments need gymnasium: pip install 'unending[rl]'") from error
    return gymnasium


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
