"""Claims of DuoAttention (Xiao et al. 2024), each a part of its own: `--only PART`; rows go to benchmarks/results/.

Settings, seeds and baselines are the constants below.
"""

import copy
import functools
import sys
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
from transformers import DynamicCache, LlamaConfig

from unending.core import Session, Tokens
from unending.core.random import philox
from unending.io.text import standard_text
from unending.parts import backbones
from unending.parts.backbones.routing import routed
from unending.parts.backbones.tiny import tiny_llama, tiny_model
from unending.parts.memory import SinksAndWindow, forward
from unending.parts.memory.heads import HeadCache, empty_heads
from unending.parts.training import RecallStream
from unending.parts.training.passkeys import MultiPasskeyDataset, RecallPasskeys
from unending.systems.language import StreamingCache
from unending.systems.language.duo_attention import (
    ATTENTION,
    DuoAttention,
    DuoCache,
    HeadGates,
    identify_retrieval_heads,
)

SYSTEM = "duo-attention"
IMAGES = RESULTS.parents[1] / "docs" / "images"
RECALL, REAL = "tiny-recall", "smollm2-135m"
SINK, RECENT = 4, 28
"""Of the streaming heads of tiny-recall, in identification and here; its context has 512 tokens."""
LENGTH, STREAMS, FIRST_SEED = 512, 24, 1 << 20
"""Evaluation streams of tiny-recall; the identification saw seeds 0 to 399."""
DISTANCES = (20, 50, 100, 150, 200)
"""Records back, 2.3 tokens each: all of these answers lie outside a streaming head's reach."""
SPARSITIES = tuple(step / 8 for step in range(9))
SHIPPED_REG = 0.3
"""Of the gates of tiny-recall in both ways of mixing; chosen on the streams of the ablation."""
RANDOM = 8
"""Random choices of heads of each size; the mean is reported, and the best of them."""
CHOICES = ("gates", "gates, teacher's output mixed in", "profiling", "random", "inverted", "oracle")
SWEEP, SWEEP_STEPS = (0.02, 0.05, 0.1, 0.2), 400
ABLATION_SEED, ABLATION_STREAMS = 1 << 21, 12
SIZES = (4096, 8192, 16_384, 32_768, 65_536)
DECODED = 12
NEEDLES, NEEDLE_LENGTH, NEEDLE_KEYS, NEEDLE_WORDS = 6, 1024, 3, 4
NEEDLE_SINK, NEEDLE_RECENT, NEEDLE_CHUNK = 16, 64, 64
MARKS = (100, 1_000, 10_000)


_judged: dict[tuple[int, bytes], float] = {}


class Masked:
    """Router of one pass in which each head sees what token-by-token decoding would leave it."""

    def __init__(self, heads: np.ndarray, length: int, sink: int, recent: int) -> None:
        i, j = torch.arange(length)[:, None], torch.arange(length)
        self.full = j <= i
        self.stream = self.full & ((j < sink) | (j >= i - recent))
        self.heads = heads

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        group = query.shape[1] // key.shape[1]
        mask = torch.stack([self.full if full else self.stream for full in self.heads[layer]])
        mask = mask.repeat_interleave(group, dim=0)[None]
        out = nn.functional.scaled_dot_product_attention(
            query, key, value, mask, scale=scaling, enable_gqa=group > 1
        )
        return out.transpose(1, 2)


class Profile:
    """Router of a dense pass that adds up, for each head, the attention that falls outside sinks and window."""

    def __init__(self, shape: tuple[int, int], length: int, sink: int, recent: int) -> None:
        self.mass = np.zeros(shape)
        masked = Masked(np.zeros(shape), length, sink, recent)
        self.full, self.outside = masked.full, masked.full & ~masked.stream

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        group = query.shape[1] // key.shape[1]
        scores = query @ key.repeat_interleave(group, 1).transpose(-1, -2) * scaling
        weights = scores.masked_fill(~self.full, -torch.inf).softmax(-1)
        outside = (weights * self.outside).sum(-1).mean((0, 2))
        self.mass[layer] += outside.unflatten(0, (-1, group)).mean(1).numpy()
        return (weights @ value.repeat_interleave(group, 1)).transpose(1, 2)


