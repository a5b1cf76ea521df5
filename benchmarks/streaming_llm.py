"""Claims of StreamingLLM (Xiao et al. 2023), each a part of its own: `--only PART`; rows go to benchmarks/results/.

Settings, seeds and baselines are the constants below.
"""

import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from command import progress, run
from rows import RESULTS, Row
from transformers import AutoModelForCausalLM, Cache, DynamicCache, LlamaConfig

from unending.cli.monitor import Sample
from unending.cli.pictures import plot
from unending.core import Bound, Exactness, Operator, Session, Spec, Tokens, state
from unending.io.models import known, locate
from unending.io.text import standard_text
from unending.parts import backbones
from unending.parts.backbones.tiny import tiny_model
from unending.parts.memory import forward, next_token_losses, streaming_losses
from unending.parts.memory.trained_sinks import SOFTMAX1
from unending.parts.training import RecallStream
from unending.systems.language import StreamingCache

SYSTEM = "streaming-llm"
IMAGES = RESULTS.parents[1] / "docs" / "images"
MODEL = "smollm2-135m"
SINKS, WINDOW, CHUNK = 4, 508, 64
LENGTH = 16_384
"""Tokens of `pydoc_data.topics` that are read; twice the trained context of the model."""
RECOMPUTED_EVERY = 8
"""Sliding window with recomputation costs 9 times as much: it is scored on every 8th block, and so are the others
where they are compared with it."""
EXACT_CACHE, EXACT_LENGTH = 256, 1_024
RATIO_SIZES = (256, 512, 1024, 2048, 4096)
RATIO_TOKENS, RATIO_RECOMPUTED = 32, 8
RECALL_LINES, RECALL_EVERY, RECALL_DIGITS = 1_000, 10, 3
RECALL_DISTANCES = (5, 20, 80, 160)
"""Lines back at which the answer of a query lies, in turn; 20 is StreamEval's. A line has about 8 tokens, so with a
cache of 4 + 508 the first two are inside and the last two outside."""
BYTE_ARMS = ("tiny-bytes", "tiny-bytes-sink", "tiny-bytes-softmax1", "tiny-bytes-bos")
BYTE_CACHE, BYTE_LENGTH, BYTE_DENSE = 64, 6_000, 2_048
"""Trained context of these models: 128 bytes. The dense cache is scored beyond four times that."""
TRAINED_DISTANCES, TRAINED_LENGTH = (20, 50, 100, 150, 200), 6_000
"""Records back; a record has 2.3 tokens, so with a cache of 4 + 252 the first three are inside."""
TINY_MARKS = (1_000, 10_000, 100_000)
TINY_TOKENS = 50


def perplexity(losses: np.ndarray) -> float:
    return round(float(np.exp(np.mean(losses))), 3)


def real_text() -> tuple[backbones.LanguageBackbone, np.ndarray]:
    backbone = backbones.load(MODEL)
    return backbone, np.array(backbone.tokenizer(standard_text()).input_ids, dtype=np.int64)


def held_bytes(cache: Cache) -> int:
    if isinstance(cache, StreamingCache):
        return cache.nbytes
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def read(model: Any, ids: np.ndarray, cache: Cache, chunk: int, name: str) -> tuple[np.ndarray, list[Sample]]:
    """Losses of all tokens but the first, and a sample a block."""
    losses, samples, before = [], [], None
    for start in range(0, len(ids), chunk):
        block = torch.from_numpy(ids[start : start + chunk])[None]
        began = time.perf_counter()
        logits = forward(model, block, cache)
        spent = time.perf_counter() - began
        losses.append(next_token_losses(before, logits, block)[0].numpy())
        before = logits[:, -1]
        samples.append(Sample(start + len(block[0]), 1000 * spent / len(block[0]), held_bytes(cache), None))
        if start // chunk % 32 == 0:
            progress(
                f"{name}: {start:,} of {len(ids):,} tokens, perplexity so far {perplexity(np.concatenate(losses))}"
            )
    return np.concatenate(losses), samples


