"""Claims of the random-order top eigenvector, each a part of its own: `--only PART`; rows go to benchmarks/results/.

Settings, seeds and baselines are the constants below. Nothing is tuned with knowledge of the answer but what is
called "best on the grid".
"""

import os
import re
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from command import progress, run
from rows import RESULTS, Row
from scipy.sparse.linalg import svds
from sklearn.datasets import load_digits
from sklearn.decomposition import IncrementalPCA

from unending.io.text import standard_text
from unending.parts.numerics.power import correlation
from unending.systems.learning.streaming_top_eigenvector.estimators import (
    BlockPower,
    FrequentDirections,
    OjaGrid,
    RandomOrderTopEigenvector,
)

SYSTEM = "streaming-top-eigenvector"
IMAGES = RESULTS.parents[1] / "docs" / "images"

N, D, SEEDS = 20_000, 100, 5
HEAVY_NORM = 0.7
CASES = ((2, 0), (2, 20), (4, 0), (4, 20), (16, 20), (64, 20))
"""(R, heavy rows) of the table."""
GAPS = (1.5, 2, 3, 4, 8, 16, 32, 64, 128, 256)
HEAVY_COUNTS = (0, 5, 10, 20, 40, 80, 160)
LENGTHS = (1_000, 10_000, 100_000, 1_000_000)
BATCH = 200
"""Rows of one `partial_fit` of every learner that does not say its own; IncrementalPCA holds them while it learns."""
Learner = Callable[[int, int], Any]
"""(rows, seed) to an estimator with `partial_fit`."""

LEARNERS: dict[str, Learner] = {
    "ours": lambda n, seed: RandomOrderTopEigenvector(n_rows=n, random_state=seed),
    "ours, n unknown": lambda n, seed: RandomOrderTopEigenvector(random_state=seed),
    "block power": lambda n, seed: BlockPower(n_rows=n, random_state=seed),
    "Oja grid, growth test": lambda n, seed: OjaGrid(random_state=seed),
    "Frequent Directions, 20 rows": lambda n, seed: FrequentDirections(10),
    "IncrementalPCA, 1 component": lambda n, seed: IncrementalPCA(1),
    "IncrementalPCA, 1 component, 25 rows held": lambda n, seed: IncrementalPCA(1, batch_size=25),
    "IncrementalPCA, 10 components": lambda n, seed: IncrementalPCA(10),
}