@functools.cache
def recall_rows(first: int, streams: int) -> list[tuple[Tensor, np.ndarray]]:
    """Rows `[streams, LENGTH]` and the positions of their answers, for each distance."""
    made = []
    for distance in DISTANCES:
        each = [RecallStream(first + index, 10, distance, 512, 64) for index in range(streams)]
        rows = torch.from_numpy(np.stack([stream.tokens(0, LENGTH) for stream in each]))
        made.append((rows, each[0].answers(0, LENGTH)))
    return made


def recall(module: Any, heads: np.ndarray, rows: list[tuple[Tensor, np.ndarray]]) -> float:
    """Share of right answers, the mean over the distances; a table that was judged on these rows is not again."""
    key = id(rows), heads.tobytes()
    if key not in _judged:
        _judged[key] = _recall(module, heads, rows)
    return _judged[key]


def _recall(module: Any, heads: np.ndarray, rows: list[tuple[Tensor, np.ndarray]]) -> float:
    places = torch.arange(LENGTH)[None]
    right = []
    for ids, at in rows:
        logits = routed(
            module,
            ids,
            places.expand(len(ids), -1),
            Masked(heads, LENGTH, SINK, RECENT),
            torch.from_numpy(at - 1),
        )
        right.append((logits.argmax(-1) == ids[:, at]).float().mean().item())
    return float(np.mean(right))


def chosen(scores: np.ndarray, count: int) -> np.ndarray:
    """The `count` heads of highest score."""
    table = np.zeros(scores.size, dtype=bool)
    table[np.argsort(-scores.ravel(), kind="stable")[:count]] = True
    return table.reshape(scores.shape)


def ablated(module: Any, shape: tuple[int, int]) -> list[np.ndarray]:
    """Tables with one full head less each, always the one whose loss harms least on streams of their own."""
    rows = recall_rows(ABLATION_SEED, ABLATION_STREAMS)
    tables = [np.ones(shape, dtype=bool)]
    while tables[-1].any():
        candidates = []
        for index in np.argwhere(tables[-1]):
            table = tables[-1].copy()
            table[tuple(index)] = False
            candidates.append((recall(module, table, rows), table))
        tables.append(max(candidates, key=lambda each: each[0])[1])
        progress(f"ablation: {int(tables[-1].sum())} heads left")
    return tables


