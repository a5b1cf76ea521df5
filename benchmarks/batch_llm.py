"""Claims of BatchLLM (Zheng et al. 2024), each a part of its own: `--only PART`; rows go to benchmarks/results/.

Settings, seeds and baselines are the constants below. Arms of one row run in one process, by turns.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from command import progress, run
from rows import Row
from transformers import LlamaConfig

from unending.io.text import standard_text
from unending.parts import backbones
from unending.parts.backbones.tiny import tiny_model
from unending.systems.language.batch_llm import (
    BatchEngine,
    CostModel,
    Policy,
    PrefixForest,
    Report,
    simulate,
)
from unending.systems.language.batch_llm.progress import lay_out
from unending.systems.language.batch_llm.scheduler import Scheduler

SYSTEM = "batch-llm"
REQUESTS, PREFIX, SUFFIX, DECODE = 128, 256, 32, 16
DEGREES = (4, 8, 16)
"""Requests that share a prefix; the paper varies 2 to 32 with prefix 2000, suffix 200, decode 100."""
KV_TOKENS, BATCHED = 4096, 2048
"""KV memory of all arms alike: for 14 requests that share nothing, or half of the prefixes at degree 4."""
REPEATS = 2
"""Each arm runs so often, by turns with the others; the fastest run counts, in CPU time of one thread, which other
work on the machine does not reach."""
REAL_MODEL, REAL_REQUESTS, REAL_DEGREE, REAL_KV = "smollm2-135m", 24, 8, 2048
SIZES = (100, 1_000, 10_000)
SIM_GROUPS, SIM_DEGREE, SIM_BLOCKS, SIM_SEQS, SIM_BATCHED = 64, 16, 16_000, 128, 2_048
"""Simulated: KV memory of 256,000 tokens; the limit on requests is one that never runs out of it."""

PAPER = "1.1 to 2 times over vLLM (v1, v2); 1.3 to 10.8 times over vLLM and SGLang (v3)"
ARMS: dict[str, dict[str, Any]] = {
    "batch-llm": {},
    "FCFS + LRU prefix cache": {"sharing": "cache", "order": "fcfs"},
    "no sharing": {"sharing": "none", "order": "fcfs"},
}


def shuffled(draw: Callable[[int], list[int]], requests: int, degree: int) -> list[list[int]]:
    """Prompts of which each `degree` share a prefix, in an order that says nothing of it."""
    prompts = []
    for _ in range(requests // degree):
        prefix = draw(PREFIX)
        prompts += [prefix + draw(SUFFIX) for _ in range(degree)]
    return [prompts[index] for index in np.random.default_rng(1).permutation(len(prompts))]


def run_arms(
    model: Any, prompts: list[list[int]], kv_tokens: int, arms: dict[str, dict[str, Any]], repeats: int
) -> tuple[dict[str, Report], dict[str, float]]:
    """The report of each arm's fastest run and its seconds; all arms must give the same tokens."""
    reports: dict[str, Report] = {}
    outputs: dict[str, list[list[int]]] = {}
    seconds = dict.fromkeys(arms, float("inf"))
    for repeat in range(repeats):
        for name, settings in arms.items():
            began = time.process_time()
            outputs[name], report = BatchEngine(model, kv_tokens, BATCHED, **settings).generate(
                prompts, DECODE
            )
            spent = time.process_time() - began
            if spent < seconds[name]:
                seconds[name], reports[name] = spent, report
            progress(f"{name}, run {repeat + 1}: {spent:.2f} s, {report.prefill_tokens:,} tokens prefilled")
    first = next(iter(outputs.values()))
    equal = min(
        sum(a == b for a, b in zip(first, each, strict=True)) / len(first) for each in outputs.values()
    )
    # A tie between two tokens may fall either way in another batch shape; more than a few would be an error.
    assert equal > 0.95, f"the arms agree on {equal:.0%} of the completions"
    return reports, seconds


