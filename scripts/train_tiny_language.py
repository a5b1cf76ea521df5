"""Train the tiny language models in src/unending/weights: five runs, about half an hour on one thread in all.

`--only NAME` trains some of them. A run that was stopped goes on from its checkpoint in .cache/training.
"""

import argparse
import platform
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from unending.core.random import philox
from unending.io.text import standard_text
from unending.parts.memory.trained_sinks import SOFTMAX1, SinkToken
from unending.parts.training import (
    RecallStream,
    Recipe,
    Run,
    byte_windows,
    digest,
    library_docstrings,
    library_sources,
    repeats,
    train,
    write_card,
)

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS, CHECKPOINTS = ROOT / "src" / "unending" / "weights", ROOT / ".cache" / "training"

BYTES = ("tiny-bytes", "tiny-bytes-sink", "tiny-bytes-softmax1", "tiny-bytes-bos")
RECALL = "tiny-recall"
SEED = 1
SHAPE = {
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "attention_bias": True,
    "initializer_range": 0.05,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
}

CONTEXT, ROWS, DRILL_EVERY, DRILL_PERIODS = 128, 16, 3, (16, 64)
BYTE_RECIPE = Recipe(steps=3000, peak=3e-3, decay=0.1, seed=SEED, bfloat16=True)
FIRST = 256
"""The id that stands before every text of tiny-bytes-sink and tiny-bytes-bos."""

KEYS, VALUES, EVERY = 512, 64, (1, 2, 3, 5, 10)
CURRICULUM = (
    # until step, keys, values, tokens a row
    (700, 16, 16, 32),
    (900, 32, 32, 32),
    (1100, 64, 64, 64),
    (1300, 128, 64, 128),
    (1600, 256, 64, 256),
    (2300, 512, 64, 512),
)
BATCH_TOKENS, RECALL_DRILLS = 4096, 4
RECALL_RECIPE = Recipe(steps=CURRICULUM[-1][0], peak=3e-3, decay=0.01, seed=SEED, bfloat16=True)
DISTANCES = (1, 10, 20, 50, 100, 150, 200)


def byte_model(name: str) -> LlamaForCausalLM:
    config = LlamaConfig(
        **SHAPE,
        vocab_size=FIRST + (name == "tiny-bytes-bos"),
        intermediate_size=344,
        num_hidden_layers=4,
        max_position_embeddings=CONTEXT + (name == "tiny-bytes-sink"),
    )
    if name == "tiny-bytes-bos":
        config.bos_token_id = FIRST
    if name == "tiny-bytes-softmax1":
        config.attention_function = SOFTMAX1  # for a reader of config.json: transformers keeps no such entry
    torch.manual_seed(SEED)
    return LlamaForCausalLM._from_config(config, attn_implementation=attention(name))


def attention(name: str) -> str:
    return SOFTMAX1 if name == "tiny-bytes-softmax1" else "eager"