def part_recall() -> list[Row]:
    """Recall of tiny-recall against the share of streaming heads, by gates and by other choices."""
    module, gates = backbones.load(RECALL).module, HeadGates.load(RECALL)
    shape, total = gates.values.shape, gates.values.size
    rows = recall_rows(FIRST_SEED, STREAMS)
    profile, data = Profile(shape, LENGTH, SINK, RECENT), RecallPasskeys()
    seen = torch.from_numpy(np.stack([data[index].ids for index in range(16)]))
    routed(module, seen, torch.arange(LENGTH)[None].expand(16, -1), profile)
    greedy = ablated(module, shape)
    upstream = identify_retrieval_heads(module, data, SINK, RECENT, SWEEP_STEPS, reg=SHIPPED_REG)
    curves: dict[str, list[float]] = {name: [] for name in CHOICES}
    best_random = []
    for sparsity in SPARSITIES:
        count = round(total * (1 - sparsity))
        curves["gates"].append(recall(module, gates.binarize(sparsity), rows))
        curves["gates, teacher's output mixed in"].append(recall(module, upstream.binarize(sparsity), rows))
        curves["inverted"].append(recall(module, chosen(-gates.values, count), rows))
        curves["profiling"].append(recall(module, chosen(profile.mass, count), rows))
        curves["oracle"].append(recall(module, greedy[total - count], rows))
        draws = [
            recall(module, chosen(philox(draw, count).random(shape), count), rows)
            for draw in range(RANDOM if 0 < count < total else 1)
        ]
        curves["random"].append(float(np.mean(draws)))
        best_random.append(max(draws))
        progress(
            f"sparsity {sparsity}: " + ", ".join(f"{name} {each[-1]:.3f}" for name, each in curves.items())
        )
    streaming = streaming_llm(module, rows)
    _draw_curves(curves, streaming)
    half, dense = SPARSITIES.index(0.5), curves["gates"][0]
    setting = (
        f"{RECALL}, {STREAMS} streams of {LENGTH} tokens for each of {len(DISTANCES)} distances, streaming heads keep"
        f" {SINK} + {RECENT}"
    )
    told = {name: [round(each, 3) for each in curve] for name, curve in curves.items()}
    found = {name: round(curve[half], 3) for name, curve in curves.items()}
    return [
        Row(
            "at 50% streaming heads, recall is within two points of dense",
            "Llama-3-8B-1048K at 50%: as dense on needle in a haystack",
            "dense",
            round(dense, 3),
            found["gates"],
            "share of right answers (chance 0.016)",
            setting,
            f"at {SPARSITIES[half - 1]}: {round(curves['gates'][half - 1], 3)}; oracle at 0.5: {found['oracle']}; gates"
            f" with the teacher's output mixed in, as in the authors' code, at 0.5: {found[CHOICES[1]]}",
        ),
        Row(
            "other choices of heads at 50%, and streaming in all heads, lose what was asked",
            "gates by optimisation beat attention profiling and random choice",
            f"mean and best of {RANDOM} random choices; inverted; attention profiling; StreamingLLM in all heads",
            [
                found["random"],
                round(best_random[half], 3),
                found["inverted"],
                found["profiling"],
                round(streaming, 3),
            ],
            found["gates"],
            "share of right answers (chance 0.016)",
            setting,
        ),
        Row(
            "recall against the share of streaming heads",
            "gates dominate attention profiling and random choice",
            "other choices; the oracle is greedy ablation",
            {name: told[name] for name in CHOICES[1:]},
            told["gates"],
            f"share of right answers at sparsity {', '.join(map(str, SPARSITIES))}",
            setting,
        ),
    ]


def streaming_llm(module: Any, rows: list[tuple[Tensor, np.ndarray]]) -> float:
    """The same answers by StreamingLLM with the same sinks and window, token by token."""
    right = []
    for ids, at in rows:
        cache, wanted = StreamingCache(module, SINK, RECENT, "cache"), set(at.tolist())
        for place in range(LENGTH - 1):
            logits = forward(module, ids[:, place : place + 1], cache)[:, -1]
            if place + 1 in wanted:
                right.append((logits.argmax(-1) == ids[:, place + 1]).float().mean().item())
        progress(f"streaming-llm: {np.mean(right):.3f}")
    return float(np.mean(right))


def part_gates() -> list[Row]:
    """What the tables look like: few gates in the middle; and what the penalty's weight does."""
    tables = {name: HeadGates.load(name) for name in (RECALL, REAL)}
    _draw_gates(tables)
    found = {
        name: [
            round(float(gates.values.mean()), 3),
            round(float((gates.values > 0.5).mean()), 3),
            round(float((gates.values < 0.05).mean()), 3),
            round(float(((gates.values >= 0.05) & (gates.values <= 0.5)).mean()), 3),
        ]
        for name, gates in tables.items()
    }
    module, rows = backbones.load(RECALL).module, recall_rows(FIRST_SEED, STREAMS)
    sweep = {}
    for teacher_mix in (True, False):
        for reg in SWEEP if teacher_mix else (0.1, SHIPPED_REG):
            gates = identify_retrieval_heads(
                module, RecallPasskeys(), SINK, RECENT, SWEEP_STEPS, reg=reg, teacher_mix=teacher_mix
            )
            name = f"{reg}" if teacher_mix else f"{reg}, full branch of the student itself"
            share = [
                round(float(gates.values.mean()), 3),
                round(recall(module, gates.binarize(0.5), rows), 3),
            ]
            sweep[name] = share
            progress(f"lambda {name}: mean gate {share[0]}, recall at 50% {share[1]}")
    return [
        Row(
            "gates are bimodal",
            "mean, > 0.5, ~0: Llama-2-7B-32K 0.419, 0.434, 0.442; Llama-3-8B-1048k 0.769, 0.809, 0.125",
            "published tables, in the paper's column",
            None,
            found,
            "mean gate, share above 0.5, share below 0.05, share between",
            f"tables shipped as {RECALL} (2 x 4) and {REAL} (30 x 3)",
        ),
        Row(
            "the choice of heads does not hang on lambda",
            "0.05",
            "none",
            None,
            sweep,
            "mean gate, recall at 50%",
            f"{RECALL}, {SWEEP_STEPS} steps, streaming heads keep {SINK} + {RECENT}",
        ),
    ]


