"""Train the tiny JRT model in src/unending/weights, and the arms it is compared with in benchmarks/jrt.py.

`--only NAME` trains some of them; only tiny-jrt is published. A run that was stopped goes on from its checkpoint in
.cache/training.
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
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from unending.core.random import philox
from unending.io.text import standard_text
from unending.parts.training import Recipe, Run, byte_windows, digest, library_docstrings, train, write_card
from unending.systems.language.jrt import JRTConfig, JRTForCausalLM, masked_prefix, prefix_lm_mlm_loss

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS, CHECKPOINTS = ROOT / "src" / "unending" / "weights", ROOT / ".cache" / "training" / "jrt"

ARMS = {
    # prefix, weight of the masked loss, share of hidden tokens
    "tiny-jrt": (128, 0.25, 0.15),
    "tiny-jrt-next-only": (128, 0.0, 0.0),
    "tiny-jrt-causal": (0, 0.0, 0.0),
}
SEED, MASK, PAD, NEWLINE, NO_LABEL = 1, 256, 257, 10, -100
LENGTH, PREFIX = 256, 128
RECORD = 3
"""Bytes of a record: a letter, a digit, a new line."""
STAGES = (
    # until step, bytes a row, prefix, rows of text, rows of records, different records of a row
    (900, 96, 48, 6, 10, (2, 4, 8, 16)),
    (1400, LENGTH, PREFIX, 8, 8, (8, 16, 24)),
)
RECIPE = Recipe(steps=STAGES[-1][0], peak=4e-3, warmup=100, decay=0.1, seed=SEED, bfloat16=True)
KEYS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", np.uint8).astype(np.int64)
DIGITS = np.frombuffer(b"0123456789", np.uint8).astype(np.int64)


def model(name: str) -> JRTForCausalLM:
    prefix, weight, share = ARMS[name]
    config = JRTConfig(
        vocab_size=258,
        hidden_size=128,
        num_hidden_layers=4,
        intermediate_size=256,
        num_attention_heads=4,
        feature_dim=16,
        enc_length=prefix,
        dec_length=LENGTH - prefix,
        linear_layers=(1,),
        window_layers=(2,),
        window=32,
        initializer_range=0.1,
        mlm_weight=weight,
        mlm_probability=share,
        mask_token_id=MASK,
        pad_token_id=PAD,
        eos_token_id=NEWLINE,
    )
    torch.manual_seed(SEED)
    return JRTForCausalLM(config)


def records(
    seed: int, step: int, count: int, different: int, length: int = LENGTH, prefix: int = PREFIX
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of records, int64 `[count, length + 1]`, and which bytes behind the prefix are digits asked again.

    The prefix says its records in turn until it is full; behind it they come again in another order.
    """
    draw = philox(seed, step, 4)
    inside, behind = prefix // RECORD, -(-(length + 1 - prefix) // RECORD)
    rows = np.full((count, inside + behind, RECORD), NEWLINE, np.int64)
    for row in rows:
        said = np.stack([draw.choice(KEYS, different, replace=False), draw.choice(DIGITS, different)], axis=1)
        row[:inside, :2] = said[np.arange(inside) % different]
        order = np.concatenate([draw.permutation(different) for _ in range(-(-behind // different))])
        row[inside:, :2] = said[order[:behind]]
    asked = np.zeros_like(rows, bool)
    asked[:, inside:, 1] = True
    spare = prefix - inside * RECORD

    def whole(records: np.ndarray, filling: int) -> np.ndarray:
        padded = np.pad(records.reshape(count, -1), ((0, 0), (spare, 0)), constant_values=filling)
        return padded[:, : length + 1]

    return whole(rows, NEWLINE), whole(asked, False)


def batches(name: str) -> Callable[[int, int], tuple[Tensor, Tensor, Tensor | None, int]]:
    """Docstrings and records: the inputs, the labels, what of the prefix is hidden, and the prefix.

    Of records behind the prefix the digits are labels; letters are drawn, and new lines are always third.
    """
    prose = "\n\n".join(library_docstrings().values()).encode()
    causal, share = ARMS[name][0] == 0, ARMS[name][2]

    def batch(seed: int, step: int) -> tuple[Tensor, Tensor, Tensor | None, int]:
        _, length, prefix, texts, recorded, different = next(stage for stage in STAGES if step < stage[0])
        said, asked = records(seed, step, recorded, different[step % len(different)], length, prefix)
        # Of a prefix the masked loss alone takes labels; the causal arm has no prefix.
        labels = np.where(asked | ((np.arange(length + 1) < prefix) & (not causal)), said, NO_LABEL)
        text = byte_windows(prose, seed, step, texts, length + 1)
        ids, labels = (torch.from_numpy(np.concatenate([each, text])) for each in (said, labels))
        inputs, masked = ids[:, :-1], None
        if share:
            inputs, masked = masked_prefix(inputs, prefix, MASK, share, seed=seed, step=step)
        return inputs, labels, masked, 0 if causal else prefix

    return batch


def loss(net: Any, batch: tuple[Tensor, Tensor, Tensor | None, int]) -> Tensor:
    inputs, labels, masked, prefix = batch
    logits = net.lm_head(net.model(inputs, enc_length=prefix))
    return prefix_lm_mlm_loss(logits, labels, prefix, masked, mlm_weight=net.config.mlm_weight)


def run(name: str) -> tuple[JRTForCausalLM, Run]:
    """Train one of them, or go on where it was stopped."""
    net = model(name)
    return net, train(net, batches(name), loss, RECIPE, CHECKPOINTS / name, title=name)


@torch.no_grad()
def quality(net: Any) -> dict[str, float]:
    """Held-out perplexity a byte behind the prefix, and the share of values that are recalled."""
    text = np.frombuffer(standard_text().encode(), np.uint8).astype(np.int64)
    starts = np.linspace(0, len(text) - LENGTH - 1, 128).astype(int)
    rows = torch.from_numpy(text[starts[:, None] + np.arange(LENGTH + 1)])
    logits = net(rows[:, :-1]).logits[:, PREFIX:]
    losses = nn.functional.cross_entropy(logits.transpose(1, 2), rows[:, PREFIX + 1 :])
    found = {"held-out perplexity a byte, bytes 129 to 256 of a row": losses.exp().item()}
    for different in STAGES[-1][-1]:
        said, asked = records(SEED + 1, 0, 64, different)
        ids, wanted = torch.from_numpy(said), torch.from_numpy(asked)[:, 1:]
        right = net(ids[:, :-1]).logits.argmax(-1)[wanted] == ids[:, 1:][wanted]
        found[f"values recalled, {different} records in the prefix"] = right.float().mean().item()
    return found


def tokenizer() -> PreTrainedTokenizerFast:
    """Id = byte, then the mask and the padding."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [byte for byte in range(256) if byte not in plain]
    signs = {byte: chr(byte) for byte in plain} | {byte: chr(256 + n) for n, byte in enumerate(other)}
    inner = Tokenizer(models.BPE(vocab={signs[byte]: byte for byte in range(256)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken("<|mask|>", special=True), AddedToken("<|pad|>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, mask_token="<|mask|>", pad_token="<|pad|>")


def publish(name: str, net: JRTForCausalLM, done: Run) -> None:
    """Write weights, tokenizer and card, and measure what was written."""
    folder = WEIGHTS / name
    net.half().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    written = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    measured = quality(written)
    texts = "\n\n".join(library_docstrings().values())
    facts = {
        "title": name,
        "summary": "A byte-level JRT-RNN (id = byte): gated convolution, prefix linear attention, window attention,"
        f" gated convolution. It reads {PREFIX} bytes non-causally and the rest causally, and recalls records, a line"
        " of a letter and a digit each, when the letter is said again. Import `unending.systems.language.jrt` before"
        " AutoModelForCausalLM.",
        "data": {
            "text": f"docstrings of the standard library of Python {platform.python_version()}",
            "its licence": "PSF-2.0",
            "its SHA-256": digest(texts.encode()),
            "records": "lines of a letter and a digit, said in the prefix and again behind it",
            "stages: until step, bytes a row, prefix, rows of text, rows of records, different records": "; ".join(
                map(str, STAGES)
            ),
            "held out": "`pydoc_data.topics`, the language reference",
        },
        "recipe": {
            "model": f"JRT, {written.num_parameters():,} parameters, stored as float16",
            "objective": "next token behind the prefix + 0.25 masked tokens of the prefix (0.15 hidden)",
        }
        | asdict(RECIPE),
        "seed": SEED,
        "steps": done.step,
        "cpu_minutes": f"{done.cpu_seconds / 60:.1f}",
        "quality": {
            **measured,
            "training loss, mean of the last 100 steps": done.losses[-100:].mean().item(),
        },
        "licence": "apache-2.0",
        "command": f"python scripts/train_tiny_jrt.py --only {name}",
    }
    write_card(folder, facts)
    print(name, *measured.items(), sep="\n  ", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", nargs="+", choices=tuple(ARMS), default=tuple(ARMS), help="some of the models"
    )
    only = parser.parse_args().only
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    for name in only:
        net, done = run(name)
        if name == "tiny-jrt":
            publish(name, net, done)
        else:
            print(name, *quality(net).items(), sep="\n  ", flush=True)


if __name__ == "__main__":
    main()
