"""Claims of the Frank-Wolfe dictionary, each a part of its own: `--only PART`; rows go to benchmarks/results/.

Settings, seeds and baselines are the constants below. Rows are Bernoulli-Gaussian in a random orthogonal dictionary
unless a part says otherwise.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from command import progress, run
from rows import RESULTS, Row
from scipy.fft import dct
from sklearn.datasets import load_sample_images
from sklearn.decomposition import FastICA, MiniBatchDictionaryLearning
from sklearn.exceptions import ConvergenceWarning

from unending.core import nbytes
from unending.parts.numerics.frank_wolfe import polar
from unending.systems.learning.online_dictionary_fw.core import DictionarySettings, random_orthogonal
from unending.systems.learning.online_dictionary_fw.metrics import dictionary_error, k_sparse_error
from unending.systems.learning.online_dictionary_fw.naive import msp

SYSTEM = "online-dictionary-fw"
IMAGES = RESULTS.parents[1] / "docs" / "images"

SEEDS = 5
CURVES: tuple[tuple[str, int, float, dict[str, Any], tuple[int, ...]], ...] = (
    ("N = 10, theta 0.3, batch 1, p = 3", 10, 0.3, {}, (100, 1000, 3000, 10_000)),
    ("N = 10, theta 0.3, batch 1, p = 4", 10, 0.3, {"p": 4.0}, (100, 1000, 10_000)),
    ("N = 10, theta 0.3, batch 10, p = 3", 10, 0.3, {"batch_size": 10}, (100, 1000, 3000)),
    ("N = 20, theta 0.2, batch 10, p = 3", 20, 0.2, {"batch_size": 10}, (100, 1000, 10_000)),
    ("N = 10, theta 0.3, batch 1, no averaging", 10, 0.3, {"rho_exponent": 0.0}, (100, 1000, 10_000)),
)
GAP_STEPS = (100, 178, 316, 562, 1000, 1778, 3162, 5623, 10_000)
THETAS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
NOISES = (0.0, 0.05, 0.1, 0.2, 0.4)
SAMPLES = (300, 1000, 3000, 10_000, 30_000)
LENGTHS = (1_000, 10_000, 100_000)
PEER_SIZES = (20, 50, 100)
PEER_STEPS = {20: 4000, 50: 4000, 100: 2500}
ALTERNATING_ROWS = {20: 40_000, 50: 15_000, 100: 5_000}
"""What MiniBatchDictionaryLearning sees; more would take minutes."""
ALPHAS = (0.1, 0.3, 1.0)
"""Of MiniBatchDictionaryLearning; the best of them stands in the table, chosen with knowledge of the answer."""
SPARSE = (2, 4, 8, 16)
DRIFT_ANGLE, DRIFT_SAMPLES, FLOOR = 0.05, 100_000, 0.05
DRIFT_AT = (5_000, 10_000, 20_000, 50_000, 100_000)


def sparse_rows(n: int, width: int, theta: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A dictionary and `n` Bernoulli-Gaussian rows in it."""
    rng = np.random.default_rng([seed, 1])
    truth = random_orthogonal(width, seed + 1000)
    codes = rng.standard_normal((n, width)) * (rng.random((n, width)) < theta)
    return truth, codes @ truth.T


def errors_at(
    settings: DictionarySettings, truth: np.ndarray, rows: np.ndarray, at: tuple[int, ...], seed: int
) -> list[float]:
    """Error after so many rows each."""
    state, done, found = settings.init(len(truth), seed), 0, []
    for upto in at:
        state = settings.update(state, rows[done:upto])
        found.append(dictionary_error(truth, settings.orthogonal(state)))
        done = upto
    return found


def mean(values: Any, digits: int = 5) -> float:
    return round(float(np.mean(values)), digits)


