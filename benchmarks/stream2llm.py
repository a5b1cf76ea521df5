"""Claims of Stream2LLM (Bachkaniwala et al. 2026), each a part of its own (`--only PART`); rows: benchmarks/results/.

Settings, seeds and baselines are the constants below. The simulated parts run the scheduler of the engine in
simulated time; what a pass and a swap take there is `LARGE`, set by hand and not measured.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from command import progress, run
from rows import RESULTS, Row

from unending.core import TICK, Tokens
from unending.io.text import standard_text
from unending.parts import backbones
from unending.parts.simulation import Curve
from unending.systems.language.stream2llm import (
    FCFS,
    LCAS,
    MCPS,
    CostModel,
    DefaultVLLM,
    Metrics,
    Scheduler,
    Stream2LLM,
    StreamingEngine,
    TraceEvent,
    TwoPhase,
    anns_trace,
    crawler_trace,
    replay,
    simulate,
)

SYSTEM = "stream2llm"
IMAGES = RESULTS.parents[1] / "docs" / "images"
MODEL = "smollm2-135m"
SEEDS = (20, 21, 22)
LARGE = CostModel(Curve(0.008, 4e-5, 0.65e-9), Curve(0.03, 3e-5))
"""Like an 8B model on a data-centre GPU: a pass takes 8 ms, 40 us a token and 1.3 ns a pair of attention; a swap out
and in takes 30 ms and 30 us a token, a third of it for the bytes and the rest for starting a copy a block and layer.
The curves cross at about 1,950 tokens."""
REQUESTS = 200
QPS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
AMPLE = 40_000
"""KV blocks of 16 tokens; a crawl ends with about 880."""
PRESSURE = {
    "crawl": (crawler_trace, {"qps": 0.5}, {"kv_blocks": 7_000, "delay_multiplier": 10}),
    "search": (anns_trace, {"qps": 0.5}, {"kv_blocks": 1_100, "delay_multiplier": 30}),
}
"""Memory for about eight prompts at their end, and the delays of the paper's stress test."""
POLICIES: dict[str, Scheduler] = {  # the last one evicts for requests whose input has ended alone
    "LIFO (vLLM's own)": DefaultVLLM(),
    "FCFS": TwoPhase(FCFS()),
    "LCAS": TwoPhase(LCAS()),
    "LCAS, recent first": TwoPhase(LCAS(recent_first=True)),
    "MCPS": TwoPhase(MCPS()),
    "FCFS, for complete ones": TwoPhase(FCFS(), evict_for="complete"),
}
ABLATION = {
    "recompute only": {"preemption": "recompute"},
    "swap only": {"preemption": "swap"},
    "cost of incoming tokens (upstream)": {"cost_argument": "incoming_tokens"},
}
BUSY = {"qps": 1.2}, {"kv_blocks": 7_000, "delay_multiplier": 5}
"""Crawls under which both memory and computation are short: where computation is idle, to recompute is free."""
REAL = {"chunks": 14, "gap": 1.5, "tokens": (64, 96), "question": 16, "seed": 20}
REAL_REQUESTS, REAL_QPS, REAL_BLOCKS = 3, 0.02, 300
REAL_BATCH = 128
"""Tokens of one pass: on this processor longer passes take more time a token, which would flatter streaming."""
COST_SIZES = (16, 64, 256)
LENGTHS = (64, 512, 2_048)


def real_ids() -> np.ndarray:
    backbone = backbones.load(MODEL)
    return np.array(backbone.tokenizer(standard_text()[:60_000]).input_ids, dtype=np.int64)


def real_trace() -> list[TraceEvent]:
    """A crawl whose pages are pieces of a real text."""
    ids, at, trace = real_ids(), 0, []
    for event in crawler_trace(REAL_REQUESTS, REAL_QPS, **REAL):
        assert isinstance(event.tokens, int)
        trace.append(TraceEvent(event.t, event.req, event.op, ids[at : at + event.tokens]))
        at += event.tokens
    return trace


class OwnClock:
    """Seconds of this process's own computation and of the waiting that it would do: other programs do not count."""

    def __init__(self) -> None:
        self.slept = 0.0

    def __call__(self) -> float:
        return time.process_time() + self.slept

    def sleep(self, seconds: float) -> None:
        self.slept += seconds


