"""Claims of single-pass streaming bandits (Wang 2023), each a part of its own; rows go to benchmarks/results/.

Settings and seeds are the constants below. Rewards are Bernoulli and arms in random order unless a part says otherwise.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from command import progress, run
from rows import RESULTS, Row

from unending.core import Rows, nbytes
from unending.systems.learning.streaming_bandits import (
    AggressiveTower,
    ArmStream,
    FullMemory,
    GameOfArms,
    NaiveEpsBest,
    Result,
    StreamingBandits,
    UniformExploration,
    beta_rewards,
    clear_cut,
    explore,
    mix_in,
    play,
)
from unending.systems.learning.streaming_bandits.arms import ORDERS

SYSTEM = "streaming-bandits"
IMAGES = RESULTS.parents[1] / "docs" / "images"
PAPER = "all proposed algorithms beat uniform exploration, by up to 70% (50 runs, K to 50,000, T = 1000 K^3)"

ARMS = {
    "uniform": UniformExploration,
    "naive": NaiveEpsBest,
    "game of arms": GameOfArms,
    "game of arms, margin 0": partial(GameOfArms, margin=0.0),
    "game of arms, sinking estimate": partial(GameOfArms, keep_max=False),
    "game of arms, side run": partial(GameOfArms, side_run=True),
    "tower log*": AggressiveTower,
    "tower log": partial(AggressiveTower, levels="log"),
    "tower loglog": partial(AggressiveTower, levels="loglog"),
}
SETTINGS = {"clear-cut": clear_cut, "mix-in": mix_in}
SIZES = ((100, 10**7), (500, 5 * 10**8), (2000, 10**9))
SEEDS = 50

FULL = {
    "moss, all arms": partial(FullMemory, batch=0.05),
    "ucb1, all arms": partial(FullMemory, index="ucb1", batch=0.05),
    "moss, a sample of 5": partial(FullMemory, memory=5, batch=0.05),
}
FULL_SEEDS = 10

HORIZONS, SLOPE_ARMS = tuple(int(10**e) for e in np.arange(6, 10.01, 0.5)), 100
WIDTHS, SLOPE_HORIZON = (50, 100, 200, 500, 1000, 2000, 5000), 10**10
SLOPED = ("uniform", "game of arms", "tower log*", "tower loglog")

ORDER_SIZE = (500, 5 * 10**8)
BEST_EPS, BEST_ARMS, BEST_SEEDS = 0.05, 500, 200
PEER_ARMS, PEER_PULLS, PEER_EPISODES = 100, 20_000, 5
LENGTHS = (100, 1_000, 10_000, 100_000)


def results(
    make: Any, setting: str, size: tuple[int, int], seeds: int, order: str = "random"
) -> list[Result]:
    arms, horizon = size
    means = SETTINGS[setting]
    return [play(ArmStream(means(arms, seed), order, seed), horizon, make, seed) for seed in range(seeds)]


def told(found: list[Result]) -> dict[str, Any]:
    regret = np.array([each.regret for each in found])
    return {
        "regret": float(f"{regret.mean():.4g}"),
        "standard error": float(f"{regret.std(ddof=1) / len(regret) ** 0.5:.2g}"),
        "arms stored": max(each.max_stored for each in found),
        "explored share of T": round(float(np.mean([each.explored / each.pulls for each in found])), 4),
    }


def part_ratios() -> list[Row]:
    """Mean regret as a ratio to uniform exploration, with the arms stored beside."""
    rows = []
    for size in SIZES:
        for setting in SETTINGS:
            found = {name: told(results(make, setting, size, SEEDS)) for name, make in ARMS.items()}
            base = found["uniform"]["regret"]
            ours = {}
            for name, each in found.items():
                ours[name] = {"ratio": round(each["regret"] / base, 3), **each}
            progress(f"{size} {setting}: " + ", ".join(f"{n} {v['ratio']}" for n, v in ours.items()))
            uniform = ours.pop("uniform")
            rows.append(
                Row(
                    f"regret against uniform exploration, {setting}, K = {size[0]}",
                    PAPER,
                    "uniform exploration, same draws' seeds",
                    uniform,
                    ours,
                    "mean regret; ratio to uniform",
                    f"T = {size[1]:.0e}, {SEEDS} seeds, random order",
                    note="naive eps-best with constant 1 is worse than uniform exploration: its bound wins only where"
                    " ln K < (ln T)^(1/3)",
                )
            )
    return rows


def part_full() -> list[Row]:
    """What a memory of K arms buys: UCB1 and MOSS, pulled in batches of 5 percent."""
    rows = []
    for setting in SETTINGS:
        for size in SIZES[:2]:
            found = {name: told(results(make, setting, size, FULL_SEEDS)) for name, make in FULL.items()}
            ours = told(results(GameOfArms, setting, size, FULL_SEEDS))
            progress(f"{size} {setting}: {found}, ours {ours}")
            rows.append(
                Row(
                    f"the line without a memory limit, {setting}, K = {size[0]}",
                    "any algorithm with o(K) memory has regret of order K^(1/3) T^(2/3); with K arms it is (K T)^(1/2)",
                    "UCB1 and MOSS with K arms; MOSS on a uniform sample of 5",
                    found,
                    ours,
                    "mean regret",
                    f"T = {size[1]:.0e}, {FULL_SEEDS} seeds, game of arms, batches of 5% for the index policies",
                )
            )
    return rows


def part_slopes() -> list[Row]:
    """Slope of log regret in log T at fixed K, and in log K at fixed T."""
    rows = []
    for setting in SETTINGS:
        in_t: dict[str, dict[str, float]] = {}
        in_k: dict[str, dict[str, float]] = {}
        for name in SLOPED:
            in_t[name] = {
                str(t): told(results(ARMS[name], setting, (SLOPE_ARMS, t), SEEDS))["regret"] for t in HORIZONS
            }
            in_k[name] = {
                str(k): told(results(ARMS[name], setting, (k, SLOPE_HORIZON), 20))["regret"] for k in WIDTHS
            }
        for what, found, theory, note in (
            ("T", in_t, 2 / 3, f"K = {SLOPE_ARMS}, T = 1e6 to 1e10, {SEEDS} seeds"),
            ("K", in_k, 1 / 3, f"T = {SLOPE_HORIZON:.0e}, K = {WIDTHS[0]} to {WIDTHS[-1]}, 20 seeds"),
        ):
            slopes = {name: round(slope(values), 3) for name, values in found.items()}
            progress(f"{setting}, slope in log {what}: {slopes}")
            rows.append(
                Row(
                    f"regret grows like {what}^{'(2/3)' if what == 'T' else '(1/3)'}, {setting}",
                    f"Theta(K^(1/3) T^(2/3)): {theory:.3f}",
                    "theory",
                    round(theory, 3),
                    {"slopes": slopes, "regret": found},
                    f"slope of log regret in log {what}",
                    note,
                )
            )
    return rows


def slope(values: dict[str, float]) -> float:
    return float(np.polyfit(np.log([float(x) for x in values]), np.log(list(values.values())), 1)[0])


def part_orders() -> list[Row]:
    """Bounds do not depend on the order of the arms."""
    rows = []
    for setting in SETTINGS:
        found: dict[str, dict[str, float]] = {}
        for name in ("uniform", "game of arms", "tower log*", "tower log", "tower loglog"):
            found[name] = {
                order: told(results(ARMS[name], setting, ORDER_SIZE, SEEDS, order))["regret"]
                for order in ORDERS[1:]
            }
            progress(f"{setting}, {name}: {found[name]}")
        uniform = found.pop("uniform")
        worst = {name: round(max(v.values()) / max(uniform.values()), 3) for name, v in found.items()}
        rows.append(
            Row(
                f"orders of the adversary, {setting}",
                "bounds hold for every order",
                "uniform exploration",
                uniform,
                found,
                "mean regret by order",
                f"K = {ORDER_SIZE[0]}, T = {ORDER_SIZE[1]:.0e}, {SEEDS} seeds",
                note=f"worst order over uniform's worst: {worst}",
            )
        )
    return rows


def part_best() -> list[Row]:
    """Share of explorations that return an arm within eps of the best, and what they cost in K / eps^2 pulls."""
    makers: dict[str, Callable[..., Any]] = {
        **ARMS,
        "tower log*, theory (delta 0.1)": partial(AggressiveTower, constants="theory"),
    }
    unit = BEST_ARMS / BEST_EPS**2
    ours = {}
    for name, make in makers.items():
        good: dict[str, float] = {}
        pulls = []
        for order in ("random", "increasing", "decreasing"):
            hits = 0
            for seed in range(BEST_SEEDS):
                means = mix_in(BEST_ARMS, seed)
                stream = ArmStream(means, order, seed)
                arm = explore(stream, 10**15, partial(make, eps=BEST_EPS), seed)
                hits += bool(means.max() - arm.mean <= BEST_EPS)
                pulls.append(stream.counts.sum() / unit)
            good[order] = hits / BEST_SEEDS
        median, most = float(np.median(pulls)), float(np.max(pulls))
        ours[name] = good | {"pulls, median": round(median, 2), "pulls, most": round(most, 2)}
        progress(f"{name}: {ours[name]}")
    return [
        Row(
            "the arm returned is within eps of the best, for O(K / eps^2) pulls",
            "with high constant probability; the theory constants here aim at 0.9",
            "promised",
            0.9,
            ours,
            "share of runs by order; pulls in K / eps^2",
            f"mix-in, K = {BEST_ARMS}, eps = {BEST_EPS}, {BEST_SEEDS} seeds, no horizon in the way",
        )
    ]


def part_rewards() -> list[Row]:
    """Bounded rewards that are not Bernoulli."""
    arms, horizon, seeds = 100, 10**6, 20
    found = {}
    for name in ("uniform", "game of arms", "tower loglog"):
        regret = []
        for seed in range(seeds):
            means = np.clip(mix_in(arms, seed), 0.01, 0.99)
            samplers = [beta_rewards(float(mean)) for mean in means]
            regret.append(play(ArmStream(means, "random", seed, samplers), horizon, ARMS[name], seed).regret)
        found[name] = round(float(np.mean(regret)))
        progress(f"beta rewards, {name}: {found[name]}")
    return [
        Row(
            "other bounded rewards",
            "rewards in 0..1 of any distribution",
            "uniform exploration",
            found.pop("uniform"),
            found,
            "mean regret",
            f"Beta(4 mu, 4 (1 - mu)), mix-in, K = {arms}, T = {horizon:.0e}, {seeds} seeds",
        )
    ]


def part_peers() -> list[Row]:
    """River's policies with K arms in memory, and ours on the same environment through the same evaluator."""
    import gymnasium
    from river import bandit, proba

    from unending.systems.learning.streaming_bandits.river_policy import RiverPolicy

    class Bernoullis(gymnasium.Env[int, int]):
        def __init__(self) -> None:
            self.action_space = gymnasium.spaces.Discrete(PEER_ARMS)
            self.observation_space = gymnasium.spaces.Discrete(1)
            self.left = PEER_PULLS

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
            super().reset(seed=seed)
            self.means = mix_in(PEER_ARMS, int(self.np_random.integers(2**31)))
            self.left = PEER_PULLS
            return 0, {}

        def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
            self.left -= 1
            return 0, float(self.np_random.random() < self.means[action]), self.left == 0, False, {}

    policies: dict[str, Any] = {
        "river UCB": bandit.UCB(delta=1, seed=1),
        "river ThompsonSampling": bandit.ThompsonSampling(reward_obj=proba.Beta(), seed=1),
        "ours, uniform": RiverPolicy("uniform", PEER_PULLS),
        "ours, game of arms": RiverPolicy("game-of-arms", PEER_PULLS),
        "ours, tower loglog": RiverPolicy("tower-loglog", PEER_PULLS),
        "ours, tower log*": RiverPolicy("tower-logstar", PEER_PULLS),
    }
    found = {}
    for name, policy in policies.items():
        regret, began, arms = 0.0, time.perf_counter(), []
        environment = Bernoullis()
        for step in bandit.evaluate([policy], environment, n_episodes=PEER_EPISODES, seed=7):
            arms.append(step["arm"])
        seconds = time.perf_counter() - began
        picked = np.array(arms).reshape(PEER_EPISODES, PEER_PULLS)
        import random

        rng = random.Random(7)
        for episode in picked:
            environment.reset(seed=rng.randint(0, 2**32))
            rng.randint(0, 2**32 - 1)
            regret += float((environment.means.max() - environment.means[episode]).sum())
        found[name] = {
            "regret": round(regret / PEER_EPISODES, 1),
            "arms stored": PEER_ARMS if name.startswith("river") else _most_stored(name, PEER_ARMS),
            "us a pull": round(1e6 * seconds / picked.size, 1),
        }
        progress(f"{name}: {found[name]}")
    ours = {name: found.pop(name) for name in list(found) if name.startswith("ours")}
    return [
        Row(
            "against River's bandits, one environment and one evaluator",
            "not in the paper",
            "river.bandit, all arms in memory (mabwiser is not installed)",
            found,
            ours,
            "mean regret; arms; microseconds a pull, evaluator included",
            f"mix-in, K = {PEER_ARMS}, T = {PEER_PULLS:,}, {PEER_EPISODES} episodes, river.bandit.evaluate",
            note="Thompson sampling, with all arms in memory, has the lowest regret, as theory says; UCB with delta = 1"
            " has 200 pulls an arm and is still exploring",
        )
    ]