def minimised_l1(
    rows: np.ndarray, truth: np.ndarray, at: tuple[int, ...], seed: int
) -> tuple[list[float], float]:
    """The toy: the l1 norm minimised over the ball by the same steps; errors, and the norm D ends with."""
    here, average = random_orthogonal(len(truth), seed), np.zeros_like(truth)
    found = []
    for t, row in enumerate(rows[: at[-1]], start=1):
        gradient = np.outer(row, np.sign(here.T @ row))
        average += t**-0.5 * (gradient - average)
        here = here + t**-0.75 * (polar(-average, here) - here)
        if t in at:
            found.append(dictionary_error(truth, polar(here, truth)))
    return found, float(np.linalg.norm(here, 2))


def part_curves() -> list[Row]:
    """Error against steps, as in the specification's trial, and the two toys."""
    ours: dict[str, dict[str, float]] = {}
    for name, width, theta, changes, steps in CURVES:
        settings = DictionarySettings(**changes)
        at = tuple(settings.batch_size * t for t in steps)
        found = []
        for seed in range(SEEDS):
            truth, rows = sparse_rows(at[-1], width, theta, seed)
            found.append(errors_at(settings, truth, rows, at, seed))
        ours[name] = {str(t): mean(values) for t, values in zip(steps, zip(*found, strict=True), strict=True)}
        progress(f"{name}: {ours[name]}")
    steps = (100, 1000, 10_000)
    toys = [
        minimised_l1(*reversed(sparse_rows(steps[-1], 10, 0.3, seed)), steps, seed) for seed in range(SEEDS)
    ]
    toy = {
        str(t): mean(values)
        for t, values in zip(steps, zip(*(each[0] for each in toys), strict=True), strict=True)
    }
    return [
        Row(
            "the dictionary is found in one pass",
            "converges; no figures known",
            "l1 minimised over the ball, N = 10, theta 0.3, batch 1 (its spectral norm at the end in the note)",
            toy,
            ours,
            "1 - ||D*^T D||_4^4 / N by steps, mean of 5 seeds",
            "Bernoulli-Gaussian rows, vanishing schedule",
            note=f"the toy's spectral norm falls to {mean([each[1] for each in toys], 3)}",
        )
    ]


def true_gap(settings: DictionarySettings, here: np.ndarray, sample: np.ndarray) -> float:
    gradient = settings.gradient(here, sample)
    return float(np.sum(gradient * here) + np.linalg.norm(gradient, "nuc"))


def part_gap() -> list[Row]:
    """The Frank-Wolfe gap against ln t / t^(1/4), by 20,000 fresh rows a point."""
    gaps = {"p = 3": [], "p = 4": []}
    estimated = []
    for seed in range(SEEDS):
        for p in (3.0, 4.0):
            settings = DictionarySettings(p=p)
            truth, rows = sparse_rows(GAP_STEPS[-1], 10, 0.3, seed)
            rng = np.random.default_rng([seed, 2])
            fresh = (rng.standard_normal((20_000, 10)) * (rng.random((20_000, 10)) < 0.3)) @ truth.T
            state, done, found, told = settings.init(10, seed), 0, [], []
            for t in GAP_STEPS:
                state = settings.update(state, rows[done:t])
                found.append(true_gap(settings, state.dictionary, fresh))
                told.append(float(state.gap[0]))
                done = t
            gaps[f"p = {p:g}"].append(found)
            if p == 3:
                estimated.append(told)
    means = {name: np.mean(values, axis=0) for name, values in gaps.items()} | {
        "p = 3, as reported (by G)": np.mean(estimated, axis=0)
    }
    slopes = {
        name: round(float(np.polyfit(np.log(GAP_STEPS), np.log(values), 1)[0]), 3)
        for name, values in means.items()
    }
    theory = np.log(GAP_STEPS) / np.array(GAP_STEPS) ** 0.25
    slope = round(float(np.polyfit(np.log(GAP_STEPS), np.log(theory), 1)[0]), 3)
    return [
        Row(
            "the Frank-Wolfe gap falls at least as ln t / t^(1/4)",
            "O(ln t / t^(1/4))",
            "slope of ln t / t^(1/4) over the same steps",
            slope,
            slopes,
            "slope in log-log from t = 100 to 10,000, mean of 5 seeds",
            "N = 10, theta 0.3, batch 1",
            note=json.dumps({name: [round(float(v), 5) for v in values] for name, values in means.items()}),
        )
    ]