def planted(gap: float, heavy: int, seed: int, n: int = N, d: int = D) -> np.ndarray:
    """Rows of spectrum (sqrt R, 1, ..., 1) and `heavy` orthogonal rows of norm 0.7, in random order."""
    rng = np.random.default_rng([seed, heavy])
    basis = np.linalg.qr(rng.standard_normal((d, d)))[0]
    spectrum = np.ones(d)
    spectrum[0] = gap**0.5
    rows = rng.standard_normal((n, d)) / n**0.5 * spectrum @ basis
    if heavy:
        turned = [np.linalg.qr(rng.standard_normal((d, d)))[0] for _ in range(-(-heavy // d))]
        rows = np.concatenate([rows, HEAVY_NORM * np.concatenate(turned)[:heavy]])
    return rows[rng.permutation(len(rows))]


def learn(make: Learner, rows: np.ndarray, seed: int) -> Any:
    learner = make(len(rows), seed)
    size = learner.get_params().get("batch_size") or BATCH
    for start in range(0, len(rows), size):
        learner.partial_fit(rows[start : start + size])
    return learner.finalize() if hasattr(learner, "finalize") else learner


def quality(learner: Any, truth: np.ndarray) -> float:
    return correlation(learner.components_[0], truth)


def truth_of(rows: np.ndarray) -> np.ndarray:
    return np.asarray(svds(rows, k=1, v0=np.ones(min(rows.shape)))[2][0])


def mean(values: list[float], digits: int = 3) -> float:
    return round(float(np.mean(values)), digits)


def part_table() -> list[Row]:
    """The specification's table: small and large gaps, without and with heavy rows."""
    rows = []
    for gap, heavy in CASES:
        found: dict[str, list[float]] = {}
        for seed in range(SEEDS):
            data = planted(gap, heavy, seed)
            truth = truth_of(data)
            for name, make in LEARNERS.items():
                learner = learn(make, data, seed)
                found.setdefault(name, []).append(quality(learner, truth))
                if name == "ours":
                    for kind, direction in learner.candidates_.items():
                        along = correlation(direction, truth) if direction.any() else 0.0
                        found.setdefault(f"ours, {kind}", []).append(along)
                if name.startswith("Oja"):
                    best = max(correlation(copy, truth) for copy in learner.copies_)
                    found.setdefault("Oja grid, best on the grid (knows the answer)", []).append(best)
            six = learn(
                lambda n, s: RandomOrderTopEigenvector(n_rows=n, n_blocks=6, random_state=s), data, seed
            )
            found.setdefault("ours, 6 blocks", []).append(quality(six, truth))
        values = {name: mean(each) for name, each in found.items()}
        rows.append(
            Row(
                f"correlation with the truth at R = {gap}, {heavy} heavy rows",
                "1 - O(1/sqrt R) at R = Omega(1)",
                "peers on the same rows",
                {name: value for name, value in values.items() if not name.startswith("ours")},
                {name: value for name, value in values.items() if name.startswith("ours")},
                "<v, v1>^2, mean of 5 seeds",
                f"n = {N}, d = {D}, heavy rows orthogonal of norm {HEAVY_NORM}, seeds 0 to {SEEDS - 1}",
            )
        )
        progress(f"R = {gap}, {heavy} heavy: {values}")
    return rows


def part_rate() -> list[Row]:
    """Loss of correlation against the gap."""
    names = ("ours", "block power", "Oja grid, growth test")
    found: dict[str, dict[str, float]] = {name: {} for name in names}
    for gap in GAPS:
        losses: dict[str, list[float]] = {name: [] for name in names}
        for seed in range(SEEDS):
            data = planted(gap, 20, seed + 100)
            truth = truth_of(data)
            for name in names:
                losses[name].append(1 - quality(learn(LEARNERS[name], data, seed), truth))
        for name in names:
            found[name][str(gap)] = mean(losses[name], 5)
    worst = max(found["ours"][str(gap)] * gap**0.5 for gap in GAPS)
    ours = found.pop("ours")
    return [
        Row(
            "loss of correlation falls at least as 1/sqrt R",
            "1 - O(1/sqrt R), random order, R = Omega(1)",
            "same rows",
            found,
            ours,
            "1 - <v, v1>^2 by R, mean of 5 seeds",
            f"n = {N}, d = {D}, 20 heavy rows",
            note=f"largest loss * sqrt R of ours: {worst:.3f}",
        )
    ]


def part_space() -> list[Row]:
    """Memory against the number of heavy rows, and what a store that is too small costs."""
    bits, high, small, lost = {}, {}, {}, {}
    for heavy in HEAVY_COUNTS:
        data = planted(2, heavy, 7)
        truth = truth_of(data)
        ours = learn(LEARNERS["ours"], data, 7)
        bits[str(heavy)], high[str(heavy)] = ours.state_bits_, ours.high_water_
        none = learn(lambda n, s: RandomOrderTopEigenvector(n_rows=n, max_heavy=0, random_state=s), data, 7)
        small[str(heavy)] = round(quality(none, truth), 3)
        lost[str(heavy)] = round(quality(ours, truth), 3)
    return [
        Row(
            "space grows with the heavy rows and not with the stream",
            "O(h d polylog d) bits; o(h d / R) bits cap the correlation",
            "every row kept, bits; correlation with no store",
            {"bits": 64 * N * D, "correlation": small},
            {"bits": bits, "rows stored at most": high, "correlation": lost},
            "bits of state by planted heavy rows",
            f"n = {N}, d = {D}, R = 2, seed 7, store of at most {D} rows",
            note="with 160 planted rows none holds 0.3/d of the squared Frobenius norm any more and R is 1 in effect:"
            " no row is stored and no direction leads",
        )
    ]


def orders(gap: float, seed: int) -> dict[str, np.ndarray]:
    data = planted(gap, 20, seed)
    truth = truth_of(data)
    norms = np.einsum("ij,ij->i", data, data)
    return {
        "random": data,
        "by rising norm": data[np.argsort(norms)],
        "by falling norm": data[np.argsort(-norms)],
        "by |<a, v1>| falling": data[np.argsort(-np.abs(data @ truth))],
    }


def part_order() -> list[Row]:
    """Random against sorted order."""
    rows = []
    for gap in (4, 16):
        found: dict[str, dict[str, list[float]]] = {}
        for seed in range(SEEDS):
            for order, data in orders(gap, seed + 200).items():
                truth = truth_of(data)
                for name, make in LEARNERS.items():
                    value = quality(learn(make, data, seed), truth)
                    found.setdefault(name, {}).setdefault(order, []).append(value)
        values = {name: {order: mean(each) for order, each in by.items()} for name, by in found.items()}
        rows.append(
            Row(
                f"random order is what the method stands on, R = {gap}",
                "the theorem is for random order",
                "same rows in the same orders",
                {name: value for name, value in values.items() if not name.startswith("ours")},
                {name: value for name, value in values.items() if name.startswith("ours")},
                "<v, v1>^2 by order, mean of 5 seeds",
                f"n = {N}, d = {D}, 20 heavy rows",
            )
        )
    return rows


def adversarial(seed: int, heavy: int = 4) -> np.ndarray:
    """v_1 lives in a few heavy rows: without them another direction leads."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((N, D)) / N**0.5
    rows[:, 0] = 0.0
    rows[:, 1] *= 1.5
    strong = np.zeros((heavy, D))
    strong[:, 0] = 1.2
    strong[:, 2:] += 0.02 * rng.standard_normal((heavy, D - 2))
    rows = np.concatenate([rows, strong])
    return rows[rng.permutation(len(rows))]


def part_adversarial() -> list[Row]:
    """The direction lives in four rows of twenty thousand."""
    found: dict[str, list[float]] = {}
    for seed in range(SEEDS):
        data = adversarial(seed)
        truth = truth_of(data)
        for name, make in LEARNERS.items():
            found.setdefault(name, []).append(quality(learn(make, data, seed), truth))
        light = learn(
            lambda n, s: RandomOrderTopEigenvector(n_rows=n, combine="light", random_state=s), data, seed
        )
        found.setdefault("ours, heavy rows dropped", []).append(quality(light, truth))
    values = {name: mean(each) for name, each in found.items()}
    return [
        Row(
            "v_1 carried by 4 heavy rows of 20,004",
            "the heavy candidate must win",
            "same rows",
            {name: value for name, value in values.items() if not name.startswith("ours")},
            {name: value for name, value in values.items() if name.startswith("ours")},
            "<v, v1>^2, mean of 5 seeds",
            f"d = {D}, sigma_1^2 = 5.76, sigma_2^2 = 2.25",
        )
    ]


def part_thinning() -> list[Row]:
    """Sampling light rows by their norms."""
    found: dict[str, list[float]] = {}
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        data = planted(4, 0, seed, n=200_000, d=20) * rng.lognormal(0, 1, (200_000, 1))
        truth = truth_of(data)
        for factor in (0.0, 100.0, 30.0, 10.0):
            learner = learn(
                lambda n, s, factor=factor: RandomOrderTopEigenvector(
                    n_rows=n, thinning=factor, random_state=s
                ),
                data,
                seed,
            )
            found.setdefault(f"{factor:g}", []).append(quality(learner, truth))
    values = {name: mean(each, 4) for name, each in found.items()}
    whole = values.pop("0")
    aims = {
        f"{factor}: about {int(float(factor) * 20 * np.log(20) ** 2):,} rows": v
        for factor, v in values.items()
    }
    return [
        Row(
            "thinning keeps the direction while the cost depends on d",
            "row-norm sampling of O(d polylog d) rows",
            "no thinning, 200,000 rows",
            whole,
            aims,
            "<v, v1>^2 by thinning factor, mean of 5 seeds",
            "n = 200,000, d = 20, R = 4, rows scaled by a log-normal of sigma 1",
        )
    ]


def part_length() -> list[Row]:
    """Time a row and memory against the length of the stream."""
    names = ("ours", "IncrementalPCA, 1 component", "Oja grid, growth test", "Frequent Directions, 20 rows")
    micro: dict[str, dict[str, float]] = {name: {} for name in names}
    held: dict[str, int] = {}
    for n in LENGTHS:
        data = planted(4, 20, 1, n=n)
        for name in names:
            if n == LENGTHS[-1] and name != "ours":
                continue
            learn(LEARNERS[name], data[:400], 0)
            began = time.process_time()
            learner = learn(LEARNERS[name], data, 0)
            micro[name][str(n)] = round(1e6 * (time.process_time() - began) / n, 2)
            if name == "ours":
                held[str(n)] = learner.memory_bytes()
    began = time.process_time()
    data = planted(4, 20, 1, n=100_000)
    began = time.process_time()
    truth_of(data)
    batch = round(1e6 * (time.process_time() - began) / len(data), 2)
    ours = micro.pop("ours")
    return [
        Row(
            "time a row and memory do not grow with the stream",
            "O(d) a row, O((h + 2) d) memory",
            "CPU microseconds a row, same batches",
            micro | {"scipy svds, all rows in memory, n = 100,000": batch},
            {"microseconds a row": ours, "bytes": held},
            "by length of the stream",
            f"d = {D}, R = 4, 20 heavy rows, batches of {BATCH} rows, one thread",
        )
    ]


FIRST_USE = """
import time
import numpy as np
from unending.systems.learning.streaming_top_eigenvector import Settings
rows, settings = np.ones((3, 4)), Settings(n_rows=2)
began = time.perf_counter()
settings.update(settings.init(4), rows)
print(time.perf_counter() - began)
"""


def part_calls() -> list[Row]:
    """What a call costs: the compiling of the first, the copy of the state, ten components instead of one."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            ran = subprocess.run(
                [sys.executable, "-c", FIRST_USE],
                env=os.environ | {"NUMBA_CACHE_DIR": folder},
                capture_output=True,
                text=True,
                check=True,
            )
            seconds.append(round(float(ran.stdout), 2))
    singly = {}
    for width in (100, 1024):
        rows = np.random.default_rng(0).standard_normal((500, width))
        learner = RandomOrderTopEigenvector(random_state=0).partial_fit(rows[:100])
        state, began = learner.state_, time.process_time()
        for row in rows[100:]:
            state = learner.core_.update(state, row[None])
        singly[f"d = {width}"] = round(1e6 * (time.process_time() - began) / 400, 1)
    data, micro = planted(4, 20, 1), {}
    for name in ("ours", "IncrementalPCA, 1 component", "IncrementalPCA, 10 components"):
        learn(LEARNERS[name], data[:400], 0)
        began = time.process_time()
        learn(LEARNERS[name], data, 0)
        micro[name] = round(1e6 * (time.process_time() - began) / len(data), 2)
    ours = micro.pop("ours")
    return [
        Row(
            "what a call costs",
            "none",
            f"CPU microseconds a row of {D} in batches of {BATCH}, {N} rows",
            micro,
            {
                f"microseconds a row of {D} in batches of {BATCH}": ours,
                "microseconds a row, one row a call": singly,
                "seconds of the first call on a machine, then of a later process": seconds,
            },
            "CPU microseconds; seconds",
            "R = 4, 20 heavy rows; single rows Gaussian, default store of d rows; one thread",
        )
    ]


def word_counts(columns: int = 512, words: int = 40) -> np.ndarray:
    """Rows of hashed word counts, `words` words each, of Python's language reference."""
    said = re.findall(r"[a-z]+", standard_text().lower())
    rows = np.zeros((len(said) // words, columns))
    for place, word in enumerate(said[: len(rows) * words]):
        rows[place // words, zlib.crc32(word.encode()) % columns] += 1
    return rows


def part_real() -> list[Row]:
    """Digits and word counts, centred and not."""
    rows = []
    sources = {
        "load_digits": load_digits().data.astype(float),
        "words of the language reference": word_counts(),
    }
    for source, whole in sources.items():
        for centred in (False, True):
            data = whole - whole.mean(axis=0) if centred else whole
            values = np.linalg.svd(data, compute_uv=False)
            found: dict[str, list[float]] = {}
            for seed in range(SEEDS):
                mixed = data[np.random.default_rng(seed).permutation(len(data))]
                truth = truth_of(mixed)
                for name, make in LEARNERS.items():
                    found.setdefault(name, []).append(quality(learn(make, mixed, seed), truth))
                stored = learn(LEARNERS["ours"], mixed, seed)
            values_of = {name: mean(each) for name, each in found.items()}
            rows.append(
                Row(
                    f"real rows: {source}, {'centred beforehand' if centred else 'as they are'}",
                    "none",
                    "same rows in the same order; IncrementalPCA centres by itself",
                    {name: value for name, value in values_of.items() if not name.startswith("ours")},
                    {name: value for name, value in values_of.items() if name.startswith("ours")},
                    "<v, v1>^2, mean of 5 seeds",
                    f"{data.shape[0]} rows of {data.shape[1]}, shuffled by seeds 0 to {SEEDS - 1}",
                    note=f"R = {float(values[0] / values[1]) ** 2:.2f}, heavy rows stored {stored.n_heavy_}",
                )
            )
    return rows


def draw() -> None:
    """Loss against R, space against heavy rows, time and memory against length."""
    import json

    import matplotlib.pyplot as plt

    stored = {row["claim"]: row for row in json.loads((RESULTS / f"{SYSTEM}.json").read_text())}
    rate = stored.get("loss of correlation falls at least as 1/sqrt R")
    space = stored.get("space grows with the heavy rows and not with the stream")
    length = stored.get("time a row and memory do not grow with the stream")
    if not (rate and space and length):
        return
    figure, (left, right, last) = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    gaps = np.array(GAPS, dtype=float)
    for name, values in {"ours": rate["ours"], **rate["peer_value"]}.items():
        left.loglog(gaps, [values[str(gap)] for gap in GAPS], marker="o", markersize=3, label=name)
    left.loglog(gaps, 1 / np.sqrt(gaps), "k--", linewidth=1, label="1/sqrt R")
    left.set_xlabel("R = sigma1^2 / sigma2^2")
    left.set_ylabel("1 - <v, v1>^2")
    left.legend(fontsize=7)
    counts = [int(each) for each in space["ours"]["bits"]]
    right.plot(
        counts,
        [each / 8e3 for each in space["ours"]["bits"].values()],
        marker="o",
        markersize=3,
        label="kB of state",
    )
    right.plot(
        counts,
        list(space["ours"]["rows stored at most"].values()),
        marker="o",
        markersize=3,
        label="rows stored",
    )
    right.set_xlabel("planted heavy rows")
    right.legend(fontsize=7)
    for name, values in {"ours": length["ours"]["microseconds a row"], **length["peer_value"]}.items():
        if isinstance(values, dict):
            last.loglog([int(n) for n in values], list(values.values()), marker="o", markersize=3, label=name)
    held = length["ours"]["bytes"]
    last.loglog(
        [int(n) for n in held], [each / 1e3 for each in held.values()], "k--", label="kB of state, ours"
    )
    last.set_xlabel("rows of the stream")
    last.set_ylabel("microseconds a row")
    last.legend(fontsize=7)
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / f"{SYSTEM}-rates.png", dpi=80)
    plt.close(figure)


PARTS = {
    "table": part_table,
    "rate": part_rate,
    "space": part_space,
    "order": part_order,
    "adversarial": part_adversarial,
    "thinning": part_thinning,
    "length": part_length,
    "calls": part_calls,
    "real": part_real,
}

if __name__ == "__main__":
    sys.exit(run(SYSTEM, __file__, PARTS, draw))