def _most_stored(name: str, arms: int) -> int:
    return ARMS[name.removeprefix("ours, ")](arms, PEER_PULLS).capacity


def part_growth() -> list[Row]:
    """Bytes of state and time an arm, by the number of arms that have arrived."""
    ours: dict[str, dict[str, Any]] = {}
    for length in LENGTHS:
        for algorithm in ("game-of-arms", "tower-logstar", "tower-log", "tower-loglog"):
            operator = StreamingBandits(algorithm, arms=length, horizon=1000 * length)
            machine = operator.machine()
            state = operator.init()
            values = Rows(mix_in(length)[:, None])
            began = time.perf_counter()
            state, _ = operator.step(state, values)
            spent = time.perf_counter() - began
            ours.setdefault(algorithm, {})[str(length)] = {
                "arms stored": machine.capacity,
                "bytes": nbytes(state),
                "us an arm": round(1e6 * spent / length, 1),
            }
        progress(f"K = {length}: { ({name: each[str(length)] for name, each in ours.items()}) }")
    full = {str(n): {"arms stored": n, "bytes": nbytes(FullMemory(n, 1000 * n).start())} for n in LENGTHS}
    return [
        Row(
            "memory and time an arm do not grow with the stream",
            "one arm; log*(K) + 2 for the tower",
            "MOSS on all arms",
            full,
            ours,
            "by K",
            "mix-in, T = 1000 K, all K arms in one chunk through the operator",
        )
    ]