def part_batch() -> list[Row]:
    """Minibatches of 1, 10 and 100 at equal samples."""
    ours, seconds = {}, {}
    for batch in (1, 10, 100):
        settings = DictionarySettings(batch_size=batch)
        found, began = [], time.process_time()
        for seed in range(SEEDS):
            truth, rows = sparse_rows(SAMPLES[-1], 10, 0.3, seed)
            found.append(errors_at(settings, truth, rows, SAMPLES, seed))
        seconds[f"batch {batch}"] = round(1e6 * (time.process_time() - began) / SEEDS / SAMPLES[-1], 2)
        ours[f"batch {batch}"] = {
            str(n): mean(v) for n, v in zip(SAMPLES, zip(*found, strict=True), strict=True)
        }
    return [
        Row(
            "small minibatches win a sample, large ones a second",
            "one sample a step",
            "microseconds a row",
            seconds,
            ours,
            "error by rows seen, mean of 5 seeds",
            "N = 10, theta 0.3, p = 3",
        )
    ]


def part_theta() -> list[Row]:
    """Less and less sparse codes; noisier and noisier rows."""
    by_theta, by_noise = {}, {}
    settings = DictionarySettings(batch_size=10)
    for theta in THETAS:
        found = []
        for seed in range(SEEDS):
            truth, rows = sparse_rows(30_000, 20, theta, seed)
            found += errors_at(settings, truth, rows, (30_000,), seed)
        by_theta[str(theta)] = mean(found)
    for noise in NOISES:
        found = []
        for seed in range(SEEDS):
            truth, rows = sparse_rows(30_000, 20, 0.2, seed)
            rows = rows + noise * np.random.default_rng([seed, 3]).standard_normal(rows.shape)
            found += errors_at(settings, truth, rows, (30_000,), seed)
        by_noise[str(noise)] = mean(found)
    common = ("mean of 5 seeds, 3,000 steps", "N = 20, batch 10, p = 3")
    return [
        Row(
            "break-down as codes fill",
            "sparse codes",
            "none",
            None,
            by_theta,
            f"error by theta, {common[0]}",
            common[1],
        ),
        Row(
            "noise on the rows",
            "none",
            "none",
            None,
            by_noise,
            f"error by noise (codes have deviation 1), {common[0]}",
            f"{common[1]}, theta 0.2",
        ),
    ]