def compared(reports: dict[str, Report], seconds: dict[str, float], claim: str, setting: str) -> list[Row]:
    """Ratios of time, and tokens, of ours against each baseline."""
    ours, *baselines = reports
    rows = []
    for name in baselines:
        rows.append(
            Row(
                f"{claim} faster than {name}",
                PAPER,
                name,
                1.0,
                round(seconds[name] / seconds[ours], 2),
                "times (CPU time of one thread, same engine, same KV memory)",
                setting,
            )
        )
    figures = {
        name: {
            "prefill tokens": report.prefill_tokens,
            "iterations": len(report.iterations),
            "tokens an iteration": round(report.mean_tokens, 1),
            "peak KV": report.peak_kv,
            "peak prefix KV": report.peak_prefix_kv,
        }
        for name, report in reports.items()
    }
    mine = figures.pop(ours) | {"by the formula": reports[ours].physical}
    rows.append(
        Row(
            f"{claim} computes fewer prompt tokens",
            "not given",
            "baselines",
            figures,
            mine,
            "tokens",
            setting,
        )
    )
    lru = reports["FCFS + LRU prefix cache"]
    rows.append(
        Row(
            f"{claim} saves tokens that an LRU cache loses",
            "LRU of vLLM 35.8 % where 58.1 % is possible",
            "FCFS + LRU prefix cache",
            round(1 - lru.prefill_tokens / lru.logical, 3),
            round(1 - reports[ours].prefill_tokens / reports[ours].logical, 3),
            "share of prompt tokens not computed",
            setting,
        )
    )
    return rows


def small_model() -> Any:
    return tiny_model(
        LlamaConfig(
            vocab_size=2048,
            hidden_size=256,
            intermediate_size=768,
            num_hidden_layers=4,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=1024,
        )
    )


def part_sharing() -> list[Row]:
    """Against no sharing and an LRU cache, at three degrees of sharing."""
    model, rows = small_model(), []
    for degree in DEGREES:
        rng = np.random.default_rng(degree)
        prompts = shuffled(lambda n, rng=rng: rng.integers(3, 2048, n).tolist(), REQUESTS, degree)
        setting = (
            f"4-layer Llama of width 256 (random), {REQUESTS} shuffled requests, prefix {PREFIX} shared by {degree},"
            f" suffix {SUFFIX}, decode {DECODE}, KV memory {KV_TOKENS:,} tokens"
        )
        rows += compared(
            *run_arms(model, prompts, KV_TOKENS, ARMS, REPEATS), f"sharing degree {degree}:", setting
        )
    return rows


def part_attention() -> list[Row]:
    """Attention over shared prefixes once a group, against the same without."""
    model, rng = small_model(), np.random.default_rng(16)
    prompts = shuffled(lambda n: rng.integers(3, 2048, n).tolist(), REQUESTS, 16)
    arms = {"once a group": {}, "once a request": {"shared_rows": 1 << 30}}
    _, seconds = run_arms(model, prompts, KV_TOKENS, arms, REPEATS)
    return [
        Row(
            "attention over a shared prefix once a group is faster",
            "part of the whole; not given by itself",
            "once a request",
            1.0,
            round(seconds["once a request"] / seconds["once a group"], 2),
            "times (CPU time of one thread, whole run)",
            f"4-layer Llama of width 256, {REQUESTS} requests, prefix {PREFIX} shared by 16, suffix {SUFFIX},"
            f" decode {DECODE}",
        )
    ]


def part_real() -> list[Row]:
    """The same arms on a real model and a real text."""
    backbone = backbones.load(REAL_MODEL)
    ids = list(backbone.tokenizer(standard_text()[:200_000]).input_ids)
    at = 0

    def draw(n: int) -> list[int]:
        nonlocal at
        at += n
        return ids[at - n : at]

    prompts = shuffled(draw, REAL_REQUESTS, REAL_DEGREE)
    setting = (
        f"{REAL_MODEL}, {REAL_REQUESTS} shuffled requests from pydoc_data.topics, prefix {PREFIX} shared by"
        f" {REAL_DEGREE}, suffix {SUFFIX}, decode {DECODE}, KV memory {REAL_KV:,} tokens"
    )
    found = run_arms(backbone.module, prompts, REAL_KV, ARMS, 1)
    return compared(*found, "a real model:", setting)


