"""Claims of JRT (Arora et al. 2024), each a part of its own: `--only PART`; rows go to benchmarks/results/.

Settings, seeds and baselines are the constants below. Trainings go on from their checkpoints in .cache/training.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import numpy as np
import torch
import train_tiny_jrt
from command import progress, run
from rows import RESULTS, Row
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig, MambaConfig

from unending.core import Session, Text
from unending.parts import backbones
from unending.parts.backbones.tiny import byte_tokenizer, tiny_model
from unending.parts.training import RecallStream, Recipe, train
from unending.parts.training.disjointness import SetDisjointness
from unending.systems.language.jrt import JRT, JRTConfig, JRTForCausalLM, jrt_prompt, read_twice
from unending.systems.language.streaming_llm import StreamingCache, StreamingLLM

SYSTEM = "jrt"
IMAGES = RESULTS.parents[1] / "docs" / "images"
CHECKPOINTS = RESULTS.parents[1] / ".cache" / "training"

VOCABULARY, WIDTH, HEADS, LAYERS, SEED = 256, 48, 2, 4, 1
FEATURES = (4, 8, 16)
"""Widths of a query; the state of a layer grows with 1 + f + f^2."""
SHORT, ALL = ((4, 16), (16, 4)), ((4, 16), (16, 4), (4, 32), (32, 4), (4, 64), (64, 4))
"""Sizes of (first, second) list in the first and in the second stage of training, by turns of the steps."""
STAGES = (2000, 4000)
"""Steps until which the two stages last. The causal model reads every other step's lists twice."""
ROWS, TESTED = (64, 32), 1000
"""Rows of a step in each stage, and rows of a test of each size."""
PEAK = 4e-3

PREFILL_LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768)
PREFILL_LAYER = {"width": 256, "heads": 4, "feature_dim": 16, "enc_length": 1024}
PREFILL_MOST_QUADRATIC = 16384
"""Beyond this the softmax layer takes minutes on one thread and is not run."""
STATE_LENGTHS = (128, 1024, 8192, 32768)

PROMPT_RECORDS, PROMPT_ROWS = 24, 400
WINDOW_RECORDS, WINDOW_CACHE, WINDOW_ROWS = 40, 50, 200


def disjointness_model(arm: str, features: int) -> JRTForCausalLM:
    config = JRTConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        intermediate_size=0,
        num_attention_heads=HEADS,
        feature_dim=features,
        enc_length=10_000 if arm == "prefix" else 0,
        linear_layers=tuple(range(1, LAYERS, 2)),
        window_layers=(),
        share_encoder_projections=True,
        initializer_range=0.14,
        mask_token_id=0,
        pad_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(SEED)
    return JRTForCausalLM(config)