def part_efficiency() -> list[Row]:
    """Bytes of keys and values and time of a decoded token against context length: duo, all heads full, dense."""
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=1 << 17,
    )
    dense = tiny_model(config)
    module = copy.deepcopy(dense)
    module.set_attn_implementation(ATTENTION)
    half = np.tile(np.arange(4) < 2, (4, 1))
    generator = torch.Generator().manual_seed(0)
    found: dict[str, dict[str, list[float]]] = {
        name: {"bytes": [], "ms": []}
        for name in ("duo, r = 0.5", "all heads full", "dense (DynamicCache, sdpa)")
    }
    caches = {
        "duo, r = 0.5": (module, DuoCache(module, half)),
        "all heads full": (module, DuoCache(module, np.ones_like(half))),
        "dense (DynamicCache, sdpa)": (dense, DynamicCache(config=config)),
    }
    done = 0
    for size in SIZES:
        for start in range(done, size, 1024):
            for layer in range(4):
                pair = torch.randn(2, 1, 4, 1024, 64, generator=generator)
                for _, cache in caches.values():
                    cache.update(pair[0], pair[1], layer)
            done = start + 1024
        times: dict[str, list[float]] = {name: [] for name in caches}
        for _ in range(DECODED):  # in turn, so that what else the machine does meets all of them
            for name, (model, cache) in caches.items():
                began = time.perf_counter()
                forward(model, torch.tensor([[7]]), cache)
                times[name].append(time.perf_counter() - began)
        for name, (_, cache) in caches.items():
            held = cache.nbytes if isinstance(cache, DuoCache) else _dense_bytes(cache)
            found[name]["ms"].append(round(1000 * min(times[name]), 2))
            found[name]["bytes"].append(held)
            progress(f"{name} at {size:,}: {held / 2**20:.1f} MiB, {found[name]['ms'][-1]} ms")
        done += DECODED
    _draw_efficiency(found)
    duo, full, plain = found.values()

    def ratios(of: dict[str, list[float]], what: str) -> list[float]:
        return [round(a / b, 2) for a, b in zip(of[what], duo[what], strict=True)]

    setting = (
        f"random 4-layer Llama, 8 heads over 4, float32, r = 0.5, streaming heads keep 64 + 256, at"
        f" {', '.join(f'{size:,}' for size in SIZES)} tokens"
    )
    return [
        Row(
            "memory of keys and values falls towards the share of full heads",
            "down 1.67 times (Llama-3-8B, 50%); tends to 1/r",
            "all heads full",
            full["bytes"],
            duo["bytes"],
            "bytes",
            setting,
            f"ratios {ratios(full, 'bytes')}, limit 2",
        ),
        Row(
            "decoding gets faster towards the share of full heads",
            "down 1.50 times (Llama-3-8B, 50%); tends to 1/r",
            "all heads full, same code",
            full["ms"],
            duo["ms"],
            f"ms a token, best of {DECODED} in turn",
            setting,
            f"ratios {ratios(full, 'ms')}, limit 2; dense with DynamicCache and sdpa {plain['ms']} ms,"
            f" ratios {ratios(plain, 'ms')}",
        ),
    ]