@torch.no_grad()
def recomputed(model: Any, ids: np.ndarray, budget: int, chunk: int, starts: Iterator[int]) -> np.ndarray:
    """Sliding window with recomputation: each block is scored by a fresh dense pass over `budget` tokens before it."""
    losses = []
    for start in starts:
        begin = max(0, start - budget)
        piece = torch.from_numpy(ids[begin : start + chunk])[None]
        logits = model(piece).logits.float()
        scored = next_token_losses(None, logits, piece)[0].numpy()
        losses.append(scored[-chunk:])
        progress(f"recomputation: {start:,}, perplexity so far {perplexity(np.concatenate(losses))}")
    return np.concatenate(losses)


def part_perplexity() -> list[Row]:
    """Perplexity to twice the trained context, on the real model: dense, window, sinks, recomputation."""
    backbone, ids = real_text()
    ids, budget, model = ids[:LENGTH], SINKS + WINDOW, backbone.module
    caches = {
        "sinks": StreamingCache(model, SINKS, WINDOW, "cache"),
        "window": StreamingCache(model, 0, budget, "cache"),
        "dense": DynamicCache(config=model.config),
    }
    losses, series = {}, {}
    for name, cache in caches.items():
        losses[name], series[name] = read(model, ids, cache, CHUNK, name)
    context = backbone.limit
    starts = range(budget, LENGTH - CHUNK + 1, RECOMPUTED_EVERY * CHUNK)
    again = recomputed(model, ids, budget, CHUNK, iter(starts))
    same = np.concatenate([losses["sinks"][start - 1 : start - 1 + CHUNK] for start in starts])
    _draw("perplexity", series, losses)
    setting = f"{MODEL}, {LENGTH:,} tokens of pydoc_data.topics in blocks of {CHUNK}, cache {budget}"
    beyond = slice(round(1.25 * context), None)
    ours = perplexity(losses["sinks"])
    held = {name: [each[0].nbytes, each[-1].nbytes] for name, each in series.items()}
    early, late = (slice(32, 96), slice(-64, None))
    times = {
        name: [
            round(float(np.median([sample.milliseconds for sample in each[part]])), 2)
            for part in (early, late)
        ]
        for name, each in series.items()
    }
    return [
        Row(
            "sinks keep perplexity where a plain window of the same size loses it",
            "Llama-2-13B, PG19: 5158 (0+1024) to 5.40 (4+1020)",
            f"window 0+{budget}",
            perplexity(losses["window"]),
            ours,
            "perplexity",
            setting,
        ),
        Row(
            "sinks are as good as a sliding window with recomputation",
            "Llama-2-13B, 4+1020: 5.40 against 5.43",
            f"recomputation over {budget} tokens",
            perplexity(again),
            perplexity(same),
            "perplexity",
            f"{setting}; every {RECOMPUTED_EVERY}th block",
        ),
        Row(
            "sinks go on where the dense cache is past its trained context",
            "dense fails beyond the pre-training length",
            f"dense beyond {round(1.25 * context):,} tokens (1.25 times the context)",
            perplexity(losses["dense"][beyond]),
            perplexity(losses["sinks"][beyond]),
            "perplexity",
            setting,
        ),
        Row(
            "memory does not grow with the stream",
            "constant",
            "dense, first and last block",
            held["dense"],
            held["sinks"],
            "bytes",
            setting,
        ),
        Row(
            "time a token does not grow with the stream",
            "constant",
            "dense, median of an early and the last 64 blocks",
            times["dense"],
            times["sinks"],
            "ms",
            setting,
        ),
    ]


