"""Claims of stream-x (Elsayed, Vasan, Mahmood 2024), each a part of its own: `--only PART`.

The training runs are those of `stream_x_runs.py`, which fixes settings, seeds and baselines; a run whose result is in
`--work FOLDER` (default .cache/stream-x) is not made again.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import gymnasium as gym
import numpy as np
import stream_x_runs
from command import progress
from command import run as run_parts
from rows import RESULTS, Row
from stream_x_runs import result, runs

from unending.core import Control, Transitions, nbytes
from unending.systems.learning.stream_x import StreamAC, StreamQ, StreamTD, StreamX

SYSTEM = "stream-x"
IMAGES = RESULTS.parents[1] / "docs" / "images"

WINDOW = 20
"""Episodes that a mean return goes over."""
SPEED_UPDATES = {"fused": 3000, "torch": 600}
LENGTHS = (100, 1_000, 10_000, 100_000)
SERIES_GAMMA = 0.99


def found(task: str) -> dict[str, list[dict[str, Any]]]:
    """Results by arm, in the order of the seeds; arms whose runs are not there and may not be made are left out."""
    arms: dict[str, list[dict[str, Any]]] = {}
    for each in runs():
        if each.task == task and (MAKE or (stream_x_runs.WORK / f"{each.name}.json").is_file()):
            arms.setdefault(each.arm, []).append(result(each, stream_x_runs.WORK))
    return arms


MAKE = True


def best(one: dict[str, Any]) -> float:
    """The highest mean return of `WINDOW` episodes in a row that the run reached."""
    returns = np.array([each[1] for each in one["episodes"]])
    if len(returns) < WINDOW:
        return round(float(returns.mean()), 1) if len(returns) else float("nan")
    return round(float(np.convolve(returns, np.full(WINDOW, 1 / WINDOW), "valid").max()), 1)


def late(one: dict[str, Any]) -> float:
    """Mean return of the episodes that ended in the last tenth of the run; of a run that failed, before it did."""
    steps = one["steps"] if not one["failed"] else one["updates"]
    returns = [each[1] for each in one["episodes"] if each[0] > 0.9 * steps] or [
        each[1] for each in one["episodes"][-1:]
    ]
    return round(float(np.mean(returns)), 1) if returns else float("nan")


def area(one: dict[str, Any]) -> float:
    """Mean over steps of the return of the episode that a step belongs to: the area under the curve."""
    if not one["episodes"]:
        return float("nan")
    _, returns, lengths = np.array(one["episodes"]).T
    return round(float((returns * lengths).sum() / lengths.sum()), 1)


def told(arm: list[dict[str, Any]]) -> dict[str, Any]:
    said: dict[str, Any] = {
        "best 20 episodes": [best(each) for each in arm],
        "last tenth": [late(each) for each in arm],
        "area": [area(each) for each in arm],
    }
    if any(each["failed"] for each in arm):
        said["not finite after"] = [each["updates"] if each["failed"] else None for each in arm]
    return said


def settings(task: str) -> str:
    one = next(each for each in runs() if each.task == task)
    seeds = 1 + max(each.seed for each in runs() if each.task == task and each.arm == "stream")
    net = {"q": "two layers of 32", "ac": "two layers of 128"}.get(one.kind, "convolutional network")
    return (
        f"{one.env}, {seeds} seed(s), {one.steps} steps, {net}, settings of the paper; fixed steps 1e-3,"
        " Adam 1e-3 (AC: 3e-4)"
    )


def part_cartpole() -> list[Row]:
    """Stream Q against what the stream barrier stops, and with one ingredient less."""
    arms = found("cartpole")
    ours = told(arms["stream"])
    good = sum(each >= 450 for each in ours["best 20 episodes"])
    plain = {name: told(arms[name]) for name in arms if name.startswith(("plain", "dqn"))}
    ablated = {name: told(arms[name]) for name in arms if name.startswith("no-") or name == "adaptive"}
    return [
        Row(
            "CartPole: stream Q reaches 450, Q(lambda) on raw inputs and DQN with a buffer of one do not",
            "stream Q learns, classic Q(lambda) and DQN1 fail",
            "Q(lambda) with SGD and Adam, and stable-baselines3 DQN (defaults; buffer and batch 1; 3 seeds)",
            plain,
            ours,
            "return, 500 is the most",
            settings("cartpole"),
            note=f"{good} of {len(arms['stream'])} seeds reach 450; {_rates(arms)}",
        ),
        Row(
            "CartPole: one ingredient removed at a time, and AdaptiveObGD",
            "each removal degrades",
            "stream Q, all ingredients",
            ours,
            ablated,
            "return, 500 is the most",
            settings("cartpole"),
        ),
    ]


def _above(arms: dict[str, list[dict[str, Any]]]) -> str:
    said = []
    for what, measure in (("area", area), ("last tenth", late)):
        most = max(measure(each) for name, arm in arms.items() if name != "stream" for each in arm)
        over = sum(measure(each) > most for each in arms["stream"])
        said.append(f"{what} above every run of every peer in {over} of {len(arms['stream'])} seeds")
    return ", ".join(said)


def _rates(arms: dict[str, list[dict[str, Any]]]) -> str:
    cpu = {
        name: round(float(np.mean([each["updates"] / each["cpu"] for each in arm])))
        for name, arm in arms.items()
    }
    return f"environment and agent, steps a CPU second: {cpu}"


def _simple(task: str, claim: str, paper: str, peer: str, unit: str) -> Row | None:
    arms = found(task)
    if "stream" not in arms:
        return None
    others = {name: told(arm) for name, arm in arms.items() if name != "stream"}
    note = f"{_above(arms)}; {_rates(arms)}" if len(arms) > 1 else _rates(arms)
    return Row(claim, paper, peer, others, told(arms["stream"]), unit, settings(task), note=note)


def part_classic() -> list[Row]:
    """Acrobot, and both tasks over the paper's 500,000 steps."""
    rows = [
        _simple(
            task,
            f"{name}: stream Q learns",
            "stream Q learns, classic Q(lambda) fails",
            "the same without the bound, Q(lambda) on raw inputs with SGD and Adam, AdaptiveObGD; those that ran",
            "return",
        )
        for task, name in (
            ("acrobot", "Acrobot, 100,000 steps"),
            ("cartpole-long", "CartPole, 500,000 steps"),
            ("acrobot-long", "Acrobot, 500,000 steps"),
        )
    ]
    return [each for each in rows if each]


