"""Fine-tuning as a command: `unending train group-position-encoding`."""

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unending.core.errors import InputError, MissingExtraError, StorageError
from unending.core.random import philox
from unending.parts import backbones
from unending.parts.training import Recipe, train
from unending.parts.training.translations import TranslationTask
from unending.parts.transcript import Batch, loss
from unending.systems.language.group_position_encoding.collator import StreamingSFTCollator
from unending.systems.language.group_position_encoding.template import Template

__all__ = ["TrainGroupPositionEncoding", "held_out_loss", "low_rank", "objective", "read_pairs"]

Pairs = Sequence[tuple[list[str], list[str]]]
_SYNTHETIC = 2000


@dataclass(frozen=True)
class TrainGroupPositionEncoding:
    """Fine-tune a batch language model to write while it reads, on pairs of sentences."""

    out: Path
    """folder for the model, and, while it runs, for the checkpoint it goes on from"""
    data: Path | None = None
    """a UTF-8 file, one pair a line: source, tab, target; without it, a synthetic language"""
    model: str = "smollm2-135m"
    """friendly name, path or hub id of the model to begin with"""
    mode: Literal["group", "batch", "interleaved", "interleaved-mask", "batch-streaming"] = "group"
    """how source and target are laid out; group is the paper, the others are what it is compared with"""
    k: int = 5
    """lag in words"""
    phi: int = 0
    """where target positions begin"""
    instruction: str = ""
    """what to do with the source, put before it"""
    chat: bool = True
    """use the tokenizer's chat template"""
    lora_rank: int = 32
    """rank of the adapters, which are merged at the end (needs peft); 0 trains the whole model"""
    lora_alpha: int = 64
    """scale of the adapters, times the rank"""
    lora_dropout: float = 0.1
    """dropout before the adapters"""
    steps: int = 500
    """optimiser steps"""
    rows: int = 8
    """pairs a step"""
    lr: float = 5e-5
    """learning rate at its peak"""
    warmup: int = 50
    """steps until then"""
    longest: int = 512
    """tokens of a pair; longer ones are left out"""
    held_out: int = 64
    """pairs that are not trained on, for the loss before and after"""
    dtype: str = "float32"
    """of the weights"""
    seed: int = 0
    """of the order of the data and of the adapters"""

    def run(self) -> dict[str, Any]:
        """Train and save a checkpoint folder of transformers.

        Returns
        -------
        dict
            what was trained on, the held-out losses in nats a target token, and the folder.
        """
        if min(self.steps, self.rows, self.held_out) < 1 or self.lora_rank < 0:
            raise InputError("steps, rows and held_out are 1 or more, lora_rank is 0 or more")
        backbone = backbones.load(self.model, self.dtype)
        template = Template.of(backbone, self.instruction, chat=self.chat)
        collator = StreamingSFTCollator(template, self.k, self.phi, self.mode)
        pairs, left_out = self._pairs(template)
        judged, trained = pairs[: self.held_out], pairs[self.held_out :]
        model: Any = copy.deepcopy(backbone.module)
        before = held_out_loss(model, collator, judged, self.rows)
        if self.lora_rank:
            model = low_rank(model, self.lora_rank, self.lora_alpha, self.lora_dropout, self.seed)
        learning = sum(each.numel() for each in model.parameters() if each.requires_grad)
        recipe = Recipe(
            steps=self.steps, peak=self.lr, decay=0.0, warmup=min(self.warmup, self.steps), seed=self.seed
        )
        done = train(
            model,
            drawn(collator, trained, self.rows),
            objective,
            recipe,
            self.out,
            title=f"{self.mode} {self.k}",
        )
        after = held_out_loss(model, collator, judged, self.rows)
        if self.lora_rank:
            model = model.merge_and_unload()
        model.save_pretrained(self.out)
        backbone.tokenizer.save_pretrained(self.out)
        (self.out / "checkpoint.safetensors").unlink(missing_ok=True)
        return {
            "folder": str(self.out),
            "pairs trained on": len(trained),
            "pairs left out as too long": left_out,
            "parameters trained": learning,
            "held-out loss before": before,
            "held-out loss after": after,
            "CPU minutes": done.cpu_seconds / 60,
        }

    def _pairs(self, template: Template) -> tuple[Pairs, int]:
        found = (
            TranslationTask().sentences(self.seed, 0, _SYNTHETIC)
            if self.data is None
            else read_pairs(self.data)
        )
        fitting = [pair for pair in found if len(template.transcript(*pair).ids) <= self.longest]
        if len(fitting) <= self.held_out:
            raise InputError(
                f"{len(fitting)} pairs of at most {self.longest} tokens are too few: {self.held_out} are held out"
            )
        order = philox(self.seed, 0, 1).permutation(len(fitting))
        return [fitting[index] for index in order], len(found) - len(fitting)


def read_pairs(path: Path) -> list[tuple[list[str], list[str]]]:
    """The pairs (source words, target words) of a file of tab-separated lines; blank lines are passed over.

    Raises
    ------
    InputError
        at a line that is not two texts with a tab between them, with its number.
    StorageError
        if the file cannot be read.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8 text") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    pairs = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        sides = [side.split() for side in line.split("\t")]
        if len(sides) != 2 or not all(sides):
            raise InputError(f"{path}, line {number}: accepted is a source, one tab, a target")
        pairs.append((sides[0], sides[1]))
    return pairs


def drawn(collator: StreamingSFTCollator, pairs: Pairs, rows: int) -> Callable[[int, int], Batch]:
    """The batch of (seed, step): all pairs once, in a new order each time round."""

    def batch(seed: int, step: int) -> Batch:
        at = range(step * rows, (step + 1) * rows)
        rounds = {index // len(pairs) for index in at}
        orders = {each: philox(seed, each).permutation(len(pairs)) for each in rounds}
        return collator.batch([pairs[orders[index // len(pairs)][index % len(pairs)]] for index in at])

    return batch


def objective(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross entropy of the target; logits of the rows before its first label are not computed."""
    first = int(batch.rows[batch.labels != -100].min())
    logits = model(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        position_ids=batch.positions,
        use_cache=False,
        logits_to_keep=torch.arange(first, batch.ids.shape[1]),
    ).logits
    return loss(logits, replace(batch, rows=(batch.rows - first).clamp(min=0)))


@torch.no_grad()
def held_out_loss(model: nn.Module, collator: StreamingSFTCollator, pairs: Pairs, rows: int = 8) -> float:
    """Nats a target token over all pairs; the model is left in evaluation mode."""
    model.eval()
    total = count = 0.0
    for start in range(0, len(pairs), rows):
        batch = collator.batch(pairs[start : start + rows])
        tokens = int((batch.labels != -100).sum())
        total += tokens * objective(model, batch).item()
        count += tokens
    return total / count


def low_rank(model: Any, rank: int, alpha: int, dropout: float, seed: int) -> Any:
    """The model with low-rank adapters on all its linear layers (Hu et al. 2021, arXiv 2106.09685), by `peft`.

    Raises
    ------
    MissingExtraError
        if `peft` is absent.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MissingExtraError(
            "low-rank training needs peft: pip install 'unending[train]'; --lora-rank 0 trains the whole model"
        ) from error
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.default_generator.manual_seed(seed)
        # peft asks transformers for an attribute by its old name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return get_peft_model(model, config)
