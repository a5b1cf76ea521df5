"""`unending train jrt`: a small JRT-RNN on the user's own text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unending.core.errors import InputError, StorageError
from unending.io.text import read_text
from unending.parts import backbones
from unending.parts.training import Recipe, byte_windows, train
from unending.systems.language.jrt.configuration import JRTConfig
from unending.systems.language.jrt.model import JRTForCausalLM
from unending.systems.language.jrt.objective import masked_prefix, prefix_lm_mlm_loss

__all__ = ["TrainJRT"]

_HELD_OUT = 20
"""One part in so many, the last of the text, is not trained on."""


@dataclass(frozen=True)
class TrainJRT:
    """Train a byte-level JRT-RNN on a text, from the shipped model or from nothing; the folder is a checkpoint.

    The objective is the paper's: next tokens behind the prefix, and `mlm_weight` times the hidden tokens inside.
    """

    text: Path
    """a UTF-8 text file"""
    folder: Path
    """where the model goes; a run that was stopped goes on from there"""
    start: str = "tiny-jrt"
    """the model to begin with: a name or a folder; empty begins anew"""
    steps: int = 300
    """optimiser steps"""
    rows: int = 8
    """rows of a step"""
    length: int = 256
    """bytes of a row"""
    prefix: int = 128
    """bytes of a row that are read non-causally; 0 trains a causal model"""
    rate: float = 1e-3
    """largest learning rate"""
    mlm_weight: float = 0.25
    """weight of the masked loss"""
    mask_prob: float = 0.15
    """share of the prefix that is hidden"""
    seed: int = 0
    """of weights and batches"""
    quiet: bool = False
    """show no progress"""

    def run(self) -> dict[str, Any]:
        """Train, write the folder, and give what was measured: losses in nats a byte of held-out rows, and times.

        Raises
        ------
        InputError
            if the text is shorter than a few rows, or a setting makes no sense.
        StorageError
            if the folder cannot be written.
        """
        self._require_sensible()
        content = "".join(piece.text for piece in read_text(self.text)).encode()
        seen, held = self._parts(content)
        net, tokenizer = self._begin()

        def batch(seed: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
            ids = torch.from_numpy(byte_windows(seen, seed, step, self.rows, self.length + 1))
            mask_id = net.config.mask_token_id
            inputs, masked = masked_prefix(
                ids[:, :-1], self.prefix, mask_id, self.mask_prob, seed=seed, step=step
            )
            return inputs, ids, masked

        def loss(model: nn.Module, given: tuple[Tensor, Tensor, Tensor]) -> Tensor:
            inputs, ids, masked = given
            logits = net.lm_head(net.model(inputs, enc_length=self.prefix))
            return prefix_lm_mlm_loss(logits, ids, self.prefix, masked, mlm_weight=self.mlm_weight)

        rows = torch.from_numpy(byte_windows(held, self.seed, 0, 32, self.length + 1))
        before = self._quality(net, rows)
        recipe = Recipe(steps=self.steps, peak=self.rate, warmup=min(50, self.steps // 5 + 1), seed=self.seed)
        try:
            done = train(net, batch, loss, recipe, self.folder / "training", title="jrt", quiet=self.quiet)
            net.save_pretrained(self.folder)
            if tokenizer is not None:
                tokenizer.save_pretrained(self.folder)
        except OSError as error:
            raise StorageError(f"cannot write {self.folder}: {error.strerror or error}") from error
        return {
            "folder": str(self.folder),
            "steps": done.step,
            "cpu_minutes": round(done.cpu_seconds / 60, 2),
            "training_loss": round(float(done.losses[-50:].mean()), 4),
            "held_out_before": round(before, 4),
            "held_out_after": round(self._quality(net, rows), 4),
            "parameters": net.num_parameters(),
        }

    def _require_sensible(self) -> None:
        if min(self.steps, self.rows) < 1 or not 0 <= self.prefix < self.length - 1 or self.rate <= 0:
            raise InputError(
                "steps and rows are 1 or more, rate is above 0, and the prefix leaves two bytes of the length"
            )
        if not 0 <= self.mask_prob <= 1 or self.mlm_weight < 0:
            raise InputError("mask_prob is between 0 and 1, mlm_weight is 0 or more")

    def _parts(self, content: bytes) -> tuple[bytes, bytes]:
        """What is trained on, and what is held out: whole rows at least."""
        cut = len(content) - max(len(content) // _HELD_OUT, self.length + 1)
        if cut < self.length + 1:
            raise InputError(
                f"{self.text} has {len(content):,} bytes; rows of {self.length} need {2 * self.length + 2:,} at least"
            )
        return content[:cut], content[cut:]

    def _begin(self) -> tuple[JRTForCausalLM, Any]:
        """The model to train, a copy of its own, and its tokenizer."""
        if not self.start:
            config = JRTConfig(
                vocab_size=258,
                hidden_size=128,
                num_hidden_layers=4,
                intermediate_size=256,
                num_attention_heads=4,
                enc_length=self.prefix,
                dec_length=self.length - self.prefix,
                linear_layers=(1,),
                window_layers=(2,),
                window=32,
                initializer_range=0.15,
                mask_token_id=256,
                pad_token_id=257,
                eos_token_id=10,
            )
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(self.seed)
                return JRTForCausalLM(config), backbones.load("tiny-jrt").tokenizer
        found = backbones.load(self.start)
        if not isinstance(found.module, JRTForCausalLM) or found.vocabulary <= 256:
            raise InputError(f"{self.start} is no JRT model over bytes with a mask")
        config = JRTConfig(**{**found.config.to_dict(), "enc_length": self.prefix})
        net = JRTForCausalLM(config)
        net.load_state_dict(found.module.state_dict())
        return net, found.tokenizer

    @torch.no_grad()
    def _quality(self, net: JRTForCausalLM, rows: Tensor) -> float:
        """Mean loss behind the prefix."""
        net.eval()
        logits = net.lm_head(net.model(rows[:, :-1], enc_length=self.prefix))
        return float(prefix_lm_mlm_loss(logits, rows, self.prefix))