def disjointness_batch(arm: str) -> Callable[[int, int], tuple[Tensor, Tensor]]:
    def batch(seed: int, step: int) -> tuple[Tensor, Tensor]:
        late = step >= STAGES[0]
        repeats, turn = (1 + step % 2, step // 2) if arm == "causal" else (1, step)
        sizes = ALL if late else SHORT
        task = SetDisjointness(*sizes[turn % len(sizes)], VOCABULARY, repeats)
        rows, answers = task.rows(seed, step, ROWS[late])
        return torch.from_numpy(rows), torch.from_numpy(answers)

    return batch


def disjointness_loss(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(net(batch[0], logits_to_keep=1).logits[:, -1], batch[1])


@torch.no_grad()
def right_answers(net: JRTForCausalLM, first: int, second: int, repeats: int) -> float:
    rows, answers = SetDisjointness(first, second, VOCABULARY, repeats).rows(SEED + 1000, 0, TESTED)
    said = [
        net(piece, logits_to_keep=1).logits[:, -1].argmax(-1) for piece in torch.from_numpy(rows).split(100)
    ]
    return round(float((torch.cat(said).numpy() == answers).mean()), 3)


def disjointness_run(arm: str, features: int) -> dict[str, Any]:
    """Train one model and test it: accuracy by sizes, once and (causal) twice."""
    net = disjointness_model(arm, features)
    recipe = Recipe(steps=STAGES[1], peak=PEAK, warmup=100, decay=0.1, seed=SEED)
    name = f"jrt-disjointness-{arm}-{features}"
    done = train(
        net, disjointness_batch(arm), disjointness_loss, recipe, CHECKPOINTS / name, title=name, every=500
    )
    found: dict[str, Any] = {"state numbers a layer": sum(x.numel() for x in _linear_state(net))}
    for repeats in (1, 2) if arm == "causal" else (1,):
        for first, second in ALL:
            label = f"{first},{second}" + (" twice" if repeats == 2 else "")
            found[label] = right_answers(net, first, second, repeats)
    progress(f"{name}: {done.cpu_seconds / 60:.1f} CPU minutes, {found}")
    return found


def _linear_state(net: JRTForCausalLM) -> list[Tensor]:
    state = net.model.empty().layers[1]
    return [state.S, state.Z]


def part_disjointness() -> list[Row]:
    """Which list comes first, how large the state is, and how often the lists are said."""
    rows = []
    for features in FEATURES:
        prefix, causal = (disjointness_run(arm, features) for arm in ("prefix", "causal"))
        setting = (
            f"vocabulary {VOCABULARY}, {LAYERS} layers (conv, linear, conv, linear) of width {WIDTH}, {HEADS} heads,"
            f" feature_dim {features}, {STAGES[1]} steps, seed {SEED}, {TESTED} rows a size"
        )
        once = {size: causal[size] for size in map(_label, ALL)}
        twice = {size: causal[f"{size} twice"] for size in map(_label, ALL)}
        numbers = {"state numbers a layer": prefix.pop("state numbers a layer")}
        rows += [
            Row(
                f"set disjointness: a non-causal prefix does not mind the order, feature_dim {features}",
                "non-causal needs room for the smaller set, causal for the first",
                "causal, right answers by (first, second)",
                once | numbers,
                prefix,
                "accuracy",
                setting,
                note=f"{_gaps(causal=once, prefix=prefix)}; not shown: that the causal model falls when the long list"
                " comes first",
            ),
            Row(
                f"set disjointness: the same causal model reading twice, feature_dim {features}",
                "JRT-Prompt: the order matters less on the second reading",
                "causal once, right answers by (first, second)",
                once,
                twice,
                "accuracy",
                setting,
                note=_gaps(once=once, twice=twice),
            ),
        ]
    return rows


def _gaps(**arms: dict[str, float]) -> str:
    gaps = [f"{name} {100 * (values['4,64'] - values['64,4']):+.1f}" for name, values in arms.items()]
    return f"points by which (4,64) is above (64,4): {', '.join(gaps)}"


def _label(sizes: tuple[int, int]) -> str:
    return f"{sizes[0]},{sizes[1]}"


def part_language() -> list[Row]:
    """Bytes and records: prefix with both losses, prefix with next tokens only, causal Based."""
    found = {}
    for name in train_tiny_jrt.ARMS:
        net, done = train_tiny_jrt.run(name)
        found[name] = {what: round(value, 3) for what, value in train_tiny_jrt.quality(net).items()}
        progress(f"{name}: {done.cpu_seconds / 60:.1f} CPU minutes, {found[name]}")
    setting = (
        f"4 layers (conv, PLA, window 32, conv) of width 128, {train_tiny_jrt.RECIPE.steps} steps, rows of"
        f" {train_tiny_jrt.LENGTH} bytes with a prefix of {train_tiny_jrt.PREFIX}, recall of digits, chance 0.1"
    )
    ours = found["tiny-jrt"]
    return [
        Row(
            "JRT-RNN against its causal counterpart",
            "up to +13.7 points on recall over Based at 360M",
            "causal Based, same data and steps",
            found["tiny-jrt-causal"],
            ours,
            "perplexity a byte; share of values recalled",
            setting,
            note="not shown: at this size and time the causal model, which has a next-token loss on every byte of the"
            " text, reads and recalls better",
        ),
        Row(
            "the masked loss beside the next-token loss",
            "objective of the paper",
            "prefix, next-token loss only",
            found["tiny-jrt-next-only"],
            ours,
            "perplexity a byte; share of values recalled",
            setting,
            note="not shown: hiding 15 of 100 bytes of the prefix costs recall here, where the records are the prefix",
        ),
    ]


@torch.no_grad()
def _milliseconds(work: Callable[[], Any], times: int) -> float:
    """Median, after one call that is not timed."""
    work()
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    return round(1000 * float(np.median(spent)), 1)


@torch.no_grad()
def part_prefill() -> list[Row]:
    """One layer of prefix linear attention in chunks against one of softmax attention, one thread."""
    from unending.systems.language.jrt import PrefixLinearAttention

    shape = PREFILL_LAYER
    width, heads = shape["width"], shape["heads"]
    torch.manual_seed(0)
    layer = PrefixLinearAttention(width, heads, shape["feature_dim"], shape["enc_length"])
    projections = [nn.Linear(width, width, bias=False) for _ in range(4)]

    def softmax(x: Tensor) -> Tensor:
        q, k, v = (each(x).unflatten(-1, (heads, -1)).transpose(1, 2) for each in projections[:3])
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return projections[3](y.transpose(1, 2).flatten(2))

    ours, theirs = {}, {}
    for n in PREFILL_LENGTHS:
        x = torch.randn(1, n, width)
        times = 5 if n <= 4096 else 2
        ours[str(n)] = _milliseconds(lambda x=x: layer.prefill(x), times)
        theirs[str(n)] = (
            _milliseconds(lambda x=x: softmax(x), times) if n <= PREFILL_MOST_QUADRATIC else "not run"
        )
        progress(f"prefill of {n:,} tokens: {ours[str(n)]} ms, softmax {theirs[str(n)]} ms")
    return [
        Row(
            "prefill time grows linearly with the prompt, softmax attention quadratically",
            "19.2 times FlashAttention-2 at 32k, batch 16, H100 (throughput; GPU only)",
            "scaled_dot_product_attention, causal, ms by tokens",
            theirs,
            ours,
            "ms",
            f"one layer of width {width}, {heads} heads, feature_dim {shape['feature_dim']}, prefix"
            f" {shape['enc_length']}, batch 1, float32, one thread, median",
        )
    ]


@torch.no_grad()
def part_state() -> list[Row]:
    """Bytes of the decode state and time a token, by length, of tiny-jrt and of a transformer of its width."""
    backbone = JRT().backbone
    net, config = backbone.module, backbone.config
    dense = tiny_model(
        LlamaConfig(
            vocab_size=258,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            max_position_embeddings=STATE_LENGTHS[-1] + 64,
        )
    )
    ours: dict[str, Any] = {}
    theirs: dict[str, Any] = {}
    ids = torch.randint(0, 256, (1, STATE_LENGTHS[-1]), generator=torch.Generator().manual_seed(0))
    _, memory = net.model.prefill(ids[:, : STATE_LENGTHS[0]])
    cache = DynamicCache(config=dense.config)
    dense(ids[:, : STATE_LENGTHS[0]], past_key_values=cache, use_cache=True)
    at = STATE_LENGTHS[0]
    for n in STATE_LENGTHS:
        while at < n:
            block = ids[:, at : min(at + 512, n)]
            _, memory = net.model.extend(block, memory)
            dense(block, past_key_values=cache, use_cache=True, logits_to_keep=1)
            at += block.shape[1]
        own = _milliseconds(lambda memory=memory: net.lm_head(net.model.step(ids[:, 0], memory)[0]), 200)
        cached = [
            _milliseconds(lambda: dense(ids[:, :1], past_key_values=cache, use_cache=True), 1)
            for _ in range(9)
        ]
        held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
        ours[str(n)] = {"bytes": memory.nbytes, "ms a token": own}
        theirs[str(n)] = {"bytes": held, "ms a token": float(np.median(cached))}
        progress(f"{n:,} tokens: {ours[str(n)]}, dense {theirs[str(n)]}")
    return [
        Row(
            "the decode state and the time a token do not grow",
            "constant",
            "dense cache of a Llama of the same width and layers, by tokens",
            theirs,
            ours,
            "bytes; ms",
            "tiny-jrt, random bytes, one thread, median",
        )
    ]


def part_prompt() -> list[Row]:
    """JRT-Prompt on a recurrent model trained here, on a window as a control, and on a Mamba mechanically."""
    return [_records_twice(), _window_twice(), _mechanically()]


@torch.no_grad()
def _records_twice() -> Row:
    """Records said once and twice; then the key of the first one."""
    found: dict[int, dict[str, float]] = {1: {}, 2: {}}
    for name in ("tiny-jrt-causal", "tiny-jrt"):
        net, _ = train_tiny_jrt.run(name)
        for repeats, shares in found.items():
            hits = []
            for seed in range(PROMPT_ROWS):
                (row,), _ = train_tiny_jrt.records(7000 + seed, 0, 1, PROMPT_RECORDS)
                said = row[2 : 2 + train_tiny_jrt.RECORD * PROMPT_RECORDS]  # behind the filling, in order
                ids = torch.from_numpy(np.concatenate([*[said] * repeats, said[:1]]))[None]
                hits.append(int(net(ids).logits[0, -1].argmax()) == int(said[1]))
            shares[name] = round(float(np.mean(hits)), 3)
    progress(f"records said once and twice: {found}")
    return Row(
        "JRT-Prompt on small recurrent models: records said twice, then a key",
        "+11.0 points on average over 16 recurrent models",
        "said once",
        found[1],
        found[2],
        "share of digits recalled",
        f"{PROMPT_RECORDS} records, the first one asked, {PROMPT_ROWS} draws, chance 0.1; trained on rows that say"
        " records in turn until the prefix is full",
    )


@torch.no_grad()
def _window_twice() -> Row:
    """tiny-recall with a cache shorter than its records: the same order twice leaves the same tokens."""
    model = backbones.load("tiny-recall").module
    accuracy = {}
    for repeats in (1, 2):
        hits = []
        for seed in range(WINDOW_ROWS):
            stream = RecallStream(9000 + seed, WINDOW_RECORDS, 0, 512, 64)
            records = stream.tokens(1, 1 + 2 * WINDOW_RECORDS)
            key, value = records[2 * (seed % 10) :][:2]
            ids = torch.tensor([[0, *np.tile(records, repeats).tolist(), 1, int(key)]])
            cache = StreamingCache(model, 4, WINDOW_CACHE - 4, "cache")
            for block in ids.split(16, dim=1):
                logits = model(block, past_key_values=cache, use_cache=True).logits
            hits.append(int(logits[0, -1].argmax()) == int(value))
        accuracy[repeats] = round(float(np.mean(hits)), 3)
    progress(f"tiny-recall, cache {WINDOW_CACHE}: {accuracy}")
    return Row(
        "a control: a window that keeps the newest tokens whatever is asked gains nothing by a second reading",
        "not in the paper (its models choose what to keep)",
        "said once",
        accuracy[1],
        accuracy[2],
        "share of values recalled",
        f"tiny-recall, {WINDOW_RECORDS} records, one of the first 10 asked, streaming-llm cache 4 +"
        f" {WINDOW_CACHE - 4}, {WINDOW_ROWS} streams",
    )


@torch.no_grad()
def _mechanically() -> Row:
    """JRT-Prompt through a recurrent model of another kind: it runs, at constant state and twice the tokens."""
    config = MambaConfig(
        vocab_size=272, hidden_size=32, state_size=8, num_hidden_layers=2, eos_token_id=256, pad_token_id=257
    )
    mamba, tokenizer = tiny_model(config), byte_tokenizer()
    sizes = {}
    for repeats in (1, 2):
        prompt = jrt_prompt(
            "The key is under the third stone. " * 4, "where is the key", repeats, repeats == 2
        )
        ids = torch.tensor([tokenizer(prompt).input_ids])
        out = mamba.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
        state = mamba(ids, use_cache=True).cache_params
        held = sum(
            x.nbytes for layer in state.layers for x in (layer.conv_states[0], layer.recurrent_states[0])
        )
        sizes[f"{repeats} times"] = {
            "tokens": ids.shape[1],
            "state bytes": held,
            "answer tokens": out.shape[1] - ids.shape[1],
        }
    with Session(StreamingLLM.example()) as session:
        chunks = [Text("The key is under the third stone")]
        for chunk in read_twice(chunks, "key"):
            session.push(chunk)
            while session.poll():
                pass
    return Row(
        "JRT-Prompt runs through any recurrent model and operator; it is not free",
        "twice the prompt, the same state",
        "transformers Mamba, random weights, said once",
        sizes["1 times"],
        sizes["2 times"],
        "tokens; bytes",
        "two layers of width 32; also read_twice through streaming-llm",
        note="quality not shown: no pretrained recurrent model can be had here, and +11 points needs one",
    )


def draw() -> None:
    """The curves, out of what is stored."""
    import json

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    path = RESULTS / f"{SYSTEM}.json"
    rows = json.loads(path.read_text()) if path.is_file() else []
    _draw_disjointness(pyplot, [row for row in rows if row["claim"].startswith("set disjointness")])
    _draw_costs(pyplot, rows)


def _draw_disjointness(pyplot: Any, rows: list[dict[str, Any]]) -> None:
    prefix = [row for row in rows if "non-causal" in row["claim"]]
    twice = {row["claim"].rsplit(" ", 1)[1]: row["ours"] for row in rows if "twice" in row["claim"]}
    if not prefix:
        return
    figure, axes = pyplot.subplots(1, 3, figsize=(13.5, 4), sharey=True, layout="constrained")
    sizes = [row["peer_value"]["state numbers a layer"] for row in prefix]
    arms = (
        ("causal, read once", [row["peer_value"] for row in prefix]),
        ("causal, read twice", [twice[row["claim"].rsplit(" ", 1)[1]] for row in prefix]),
        ("non-causal prefix", [row["ours"] for row in prefix]),
    )
    for axis, (title, values) in zip(axes, arms, strict=True):
        for long, style in ((16, ":"), (32, "--"), (64, "-")):
            for first, second, color in ((4, long, "tab:blue"), (long, 4, "tab:red")):
                order = "short list first" if first == 4 else "long list first"
                curve = [each[f"{first},{second}"] for each in values]
                axis.plot(
                    sizes, curve, style, color=color, marker="o", markersize=4, label=f"{order}, 4 and {long}"
                )
        axis.set_title(title, fontsize=11)
        axis.set_xlabel("state of a layer, numbers")
        axis.set_xscale("log")
        axis.set_ylim(0, 1.03)
        axis.grid(alpha=0.3, which="both")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("right answers")
    axes[-1].legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(IMAGES / "jrt-disjointness.png", dpi=120)
    pyplot.close(figure)


def _draw_costs(pyplot: Any, rows: list[dict[str, Any]]) -> None:
    prefill = next((row for row in rows if row["claim"].startswith("prefill time")), None)
    state = next((row for row in rows if row["claim"].startswith("the decode state")), None)
    if prefill is None or state is None:
        return
    figure, axes = pyplot.subplots(1, 3, figsize=(13.5, 4), layout="constrained")
    for label, values in (
        ("prefix linear attention, chunks", prefill["ours"]),
        ("softmax", prefill["peer_value"]),
    ):
        points = [(int(n), value) for n, value in values.items() if not isinstance(value, str)]
        axes[0].plot(*zip(*points, strict=True), marker="o", label=label)
    for axis, what, factor in ((axes[1], "bytes", 2**20), (axes[2], "ms a token", 1)):
        for label, values in (("tiny-jrt", state["ours"]), ("dense cache", state["peer_value"])):
            axis.plot(
                [int(n) for n in values],
                [each[what] / factor for each in values.values()],
                marker="o",
                label=label,
            )
    titles = ("prefill of one layer, ms", "decode state, MiB", "decode time a token, ms")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=11)
        axis.set_xlabel("tokens")
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.grid(alpha=0.3, which="both")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=9)
    figure.savefig(IMAGES / "jrt-costs.png", dpi=120)
    pyplot.close(figure)


PARTS = {
    "disjointness": part_disjointness,
    "language": part_language,
    "prefill": part_prefill,
    "state": part_state,
    "prompt": part_prompt,
}

if __name__ == "__main__":
    sys.exit(run(SYSTEM, __file__, PARTS, draw))