def part_mujoco() -> list[Row]:
    """Stream AC on two tasks, beside AC(lambda) without the bound, without anything, and PPO and SAC."""
    rows = [
        _simple(
            task,
            f"{name}: stream AC learns steadily and above AC(lambda)",
            "comparable to PPO at 2M steps, classic AC(lambda) and SAC1 fail",
            "the same with a fixed step; AC(lambda) with Adam on raw inputs; stable-baselines3; those that ran",
            "return",
        )
        for task, name in (("halfcheetah", "HalfCheetah-v5"), ("hopper", "Hopper-v5"))
    ]
    return [each for each in rows if each]


def part_large() -> list[Row]:
    """DM Control dog-walk, Atari and MinAtar: throughput and a short curve."""
    rows = [
        _simple(
            task, f"{name}: runs, a short curve", paper, "the same with a fixed step, where it ran", "return"
        )
        for task, name, paper in (
            ("dog-walk", "DM Control dog-walk", "best model-free score at 10M steps"),
            ("breakout", "Atari Breakout", "close to DQN at 10M steps"),
            ("minatar", "MinAtar Breakout", "above DQN at 5M steps"),
        )
    ]
    return [each for each in rows if each]


def _updates(agent: Any, width: int, action: Any, updates: int) -> float:
    """Updates a second, each with the choice of the action before it."""
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(updates + 11, width))
    rewards = rng.normal(size=updates + 11)
    for i in range(10):
        agent.update(seen[i], action, rewards[i], seen[i + 1], False)
    began = time.perf_counter()
    for i in range(10, updates + 10):
        agent.act(seen[i])
        agent.update(seen[i], action, rewards[i], seen[i + 1], False)
    return updates / (time.perf_counter() - began)


def part_speed() -> list[Row]:
    """The fused loop against torch in the structure of the public code, in one process, one thread."""
    rows = []
    for name, kind, width, action in (
        ("stream AC, HalfCheetah's sizes (18, 128, 128; 6 actions)", StreamAC, 18, np.zeros(6)),
        ("stream Q, CartPole's sizes (5, 32, 32, 2)", StreamQ, 5, 1),
    ):
        box = gym.spaces.Box(-np.inf, np.inf, (width,))
        actions = gym.spaces.Discrete(2) if isinstance(action, int) else gym.spaces.Box(-1, 1, (6,))
        rates: dict[str, list[float]] = {"fused": [], "torch": []}
        for _ in range(3):  # by turns, so that both meet the same load
            for backend, held in rates.items():
                agent = kind(box, actions, backend=backend)
                held.append(_updates(agent, width, action, SPEED_UPDATES[backend]))
        mid = {backend: float(np.median(held)) for backend, held in rates.items()}
        progress(f"{name}: {mid}")
        rows.append(
            Row(
                f"updates a second, {name}",
                "no figure; the public code runs torch with autograd",
                "torch, autograd and one trace a parameter",
                round(mid["torch"]),
                round(mid["fused"]),
                "choices and updates a second",
                "float32, batch 1, one thread, median of 3",
                note=f"ratio {mid['fused'] / mid['torch']:.1f}",
            )
        )
    return rows


