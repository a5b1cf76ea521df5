"""The training runs behind `stream_x.py`: each is one agent, environment and seed, and leaves one JSON file.

`python benchmarks/stream_x_runs.py PATTERN...` makes the runs whose names match (`cartpole/*`, `*/stream`), leaves
out those whose file is there, and can be stopped and started at any time. Settings are fixed here, before any result.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

os.environ.setdefault("MUJOCO_GL", "disable")
sys.path.insert(0, str(Path(__file__).parent))

import gymnasium as gym
import numpy as np
import torch
from command import progress

from unending.core.errors import UnendingError
from unending.systems.learning.stream_x import (
    AtariNetwork,
    MinAtarNetwork,
    NormalizeObservation,
    ScaleReward,
    StreamAC,
    StreamQ,
    wrap,
    wrap_pictures,
)

WORK = Path(__file__).parents[1] / ".cache" / "stream-x"

PLAIN = {"sparsity": 0.0, "layer_norm": False}
RAW = {"normalize": False, "scale": False, "time": False}
FIXED = {"optimizer": "sgd", "lr": 1e-3}
ARMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "stream": ({}, {}),
    "no-sparse-start": ({"sparsity": 0.0}, {}),
    "no-layer-norm": ({"layer_norm": False}, {}),
    "no-normalisation": ({}, {"normalize": False}),
    "no-reward-scale": ({}, {"scale": False}),
    "no-bound": (FIXED, {}),
    "plain-sgd": ({**PLAIN, **FIXED}, RAW),
    "plain-adam": ({**PLAIN, "optimizer": "adam", "lr": 1e-3}, RAW),
    "plain-adam-small": ({**PLAIN, "optimizer": "adam", "lr": 3e-4}, RAW),
    "adaptive": ({"optimizer": "adaptive"}, {}),
}
"""What is changed of the paper's settings: of the agent, of the wrappers. `no-bound` is the same agent with the
fixed step 1e-3; the plain ones are Q(lambda) and AC(lambda) on raw inputs with a dense start and no normalisation."""


@dataclass(frozen=True)
class Run:
    """One run: its name is where its result lies."""

    task: str
    env: str
    arm: str
    seed: int
    steps: int
    kind: str = "q"
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.task}/{self.arm}/{self.seed}"


def runs() -> Iterator[Run]:
    """All runs, those of the claims first."""
    for seed in range(5):
        for arm in ARMS:
            yield Run("cartpole", "CartPole-v1", arm, seed, 50_000)
    for seed in range(5):
        for arm in ("stream", "no-bound", "plain-sgd", "plain-adam"):
            yield Run("acrobot", "Acrobot-v1", arm, seed, 100_000)
    for task, env in (("halfcheetah", "HalfCheetah-v5"), ("hopper", "Hopper-v5")):
        for seed in range(3):
            for arm in ("stream", "no-bound", "plain-adam-small"):
                yield Run(task, env, arm, seed, 200_000, "ac")
    for seed in range(3):
        yield Run("cartpole", "CartPole-v1", "dqn", seed, 50_000, "dqn")
        yield Run("cartpole", "CartPole-v1", "dqn-1", seed, 50_000, "dqn", {"one": True})
    for seed in range(5):
        for arm in ("stream", "adaptive", "plain-adam"):
            yield Run("cartpole-long", "CartPole-v1", arm, seed, 500_000)
            yield Run("acrobot-long", "Acrobot-v1", arm, seed, 500_000)
    for arm in ("stream", "no-bound"):
        yield Run("dog-walk", "dog-walk", arm, 0, 50_000, "ac")
    yield Run("breakout", "ALE/Breakout-v5", "stream", 0, 10_000, "pictures")
    for arm in ("stream", "no-bound"):
        yield Run("minatar", "breakout", arm, 0, 50_000, "pictures")
    for task, env in (("halfcheetah", "HalfCheetah-v5"), ("hopper", "Hopper-v5")):
        for seed in range(3):
            yield Run(task, env, "ppo", seed, 200_000, "ppo")
        yield Run(task, env, "ppo-1", 0, 20_000, "ppo", {"one": True})
        yield Run(task, env, "sac-1", 0, 20_000, "sac", {"one": True})


class _Boards(gym.Env):
    """A MinAtar game, channels first."""

    def __init__(self, game: str) -> None:
        from minatar import Environment

        self.made = Environment(game)
        height, width, channels = self.made.state_shape()
        self.observation_space = gym.spaces.Box(0, 1, (channels, height, width), np.float64)
        self.action_space = gym.spaces.Discrete(self.made.num_actions())

    def _seen(self) -> np.ndarray:
        return self.made.state().transpose(2, 0, 1).astype(np.float64)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.made.seed(seed)
        self.made.reset()
        return self._seen(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward, ended = self.made.act(int(action))
        return self._seen(), float(reward), bool(ended), False, {}


def _made(run: Run) -> gym.Env:
    """The environment with the wrappers of its arm."""
    if run.task == "breakout":
        from unending.io.atari import atari

        return wrap_pictures(atari(run.env))
    if run.task == "minatar":
        boards = gym.wrappers.RecordEpisodeStatistics(_Boards(run.env))
        return NormalizeObservation(ScaleReward(boards))
    if run.task == "dog-walk":
        from unending.io.dm_control import ControlSuite

        return wrap(ControlSuite("dog", "walk"), **ARMS[run.arm][1])
    return wrap(gym.make(run.env), **ARMS[run.arm][1])


def stream(run: Run) -> dict[str, Any]:
    """A stream-x agent, or what is left of one."""
    changed, _ = ARMS[run.arm]
    env = _made(run)
    made = {"seed": run.seed, **changed}
    agent: Any
    if run.kind == "q":
        agent = StreamQ(env.observation_space, env.action_space, total_steps=run.steps, **made)
    elif run.kind == "pictures":
        actions = int(env.action_space.n)
        channels = env.observation_space.shape[0]
        net = AtariNetwork(actions) if run.task == "breakout" else MinAtarNetwork(actions, channels)
        share = 0.2 if run.task == "minatar" else 0.05
        agent = StreamQ(
            env.observation_space,
            env.action_space,
            network=net,
            epsilon_fraction=share,
            total_steps=run.steps,
            **made,
        )
    else:
        agent = StreamAC(env.observation_space, env.action_space, **made)
    found: list[tuple[int, float, int]] = []

    def watch(told: dict[str, Any]) -> None:
        if "episode" in told["info"]:
            episode = told["info"]["episode"]
            found.append((told["step"], round(float(episode["r"]), 3), int(episode["l"])))

    failed = ""
    try:
        agent.learn(env, run.steps, watch, seed=run.seed)
    except UnendingError as error:
        failed = str(error)
    return {"episodes": found, "failed": failed, "updates": agent.updates}


def stable_baselines(run: Run) -> dict[str, Any]:
    """DQN, PPO or SAC of stable-baselines3 with its defaults; `one`: with a buffer and a batch of one."""
    import stable_baselines3 as sb3
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.monitor import Monitor

    env = Monitor(gym.make(run.env))
    one = run.options.get("one", False)
    model: Any
    if run.kind == "dqn":
        single = {"buffer_size": 1, "batch_size": 1, "learning_starts": 1, "train_freq": 1} if one else {}
        model = sb3.DQN("MlpPolicy", env, seed=run.seed, device="cpu", **single)
    elif run.kind == "ppo":
        single = {"n_steps": 1, "batch_size": 1, "normalize_advantage": False} if one else {}
        model = sb3.PPO("MlpPolicy", env, seed=run.seed, device="cpu", **single)
    else:
        single = {"buffer_size": 1, "batch_size": 1, "learning_starts": 1} if one else {}
        model = sb3.SAC("MlpPolicy", env, seed=run.seed, device="cpu", **single)
    found: list[tuple[int, float, int]] = []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            for info in self.locals["infos"]:
                if "episode" in info:
                    found.append((self.num_timesteps, float(info["episode"]["r"]), int(info["episode"]["l"])))
            return True

    failed = ""
    try:
        model.learn(run.steps, callback=Watch())
    except ValueError as error:  # torch's distributions refuse NaN
        failed = str(error).splitlines()[0]
    return {"episodes": found, "failed": failed, "updates": run.steps}


KINDS: dict[str, Callable[[Run], dict[str, Any]]] = {
    "q": stream,
    "ac": stream,
    "pictures": stream,
    "dqn": stable_baselines,
    "ppo": stable_baselines,
    "sac": stable_baselines,
}


def result(run: Run, work: Path = WORK) -> dict[str, Any]:
    """The result of a run, made now if it is not there."""
    path = work / f"{run.name}.json"
    if path.is_file():
        return json.loads(path.read_text())
    torch.set_num_threads(1)
    began, cpu = time.perf_counter(), time.process_time()
    found = KINDS[run.kind](run)
    found |= {
        "steps": run.steps,
        "seconds": round(time.perf_counter() - began, 1),
        "cpu": round(time.process_time() - cpu, 1),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(found))
    part.rename(path)
    returns = [each[1] for each in found["episodes"]]
    last = f"{np.mean(returns[-20:]):.0f}" if returns else "none"
    progress(f"{run.name}: {found['cpu']} CPU s, last 20 episodes {last} {found['failed']}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("patterns", nargs="*", default=["*"], help="names of runs, with wildcards")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of the results")
    options = parser.parse_args()
    for run in runs():
        if any(fnmatch(run.name, pattern) for pattern in options.patterns):
            result(run, options.work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