def draw() -> None:
    import json

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    path = RESULTS / f"{SYSTEM}.json"
    stored = json.loads(path.read_text()) if path.is_file() else []
    IMAGES.mkdir(parents=True, exist_ok=True)
    _draw_slopes(pyplot, stored)
    _draw_stream(pyplot)
    _draw_memory(pyplot, stored)


def _axis(axis: Any, title: str, x: str) -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(x)
    axis.grid(alpha=0.3, which="major")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)


def _draw_slopes(pyplot: Any, stored: list[dict[str, Any]]) -> None:
    rows = [row for row in stored if row["claim"].startswith("regret grows like")]
    if len(rows) != 4:
        return
    figure, axes = pyplot.subplots(1, 4, figsize=(15, 3.8), layout="constrained")
    for axis, row in zip(axes, sorted(rows, key=lambda row: row["claim"], reverse=True), strict=True):
        what = "T" if "T^" in row["claim"] else "K"
        for name, values in row["ours"]["regret"].items():
            x = np.array([float(each) for each in values])
            axis.loglog(
                x,
                list(values.values()),
                marker="o",
                ms=3,
                label=f"{name} ({row['ours']['slopes'][name]:.2f})",
            )
        first = next(iter(row["ours"]["regret"]["game of arms"].values()))
        axis.loglog(
            x,
            first * 0.6 * (x / x[0]) ** row["peer_value"],
            "k--",
            lw=1,
            label=f"slope {row['peer_value']:.2f}",
        )
        _axis(axis, f"{row['claim'].split(', ')[1]}, {row['setting'].split(', ')[0]}", what)
    axes[0].set_ylabel("mean regret")
    figure.savefig(IMAGES / "streaming-bandits-slopes.png", dpi=68)
    pyplot.close(figure)


