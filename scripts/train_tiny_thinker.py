"""Train the small models of streaming-thinker: ours, which is shipped, and the arms that it is held against.

`--only ARM` trains some of them. A run that was stopped goes on from its checkpoint in .cache/training. The arms that
are not shipped stay there, for benchmarks/streaming_thinker.py.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from unending.parts.training import Recipe, Run, train, write_card
from unending.parts.training.problems import WordProblems
from unending.parts.transcript import Batch, loss
from unending.systems.language.streaming_thinker import Sample, direct, transcript
from unending.systems.language.streaming_thinker.judging import judge
from unending.systems.language.streaming_thinker.training import (
    ARMS,
    TINY,
    batch_of,
    logits_of,
    tiny_language_model,
)

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS, CHECKPOINTS = ROOT / "src" / "unending" / "weights", ROOT / ".cache" / "training"

NAME = "tiny-thinker"
SEED, ROWS = 1, 16
SHORT, LONG = (2, 3), (2, 6)
"""Sentences of a problem, in the first part of the steps of the base and then."""
BASE = Recipe(steps=2400, peak=3e-3, decay=0.05, seed=SEED, bfloat16=True)
"""The base of all arms learns words, sums and looking up in the layout of every arm by turns."""
TUNED = Recipe(steps=500, peak=1e-3, warmup=50, decay=0.05, seed=SEED + 1, bfloat16=True)
"""Each arm then goes on in its own layout alone."""
POLISHED = Recipe(steps=2400, peak=2e-3, warmup=50, decay=0.05, seed=SEED + 2, bfloat16=True)
"""What is shipped goes on from our arm, on longer problems; the arms are compared without it."""
LONGER = (3, 8)
TESTS, TEST_SEED = 300, 7


def batches(arms: tuple[str, ...], recipe: Recipe, tokenizer: Any) -> Callable[[int, int], Batch]:
    """A batch of one arm a step, by turns; the problems are the same whatever the arms."""

    def batch(seed: int, step: int) -> Batch:
        arm = arms[step % len(arms)]
        low, high = LONGER if recipe is POLISHED else LONG
        if recipe is BASE and step < 0.4 * recipe.steps:
            low, high = SHORT
        # Rows of one length: little padding.
        sentences = low + step // len(arms) % (high - low + 1)
        problems = WordProblems(seed, (sentences, sentences))
        make = transcript if ARMS[arm].thinks else direct
        drawn = [Sample.of(problems.problem(step * ROWS + row)) for row in range(ROWS)]
        return batch_of([make(each, tokenizer, TINY) for each in drawn], arm)

    return batch


def run(name: str) -> tuple[nn.Module, Any, Run]:
    """Train the base or an arm, or go on where it was stopped."""
    model, tokenizer = tiny_language_model(SEED)
    folder, recipe = CHECKPOINTS / f"thinker-{name}", {"base": BASE, NAME: POLISHED}.get(name, TUNED)
    if name != "base":
        model.load_state_dict(run("streaming" if name == NAME else "base")[0].state_dict())
    arms = {"base": tuple(ARMS), NAME: ("streaming",)}.get(name, (name,))
    done = train(
        model,
        batches(arms, recipe, tokenizer),
        lambda net, each: loss(logits_of(net, each), each),
        recipe,
        folder,
        title=name,
    )
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return model, tokenizer, done


def publish(model: Any, tokenizer: Any, runs: list[Run]) -> None:
    """Ship ours: weights, tokenizer and card, with the quality of what was written."""
    folder = WEIGHTS / NAME
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    problems = WordProblems(TEST_SEED, test=True)
    samples = [Sample.of(problems.problem(index)) for index in range(TESTS)]
    found = judge(model, tokenizer, samples, "streaming")
    facts = {
        "title": NAME,
        "summary": "Thinks about each sentence of an arithmetic word problem while the next ones arrive, then answers"
        " (StreamingThinker, arXiv 2510.17238). It knows the words and numbers of"
        " `unending.parts.training.problems` and nothing else.",
        "data": {
            "problems": "WordProblems, generated: 2 to 8 sentences about 2 to 4 people, sums, differences, the most",
            "held out": "pairs of neighbouring sentence templates; every test problem has one",
        },
        "recipe": {
            "model": f"Qwen3, {model.num_parameters():,} parameters, in float16",
            "base": f"{ROWS} problems a step, the layouts of all arms by turns ({', '.join(ARMS)}); {asdict(BASE)}",
            "then": f"the streaming layout alone; {asdict(TUNED)}",
            "at last": f"the same on {LONGER[0]} to {LONGER[1]} sentences; {asdict(POLISHED)}",
        },
        "seed": SEED,
        "steps": sum(each.step for each in runs),
        "cpu_minutes": f"{sum(each.cpu_seconds for each in runs) / 60:.1f}",
        "quality": {
            "test problems of 3 to 6 sentences": TESTS,
            "right answers, greedy": found.answers,
            "all thoughts right": found.thoughts,
            "training loss, mean of the last 100 steps": runs[-1].losses[-100:].mean().item(),
        },
        "licence": "apache-2.0",
        "command": "python scripts/train_tiny_thinker.py",
    }
    write_card(folder, facts)
    print(NAME, found, flush=True)


def main() -> None:
    names = ("base", *ARMS, NAME)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="some of the models")
    only = parser.parse_args().only
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    for name in only:
        model, tokenizer, done = run(name)
        print(
            f"{name}: {done.step} steps, {done.cpu_seconds / 60:.1f} CPU minutes", file=sys.stderr, flush=True
        )
        if name == NAME:
            publish(model, tokenizer, [run("base")[2], run("streaming")[2], done])


if __name__ == "__main__":
    main()