def part_memory() -> list[Row]:
    """Bytes of the operator's state and time a transition, by length of the stream."""
    op = StreamX(agent="ac", observation=17, action_width=6)
    rng = np.random.default_rng(0)
    state, done = op.init(), 0
    sizes, times = {}, {}
    s = rng.normal(size=17)
    state, _ = op.step(state, Control("reset", s))
    for length in LENGTHS:
        began, count = time.perf_counter(), 0
        while done < length:
            n = min(100, length - done)
            seen = np.concatenate([s[None], rng.normal(size=(n, 17))])
            s = seen[-1]
            chunk = Transitions(
                seen[:-1],
                rng.normal(size=(n, 6)),
                rng.normal(size=n),
                seen[1:],
                np.zeros(n, bool),
                np.zeros(n, bool),
            )
            state, _ = op.step(state, chunk)
            done, count = done + n, count + n
        times[str(length)] = round(1e6 * (time.perf_counter() - began) / count, 1)
        sizes[str(length)] = nbytes(state)
    return [
        Row(
            "state and time a transition do not grow with the stream",
            "constant: weights and traces",
            "bound()",
            op.bound().resident,
            {"bytes": sizes, "microseconds": times},
            "bytes; microseconds a transition",
            "stream AC, 17 observations, 6 actions, two layers of 128, float32, chunks of 100; actions drawn",
        )
    ]


def part_overshoot() -> list[Row]:
    """Whether the error on a sample keeps its sign after the step on it."""
    kept = {"obgd": 0, "sgd": 0}
    bounded, plain = (StreamTD(6, optimizer=rule, dtype="float64") for rule in ("obgd", "sgd"))
    rng, s, steps = np.random.default_rng(0), np.zeros(6), 2000
    for _ in range(steps):
        s2 = 0.9 * s + rng.normal(size=6)
        reward = 0.3 * s2[0] + 0.1 * rng.normal()
        plain.load_state_dict(copy.deepcopy(bounded.state_dict()))
        for name, agent in (("sgd", plain), ("obgd", bounded)):
            before = agent.update(s, reward, s2)
            kept[name] += int(before * (reward + 0.99 * agent.predict(s2) - agent.predict(s)) >= 0)
        s = s2
    return [
        Row(
            "a step on a sample does not overshoot its error",
            "by construction, under local linearity",
            "the plain step of 1 from the same weights and traces",
            kept["sgd"] / steps,
            kept["obgd"] / steps,
            "share of steps after which the error has its sign",
            f"stream TD, two layers of 128, {steps} steps on a noisy random walk, seed 0",
        )
    ]


def _future(values: np.ndarray) -> np.ndarray:
    """The discounted sum of what comes after each place."""
    future = np.zeros(len(values) + 1)
    for t in range(len(values) - 1, -1, -1):
        future[t] = values[t] + SERIES_GAMMA * future[t + 1]
    return future[1:]