def _dense_bytes(cache: Any) -> int:
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def part_needle() -> list[Row]:
    """Pass keys far back in real text, on the real model, read through the cache in chunks."""
    backbone, gates = backbones.load(REAL), HeadGates.load(REAL)
    data = MultiPasskeyDataset(
        backbone.tokenizer,
        standard_text()[100_000:],
        max_length=NEEDLE_LENGTH,
        min_length=NEEDLE_LENGTH,
        num_passkeys=NEEDLE_KEYS,
        passkey_length=NEEDLE_WORDS,
        lengths=1,
        reserve=8,
        seed=1,
    )
    shape, count = gates.values.shape, round(gates.values.size / 2)
    tables = {
        "dense": np.ones(shape, dtype=bool),
        "duo 50%": gates.binarize(0.5),
        "duo 75%": gates.binarize(0.75),
        "random 50%": chosen(philox(0, 0).random(shape), count),
        "inverted 50%": chosen(-gates.values, count),
        "streaming-llm": None,
    }
    hits: dict[str, list[float]] = {name: [] for name in tables}
    losses: dict[str, list[float]] = {name: [] for name in tables}
    for index in range(NEEDLES):
        sample, keys, book = data.ask(index)
        places = _key_places(backbone, sample.ids, keys, book)
        for name, table in tables.items():
            logits = _read(backbone, sample.ids, table)
            right = logits[:-1].argmax(-1).numpy() == sample.ids[1:]
            hits[name] += [float(right[at - 1].mean()) for at in places]
            logs = nn.functional.cross_entropy(logits[: book - 1], torch.from_numpy(sample.ids[1:book]))
            losses[name].append(logs.item())
        progress(
            f"sample {index}: " + ", ".join(f"{name} {np.mean(each):.2f}" for name, each in hits.items())
        )
    found = {name: round(float(np.mean(each)), 3) for name, each in hits.items()}
    whole = {name: round(float(np.mean(np.array(each) == 1)), 3) for name, each in hits.items()}
    perplexity = {name: round(float(np.exp(np.mean(each))), 2) for name, each in losses.items()}
    setting = (
        f"{REAL}, {NEEDLES} samples of {NEEDLE_LENGTH} tokens of pydoc_data.topics with {NEEDLE_KEYS} pass keys of"
        f" {NEEDLE_WORDS} words, gates from {gates.about['steps']} steps on 512 tokens, streaming heads keep"
        f" {NEEDLE_SINK} + {NEEDLE_RECENT}, chunks of {NEEDLE_CHUNK}"
    )
    return [
        Row(
            "pass keys far back in real text are found with half of the heads streaming",
            "Llama-3-8B-1048K at 50%: as dense on needle in a haystack",
            "dense; random heads 50%; inverted 50%; streaming-llm in all heads; duo 75%",
            {name: value for name, value in found.items() if name != "duo 50%"},
            found["duo 50%"],
            "share of the keys' tokens that are the likeliest, each after the right ones before it",
            setting,
            f"whole keys {whole}; perplexity of the book {perplexity}",
        )
    ]


def _key_places(backbone: Any, ids: np.ndarray, keys: list[str], book: int) -> list[np.ndarray]:
    """Where the tokens of each answer stand."""
    places, start = [], book
    for key in keys:
        wanted = np.array(backbone.tokenizer(key, add_special_tokens=False)["input_ids"])
        while not np.array_equal(ids[start : start + len(wanted)], wanted):
            start += 1
        places.append(np.arange(start, start + len(wanted)))
        start += len(wanted)
    return places


def _read(backbone: Any, ids: np.ndarray, table: np.ndarray | None) -> Tensor:
    """Logits of a sequence read in chunks: through per-head memory, or through StreamingLLM without a table."""
    if table is None:
        cache: Any = StreamingCache(backbone.module, NEEDLE_SINK, NEEDLE_RECENT, "cache")
    else:
        stream = SinksAndWindow(NEEDLE_SINK, NEEDLE_RECENT)
        full = SinksAndWindow(NEEDLE_SINK, len(ids) - NEEDLE_SINK)
        sizes = len(ids) + NEEDLE_CHUNK, stream.budget + NEEDLE_CHUNK
        memory = empty_heads(backbone.kv_shapes(), table, sizes, backbone.dtype, backbone.device)
        cache = HeadCache(memory, table, backbone.rotaries, full, stream, backbone.limit)
    pieces = torch.from_numpy(ids)[None].split(NEEDLE_CHUNK, dim=1)
    return torch.cat([forward(backbone.module, piece, cache)[0] for piece in pieces])