def _draw(name: str, series: dict[str, list[Sample]], losses: dict[str, np.ndarray]) -> None:
    """The picture of the real run, and its numbers beside it."""
    shown = {}
    for arm, samples in series.items():
        total = np.cumsum(np.insert(losses[arm], 0, 0.0))
        drawn = []
        for index, sample in enumerate(samples):
            end = int(sample.position) - 1
            begin = max(0, end - 1024)
            spent = [each.milliseconds for each in samples[max(0, index - 7) : index + 1]]
            metric = math.exp((total[end] - total[begin]) / max(1, end - begin))
            drawn.append(Sample(sample.position, sum(spent) / len(spent), sample.nbytes, metric))
        shown[arm] = drawn
    plot(IMAGES / f"{SYSTEM}-{name}.png", shown, unit="token", metric="perplexity", mark=8192)


def part_exact() -> list[Row]:
    """Token by token, the paper's mode, against blocks, on a shorter piece of the real text."""
    backbone, ids = real_text()
    ids, model = ids[:EXACT_LENGTH], backbone.module
    found = {}
    for name, sinks, chunk in (("sinks", SINKS, 1), ("window", 0, 1), ("blocks", SINKS, CHUNK)):
        cache = StreamingCache(model, sinks, EXACT_CACHE - sinks, "cache")
        found[name], _ = read(model, ids, cache, chunk, f"exact, {name}")
    late = slice(EXACT_CACHE, None)
    text = f"{EXACT_LENGTH:,} tokens of pydoc_data.topics"
    setting = f"{MODEL}, {text}, cache {EXACT_CACHE}, without the first {EXACT_CACHE}"
    return [
        Row(
            "token by token, sinks keep perplexity where a plain window loses it",
            "as above",
            f"window 0+{EXACT_CACHE}, token by token",
            perplexity(found["window"][late]),
            perplexity(found["sinks"][late]),
            "perplexity",
            setting,
        ),
        Row(
            "reading in blocks of 64 is near to token by token",
            "not in the paper",
            "token by token",
            perplexity(found["sinks"][late]),
            perplexity(found["blocks"][late]),
            "perplexity",
            setting,
        ),
    ]


@torch.no_grad()
def part_ratio() -> list[Row]:
    """Time a token against sliding window with recomputation, by cache size, on the real model."""
    backbone, ids = real_text()
    model, rows = backbone.module, []
    for size in RATIO_SIZES:
        cache = StreamingCache(model, SINKS, size - SINKS, "cache")
        for start in range(0, size + CHUNK, CHUNK):
            forward(model, torch.from_numpy(ids[start : start + CHUNK])[None], cache)
        ours = _median(
            lambda at, cache=cache: forward(model, torch.from_numpy(ids[at : at + 1])[None], cache),
            RATIO_TOKENS,
        )
        theirs = _median(
            lambda at, size=size: model(torch.from_numpy(ids[at : at + size])[None], logits_to_keep=1),
            RATIO_RECOMPUTED,
        )
        progress(f"cache {size}: {1000 * ours:.1f} ms a token, recomputation {1000 * theirs:.1f} ms")
        rows.append(
            Row(
                f"faster a token than sliding window with recomputation, cache {size}",
                "up to 22.2 times (Llama-2-7B, cache 256 to 4096, A6000)",
                "recomputation, ms a token",
                round(1000 * theirs, 1),
                {"ms a token": round(1000 * ours, 2), "ratio": round(theirs / ours, 1)},
                "ms",
                f"{MODEL}, cache {size}, median of {RATIO_TOKENS} and {RATIO_RECOMPUTED} tokens",
            )
        )
    return rows


def _median(step: Callable[[int], Any], count: int) -> float:
    """Median seconds of a step at positions 0 to `count`, after one that is not timed."""
    spent = []
    for at in range(count + 1):
        began = time.perf_counter()
        step(at)
        spent.append(time.perf_counter() - began)
    return float(np.median(spent[1:]))