def drifting(seed: int, steady: bool) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Dictionaries, each turned a little from the one before, and 1,000 rows of each."""
    rng = np.random.default_rng([seed, 4])
    truth, truths, rows = random_orthogonal(10, seed + 1000), [], []
    for _ in range(DRIFT_SAMPLES // 1000):
        turn = np.eye(10)
        planes = np.arange(10).reshape(5, 2) if steady else rng.choice(10, (1, 2), replace=False)
        for one, two in planes:
            turn[[one, one, two, two], [one, two, one, two]] = (
                np.cos(DRIFT_ANGLE),
                -np.sin(DRIFT_ANGLE),
                np.sin(DRIFT_ANGLE),
                np.cos(DRIFT_ANGLE),
            )
        truth = truth @ turn
        codes = rng.standard_normal((1000, 10)) * (rng.random((1000, 10)) < 0.3)
        truths.append(truth)
        rows.append(codes @ truth.T)
    return truths, rows


def part_drift() -> list[Row]:
    """A dictionary that turns: floors follow it, the vanishing schedule does not."""
    rows = []
    for steady, planes in ((True, "in five fixed planes"), (False, "in one random plane")):
        found: dict[str, list[list[float]]] = {"vanishing": [], "floors": []}
        for seed in range(3):
            truths, blocks = drifting(seed, steady)
            for name, floor in (("vanishing", 0.0), ("floors", FLOOR)):
                settings = DictionarySettings(batch_size=10, rho_min=floor, gamma_min=floor)
                state, errors = settings.init(10, seed), []
                for truth, block in zip(truths, blocks, strict=True):
                    state = settings.update(state, block)
                    errors.append(dictionary_error(truth, settings.orthogonal(state)))
                found[name].append(errors)
        curves = {name: np.mean(values, axis=0) for name, values in found.items()}
        told = {
            name: {f"{n:,}": round(float(curve[n // 1000 - 1]), 4) for n in DRIFT_AT}
            for name, curve in curves.items()
        }
        rows.append(
            Row(
                f"floors on the steps follow a dictionary that turns {planes}",
                "none (our option)",
                "vanishing schedule",
                told["vanishing"],
                told["floors"],
                "error by rows seen, mean of 3 seeds",
                f"N = 10, theta 0.3, batch 10, a Givens turn of {DRIFT_ANGLE} {planes} each 1,000 rows, floors {FLOOR}",
                note=json.dumps(
                    {name: [round(float(v), 4) for v in curve[4::5]] for name, curve in curves.items()}
                ),
            )
        )
    return rows


def alternating(alpha: float, width: int, seed: int) -> Any:
    return MiniBatchDictionaryLearning(
        n_components=width, alpha=alpha, batch_size=10, fit_algorithm="cd", random_state=seed
    )


def nearest(components: np.ndarray) -> np.ndarray:
    """The orthogonal dictionary nearest to learned components (rows, any length)."""
    sizes = np.linalg.norm(components, axis=1, keepdims=True)
    return polar((components / np.where(sizes > 0, sizes, 1)).T, np.eye(len(components)))


def alternated(alpha: float, rows: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """One pass of MiniBatchDictionaryLearning: time, error, and when the error was below 0.01."""
    model, reached, spent = alternating(alpha, rows.shape[1], 1), None, 0.0
    for start in range(0, len(rows), 500):
        began = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            for each in range(start, min(start + 500, len(rows)), 10):
                model.partial_fit(rows[each : each + 10])
        spent += time.process_time() - began
        error = dictionary_error(truth, nearest(model.components_))
        if reached is None and error < 0.01:
            reached = (round(spent, 2), start + 500)
    return {
        "CPU seconds to error < 0.01": reached[0] if reached else "not reached",
        "rows to error < 0.01": reached[1] if reached else "not reached",
        "CPU seconds": round(spent, 2),
        "error": round(error, 5),
        "rows": len(rows),
        "alpha": alpha,
    }


def unmixed(rows: np.ndarray) -> np.ndarray:
    model = FastICA(whiten="unit-variance", fun="cube", max_iter=200, random_state=1).fit(rows)
    return nearest(model.components_)


def timed(learn: Callable[[], np.ndarray], truth: np.ndarray) -> tuple[float, float]:
    """CPU seconds and error."""
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = learn()
    return round(time.process_time() - began, 2), round(dictionary_error(truth, found), 5)


def part_peers(width: int) -> list[Row]:
    """Time and error against alternating learning, independent components and batch l4."""
    steps = PEER_STEPS[width]
    truth, data = sparse_rows(10 * steps, width, 0.1, 1)
    ours, peers = {}, {}
    for method in ("svd", "newton_schulz"):
        settings = DictionarySettings(batch_size=10, polar=method)
        state, done, reached = settings.init(width, 1), 0, None
        spent = 0.0
        while done < len(data):
            began = time.process_time()
            state = settings.update(state, data[done : done + 500])
            done += 500
            spent += time.process_time() - began
            if reached is None and dictionary_error(truth, settings.orthogonal(state)) < 0.01:
                reached = (round(spent, 2), done)
        error = round(dictionary_error(truth, settings.orthogonal(state)), 5)
        ours[method] = {
            "CPU seconds to error < 0.01": reached[0] if reached else "not reached",
            "rows to error < 0.01": reached[1] if reached else "not reached",
            "CPU seconds in all": round(spent, 2),
            "error at the end": error,
            "bytes of state": nbytes(state),
        }
    best: dict[str, Any] = {}
    quickest: list[tuple[Any, Any, str]] = []
    few = data[: ALTERNATING_ROWS[width]]
    for alpha in ALPHAS:
        found = alternated(alpha, few, truth)
        quickest.append(
            (found["CPU seconds to error < 0.01"], found["rows to error < 0.01"], f"alpha {alpha}")
        )
        if not best or found["error"] < best["error"]:
            best = found
    first = min(
        (each for each in quickest if each[0] != "not reached"), default=("not reached", "not reached", "")
    )
    peers["MiniBatchDictionaryLearning.partial_fit, least error of the alphas"] = best | {
        "quickest of the alphas to error < 0.01 (CPU seconds, rows, alpha)": list(first)
    }
    for name, function in (
        ("FastICA, all rows in memory", partial(unmixed, data)),
        ("batch l4 (MSP), all rows in memory, 50 iterations", partial(msp, data, 50, 1)),
    ):
        seconds, error = timed(function, truth)
        peers[name] = {"CPU seconds": seconds, "error": error, "bytes of rows": data.nbytes}
    row = Row(
        f"time and error, N = {width}",
        "faster and more accurate than alternating online learning and batch l4",
        "same rows in one run",
        peers,
        ours,
        "CPU seconds, error",
        f"theta 0.1, batch 10, {10 * steps} rows, one thread",
        note=f"alternating learning sees the first {len(few)} rows only, for its time",
    )
    progress(f"N = {width}: {ours} {peers}")
    return [row]


def patches(picture: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Patches of 8 x 8 at random places, their means taken off, `[n, 64]`."""
    tops, lefts = (rng.integers(0, side - 7, n) for side in picture.shape)
    found = np.stack([picture[y : y + 8, x : x + 8].ravel() for y, x in zip(tops, lefts, strict=True)])
    return found - found.mean(axis=1, keepdims=True)