def part_real() -> list[Row]:
    """The engine on a real model: streaming against waiting for the whole context, the same trace, one run."""
    module, trace = backbones.load(MODEL).module, real_trace()
    found = {}
    for mode in ("stream", "wait"):
        clock = OwnClock()
        scheduler = TwoPhase(FCFS(), max_batched_tokens=REAL_BATCH)
        engine = StreamingEngine(module, REAL_BLOCKS, scheduler=scheduler, clock=clock)
        engine.submit(real_ids()[:64], finished=True)
        engine.run()
        found[mode] = replay(engine, trace, mode=mode, sleep=clock.sleep)
        progress(f"{mode}: {found[mode].ttft}, after the last chunk {found[mode].after_close}")
    prompts = [each.prompt for each in found["stream"].requests]
    setting = (
        f"{MODEL}, {REAL_REQUESTS} crawls one after another, {REAL['chunks']} chunks {REAL['gap']} s apart,"
        f" {min(prompts)} to {max(prompts)} tokens of pydoc_data.topics, passes of"
        f" {REAL_BATCH}, time of one thread"
    )
    rows = []
    for name, claim in (
        ("after_close", "time from the last chunk to the first token"),
        ("ttft", "time from the request to the first token, retrieval included"),
    ):
        waited, streamed = (getattr(found[mode], name)["p50"] for mode in ("wait", "stream"))
        rows.append(
            Row(
                f"{claim}: {waited / streamed:.1f} times shorter with streaming",
                "TTFT up to 11 times better",
                "waiting for the whole context, P50",
                round(waited, 3),
                round(streamed, 3),
                "s",
                setting,
            )
        )
    rows.append(
        Row(
            "tokens that go through the model are as many",
            "throughput parity",
            "waiting for the whole context",
            found["wait"].total("computed"),
            found["stream"].total("computed"),
            "tokens",
            setting,
        )
    )
    return rows


def part_costs() -> list[Row]:
    """What recomputation and swapping cost on this machine."""
    module = backbones.load(MODEL).module
    found = CostModel.measure(module, COST_SIZES[0], COST_SIZES[-1], clock=time.process_time)
    return [
        Row(
            "on this machine a swap is cheaper than recomputation at every length",
            "the cheaper one depends on hardware and length (H200, A40)",
            "recomputation",
            [round(1000 * found.recompute(n), 2) for n in COST_SIZES],
            [round(1000 * found.swap(n), 2) for n in COST_SIZES],
            "ms",
            f"{MODEL}, {', '.join(map(str, COST_SIZES))} tokens, curves with R2 {found.recompute.r_squared:.3f}"
            f" and {found.swap.r_squared:.3f}; the host is the device here",
        )
    ]


def mean(runs: list[Metrics], name: str, rank: str) -> float:
    return float(np.mean([getattr(each, name)[rank] for each in runs]))


def simulated(make: Callable[..., Any], scheduler: Scheduler, qps: float, **settings: Any) -> list[Metrics]:
    return [simulate(make(REQUESTS, qps, seed=seed), scheduler, LARGE, **settings) for seed in SEEDS]


def part_load() -> list[Row]:
    """Streaming against waiting as the load grows, with memory to spare."""
    rows, drawn = [], {}
    setting = (
        f"simulated, {REQUESTS} crawls, {len(SEEDS)} seeds, ample memory, two-phase FCFS, requests a second:"
    )
    runs = {
        mode: [simulated(crawler_trace, TwoPhase(FCFS()), qps, kv_blocks=AMPLE, mode=mode) for qps in QPS]
        for mode in ("wait", "stream")
    }
    for name, claim in (
        ("after_close", "time from the last chunk to the first token"),
        ("ttft", "time from the request to the first token, retrieval included"),
    ):
        for rank in ("p50", "p95"):
            wait, stream = ([mean(each, name, rank) for each in runs[mode]] for mode in ("wait", "stream"))
            drawn[name, rank] = wait, stream
            best = max(one / two for one, two in zip(wait, stream, strict=True))
            rows.append(
                Row(
                    f"{claim}, {rank.upper()}: up to {best:.2f} times shorter with streaming",
                    "TTFT up to 11 times better",
                    "waiting for the whole context",
                    [round(each, 3) for each in wait],
                    [round(each, 3) for each in stream],
                    "s",
                    f"{setting} {', '.join(map(str, QPS))}",
                )
            )
    ends = {
        mode: [float(np.mean([one.completion_time for one in each])) for each in runs[mode]] for mode in runs
    }
    rows.append(
        Row(
            "the whole trace is done as soon",
            "throughput parity",
            "waiting for the whole context",
            [round(each, 1) for each in ends["wait"]],
            [round(each, 1) for each in ends["stream"]],
            "s",
            f"{setting} {', '.join(map(str, QPS))}",
        )
    )
    _drawn["load"] = drawn["after_close", "p50"], drawn["after_close", "p95"]
    return rows


def part_pressure() -> list[Row]:
    """All policies with little memory and slow retrieval, beside waiting for the whole context."""
    rows = []
    for name, (make, load, settings) in PRESSURE.items():
        wait = simulated(make, DefaultVLLM(), mode="wait", **load, **settings)
        baseline = {rank: mean(wait, "after_close", rank) for rank in ("p50", "p95", "p99")}
        setting = (
            f"simulated, {REQUESTS} requests ({name}), {len(SEEDS)} seeds, {load['qps']} a second,"
            f" delays times {settings['delay_multiplier']}, {settings['kv_blocks']:,} blocks; P50, P95, P99"
        )
        for policy, scheduler in POLICIES.items():
            runs = simulated(make, scheduler, **load, **settings)
            ours = {rank: mean(runs, "after_close", rank) for rank in baseline}
            _drawn.setdefault("pressure", {}).setdefault(name, {"no streaming": baseline})[policy] = ours
            computed = np.mean([one.total("computed") / one.total("prompt") for one in runs])
            progress(f"{name}, {policy}: {ours}, computed {computed:.2f} of the prompts")
            ratio = ours["p95"] / baseline["p95"]
            rows.append(
                Row(
                    f"{policy}: P95 from the last chunk to the first token is {ratio:.2f} times that of no streaming",
                    "naive streaming under pressure: tail TTFT about 5 times worse than none",
                    "no streaming",
                    [round(each, 3) for each in baseline.values()],
                    [round(each, 3) for each in ours.values()],
                    "s",
                    f"{setting}; {computed:.2f} tokens computed a prompt token,"
                    f" ends at {np.mean([one.completion_time for one in runs]):.0f} s"
                    f" (no streaming {np.mean([one.completion_time for one in wait]):.0f} s)",
                )
            )
    return rows