def part_recall() -> list[Row]:
    """StreamEval-style: lines of a word and a number, a query every 10 lines whose answer lies some lines back."""
    backbone, _ = real_text()
    model, encode = backbone.module, lambda text: backbone.tokenizer(text).input_ids
    rng = np.random.default_rng(0)
    codes = ["".join(map(str, rng.integers(0, 10, RECALL_DIGITS))) for _ in range(RECALL_LINES)]
    known = sorted(word[1:] for word in backbone.tokenizer.get_vocab() if re.fullmatch("Ġ[a-z]{5,9}", word))
    words = [known[index] for index in rng.permutation(len(known))[:RECALL_LINES]]
    caches = {
        "sinks": StreamingCache(model, SINKS, WINDOW, "cache"),
        "window": StreamingCache(model, 0, SINKS + WINDOW, "cache"),
    }
    accuracy = {}
    for name, cache in caches.items():
        hits: dict[int, list[bool]] = {distance: [] for distance in RECALL_DISTANCES}
        for line, code in enumerate(codes):
            forward(model, torch.tensor([encode(f"{words[line]}: {code}\n")]), cache)
            if line % RECALL_EVERY == RECALL_EVERY - 1 and line >= RECALL_DISTANCES[-1]:
                distance = RECALL_DISTANCES[line // RECALL_EVERY % len(RECALL_DISTANCES)]
                said = _continued(backbone, cache, f"{words[line - distance]}:", RECALL_DIGITS)
                hits[distance].append(said.strip().startswith(codes[line - distance]))
                forward(model, torch.tensor([encode("\n")]), cache)
        accuracy[name] = {distance: round(float(np.mean(found)), 3) for distance, found in hits.items()}
        progress(f"recall, {name}: {accuracy[name]} after {cache.seen_tokens:,} tokens")
    return [
        Row(
            "answers inside the cache are found, those outside are not",
            "StreamEval: accuracy kept up to 120K tokens while the answer is inside the cache, none outside",
            f"window 0+{SINKS + WINDOW}, accuracy by distance in lines",
            accuracy["window"],
            accuracy["sinks"],
            "exact match",
            f"{MODEL}, {RECALL_LINES:,} lines of about 8 tokens, cache {SINKS}+{WINDOW}, a query every"
            f" {RECALL_EVERY} lines, distances {RECALL_DISTANCES}, greedy",
        )
    ]


def _continued(backbone: backbones.LanguageBackbone, cache: Cache, prompt: str, digits: int) -> str:
    """Greedy continuation by a space and some digits."""
    logits = forward(backbone.module, torch.tensor([backbone.tokenizer(prompt).input_ids]), cache)[0, -1]
    ids = []
    for _ in range(digits + 1):
        ids.append(int(logits.argmax()))
        logits = forward(backbone.module, torch.tensor([ids[-1:]]), cache)[0, -1]
    return backbone.decode(ids)


def part_trained_sinks() -> list[Row]:
    """The pair of models with and without a sink by training, and two more arms, as bytes of held-out text."""
    text = np.frombuffer(standard_text().encode(), np.uint8).astype(np.int64)[:BYTE_LENGTH]
    papers = {
        "tiny-bytes": "160M vanilla: 27.87 (0+1024), 18.49 (1+1023), 18.05 (4+1020)",
        "tiny-bytes-sink": "160M learnable sink: 1235 (0+1024), 18.01 (1+1023), 18.02 (4+1020)",
        "tiny-bytes-softmax1": "160M zero sink: 29214 (0+1024), 19.90 (1+1023), 18.01 (4+1020)",
        "tiny-bytes-bos": "not in the paper",
    }
    rows = []
    for name in BYTE_ARMS:
        if name not in known():
            progress(f"{name} is not there: scripts/train_tiny_language.py --only {name}")
            continue
        implementation = SOFTMAX1 if name == "tiny-bytes-softmax1" else "eager"
        folder = str(locate(name).folder)
        model = (
            AutoModelForCausalLM.from_pretrained(folder, attn_implementation=implementation).float().eval()
        )
        first = [] if model.config.bos_token_id is None else [model.config.bos_token_id]
        ids, late = np.array([*first, *text]), slice(4 * BYTE_CACHE, None)
        found: dict[str, Any] = {}
        for sinks in (0, 1, 4):
            cache = StreamingCache(model, sinks, BYTE_CACHE - sinks, "cache")
            losses = np.concatenate(
                [each[0].numpy() for each in streaming_losses(model, torch.from_numpy(ids)[None], cache)]
            )
            found[f"{sinks}+{BYTE_CACHE - sinks}"] = perplexity(losses[late])
        found["recomputation"] = perplexity(_byte_recomputation(model, first, text)[late])
        dense = DynamicCache(config=model.config)
        losses = np.concatenate(
            [
                each[0].numpy()
                for each in streaming_losses(model, torch.from_numpy(ids[:BYTE_DENSE])[None], dense, 64)
            ]
        )
        found["dense beyond 512"] = perplexity(losses[512:])
        found["attention on slot 0 by layer"] = _mass_on_first(model, ids)
        progress(f"{name}: {found}")
        rows.append(
            Row(
                f"sinks by training: {name}",
                papers[name],
                f"window 0+{BYTE_CACHE}",
                found.pop(f"0+{BYTE_CACHE}"),
                found,
                "perplexity a byte",
                f"4-layer byte-level Llama trained on 128 bytes, {BYTE_LENGTH:,} held-out bytes token by token,"
                f" scored after {4 * BYTE_CACHE}",
            )
        )
    return rows


@torch.no_grad()
def _byte_recomputation(model: Any, first: list[int], text: np.ndarray) -> np.ndarray:
    """Losses of all bytes but the first, each by a fresh pass over the bytes before it that fill the cache."""
    span = BYTE_CACHE - len(first)
    losses = [np.full(span - 1 + len(first), np.nan)]
    pieces = np.lib.stride_tricks.sliding_window_view(text, span + 1)
    for batch in np.array_split(pieces, max(1, len(pieces) // 256)):
        rows = np.concatenate([np.tile(np.array(first, np.int64), (len(batch), 1)), batch], axis=1)
        ids = torch.from_numpy(np.ascontiguousarray(rows))
        scores = model(ids[:, :-1]).logits[:, -1].float().log_softmax(dim=-1)
        losses.append(-scores.gather(1, ids[:, -1:])[:, 0].numpy())
    return np.concatenate(losses)


@torch.no_grad()
def _mass_on_first(model: Any, ids: np.ndarray) -> list[float]:
    """Mean attention of positions 64 to 127 on position 0, a layer each."""
    starts = np.linspace(1, len(ids) - 128, 32).astype(int)
    rows = torch.from_numpy(
        np.stack([np.concatenate([ids[:1], ids[start : start + 127]]) for start in starts])
    )
    attentions = model(input_ids=rows, output_attentions=True).attentions
    return [round(float(layer[:, :, 64:, 0].mean()), 3) for layer in attentions]


def part_trained_recall() -> list[Row]:
    """StreamEval in symbols, on the small model trained for it: answers inside and outside the cache."""
    model = backbones.load("tiny-recall").module
    found: dict[str, dict[str, float]] = {}
    for name, sinks in (("sinks", 4), ("window", 0)):
        found[name] = {}
        for distance in TRAINED_DISTANCES:
            stream = RecallStream(7, 10, distance, 512, 64)
            ids, at = stream.tokens(0, TRAINED_LENGTH), stream.answers(512, TRAINED_LENGTH)
            cache = StreamingCache(model, sinks, 256 - sinks, "cache")
            said = [int(forward(model, torch.tensor([[token]]), cache)[0, -1].argmax()) for token in ids]
            found[name][f"{distance} back"] = round(float(np.mean(np.array(said)[at - 1] == ids[at])), 3)
            progress(f"trained recall, {name}, {distance} records back: {found[name][f'{distance} back']}")
    return [
        Row(
            "a model trained to recall finds what is inside the cache and nothing outside",
            "StreamEval: accuracy kept while the answer is inside the cache, none outside",
            "window 0+256, token by token",
            found["window"],
            found["sinks"],
            "share of right answers (chance 0.016)",
            f"tiny-recall (trained context 512), {TRAINED_LENGTH:,} tokens, 2.3 tokens a record, cache 4+252,"
            f" a query every 10 records, scored after 512",
        )
    ]


def part_length() -> list[Row]:
    """Time a token and memory at stream lengths up to 100,000, tiny model, against the dense cache."""
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1 << 18,
    )
    model = tiny_model(config)
    ids = np.random.default_rng(0).integers(0, 256, TINY_MARKS[-1] + 1000)
    found: dict[str, dict[str, list[float]]] = {}
    for name in ("ours", "dense"):
        cache = (
            StreamingCache(model, 4, 252, "cache") if name == "ours" else DynamicCache(config=model.config)
        )
        found[name], done = {"ms": [], "bytes": []}, 0
        for mark in TINY_MARKS:
            for start in range(done, mark, 500):
                forward(model, torch.from_numpy(ids[start : start + 500])[None], cache)
            spent = _median(
                lambda at, cache=cache: forward(model, torch.from_numpy(ids[at : at + 1])[None], cache),
                TINY_TOKENS,
            )
            done = mark
            found[name]["ms"].append(round(1000 * spent, 3))
            found[name]["bytes"].append(held_bytes(cache))
            progress(f"{name} at {mark:,} tokens: {1000 * spent:.2f} ms a token, {held_bytes(cache):,} bytes")
    setting = (
        f"two-layer Llama, cache 256, single tokens at {', '.join(f'{mark:,}' for mark in TINY_MARKS)} tokens"
    )
    return [
        Row(
            "time a token is flat to 100,000 tokens",
            "constant",
            "dense",
            found["dense"]["ms"],
            found["ours"]["ms"],
            "ms",
            setting,
        ),
        Row(
            "memory is flat to 100,000 tokens",
            "constant",
            "dense",
            found["dense"]["bytes"],
            found["ours"]["bytes"],
            "bytes",
            setting,
        ),
    ]


@state
class _Count:
    chunks: int


class _Nothing(Operator[_Count]):
    """Counts its chunks: what is left of a push is the session's own work."""

    spec = Spec("nothing", "benchmark", "counts its chunks", (Tokens,), (), Exactness.bitwise())

    @classmethod
    def example(cls) -> "_Nothing":
        return cls()

    def settings(self) -> dict[str, Any]:
        return {}

    def init(self, seed: int = 0) -> _Count:
        return _Count(0)

    def bound(self) -> Bound:
        return Bound(8)

    def _step(self, state: _Count, chunk: Any) -> tuple[_Count, list[Any]]:
        return _Count(state.chunks + 1), []


def part_overhead() -> list[Row]:
    """What a push costs on an operator that does nothing."""
    session, chunk = Session(_Nothing()), Tokens([1, 2, 3])
    batches = []
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(2000):
            session.push(chunk)
        batches.append((time.perf_counter() - began) / 2000)
    return [
        Row(
            "overhead of Session.push",
            "goal: under 50",
            "goal",
            50,
            round(1e6 * float(np.median(batches)), 1),
            "microseconds",
            "operator that does nothing, chunk of 3 tokens, median of 20 batches of 2,000",
        )
    ]


PARTS: dict[str, Callable[[], list[Row]]] = {
    "overhead": part_overhead,
    "length": part_length,
    "exact": part_exact,
    "recall": part_recall,
    "trained-sinks": part_trained_sinks,
    "trained-recall": part_trained_recall,
    "ratio": part_ratio,
    "perplexity": part_perplexity,
}


if __name__ == "__main__":
    sys.exit(run(SYSTEM, __file__, PARTS))
