"""Training: how each arm lays a sample out, the tiny model, and `unending train streaming-thinker`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from torch import Tensor, nn

from unending.core.errors import InputError, StorageError
from unending.core.random import philox
from unending.parts import backbones
from unending.parts.backbones.tiny import tiny_model
from unending.parts.training.problems import WordProblems, word_tokenizer
from unending.parts.training.runs import Recipe, train
from unending.parts.transcript import Batch, Transcript, collate, loss, reach_aligned, reach_all
from unending.systems.language.streaming_thinker.layout import (
    MARKS,
    Layout,
    Sample,
    add_marks,
    direct,
    transcript,
)
from unending.systems.language.streaming_thinker.quality import check_streaming_cot

__all__ = [
    "ARMS",
    "TINY",
    "Arm",
    "TrainStreamingThinker",
    "batch_of",
    "logits_of",
    "read_samples",
    "tiny_language_model",
]

TINY = Layout("Solve:", "think", "<end>", ("", "combine:", "combine, check:"), "", "<end>")
"""The fixed texts of the tiny model: short, so that it has little to learn."""


@dataclass(frozen=True)
class Arm:
    """How a transcript is laid out for training."""

    streaming: bool
    """Whether a thought sees only the source up to its own sentence."""
    layout: str
    """Of `unending.parts.transcript.positions`."""
    interleaved: bool = False
    """Whether a source token sees the thoughts that came before it."""
    thinks: bool = True
    """Whether there are thoughts."""


ARMS = {
    "streaming": Arm(True, "grouped"),
    "batch": Arm(False, "continued"),
    "batch-from-zero": Arm(False, "grouped"),
    "interleaved": Arm(True, "arrival", interleaved=True),
    "continued": Arm(True, "continued"),
    "direct": Arm(False, "continued", thinks=False),
}
"""Ours; ordinary batch thinking; the same with target positions from 0, which is ours without its mask; everything in
the order of arrival; ours with target positions behind the source; the answer without thoughts."""


def batch_of(transcripts: Sequence[Transcript], arm: str, lookahead: int = 0) -> Batch:
    """One batch for an arm; of transcripts made with `direct` for the arm of that name."""
    how = ARMS[arm]
    sizes = [(len(each.source), len(each.target)) for each in transcripts]
    reaches = [reach_aligned(*size, lookahead) if how.streaming else reach_all(*size) for size in sizes]
    return collate(transcripts, reaches, layout=how.layout, source_sees_target=how.interleaved)


def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    """Logits `[B, N, vocabulary]` of one masked forward pass."""
    device = next(model.parameters()).device
    ids, positions, mask = (each.to(device) for each in (batch.ids, batch.positions, batch.mask))
    return model(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False).logits  # type: ignore[no-any-return]


def tiny_language_model(seed: int = 0, layers: int = 3, width: int = 128) -> tuple[nn.Module, Any]:
    """A fresh Qwen3 (queries and keys are normed before their rotation) over words, and its tokenizer."""
    from transformers import Qwen3Config

    tokenizer = word_tokenizer(MARKS)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=width // 4,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = tiny_model(config, seed)
    TINY.note(model)
    return model, tokenizer


def read_samples(path: str | Path) -> list[Sample]:
    """The samples of a JSONL file: question, sentences, thoughts, and deep, reflection, answer, restated if there.

    Raises
    ------
    InputError
        if a line is no sample, or fails the checks of `check_streaming_cot`, with its number.
    StorageError
        if the file cannot be read.
    """
    found = []
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a file in UTF-8 ({error})") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                value = json.loads(line)
            except ValueError as error:
                raise InputError(f"{path}: line {number} is not JSON ({error})") from error
            try:
                found.append(Sample.of(value if isinstance(value, dict) else {}))
            except InputError as error:
                raise InputError(f"{path}: line {number}: {error}") from error
            report = check_streaming_cot(found[-1])
            if not report.ok:
                raise InputError(f"{path}: line {number} fails the checks: {report}")
    if not found:
        raise InputError(f"{path} holds no sample")
    return found


@dataclass(frozen=True)
class TrainStreamingThinker:
    """Train a language model to think while it reads: on your samples, or on generated word problems."""

    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("thinker")
    """where the model goes; a run that was stopped goes on from its checkpoint there"""
    data: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """JSONL with question, sentences, thoughts, deep, answer a line; generated word problems without it"""
    base: str = ""
    """model to begin from: a friendly name, a folder or a hub id; a fresh tiny Qwen3 over the words of the
    problems without it"""
    arm: Literal["streaming", "batch", "batch-from-zero", "interleaved", "continued", "direct"] = "streaming"
    """streaming is StreamingThinker; the others are the baselines it is held against"""
    depth: Literal["D1", "D2", "D3"] = "D2"
    """D1: thoughts and answer; D2: the thoughts are combined first; D3: and looked at again"""
    epochs: int = 3
    """times that the samples of --data are gone through"""
    steps: int = 0
    """optimiser steps instead of --epochs; 1600 for word problems"""
    batch: int = 4
    """samples of a step"""
    lr: float = 0.0
    """peak learning rate; 1e-5 with --base, else 3e-3"""
    warmup: int = 300
    """steps of the warm-up, linear"""
    seed: int = 0
    """of weights and order"""

    def run(self) -> dict[str, Any]:
        """Train, write model and tokenizer, and tell how it went.

        Raises
        ------
        InputError
            if a setting is out of range, or samples of one's own have no base model.
        """
        if self.batch < 1 or self.steps < 0 or self.epochs < 1 or self.warmup < 0:
            raise InputError("--batch and --epochs are 1 or more, --steps and --warmup 0 or more")
        if self.data and not self.base:
            raise InputError("--data needs a --base model: the tiny one knows the words of the problems only")
        samples = read_samples(self.data) if self.data else None
        model, tokenizer = self._model()
        layout = Layout.of(model, tokenizer)
        make = direct if self.arm == "direct" else transcript
        order = None if samples is None else [make(each, tokenizer, layout, self.depth) for each in samples]
        steps = self.steps or (1600 if order is None else -(-len(order) * self.epochs // self.batch))

        def batch(seed: int, step: int) -> Batch:
            places = range(step * self.batch, (step + 1) * self.batch)
            if order is None:
                problems = WordProblems(seed)
                drawn = [make(Sample.of(problems.problem(n)), tokenizer, layout, self.depth) for n in places]
            else:
                drawn = [order[_shuffled(seed, n, len(order))] for n in places]
            return batch_of(drawn, self.arm)

        recipe = Recipe(
            steps=steps,
            peak=self.lr or (1e-5 if self.base else 3e-3),
            warmup=min(self.warmup, max(1, steps // 5)),
            decay=0.0 if self.base else 0.05,
            seed=self.seed,
        )
        run = train(
            model,
            batch,
            lambda net, each: loss(logits_of(net, each), each),
            recipe,
            self.out,
            title="thinker",
        )
        layout.note(model)
        model.save_pretrained(self.out)  # type: ignore[operator]
        tokenizer.save_pretrained(self.out)
        late = max(1, min(100, steps // 10))
        return {
            "model": str(self.out),
            "arm": self.arm,
            "steps": run.step,
            "loss, first steps": run.losses[:late].mean().item(),
            "loss, last steps": run.losses[-late:].mean().item(),
            "CPU minutes": run.cpu_seconds / 60,
            "run it": f"unending run streaming-thinker FILE --model {self.out} --ask QUESTION --show thoughts",
        }

    def _model(self) -> tuple[nn.Module, Any]:
        if not self.base:
            return tiny_language_model(self.seed)
        import copy

        backbone = backbones.load(self.base)
        # What was loaded is shared by the whole process.
        model, tokenizer = copy.deepcopy(backbone.module), copy.deepcopy(backbone.tokenizer)
        if tokenizer is None:
            raise InputError(f"{self.base} has no tokenizer")
        add_marks(tokenizer, model)
        return model, tokenizer


def _shuffled(seed: int, index: int, size: int) -> int:
    """The sample at a place of a stream that goes through all of them in a new order each time."""
    return int(philox(seed, index // size).permutation(size)[index % size])