def part_ablation() -> list[Row]:
    """How victims are preempted: by cost, or always one way; where computation is short, and where it is not."""
    rows = []
    busy, idle = BUSY, PRESSURE["crawl"][1:]
    for where, (load, settings) in (("computation short", busy), ("computation idle", idle)):
        for evict_for in ("all", "complete"):
            runs = simulated(crawler_trace, TwoPhase(FCFS(), evict_for=evict_for), **load, **settings)
            ours = [round(mean(runs, "after_close", rank), 3) for rank in ("p50", "p95", "p99")]
            for way, choice in ABLATION.items():
                scheduler = TwoPhase(FCFS(), evict_for=evict_for, **choice)
                other = simulated(crawler_trace, scheduler, **load, **settings)
                rows.append(
                    Row(
                        f"preemption by cost against {way}: {where}, evicting for {evict_for}",
                        "cost-aware scheduling is critical under memory pressure",
                        way,
                        [round(mean(other, "after_close", rank), 3) for rank in ("p50", "p95", "p99")],
                        ours,
                        "s from the last chunk to the first token",
                        f"simulated, FCFS, {REQUESTS} crawls, {len(SEEDS)} seeds, {load['qps']} a second, delays times"
                        f" {settings['delay_multiplier']}, {settings['kv_blocks']:,} blocks; P50, P95, P99",
                    )
                )
                progress(f"{where}, evicting for {evict_for}, {way}: {rows[-1].peer_value} against {ours}")
    return rows


def part_length() -> list[Row]:
    """Time a token of the operator, as its context grows."""
    operator, ids = Stream2LLM(model=MODEL), real_ids()
    state, spent = operator.init(), []
    for end in LENGTHS:
        state, _ = operator.step(state, Tokens(ids[state.count : end]))
        last = 0.0
        while operator.pending(state):
            began = time.process_time()
            state, _ = operator.step(state, TICK)
            last = time.process_time() - began
        spent.append(round(1000 * last / operator.chunk, 2))
        progress(f"{end} tokens: {spent[-1]} ms a token")
    return [
        Row(
            "time a token grows with the context as attention does, and no more",
            "attention cost of chunked prefill as of one shot",
            "its first block",
            spent[0],
            spent,
            "ms",
            f"{MODEL}, blocks of {operator.chunk}, at {', '.join(f'{each:,}' for each in LENGTHS)} tokens",
        )
    ]


_drawn: dict[str, Any] = {}


def draw() -> None:
    """The picture of the simulated parts, where both have run."""
    if set(_drawn) != {"load", "pressure"}:
        return
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(13.5, 4), layout="constrained")
    for style, (wait, stream) in zip(("-", "--"), _drawn["load"], strict=True):
        rank = "P50" if style == "-" else "P95"
        axes[0].plot(QPS, wait, style, color="C3", label=f"waiting, {rank}")
        axes[0].plot(QPS, stream, style, color="C0", label=f"streaming, {rank}")
    axes[0].set(ylabel="last chunk to first token, s", xlabel="requests a second", yscale="log")
    axes[0].set_title("ample memory", fontsize=11)
    axes[0].legend(frameon=False, fontsize=9)
    for axis, (name, found) in zip(axes[1:], _drawn["pressure"].items(), strict=True):
        for index, ours in enumerate(found.values()):
            axis.barh(index, ours["p95"], color="C3" if index < 2 else "C0")
            axis.annotate(f" {ours['p95']:.2f}", (ours["p95"], index), va="center", fontsize=9)
        axis.set_yticks(range(len(found)), list(found), fontsize=9)
        axis.invert_yaxis()
        axis.set(xlabel="last chunk to first token, P95, s", xscale="log", xlim=(0.05, 100))
        axis.set_title(f"little memory, slow retrieval: {name}", fontsize=11)
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(IMAGES / f"{SYSTEM}-ttft.png", dpi=110)


PARTS: dict[str, Callable[[], list[Row]]] = {
    "costs": part_costs,
    "real": part_real,
    "load": part_load,
    "pressure": part_pressure,
    "ablation": part_ablation,
    "length": part_length,
}


if __name__ == "__main__":
    sys.exit(run(SYSTEM, __file__, PARTS, draw))
