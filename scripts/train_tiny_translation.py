"""Train tiny-translation in src/unending/weights, and the arms it is compared with: about 12 CPU minutes in all.

A small Llama learns the synthetic language pair as a batch model; then every arm is fine-tuned from it with the same
budget. `--only ARM` trains some of them. A run that was stopped goes on from its checkpoint in .cache/training.
"""

import argparse
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from unending.parts.backbones import LanguageBackbone
from unending.parts.emission import WaitK, average_lagging, laal
from unending.parts.training import Recipe, Run, train, write_card
from unending.parts.training.translations import TranslationTask
from unending.parts.transcript import Batch, loss
from unending.systems.language.group_position_encoding import (
    GroupPositions,
    Limits,
    StreamingGenerator,
    StreamingSFTCollator,
    Template,
)
from unending.systems.language.group_position_encoding.positions import Positions

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS, CHECKPOINTS = (
    ROOT / "src" / "unending" / "weights",
    ROOT / ".cache" / "training" / "tiny-translation",
)
NAME, SHIPPED = "tiny-translation", "group-multi"
SEED, HELD_OUT = 1, 99
TASK = TranslationTask()
SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 344,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "bos_token_id": None,
}
CURRICULUM = ((150, 4, 64), (350, 8, 64), (600, 16, 40), (1500, 24, 32))
"""Until step, words of a sentence at most, sentences a step."""
BATCH_RECIPE = Recipe(steps=CURRICULUM[-1][0], peak=3e-3, decay=0.01, seed=SEED, warmup=50)
TUNING = Recipe(steps=250, peak=1e-3, decay=0.01, seed=SEED + 1, warmup=20)
ROWS = 32
FIXED, SEVERAL = (5,), (1, 3, 5, 7)
ARMS: dict[str, tuple[str, int, tuple[int, ...]]] = {
    "group": ("group", 0, FIXED),
    "interleaved": ("interleaved", 0, FIXED),
    "interleaved-mask": ("interleaved-mask", 0, FIXED),
    "batch-streaming": ("batch-streaming", 0, FIXED),
    "group-phi64": ("group", 64, FIXED),
    "group-phi512": ("group", 512, FIXED),
    "group-multi": ("group", 0, SEVERAL),
    "interleaved-multi": ("interleaved", 0, SEVERAL),
    "interleaved-mask-multi": ("interleaved-mask", 0, SEVERAL),
    "batch-streaming-multi": ("batch-streaming", 0, SEVERAL),
}
"""Mode of `StreamingSFTCollator`, phi, and the lags k that are trained, by turns of the steps."""


@lru_cache(maxsize=1)
def tokenizer() -> Any:
    return TASK.tokenizer()


def new_model() -> LlamaForCausalLM:
    made = tokenizer()
    config = LlamaConfig(
        **SHAPE, vocab_size=len(made), eos_token_id=made.eos_token_id, pad_token_id=made.pad_token_id
    )
    torch.manual_seed(SEED)
    return LlamaForCausalLM._from_config(config, attn_implementation="sdpa")


def template(model: nn.Module) -> Template:
    return Template.of(LanguageBackbone(NAME, model, tokenizer(), ""))


def objective(model: nn.Module, batch: Batch) -> Tensor:
    logits = model(
        input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
    ).logits
    return loss(logits, batch)


def batch_model() -> tuple[LlamaForCausalLM, Run]:
    """The model that all arms begin with: ordinary causal mask, positions one behind the other."""
    model = new_model()
    collator = StreamingSFTCollator(template(model), mode="batch")

    def batch(seed: int, step: int) -> Batch:
        _, longest, rows = next(stage for stage in CURRICULUM if step < stage[0])
        return collator.batch(TASK.sentences(seed, step, rows, longest))

    return model, train(model, batch, objective, BATCH_RECIPE, CHECKPOINTS / "batch", title="batch")


def arm(name: str) -> tuple[LlamaForCausalLM, Run]:
    """One arm, trained or as its checkpoint has it."""
    if name == "batch":
        return batch_model()
    model, _ = batch_model()
    mode, phi, ks = ARMS[name]
    collators = [StreamingSFTCollator(template(model), k, phi, mode) for k in ks]

    def batch(seed: int, step: int) -> Batch:
        return collators[step % len(ks)].batch(TASK.sentences(seed, step, ROWS))

    return model, train(model, batch, objective, TUNING, CHECKPOINTS / name, title=name)


def accuracy(written: list[str], wanted: list[str]) -> float:
    """1 - word error rate, not below 0: edits that make `wanted` of `written`, a word of `wanted`."""
    row = list(range(len(wanted) + 1))
    for i, word in enumerate(written, start=1):
        before, row[0] = row[0], i
        for j, other in enumerate(wanted, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    return max(0.0, 1 - row[-1] / len(wanted))


def streamed(model: nn.Module, positions: Positions, k: int, sentences: int) -> dict[str, float]:
    """Mean `accuracy`, AL and LAAL on held-out sentences, written by the automaton."""
    generator = StreamingGenerator(model, tokenizer(), WaitK(k), positions, limits=Limits(50, 120))
    right, lag, adaptive = [], [], []
    for source, target in TASK.sentences(HELD_OUT, k, sentences):
        right.append(accuracy([w.text.strip() for w in generator.translate(source) if w.ids], target))
        if generator.delays:
            lag.append(average_lagging(generator.delays, len(source), len(target)))
            adaptive.append(laal(generator.delays, len(source), len(target)))
    named = {"accuracy": right, "AL": lag, "LAAL": adaptive}
    return {name: round(sum(values) / max(len(values), 1), 3) for name, values in named.items()}


def publish(model: LlamaForCausalLM, done: Run, before: Run) -> None:
    folder = WEIGHTS / NAME
    model.half().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    facts = {
        "title": NAME,
        "summary": "Translates a synthetic language (`unending.parts.training.translations.TranslationTask`) while"
        " it is being read, with group position encoding. Trained positions end at about 80 in either group.",
        "data": {
            "task": str(TASK),
            "batch stage: until step, longest sentence, sentences a step": "; ".join(map(str, CURRICULUM)),
            "streaming stage": f"{ROWS} sentences a step, wait-k with k = {', '.join(map(str, SEVERAL))} by turns",
            "held out": f"seed {HELD_OUT}",
        },
        "recipe": {"model": f"Llama, {model.num_parameters():,} parameters, in float16"}
        | {f"batch stage: {key}": value for key, value in asdict(BATCH_RECIPE).items()}
        | {f"streaming stage: {key}": value for key, value in asdict(TUNING).items()},
        "seed": SEED,
        "steps": before.step + done.step,
        "cpu_minutes": f"{(before.cpu_seconds + done.cpu_seconds) / 60:.1f}",
        "quality": {
            f"k={k}: word accuracy, AL, LAAL": list(streamed(model, GroupPositions(), k, 100).values())
            for k in SEVERAL
        },
        "licence": "apache-2.0",
        "command": f"python scripts/train_tiny_translation.py --only {SHIPPED}",
    }
    write_card(folder, facts)
    print(NAME, *facts["quality"].items(), sep="\n  ", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", nargs="+", choices=tuple(ARMS), default=tuple(ARMS), help="some of the arms"
    )
    only = parser.parse_args().only
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    _, before = batch_model()
    for name in only:
        model, done = arm(name)
        print(f"{name}: {done.cpu_seconds:.0f} CPU seconds, loss {done.losses[-20:].mean():.4f}", flush=True)
        if name == SHIPPED:
            publish(model.eval(), done, before)


if __name__ == "__main__":
    main()