def part_length() -> list[Row]:
    """Bytes and time a token of the operator along a stream, past the cap of its full heads."""
    module, _ = tiny_llama()
    module.config.max_position_embeddings = 1024
    made = DuoAttention.from_model(
        module, pattern="1 0 / 0 1", sink_size=4, recent_size=28, full_size=500, chunk=1
    )
    ids, sessions = np.random.default_rng(0).integers(0, 256, MARKS[-1] + DECODED), []
    for mark in MARKS:
        sessions.append(Session(made))
        sessions[-1].push(Tokens(ids[:mark]))
        sessions[-1].poll()
        progress(f"{mark:,} tokens read, {sessions[-1].nbytes:,} bytes")
    spent: list[list[float]] = [[] for _ in MARKS]
    for _ in range(10 * DECODED):  # in turn, so that what else the machine does meets all of them
        for times, session in zip(spent, sessions, strict=True):
            began = time.perf_counter()
            session.push(Tokens([7]))
            session.poll()
            times.append(time.perf_counter() - began)
    times = [round(1000 * float(np.median(each)), 3) for each in spent]
    held = [session.nbytes for session in sessions]
    setting = (
        f"two-layer Llama, full heads keep 500, streaming heads 4 + 28, single tokens at {MARKS}, in turn"
    )
    return [
        Row(
            "an endless stream: state is bounded and time a token flat past the cap of the full heads",
            "not in the paper: full heads grow without end",
            "bound()",
            made.bound().resident,
            held,
            "bytes",
            setting,
            f"ms a token {times}",
        )
    ]


def _axes(count: int, width: float = 4.5) -> Any:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, count, figsize=(width * count, 4), layout="constrained", squeeze=False)
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
    return figure, axes[0]


def _draw_curves(curves: dict[str, list[float]], streaming: float) -> None:
    figure, (axis,) = _axes(1, 8)
    for name, curve in curves.items():
        style = "--" if name == "oracle" else "-"
        axis.plot(SPARSITIES, curve, style, marker="o", label=name)
    axis.plot([1], [streaming], "k*", label="StreamingLLM in all heads")
    axis.set(
        xlabel="share of streaming heads", ylabel="right answers", title=f"recall of {RECALL}", ylim=(0, 1.02)
    )
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(IMAGES / "duo-attention-recall.png", dpi=110)


def _draw_gates(tables: dict[str, HeadGates]) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(tables), figsize=(7.5, 5), layout="constrained")
    for axis, (name, gates) in zip(axes, tables.items(), strict=True):
        image = axis.imshow(
            gates.values, vmin=0, vmax=1, cmap="coolwarm", aspect="auto", interpolation="nearest"
        )
        layers, heads = gates.values.shape
        ticks = {"xticks": range(heads), "yticks": range(0, layers, 1 + layers // 16)}
        axis.set(title=name, xlabel="head of keys and values", ylabel="layer", **ticks)
    figure.colorbar(image, ax=axes, label="gate")
    figure.savefig(IMAGES / "duo-attention-gates.png", dpi=110)


def _draw_efficiency(found: dict[str, dict[str, list[float]]]) -> None:
    figure, (memory, duration) = _axes(2)
    for name, values in found.items():
        memory.plot(SIZES, np.array(values["bytes"]) / 2**20, marker="o", label=name)
        duration.plot(SIZES, values["ms"], marker="o", label=name)
    memory.set(title="keys and values, MiB", xlabel="context, tokens", ylim=(0, None))
    duration.set(title="time of a decoded token, ms", xlabel="context, tokens", ylim=(0, None))
    memory.legend(frameon=False)
    figure.savefig(IMAGES / "duo-attention-efficiency.png", dpi=110)


PARTS: dict[str, Callable[[], list[Row]]] = {
    "length": part_length,
    "recall": part_recall,
    "gates": part_gates,
    "efficiency": part_efficiency,
    "needle": part_needle,
}


if __name__ == "__main__":
    sys.exit(run(SYSTEM, __file__, PARTS))