def tree_of_prompts(requests: int, seed: int = 0) -> list[list[int]]:
    """A few system prompts, documents behind them, questions behind those, shuffled."""
    rng = np.random.default_rng(seed)

    def draw(low: int, high: int) -> list[int]:
        return rng.integers(0, 30_000, int(rng.integers(low, high))).tolist()

    systems = [draw(50, 300) for _ in range(4)]
    documents = [systems[int(rng.integers(4))] + draw(100, 400) for _ in range(requests // 12)]
    prompts = [documents[int(rng.integers(len(documents)))] + draw(10, 60) for _ in range(requests)]
    return prompts


def part_grouping() -> list[Row]:
    """What is saved by enlarged groups, and what grouping and scheduling cost a prompt."""
    prompts = tree_of_prompts(1_000)
    first, enlarged = PrefixForest.from_prompts(prompts), PrefixForest.from_prompts(prompts).enlarge()
    best = 1 - first.multi_level / first.logical
    progress(f"saved: {first.saving_ratio():.3f}, {enlarged.saving_ratio():.3f}, at most {best:.3f}")
    grouping, planning = [], []
    for size in SIZES:
        prompts = tree_of_prompts(size)
        began = time.process_time()
        groups = PrefixForest.from_prompts(prompts).enlarge().groups()
        grouping.append(round(1e3 * (time.process_time() - began) / size, 3))
        policy = Policy(6_000, 16, BATCHED)
        progress_of = lay_out(groups, policy, np.full(size, DECODE))
        scheduler = Scheduler(progress_of, policy)
        began = time.process_time()
        for _ in range(20):
            works = scheduler.plan()
            scheduler.advance(works)
        planning.append(round(1e3 * (time.process_time() - began) / 20, 3))
        progress(f"{size:,} prompts: grouping {grouping[-1]} ms each, an iteration {planning[-1]} ms")
    setting = f"{', '.join(f'{size:,}' for size in SIZES)} prompts of 450 tokens in a tree of three levels"
    return [
        Row(
            "one enlarged level saves nearly what all levels would",
            "about 1 % of saving lost",
            "first level as it is; all levels",
            [round(first.saving_ratio(), 3), round(best, 3)],
            round(enlarged.saving_ratio(), 3),
            "share of prompt tokens not computed",
            "1,000 prompts: 4 system prompts, 83 documents, a question each",
        ),
        Row(
            "grouping costs a fraction of a millisecond a prompt",
            "not given",
            "the schedule of an iteration, ms",
            planning,
            grouping,
            "ms a prompt",
            setting,
        ),
    ]


def part_simulator() -> list[Row]:
    """Order and admission by themselves, on the clock of a cost model like a GPU's."""
    rng = np.random.default_rng(0)
    made, decode = [], []
    token = iter(range(1, 1 << 40))
    for index in rng.permutation(SIM_GROUPS):
        heavy = index % 2
        prefix = [next(token) for _ in range(500 if heavy else 2_000)]
        suffixes = [[next(token) for _ in range(int(n))] for n in rng.integers(50, 300, SIM_DEGREE)]
        made.append([[prefix], suffixes])
        decode += rng.integers(*((300, 600) if heavy else (5, 30)), SIM_DEGREE).tolist()
    forest = PrefixForest.from_groups(made)
    groups, cost = forest.groups(), CostModel()
    apart = PrefixForest.from_groups([[[[]], [prompt]] for prompt in forest.prompts]).groups()
    arms = {
        "both": (groups, "decode_ratio", "kv_memory"),
        "without the order": (groups, "fcfs", "kv_memory"),
        "without the admission": (groups, "decode_ratio", "num_seqs"),
        "without either": (groups, "fcfs", "num_seqs"),
        "without either, nothing shared": (apart, "fcfs", "num_seqs"),
    }
    found = {}
    for name, (given, order, admission) in arms.items():
        policy = Policy(SIM_BLOCKS, 16, SIM_BATCHED, order, admission, SIM_SEQS)
        report = simulate(given, policy, np.array(decode), cost=cost)
        found[name] = {
            "makespan s": round(report.makespan, 2),
            "tokens an iteration": round(report.mean_tokens, 1),
            "valleys": report.valleys,
            "iterations": len(report.iterations),
            "peak prefix KV": report.peak_prefix_kv,
        }
        progress(f"{name}: {found[name]}")
    ours = found.pop("both")
    return [
        Row(
            "order by decode ratio and admission by memory fill the iterations and end sooner",
            "part of 1.1 to 2 times",
            "each left out",
            found,
            ours,
            "of the simulated run",
            f"simulator, {SIM_GROUPS} groups of {SIM_DEGREE}, half with prefix 2,000 and decode 5 to 30, half with"
            f" prefix 500 and decode 300 to 600, {SIM_BLOCKS * 16:,} tokens of KV, at most {SIM_SEQS} requests where"
            f" their number is what limits, an iteration takes the larger of"
            f" {1e3 * cost.weights:g} ms + {1e9 * cost.per_kv_token:g} ns a token in memory and"
            f" {1e3 * cost.overhead:g} ms + {1e6 * cost.per_token:g} us a token",
        )
    ]


PARTS = {
    name.removeprefix("part_"): value for name, value in list(globals().items()) if name.startswith("part_")
}


if __name__ == "__main__":
    sys.exit(run(SYSTEM, __file__, PARTS))