def _series(inputs: np.ndarray, values: np.ndarray) -> tuple[dict[str, float], float]:
    """Errors of the predictions in the second half, and the deviation of what they are to tell."""
    wanted = _future(values)
    usable = len(values) - 500  # beyond, too little of the future is known
    half = slice(usable // 2, usable)
    means = np.cumsum(values) / np.arange(1, len(values) + 1)
    said = {"running mean / (1 - gamma)": means / (1 - SERIES_GAMMA)}
    for name, rule, lr in (("stream TD", "obgd", 1.0), ("TD(lambda), fixed step 1e-3", "sgd", 1e-3)):
        model, predictions = StreamTD(inputs.shape[1], optimizer=rule, lr=lr), []
        for x, y in zip(inputs, values, strict=True):
            model.learn_one(x, y)
            predictions.append(model.predict_one(x))
        said[name] = np.array(predictions)
    rms = {name: round(float(np.sqrt(np.mean((each - wanted)[half] ** 2))), 2) for name, each in said.items()}
    return rms, round(float(np.std(wanted[half])), 2)


def part_series() -> list[Row]:
    """Stream TD on series: an hourly water flow, and a long one that is made here."""
    from river.datasets import WaterFlow

    flow = [(x["Time"].hour, float(y)) for x, y in WaterFlow()]
    hours = 2 * np.pi * np.array([hour for hour, _ in flow]) / 24
    values = np.array([y for _, y in flow])
    rng, n = np.random.default_rng(0), 60_000
    turn, noise = 2 * np.pi * np.arange(n) / 200, np.zeros(n)
    for t in range(1, n):
        noise[t] = 0.95 * noise[t - 1] + 0.1 * rng.normal()
    made = 1.0 + np.sin(turn) + noise
    rows = []
    for name, phase, series in (
        (f"a real series: river's WaterFlow, {len(values)} hours", hours, values),
        (f"a made one: {n} steps of a wave of period 200 with autoregressive noise", turn, made),
    ):
        rms, deviation = _series(np.stack([series, np.sin(phase), np.cos(phase)], 1), series)
        ours = rms.pop("stream TD")
        rows.append(
            Row(
                f"stream TD predicts the discounted future of {name.split(':')[0]}",
                "lowest error of the methods on ETTm2 (which cannot be had here)",
                "a running mean; the same network with a fixed step",
                rms,
                ours,
                "root mean square error in the second half",
                f"{name}; gamma {SERIES_GAMMA}, lambda 0.8, value and phase as features, no observation traces",
                note=f"deviation of the true values there: {deviation}",
            )
        )
    return rows


def _curve(one: dict[str, Any], points: np.ndarray) -> np.ndarray:
    episodes = np.array(one["episodes"], dtype=float).reshape(-1, 3)
    values = []
    for point in points:
        before = episodes[episodes[:, 0] <= point]
        values.append(before[-WINDOW:, 1].mean() if len(before) else np.nan)
    return np.array(values)


def draw() -> None:
    """Return curves, mean and range over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    global MAKE
    MAKE = False
    for picture, tasks in (
        ("curves", ("cartpole", "acrobot", "halfcheetah", "hopper")),
        ("ablation", ("cartpole", "cartpole-long", "acrobot-long", "dog-walk")),
    ):
        figure, axes = pyplot.subplots(2, 2, figsize=(10, 6.5))
        for axis, task in zip(axes.flat, tasks, strict=True):
            arms = found(task)
            for name, arm in arms.items():
                removed = name.startswith("no-") and name != "no-bound"
                if (
                    task == "cartpole"
                    and (removed or name == "adaptive") != (picture == "ablation")
                    and name != "stream"
                ):
                    continue
                steps = arm[0]["steps"]
                points = np.linspace(steps / 40, steps, 40)
                lines = np.array([_curve(each, points) for each in arm])
                (line,) = axis.plot(points / 1000, np.nanmean(lines, 0), label=name, lw=1.5)
                axis.fill_between(
                    points / 1000,
                    np.nanmin(lines, 0),
                    np.nanmax(lines, 0),
                    color=line.get_color(),
                    alpha=0.12,
                    lw=0,
                )
            axis.set_title(f"{task}, {len(arms.get('stream', []))} seed(s)", fontsize=9)
            axis.set_xlabel("thousand steps", fontsize=8)
            axis.tick_params(labelsize=8)
            if arms:
                axis.legend(fontsize=6)
        figure.suptitle("return, mean of the last 20 episodes; bands: lowest to highest seed", fontsize=9)
        figure.tight_layout()
        figure.savefig(IMAGES / f"stream-x-{picture}.png", dpi=68)
        pyplot.close(figure)


PARTS: dict[str, Callable[[], list[Row]]] = {
    "cartpole": part_cartpole,
    "classic": part_classic,
    "mujoco": part_mujoco,
    "large": part_large,
    "speed": part_speed,
    "memory": part_memory,
    "overshoot": part_overshoot,
    "series": part_series,
}


def main() -> int:
    global MAKE
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--work", type=Path, default=stream_x_runs.WORK)
    parser.add_argument("--stored", action="store_true", help="tell of the runs that are stored, make none")
    options, rest = parser.parse_known_args()
    stream_x_runs.WORK, MAKE = options.work, not options.stored
    sys.argv[1:] = rest
    return run_parts(SYSTEM, __file__, PARTS, draw)


if __name__ == "__main__":
    sys.exit(main())