def part_patches() -> list[Row]:
    """8 x 8 patches of two photographs against the cosine transform."""
    pictures = [picture.mean(axis=2) / 255 for picture in load_sample_images().images]
    cosine = dct(np.eye(8), norm="ortho", axis=0)
    cosines = np.kron(cosine, cosine).T
    found: dict[str, list[list[float]]] = {}
    for seed in range(3):
        rng = np.random.default_rng([seed, 5])
        test = np.concatenate([patches(each, 5000, rng) for each in pictures])
        train = np.concatenate([patches(each, 100_000, rng) for each in pictures])
        train = train[rng.permutation(len(train))]
        axes = np.linalg.svd(train, full_matrices=False)[2].T
        learned = {"cosine transform": cosines, "principal axes of all rows": axes}
        for p in (3.0, 4.0):
            settings = DictionarySettings(p=p, batch_size=20)
            learned[f"ours, p = {p:g}"] = settings.orthogonal(settings.update(settings.init(64, seed), train))
        for name, dictionary in learned.items():
            found.setdefault(name, []).append([k_sparse_error(test, dictionary, k) for k in SPARSE])
    values = {
        name: {str(k): round(float(v), 4) for k, v in zip(SPARSE, np.mean(each, axis=0), strict=True)}
        for name, each in found.items()
    }
    return [
        Row(
            "a dictionary of photographs against the cosine transform",
            "at least as good as the DCT",
            "same fresh patches",
            {name: value for name, value in values.items() if not name.startswith("ours")},
            {name: value for name, value in values.items() if name.startswith("ours")},
            "share of energy left out by the k largest codes, by k, mean of 3 seeds",
            "load_sample_images in grey, 200,000 patches of 8 x 8 less their means in one pass, batch 20; 10,000 fresh",
        )
    ]


