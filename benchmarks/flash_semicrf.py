"""Claims of Flash-SemiCRF (Johnson et al. 2026), each a part of its own: `--only PART`; rows go to benchmarks/results/.

Settings, seeds and baselines are the constants below. Everything runs on one CPU thread: the paper's times are of a
GPU, so ratios stand beside them for their direction only.
"""

import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from command import progress, run
from rows import RESULTS, Row
from torch import Tensor, nn

from unending.systems.learning.flash_semicrf import (
    Potentials,
    Scores,
    Segment,
    SemiCRFDistribution,
    SemiMarkovCRF,
    StreamingSemiCRF,
    labels_to_segments,
    prefix_sums,
)
from unending.systems.learning.flash_semicrf.function import log_partition, scan
from unending.systems.learning.flash_semicrf.naive import naive_log_partition

SYSTEM = "flash-semicrf"
IMAGES = RESULTS.parents[1] / "docs" / "images"
SEED = 0

MEMORY_SIZES = {
    (32, 8): {"ours": (100, 1000, 10_000, 100_000), "naive": (100, 1000), "torch-struct": (50,)},
    (8, 4): {
        "ours": (100, 1000, 10_000, 100_000),
        "naive": (100, 1000),
        "torch-struct": (50, 100, 200, 400, 800),
    },
}
"""By K and C, the lengths at which each is measured."""
LIMIT = 8 * 2**30
"""Address space that a pass may add to its process; what needs more is reported as not fitting."""
SPEED_SIZES = ((1, 64, 8, 4), (1, 128, 16, 4), (1, 128, 16, 8), (4, 128, 8, 8))
"""Batch, T, K, C."""
LONG_SIZES = ((1000, 24), (100, 24), (32, 8))
DRIFT = {"T": 100_000, "K": 32, "C": 8}
MEANS = (3.0, -0.3, 1.0, 0.0, 2.0, -0.3, 0.5, 1.5)
IMBALANCE = (0.70, 0.15, 0.10, 0.05)
IMBALANCE_SIZE = {"T": 2000, "K": 40, "mean": 12.0, "signal": 1.5, "noise": 1.5, "rows": 10}
GENES = {
    "labels": 3, "length": 384, "rows": 8, "steps": 1500, "hidden": 32, "tested": 40, "shortest": 12, "longest": 64,
    "tolerance": 2,
}  # fmt: skip
GENE_SEEDS = (0, 1, 2)
COMPOSITIONS = {
    "weak": [[0.31, 0.19, 0.19, 0.31], [0.21, 0.29, 0.29, 0.21], [0.27, 0.17, 0.17, 0.39]],
    "clear": [[0.40, 0.10, 0.10, 0.40], [0.10, 0.40, 0.40, 0.10], [0.20, 0.10, 0.50, 0.20]],
}
"""Odds of the four letters by label. Weak came first; clear was added because the K=1 head hardly learned from weak."""
GENE_STEPS = {"weak": GENES["steps"], "clear": 600}
STREAM = {"K": 32, "C": 8, "lengths": (1000, 10_000, 100_000), "hop": 16, "max_lag": 1024}


def random_scores(
    size: tuple[int, int, int, int], seed: int = SEED, requires_grad: bool = True
) -> Potentials:
    batch, positions, durations, labels = size
    g = torch.Generator().manual_seed(seed)
    f, transition, duration = (
        torch.randn(*shape, generator=g, dtype=torch.float64)
        for shape in ((batch, positions, labels), (labels, labels), (durations, labels))
    )
    cum = prefix_sums(f)[0]
    for each in (cum, transition, duration):
        each.requires_grad_(requires_grad)
    return Potentials.of(cum, transition, duration)