def byte_batches(name: str) -> Callable[[int, int], tuple[Tensor, Tensor]]:
    """Half of the rows docstrings, half sources; every third row repeats its own beginning."""
    prose, code = (
        "\n\n".join(texts.values()).encode() for texts in (library_docstrings(), library_sources())
    )

    def batch(seed: int, step: int) -> tuple[Tensor, Tensor]:
        halves = [
            byte_windows(text, seed, 2 * step + i, ROWS // 2, CONTEXT) for i, text in enumerate((prose, code))
        ]
        rows = np.concatenate(halves)
        drilled = rows[::DRILL_EVERY]
        low, high = DRILL_PERIODS
        rows[::DRILL_EVERY] = repeats(
            drilled, philox(seed, step, 1).integers(low, high + 1, size=len(drilled))
        )
        if name == "tiny-bytes-bos":
            rows = np.pad(rows[:, :-1], ((0, 0), (1, 0)), constant_values=FIRST)
        return torch.from_numpy(rows), torch.from_numpy(rows)

    return batch


def recall_model() -> LlamaForCausalLM:
    config = LlamaConfig(
        **SHAPE,
        vocab_size=2 + KEYS + VALUES,
        intermediate_size=256,
        num_hidden_layers=2,
        max_position_embeddings=CURRICULUM[-1][3],
    )
    torch.manual_seed(SEED)
    return LlamaForCausalLM._from_config(config, attn_implementation="sdpa")


def recall_batch(seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Rows of recall streams with random distances, ids and labels; every fourth row repeats random ids."""
    _, keys, values, length = next(stage for stage in CURRICULUM if step < stage[0])
    count, every = BATCH_TOKENS // length, EVERY[step % len(EVERY)]
    streams = [
        RecallStream((seed << 40) + (step << 10) + row, every, 0, keys, values) for row in range(count)
    ]
    rows = np.stack([stream.tokens(0, length) for stream in streams])
    rows[rows >= 2 + keys] += KEYS - keys
    labels = np.full_like(rows, -100)
    answers = streams[0].answers(0, length)
    labels[:, answers] = rows[:, answers]
    draw = philox(seed, step, 1)
    alphabet = np.r_[2 : 2 + keys, 2 + KEYS : 2 + KEYS + values]
    drilled = slice(None, None, RECALL_DRILLS)
    periods = draw.integers(4, length // 2, size=len(rows[drilled]))
    rows[drilled, 1:] = repeats(draw.choice(alphabet, (len(periods), length - 1)), periods)
    labels[drilled] = np.where(np.arange(length) <= periods[:, None], -100, rows[drilled])
    return torch.from_numpy(rows), torch.from_numpy(labels)


def loss(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return net(input_ids=batch[0], labels=batch[1]).loss


def run(name: str) -> tuple[LlamaForCausalLM, Run]:
    """Train one of them, or go on where it was stopped."""
    folder = CHECKPOINTS / name
    if name == RECALL:
        model = recall_model()
        return model, train(model, recall_batch, loss, RECALL_RECIPE, folder, title=name)
    model = byte_model(name)
    net = SinkToken(model, 1, torch.Generator().manual_seed(SEED)) if name == "tiny-bytes-sink" else model
    done = train(net, byte_batches(name), loss, BYTE_RECIPE, folder, title=name)
    # Byte 0 is in no text, so its output row may stand for the sink's.
    return net.fold(silent_id=0) if isinstance(net, SinkToken) else net, done


def byte_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Id = byte, and the first token of the arms that have one put before every text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [byte for byte in range(256) if byte not in plain]
    signs = {byte: chr(byte) for byte in plain} | {byte: chr(256 + n) for n, byte in enumerate(other)}
    inner = Tokenizer(models.BPE(vocab={signs[byte]: byte for byte in range(256)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    if name not in ("tiny-bytes-sink", "tiny-bytes-bos"):
        return PreTrainedTokenizerFast(tokenizer_object=inner)
    inner.add_special_tokens([AddedToken("<|first|>", special=True)])
    inner.post_processor = processors.TemplateProcessing(
        single="<|first|> $A", special_tokens=[("<|first|>", FIRST)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<|first|>")


@torch.no_grad()
def byte_quality(name: str, model: Any) -> dict[str, Any]:
    """Held-out perplexity a byte inside the trained context, and where attention goes."""
    text = np.frombuffer(standard_text().encode(), np.uint8).astype(np.int64)
    starts = np.linspace(0, len(text) - CONTEXT, 256).astype(int)
    rows = torch.from_numpy(text[starts[:, None] + np.arange(CONTEXT)])
    first = model.config.bos_token_id
    seen = rows if first is None else nn.functional.pad(rows, (1, 0), value=first)
    outputs = model(input_ids=seen, output_attentions=True)
    logits = outputs.logits[:, -CONTEXT:-1]
    losses = nn.functional.cross_entropy(logits.transpose(1, 2), rows[:, 1:], reduction="none")
    late = torch.stack(outputs.attentions)[:, :, :, 16:]  # layer, row, head, query, key
    uniform = 1 / torch.arange(17, seen.shape[1] + 1)
    result = {
        "held-out perplexity a byte, bytes 1 to 127 of a row": losses.mean().exp().item(),
        "held-out perplexity a byte, bytes 64 to 127": losses[:, 63:].mean().exp().item(),
        "attention on slot 0, by layer, mean of heads": late[..., 0].mean((1, 2, 3)).tolist(),
        "attention on slot 0, by layer, strongest head": late[..., 0].mean((1, 3)).amax(1).tolist(),
        "attention on slot 0 if it were uniform": uniform.mean().item(),
    }
    if name == "tiny-bytes-softmax1":
        nothing = 1 - late.sum(-1)
        result["attention on nothing, by layer, mean of heads"] = nothing.mean((1, 2, 3)).tolist()
    return result


@torch.no_grad()
def recall_quality(model: Any) -> dict[str, Any]:
    """Share of answers that are right inside the context, on streams that no training row shares."""
    result = {}
    for distance in DISTANCES:
        streams = [RecallStream(seed, 10, distance, KEYS, VALUES) for seed in range(100)]
        rows = torch.from_numpy(np.stack([stream.tokens(0, CURRICULUM[-1][3]) for stream in streams]))
        at = streams[0].answers(0, rows.shape[1])
        right = model(input_ids=rows).logits[:, at - 1].argmax(-1) == rows[:, at]
        result[f"right answers, {distance} records back"] = right.float().mean().item()
    return result | {"chance": 1 / VALUES}


def publish(name: str, model: LlamaForCausalLM, done: Run) -> None:
    """Write weights, tokenizer and card, and measure what was written."""
    folder = WEIGHTS / name
    model.half().save_pretrained(folder)
    if name != RECALL:
        byte_tokenizer(name).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    implementation = "sdpa" if name == RECALL else attention(name)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=implementation
    )
    quality = recall_quality(model.eval()) if name == RECALL else byte_quality(name, model.eval())
    recipe = RECALL_RECIPE if name == RECALL else BYTE_RECIPE
    facts = {
        "title": name,
        "summary": SUMMARIES[name],
        "data": data(name),
        "recipe": {"model": f"Llama, {model.num_parameters():,} parameters, in float16"} | asdict(recipe),
        "seed": SEED,
        "steps": done.step,
        "cpu_minutes": f"{done.cpu_seconds / 60:.1f}",
        "quality": {**quality, "training loss, mean of the last 100 steps": done.losses[-100:].mean().item()},
        "licence": "apache-2.0",
        "command": f"python scripts/train_tiny_language.py --only {name}",
    }
    write_card(folder, facts)
    print(name, *quality.items(), sep="\n  ", flush=True)


def data(name: str) -> dict[str, Any]:
    """What the card says about the data."""
    if name == RECALL:
        return {
            "stream": "RecallStream, random distances, loss on the answers",
            "queries": f"after every {', '.join(map(str, EVERY))} records, by turns of the steps",
            "curriculum: until step, keys, values, tokens a row": "; ".join(map(str, CURRICULUM)),
            "drills": f"every {RECALL_DRILLS}th row repeats random ids, loss on the repeats",
        }
    texts = "\n\n".join(library_docstrings().values()) + "\n\n".join(library_sources().values())
    return {
        "text": f"docstrings and sources, half each, of the standard library of Python {platform.python_version()}",
        "its licence": "PSF-2.0",
        "its SHA-256": digest(texts.encode()),
        "bytes seen": f"{BYTE_RECIPE.steps * ROWS * CONTEXT:,} in rows of {CONTEXT}",
        "drills": f"every {DRILL_EVERY}rd row repeats its own first {DRILL_PERIODS[0]} to {DRILL_PERIODS[1]} bytes",
        "held out": "`pydoc_data.topics`, the language reference",
    }


_SAME = "Same data, order, seed and hyper-parameters as its siblings tiny-bytes*."
SUMMARIES = {
    "tiny-bytes": f"A byte-level language model (id = byte) without any sink by training. {_SAME}",
    "tiny-bytes-sink": f"A byte-level language model with a learned sink token, id {FIRST}, that must be the first "
    f"token of a stream and stay in its memory. {_SAME}",
    "tiny-bytes-softmax1": "A byte-level language model with softmax-off-by-one. `backbones.load` opens "
    f'it with that attention, as its config says; with transformers alone, pass `attn_implementation="{SOFTMAX1}"` '
    f"after importing `unending.parts.memory.trained_sinks`. {_SAME}",
    "tiny-bytes-bos": f"A byte-level language model that always saw id {FIRST} first: an ordinary token, that takes "
    f"the place of a byte and predicts the first one. {_SAME}",
    RECALL: "Answers queries on `unending.parts.training.RecallStream` with "
    f"{KEYS} keys and {VALUES} values, at any distance within its context of {CURRICULUM[-1][3]} tokens.",
}


def main() -> None:
    names = (*BYTES, RECALL)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="some of the models")
    only = parser.parse_args().only
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    for name in only:
        publish(name, *run(name))


if __name__ == "__main__":
    main()