def _draw_stream(pyplot: Any) -> None:
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
    size, seed = (500, 5 * 10**8), 1
    for axis, setting in zip(axes, SETTINGS, strict=True):
        for name in ("uniform", "naive", "game of arms", "tower log*", "tower loglog"):
            (found,) = [
                play(ArmStream(SETTINGS[setting](size[0], seed), "random", seed), size[1], ARMS[name], seed)
            ]
            axis.plot(*(found.trace.T / [[1e6], [1e6]]), label=f"{name}, stores {found.max_stored}")
        _axis(axis, f"one stream, {setting}, K = {size[0]}, T = {size[1]:.0e}", "millions of pulls")
        axis.set_xscale("log")
        axis.set_ylabel("regret so far, millions")
    figure.savefig(IMAGES / "streaming-bandits-stream.png", dpi=90)
    pyplot.close(figure)


def _draw_memory(pyplot: Any, stored: list[dict[str, Any]]) -> None:
    rows = [
        row
        for row in stored
        if row["claim"].startswith("regret against uniform") and "clear-cut" in row["claim"]
    ]
    growth = next((row for row in stored if row["claim"].startswith("memory and time")), None)
    if len(rows) != 3 or growth is None:
        return
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
    for name in rows[0]["ours"]:
        if "margin" in name or "sinking" in name:
            continue
        points = [(row["ours"][name]["arms stored"], row["ours"][name]["ratio"]) for row in rows]
        axes[0].plot(*zip(*points, strict=True), marker="o", label=name)
    axes[0].axhline(1, color="k", ls="--", lw=1, label="uniform")
    axes[0].set_ylabel("regret over that of uniform exploration")
    _axis(axes[0], "clear-cut, K = 100, 500, 2000", "arms stored")
    for name, values in {"all arms": growth["peer_value"], **growth["ours"]}.items():
        axes[1].loglog(
            [int(n) for n in values], [v["arms stored"] for v in values.values()], marker="o", label=name
        )
    _axis(axes[1], "arms stored", "K")
    figure.savefig(IMAGES / "streaming-bandits-memory.png", dpi=90)
    pyplot.close(figure)


PARTS = {
    "ratios": part_ratios,
    "full": part_full,
    "slopes": part_slopes,
    "orders": part_orders,
    "best": part_best,
    "rewards": part_rewards,
    "peers": part_peers,
    "growth": part_growth,
}

if __name__ == "__main__":
    sys.exit(run(SYSTEM, __file__, PARTS, draw))