def part_length() -> list[Row]:
    """Time a row and memory against the length of the stream."""
    settings = DictionarySettings(batch_size=10)
    micro, held = {}, {}
    for n in LENGTHS:
        _, rows = sparse_rows(n, 20, 0.2, 1)
        began = time.process_time()
        state = settings.update(settings.init(20, 1), rows)
        micro[str(n)] = round(1e6 * (time.process_time() - began) / n, 2)
        held[str(n)] = nbytes(state)
    model = alternating(0.3, 20, 1)
    _, rows = sparse_rows(1000, 20, 0.2, 1)
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for start in range(0, 1000, 10):
            model.partial_fit(rows[start : start + 10])
    peer = round(1e6 * (time.process_time() - began) / 1000, 2)
    return [
        Row(
            "time a row and memory do not grow with the stream",
            "one N x N matrix of memory",
            "MiniBatchDictionaryLearning.partial_fit, first 1,000 rows",
            peer,
            {"microseconds a row": micro, "bytes": held},
            "by length of the stream",
            "N = 20, theta 0.2, batch 10, one thread",
        )
    ]


def draw() -> None:
    """Gap against theory, batches, drift, time and memory against length."""
    import matplotlib.pyplot as plt

    stored = {row["claim"]: row for row in json.loads((RESULTS / f"{SYSTEM}.json").read_text())}
    gap = stored.get("the Frank-Wolfe gap falls at least as ln t / t^(1/4)")
    batch = stored.get("small minibatches win a sample, large ones a second")
    drift = stored.get("floors on the steps follow a dictionary that turns in five fixed planes")
    length = stored.get("time a row and memory do not grow with the stream")
    if not (gap and batch and drift and length):
        return
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.2), layout="constrained")
    left, middle, right, last = axes
    steps = np.array(GAP_STEPS, dtype=float)
    curves = json.loads(gap["note"])
    for name, values in curves.items():
        left.loglog(steps, values, marker="o", markersize=3, label=name)
    theory = np.log(steps) / steps**0.25
    left.loglog(steps, theory / theory[0] * curves["p = 3"][0], "k--", linewidth=1, label="ln t / t^(1/4)")
    left.set_xlabel("t")
    left.set_ylabel("Frank-Wolfe gap")
    left.legend(fontsize=7)
    for name, errors in batch["ours"].items():
        middle.loglog([int(n) for n in errors], list(errors.values()), marker="o", markersize=3, label=name)
    middle.set_xlabel("rows")
    middle.set_ylabel("error")
    middle.legend(fontsize=7)
    for name, errors in json.loads(drift["note"]).items():
        right.semilogy(5000 * np.arange(1, len(errors) + 1), errors, label=name)
    right.set_xlabel("rows, dictionary turning")
    right.set_ylabel("error")
    right.legend(fontsize=7)
    held = length["ours"]["bytes"]
    micro = length["ours"]["microseconds a row"]
    last.semilogx(
        [int(n) for n in micro], list(micro.values()), marker="o", markersize=3, label="microseconds a row"
    )
    last.semilogx([int(n) for n in held], [each / 1e3 for each in held.values()], "k--", label="kB of state")
    last.set_ylim(0, 2 * max(micro.values()))
    last.set_xlabel("rows of the stream, N = 20")
    last.legend(fontsize=7)
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / f"{SYSTEM}-rates.png", dpi=80)
    plt.close(figure)


PARTS = {
    "curves": part_curves,
    "gap": part_gap,
    "batch": part_batch,
    "theta": part_theta,
    "drift": part_drift,
    **{f"peers-{width}": partial(part_peers, width) for width in PEER_SIZES},
    "patches": part_patches,
    "length": part_length,
}

if __name__ == "__main__":
    sys.exit(run(SYSTEM, __file__, PARTS, draw))