def edges(p: Potentials) -> Tensor:
    """torch-struct's edge tensor `[batch, T, K + 1, C, C]`, target label first."""
    cum, size = p.cum_scores, p.max_duration
    batch, positions, labels = cum.shape
    edge = cum.new_full((batch, positions - 1, size + 1, labels, labels), -1e9)
    for k in range(1, min(size, positions - 1) + 1):
        content = cum[:, k:] - cum[:, :-k] + p.duration[k - 1]
        edge[:, : positions - k, k] = content[..., None] + p.transition.T
    return edge


def torch_struct_partition(p: Potentials) -> Tensor:
    from torch_struct import SemiMarkovCRF as Peer

    return Peer(edges(p)).partition


METHODS: dict[str, Callable[[Potentials], Tensor]] = {
    "ours": log_partition,
    "naive": naive_log_partition,
    "torch-struct": torch_struct_partition,
}


def _status(name: str) -> int:
    """A number of this process in KiB, as Linux tells it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def measured(method: str, positions: int, durations: int, labels: int) -> None:
    """In a process of its own: peak memory of one forward and backward pass, as a line of JSON."""
    torch.set_num_threads(1)
    METHODS[method](random_scores((1, 8, durations, labels))).sum().backward()  # compiled, imported
    p = random_scores((1, positions, durations, labels))
    limit = _status("VmSize") * 1024 + LIMIT
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    ctypes.CDLL(None).malloc_trim(0)  # what was freed would be used again unseen
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    METHODS[method](p).sum().backward()
    peak = round((_status("VmHWM") - before) / 1024, 1)
    seconds = np.inf
    for _ in range(3):
        p = random_scores((1, positions, durations, labels))
        start = time.perf_counter()
        METHODS[method](p).sum().backward()
        seconds = min(seconds, time.perf_counter() - start)
    print(json.dumps({"MiB": peak, "seconds": round(seconds, 4)}))


def part_memory() -> list[Row]:
    rows = []
    for (k, c), lengths in MEMORY_SIZES.items():
        found: dict[str, dict[str, Any]] = {}
        for method, each in lengths.items():
            found[method] = {}
            for positions in each:
                progress(f"{method} at T={positions}, K={k}, C={c}")
                arguments = ["--measure", method, *map(str, (positions, k, c))]
                done = subprocess.run(
                    [sys.executable, "-W", "ignore", __file__, *arguments], capture_output=True, text=True
                )
                held = json.loads(done.stdout) if done.returncode == 0 else f"does not fit {LIMIT >> 30} GiB"
                found[method][str(positions)] = held
        positions = max(lengths["ours"])
        state = scan(random_scores((1, positions, k, c), requires_grad=False))
        held = {
            "edge tensor MiB": round(positions * k * c * c * 8 / 2**20, 1),
            "prefix sums MiB": round(positions * c * 8 / 2**20, 1),
            "checkpoints MiB": round(state.checkpoints.nbytes / 2**20, 1),
        }
        rows.append(
            Row(
                f"peak memory of forward and backward grows by O(T C) alone, K={k}, C={c}",
                "2393 to 11795 times less than the edge tensor (GPU)",
                "naive autograd; torch-struct 0.5",
                {name: found[name] for name in ("naive", "torch-struct")},
                found["ours"],
                "MiB of resident memory above what stood before, seconds, by T",
                "float64, one row, one process each; prefix sums were there before",
                note=f"at T={positions}: {json.dumps(held)}",
            )
        )
    large, labels, positions = 1000, 24, 100_000
    wide = scan(random_scores((1, positions, large, labels), requires_grad=False))
    rows.append(
        Row(
            "no edge tensor at T=100,000, K=1000, C=24",
            "460 GB against about 39 MB",
            "the edge tensor, by its size",
            round(positions * large * labels**2 * 8 / 2**30, 1),
            {
                "checkpoints MiB": round(wide.checkpoints.nbytes / 2**20, 1),
                "prefix sums MiB": round(positions * labels * 8 / 2**20, 1),
            },
            "GiB; MiB",
            "float64, one row",
        )
    )
    return rows


def _timed(function: Callable[[], Any], least: int = 3) -> float:
    function()
    best = np.inf
    for _ in range(least):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return best


def part_speed() -> list[Row]:
    rows = []
    for size in SPEED_SIZES:
        progress(str(size))
        p = random_scores(size)

        def both(method: str, p: Potentials = p) -> None:
            torch.autograd.grad(
                METHODS[method](p).sum(), [p.cum_scores, p.transition, p.duration], retain_graph=True
            )

        seconds = {method: _timed(lambda method=method: both(method)) for method in METHODS}
        gap = (METHODS["ours"](p) - METHODS["torch-struct"](p)).abs().max().item()
        rows.append(
            Row(
                f"faster than torch-struct, batch {size[0]}, T={size[1]}, K={size[2]}, C={size[3]}",
                "1.48 to 3.35 times (GPU, against its own torch loop)",
                "torch-struct 0.5; naive autograd",
                {method: round(seconds[method] * 1e3, 2) for method in ("torch-struct", "naive")},
                {
                    "ms": round(seconds["ours"] * 1e3, 3),
                    "times torch-struct": round(seconds["torch-struct"] / seconds["ours"], 1),
                    "times naive": round(seconds["naive"] / seconds["ours"], 1),
                },
                "ms, forward and backward",
                "float64, one thread, best of 3, one run",
                note=f"log Z differs by {gap:.1e}",
            )
        )
    return rows


def part_long() -> list[Row]:
    rows = []
    positions = 100_000
    for durations, labels in LONG_SIZES:
        progress(f"K={durations}, C={labels}")
        p = random_scores((1, positions, durations, labels))
        log_partition(random_scores((1, 64, 2, labels))).sum().backward()
        start = time.perf_counter()
        total = log_partition(p)
        middle = time.perf_counter()
        (grad,) = torch.autograd.grad(total.sum(), [p.cum_scores])
        end = time.perf_counter()
        tiling = (-grad.sum(2).cumsum(1)[:, :-1] - 1).abs().max().item()
        rows.append(
            Row(
                f"T=100,000 runs forward and backward, K={durations}, C={labels}",
                "100k+ positions",
                "the posteriors of a token's segments sum to 1",
                1.0,
                {
                    "forward s": round(middle - start, 2),
                    "backward s": round(end - middle, 2),
                    "tiling error": tiling,
                },
                "seconds; largest difference from 1",
                "float64, one thread, default checkpoints",
            )
        )
    times = {}
    for n in (100, 1000, 10_000, 100_000):
        p = random_scores((1, n, 32, 8))
        seconds = _timed(lambda p=p: torch.autograd.grad(log_partition(p).sum(), [p.cum_scores]))
        times[str(n)] = round(seconds / n * 1e6, 3)
    rows.append(
        Row(
            "time a position does not grow with T",
            "O(T)",
            "itself at T=1,000",
            times["1000"],
            times,
            "microseconds a position, forward and backward",
            "K=32, C=8, float64, one thread",
        )
    )
    return rows


def first_use(what: str) -> None:
    """In a process without compiled code: seconds of the first call, and of the second, as a line of JSON."""
    torch.set_num_threads(1)
    rows = np.random.default_rng(SEED).standard_normal((50, 4))
    crf = SemiMarkovCRF(4, 8, duration_transitions=what == "layer, [K, C, C]")
    scores = Scores(np.zeros((4, 4)), np.zeros((8, 4)), np.zeros(4), np.zeros(4))
    labels = torch.zeros(1, 50, dtype=torch.int64)
    calls: dict[str, Callable[[], Any]] = {
        "layer": lambda: crf.nll(torch.from_numpy(rows)[None], labels=labels).backward(),
        "stream": lambda: StreamingSemiCRF(scores).push(rows),
    }
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        calls[what.split(",")[0]]()
        seconds.append(round(time.perf_counter() - start, 4))
    print(json.dumps(seconds))


def part_first() -> list[Row]:
    told: dict[str, Any] = {}
    for what in ("layer", "layer, [K, C, C]", "stream"):
        progress(what)
        with tempfile.TemporaryDirectory() as folder:
            for name in ("compiles", "from the cache"):
                done = subprocess.run(
                    [sys.executable, "-W", "ignore", __file__, "--first", what],
                    env={**os.environ, "NUMBA_CACHE_DIR": folder}, capture_output=True, text=True, check=True,
                )  # fmt: skip
                first, second = json.loads(done.stdout)
                told.setdefault(what, {})[name] = first
                told[what]["second call"] = second
    return [
        Row(
            "seconds of the first call",
            "not in the paper",
            "the second call",
            {what: each.pop("second call") for what, each in told.items()},
            told,
            "seconds",
            "T=50, K=8, C=4; the layer's loss and gradient, the online filter's push",
        )
    ]


def part_drift() -> list[Row]:
    """All messages in float32 against float64."""
    g = torch.Generator().manual_seed(SEED)
    t, k, c = DRIFT["T"], DRIFT["K"], DRIFT["C"]
    f = torch.randn(1, t, c, generator=g, dtype=torch.float64) + torch.tensor(MEANS)
    transition = torch.randn(c, c, generator=g, dtype=torch.float64)
    duration = torch.randn(k, c, generator=g, dtype=torch.float64)
    rows = []
    for centering in ("none", "position", "label"):
        progress(centering)
        wide = Potentials.of(prefix_sums(f, None, centering)[0], transition, duration)
        truth = log_partition(wide).item()
        cum = prefix_sums(f, None, centering, torch.float32)[0].requires_grad_()
        narrow = Potentials.of(cum, transition, duration)
        (exact,) = torch.autograd.grad(
            log_partition(
                double := Potentials.of(wide.cum_scores.requires_grad_(), transition, duration)
            ).sum(),
            [double.cum_scores],
        )
        table: dict[str, Any] = {"log Z": round(truth, 2)}
        for name, interval in (("every 32", 32), ("never", t)):
            total = log_partition(narrow, interval)
            (grad,) = torch.autograd.grad(total.sum(), [cum])
            error = total.item() - truth
            torch_error = scan(narrow, interval, "vectorised").log_partition.item() - truth
            table[name] = {
                "error": round(error, 4),
                "relative": float(f"{abs(error / truth):.2g}"),
                "error, torch": round(torch_error, 4),
                "gradients finite": bool(torch.isfinite(grad).all()),
                "largest error of a gradient": float(f"{(grad - exact).abs().max().item():.2g}"),
            }
        rows.append(
            Row(
                f"float32 messages, centring {centering}",
                "normalisation and centring keep float32 usable",
                "without normalisation",
                table["never"],
                table["every 32"],
                "error of log Z against float64; of gradients",
                f"T={t}, K={k}, C={c}, emission means {MEANS[0]:g} to {min(MEANS):g}",
                note=f"log Z {table['log Z']}; sums of compiled steps in float64 registers, of torch in float32",
            )
        )
    return rows


def _imbalanced(rng: np.random.Generator) -> tuple[Tensor, list[Segment]]:
    """Emissions of an encoder that has learned the proportions as well as the labels."""
    size = IMBALANCE_SIZE
    segments: list[Segment] = []
    at, last = 0, -1
    while at < size["T"]:
        # Rare labels have as long segments as others; they are rare.
        odds = np.array(IMBALANCE)
        if last >= 0:
            odds[last] = 0
        label = int(rng.choice(len(odds), p=odds / odds.sum()))
        end = min(size["T"], at + min(1 + int(rng.geometric(1 / size["mean"])), size["K"]))
        segments.append(Segment(at, end, label))
        at, last = end, label
    labels = np.repeat([s.label for s in segments], [s.end - s.start for s in segments])
    f = np.log(np.array(IMBALANCE)) + size["noise"] * rng.standard_normal((size["T"], len(IMBALANCE)))
    f[np.arange(len(labels)), labels] += size["signal"]
    return torch.from_numpy(f)[None], segments


def _overlap(one: Segment, other: Segment) -> float:
    inner = min(one.end, other.end) - max(one.start, other.start)
    return inner / (max(one.end, other.end) - min(one.start, other.start))


def part_centering() -> list[Row]:
    labels = len(IMBALANCE)
    transition = torch.full((labels, labels), -1.0, dtype=torch.float64).fill_diagonal_(-1e9)
    k = IMBALANCE_SIZE["K"]
    mean = IMBALANCE_SIZE["mean"]
    steps = torch.arange(k, dtype=torch.float64)[:, None] * np.log(1 - 1 / mean)
    duration = (steps + np.log(1 / mean)).expand(k, labels).contiguous()
    counts = {mode: np.zeros(labels, int) for mode in ("label", "position", "none", "restore")}
    given = np.zeros(labels, int)
    correct = dict.fromkeys(counts, 0.0)
    for seed in range(IMBALANCE_SIZE["rows"]):
        f, truth = _imbalanced(np.random.default_rng(seed))
        for each in truth:
            given[each.label] += 1
        for mode in counts:
            cum, mean_of = prefix_sums(f, None, "label" if mode == "restore" else mode)
            table = duration
            if mode == "restore":
                table = duration + torch.arange(1, k + 1, dtype=torch.float64)[:, None] * mean_of[0]
            (path,) = SemiCRFDistribution(Potentials.of(cum, transition, table, start="pi")).argmax
            for each in truth:
                hit = any(s.label == each.label and _overlap(s, each) >= 0.5 for s in path)
                counts[mode][each.label] += hit
            said = np.repeat([s.label for s in path], [s.end - s.start for s in path])
            right = np.repeat([s.label for s in truth], [s.end - s.start for s in truth])
            correct[mode] += float((said == right).mean()) / IMBALANCE_SIZE["rows"]
    told = {
        mode: {"segments": counts[mode].tolist(), "positions": round(correct[mode], 3)} for mode in counts
    }
    return [
        Row(
            "label centring recovers segments of rare labels",
            "24 against 3 of the rarest label, 43 against 15 of the second rarest; of the most common 84 against 136",
            "position centring; none; label with restore",
            {mode: told[mode] for mode in ("position", "none", "restore")},
            told["label"],
            "segments recovered (overlap >= 0.5) by label, right positions",
            f"proportions {IMBALANCE}, {IMBALANCE_SIZE}, no training",
            note=f"of {given.tolist()} segments; synthetic, an encoder biased by the proportions",
        )
    ]


def _genes(rng: np.random.Generator, rows: int, odds: np.ndarray) -> tuple[Tensor, Tensor]:
    """Nucleotides `[rows, T, 4]` one-hot and labels `[rows, T]`: compositions differ a little, durations are shaped."""
    length, labels = GENES["length"], GENES["labels"]
    symbols, said = np.empty((rows, length), int), np.empty((rows, length), int)
    for row in range(rows):
        at, label = 0, int(rng.integers(labels))
        while at < length:
            lasts = GENES["shortest"] + rng.negative_binomial(6, 6 / (6 + 18))
            end = min(length, at + min(lasts, GENES["longest"]))
            said[row, at:end] = label
            at, label = end, int((label + rng.integers(1, labels)) % labels)
        for c in range(labels):
            where = said[row] == c
            symbols[row, where] = rng.choice(4, size=int(where.sum()), p=odds[c])
    return nn.functional.one_hot(torch.from_numpy(symbols), 4).float(), torch.from_numpy(said)


class _Tagger(nn.Module):
    def __init__(self, max_duration: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = nn.LSTM(4, GENES["hidden"], batch_first=True, bidirectional=True)
        self.crf = SemiMarkovCRF(GENES["labels"], max_duration, 2 * GENES["hidden"], centering="position")


def _merged(labels: np.ndarray) -> list[Segment]:
    return labels_to_segments(labels, len(labels))


def _f1(hits: int, found: int, given: int) -> float:
    return round(2 * hits / max(1, found + given), 4)


def _scores(tagger: _Tagger, x: Tensor, y: Tensor) -> dict[str, float]:
    with torch.no_grad():
        paths = tagger.crf.decode(tagger.encoder(x)[0])
    near = GENES["tolerance"]
    said = np.array([np.repeat([s.label for s in p], [s.end - s.start for s in p]) for p in paths])
    truth = y.numpy()
    position = [
        _f1(int(((said == c) & (truth == c)).sum()), int((said == c).sum()), int((truth == c).sum()))
        for c in range(GENES["labels"])
    ]
    hits, tally = np.zeros(2, int), np.zeros((2, 2), int)
    for mine, theirs in zip(said, truth, strict=True):
        found, given = _merged(mine), _merged(theirs)
        free = [s.end for s in given[:-1]]
        for s in found[:-1]:
            match = next((e for e in free if abs(e - s.end) <= near), None)
            if match is not None:
                free.remove(match)
                hits[0] += 1
        hits[1] += sum(
            any(
                a.label == b.label and abs(a.start - b.start) <= near and abs(a.end - b.end) <= near
                for a in found
            )
            for b in given
        )
        tally += [[len(found) - 1, len(given) - 1], [len(found), len(given)]]
    return {
        "position": round(float(np.mean(position)), 4),
        "boundary": _f1(int(hits[0]), *map(int, tally[0])),
        "segment": _f1(int(hits[1]), *map(int, tally[1])),
    }


def part_genes(signal: str = "weak") -> list[Row]:
    odds, steps = np.array(COMPOSITIONS[signal]), GENE_STEPS[signal]
    found: dict[int, list[dict[str, float]]] = {1: [], GENES["longest"]: []}
    for seed in GENE_SEEDS:
        x, y = _genes(np.random.default_rng(1000 + seed), GENES["tested"], odds)
        for durations, results in found.items():
            tagger = _Tagger(durations, seed)
            optimizer = torch.optim.Adam(tagger.parameters(), 0.01)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
            rng = np.random.default_rng(seed)
            for step in range(steps):
                batch, labels = _genes(rng, GENES["rows"], odds)
                loss = tagger.crf.nll(tagger.encoder(batch)[0], labels=labels, reduction="token")
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(tagger.parameters(), 5.0)
                optimizer.step()
                schedule.step()
                if step % 50 == 0:
                    progress(f"seed {seed}, K={durations}, step {step}: {loss.item():.4f} nats a token")
            results.append(_scores(tagger, x, y))
            progress(f"seed {seed}, K={durations}: {results[-1]}")
    means = {
        k: {name: round(float(np.mean([each[name] for each in runs])), 4) for name in runs[0]}
        for k, runs in found.items()
    }
    margin = {name: round(means[GENES["longest"]][name] - means[1][name], 4) for name in means[1]}
    return [
        Row(
            f"gene-like sequences, {signal} compositions: durations help boundaries and segments",
            "equal position F1, higher boundary and segment F1",
            "the same BiLSTM with a linear-chain head (K=1)",
            {"mean": means[1], "seeds": found[1]},
            {"mean": means[GENES["longest"]], "seeds": found[GENES["longest"]], "margin": margin},
            "F1; boundaries and segments within 2 positions",
            f"{GENES}, {steps} steps, negative-binomial durations, seeds {GENE_SEEDS}",
            note="synthetic; each head trained with its own encoder of the same size and seed",
        )
    ]


def part_stream() -> list[Row]:
    rng = np.random.default_rng(SEED)
    k, c = STREAM["K"], STREAM["C"]
    transition = rng.standard_normal((c, c))
    np.fill_diagonal(transition, -1e9)
    scores = Scores(transition, rng.standard_normal((k, c)), np.zeros(c), np.zeros(c))
    told: dict[str, Any] = {}
    for n in STREAM["lengths"]:
        progress(f"{n} rows")
        labels = np.repeat(rng.integers(0, c, n // 10 + 1), 10)[:n]
        rows = rng.standard_normal((n, c))
        rows[np.arange(n), labels] += 2.0
        crf = StreamingSemiCRF(scores, STREAM["hop"], STREAM["max_lag"])
        crf.push(rows[:1])
        crf = StreamingSemiCRF(scores, STREAM["hop"], STREAM["max_lag"])
        lags: list[int] = []
        segments: list[Segment] = []
        start = time.perf_counter()
        for at in range(0, n, 256):
            seen = crf.push(rows[at : at + 256])
            segments += seen.segments
            lags += [d - s.end for d, s in zip(seen.decided_at, seen.segments, strict=True)]
        segments += crf.finish()
        seconds = time.perf_counter() - start
        cum = prefix_sums(torch.from_numpy(rows)[None], None, "position")[0]
        whole = Potentials.of(
            cum, torch.from_numpy(transition), torch.from_numpy(scores.duration), start="pi"
        )
        (best,) = SemiCRFDistribution(whole).argmax
        told[str(n)] = {
            "us a row": round(seconds / n * 1e6, 2),
            "state bytes": sum(v.nbytes for v in vars(crf.state).values() if isinstance(v, np.ndarray)),
            "mean lag": round(float(np.mean(lags)), 1),
            "largest lag": int(max(lags)),
            "forced": crf.state.forced,
            "equal to Viterbi over all rows": segments == best,
        }
    return [
        Row(
            "streaming decode equals Viterbi over the whole, at constant memory and time",
            "not in the paper",
            "Viterbi over all rows",
            "the same segments",
            told,
            "by rows of the stream",
            f"K={k}, C={c}, hop {STREAM['hop']}, max_lag {STREAM['max_lag']}, chunks of 256",
        )
    ]


def draw() -> None:
    """Memory and time against T, out of what is stored."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    path = RESULTS / f"{SYSTEM}.json"
    rows = json.loads(path.read_text()) if path.is_file() else []
    k, c = 8, 4
    row = next((row for row in rows if row["claim"].endswith(f"alone, K={k}, C={c}")), None)
    if row is None:
        return
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    curves = {"unending": row["ours"], **row["peer_value"]}
    for axis, what, title in ((axes[0], "MiB", "peak memory, MiB"), (axes[1], "seconds", "time, seconds")):
        for label, values in curves.items():
            points = [
                (int(n), max(each[what], 0.05 if what == "MiB" else 0.0))
                for n, each in values.items()
                if not isinstance(each, str)
            ]
            axis.plot(*zip(*points, strict=True), marker="o", label=label)
        if what == "MiB":
            lengths = [100, 100_000]
            size = k * c**2 * 8 / 2**20
            axis.plot(lengths, [n * size for n in lengths], "k:", label="edge tensor alone")
            axis.plot(lengths, [n * c * 8 / 2**20 for n in lengths], "k--", label="prefix sums alone")
        axis.set_title(f"{title}, forward and backward, K={k}, C={c}", fontsize=11)
        axis.set_xlabel("positions T")
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.grid(alpha=0.3, which="both")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=9)
    figure.savefig(IMAGES / "flash-semicrf-growth.png", dpi=100)
    pyplot.close(figure)


PARTS = {
    "memory": part_memory,
    "speed": part_speed,
    "long": part_long,
    "first": part_first,
    "drift": part_drift,
    "centering": part_centering,
    "genes": part_genes,
    "genes-clear": lambda: part_genes("clear"),
    "stream": part_stream,
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measured(sys.argv[2], *map(int, sys.argv[3:6]))
    elif sys.argv[1:2] == ["--first"]:
        first_use(sys.argv[2])
    else:
        sys.exit(run(SYSTEM, __file__, PARTS, draw))
