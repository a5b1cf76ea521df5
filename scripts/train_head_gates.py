"""Find the head gates in src/unending/patterns: two runs, about six minutes on one thread. `--only NAME` runs one."""

import argparse
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unending.parts import backbones
from unending.parts.training import digest, library_docstrings, write_card
from unending.parts.training.passkeys import MultiPasskeyDataset, RecallPasskeys
from unending.systems.language.duo_attention.gates import PATTERNS
from unending.systems.language.duo_attention.identification import Step, identify_retrieval_heads

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Settings:
    """What was chosen for a model."""

    dtype: str
    sink: int
    recent: int
    steps: int
    reg: float
    lr: float = 0.02
    teacher_mix: bool = True


RUNS = {
    # Chosen on streams of its own (seeds from 1 << 21): mixing the student's own output, as the paper writes it, ranks
    # the heads of a model of two layers better than the authors' code does. See benchmarks/results/duo-attention.json.
    "tiny-recall": Settings("float32", sink=4, recent=28, steps=400, reg=0.3, teacher_mix=False),
    "smollm2-135m": Settings("bfloat16", sink=16, recent=64, steps=100, reg=0.05),
}
LENGTH, SHORTEST, KEYS, WORDS, SPARE = 512, 384, 3, 4, 8
SUMMARIES = {
    "tiny-recall": "Which heads of tiny-recall need the whole past, found by `identify_retrieval_heads` on "
    "`RecallPasskeys`.",
    "smollm2-135m": f"Which heads of SmolLM2-135M-Instruct need the whole past, found in {RUNS['smollm2-135m'].steps} "
    f"steps on pass keys in {LENGTH} tokens (the authors take 2,000 steps on up to 32,000): a small budget, that shows "
    "the way rather than the best gates.",
}


def dataset(name: str, backbone: Any) -> tuple[Any, dict[str, Any]]:
    """The data of a run, and what the card says of it."""
    if name == "tiny-recall":
        data = RecallPasskeys()
        return data, {"stream": "RecallStream, random distances, labels on the queries", **asdict(data)}
    text = "\n\n".join(library_docstrings().values())
    data = MultiPasskeyDataset(
        backbone.tokenizer,
        text,
        max_length=LENGTH,
        min_length=SHORTEST,
        num_passkeys=KEYS,
        passkey_length=WORDS,
        lengths=8,
        reserve=SPARE,
    )
    return data, {
        "haystack": "docstrings of the standard library of Python, the first part; PSF-2.0",
        "its SHA-256": digest(text.encode()),
        "tokens a sample": f"{SHORTEST} to {LENGTH}, of which {len(data.haystack)} are haystack at most",
        "pass keys": f"{KEYS} of {WORDS} words (the authors: 10 of 32)",
    }


def run(name: str) -> None:
    """Find the gates of one model and write them with their card."""
    made = RUNS[name]
    backbone = backbones.load(name, made.dtype)
    data, about = dataset(name, backbone)
    steps: list[Step] = []

    def report(step: Step) -> None:
        steps.append(step)
        if step.step % max(made.steps // 50, 1) == 0 or step.step == made.steps:
            print(
                f"{name}: step {step.step}/{made.steps}, distillation {step.distillation:.5f},"
                f" mean gate {step.regularisation:.3f}",
                file=sys.stderr,
                flush=True,
            )

    began = time.process_time()
    gates = identify_retrieval_heads(
        backbone.module,
        data,
        made.sink,
        made.recent,
        made.steps,
        made.lr,
        made.reg,
        teacher_mix=made.teacher_mix,
        report=report,
    )
    minutes = (time.process_time() - began) / 60
    command = f"python scripts/train_head_gates.py --only {name}"
    folder = type(gates)(gates.values, gates.sink, gates.recent, {"model": name, **gates.about}).save(
        PATTERNS / name
    )
    values = gates.values
    write_card(
        folder,
        {
            "title": f"Head gates of {name}",
            "summary": SUMMARIES[name],
            "data": about,
            "recipe": {**asdict(made), "optimiser": "AdamW, no weight decay, gates clamped to 0..1"},
            "seed": data.seed,
            "steps": made.steps,
            "cpu_minutes": f"{minutes:.1f}",
            "quality": {
                "table": f"{values.shape[0]} layers of {values.shape[1]} heads",
                "mean gate": float(values.mean()),
                "share above 0.5": float((values > 0.5).mean()),
                "share below 0.05": float((values < 0.05).mean()),
                "distillation loss, mean of the last 20 steps": float(
                    np.mean([each.distillation for each in steps[-20:]])
                ),
            },
            "licence": "apache-2.0",
            "command": command,
        },
    )
    print(np.round(values, 3), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=RUNS, default=tuple(RUNS), help="some of the models")
    torch.set_num_threads(1)
    for name in parser.parse_args().only:
        run(name)


if __name__ == "__main__":
    main()
