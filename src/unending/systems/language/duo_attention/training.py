"""The identification as a command: `unending train duo-attention`."""

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unending.core.errors import InputError, MissingExtraError, StorageError
from unending.io.text import read_text
from unending.parts import backbones
from unending.parts.training import library_docstrings
from unending.parts.training.passkeys import MultiPasskeyDataset, RecallPasskeys
from unending.parts.training.runs import progress
from unending.systems.language.duo_attention.gates import HeadGates
from unending.systems.language.duo_attention.identification import Step, identify_retrieval_heads

__all__ = ["TrainDuoAttention", "draw_gates"]

_LONGEST = 32_000


@dataclass(frozen=True)
class TrainDuoAttention:
    """Find the retrieval heads of a language model and write their gates to a folder, for `--pattern`."""

    out: Path
    """folder for the table, its config.json and, while it runs, the checkpoint it goes on from"""
    model: str = "smollm2-135m"
    """friendly name, path or hub id"""
    haystack: Path | None = None
    """a UTF-8 text file to hide pass keys in; without it, the docstrings of Python's library"""
    steps: int = 2000
    """optimiser steps, one sample each"""
    lr: float = 0.02
    """learning rate"""
    reg: float = 0.05
    """weight of the penalty that closes gates"""
    teacher_mix: bool = True
    """open gates let through what the unchanged model computes, as in the authors' code; off, the student's own"""
    sink_size: int = 128
    """tokens a streaming head sees at the start"""
    recent_size: int = 256
    """tokens a streaming head sees at the end"""
    max_length: int = 0
    """tokens of the longest sample; 0 is what the model takes, 32,000 at most"""
    min_length: int = 1000
    """tokens of the shortest context"""
    num_passkeys: int = 10
    """pass keys in a sample"""
    passkey_length: int = 32
    """words of a pass key"""
    reserve: int = 300
    """tokens by which samples stay under the longest"""
    keys: int = 512
    """for a model without a tokenizer: keys of the recall stream it is asked on"""
    values: int = 64
    """and values"""
    dtype: str = "float32"
    """of the weights; bfloat16 is faster where the processor has it"""
    seed: int = 0
    """of the data"""
    plot: Path | None = None
    """write a picture of the table"""

    def run(self) -> dict[str, Any]:
        """Find, write, draw.

        Returns
        -------
        dict
            what the table looks like and where it is.
        """
        if self.plot:
            _require_picture(self.plot)
        backbone = backbones.load(self.model, self.dtype)
        data, checkpoint = self._data(backbone), self._checkpoint(backbone.digest)
        last: list[Step] = []
        began = time.perf_counter()
        with progress(f"gates of {self.model}", self.steps, False) as show:

            def report(step: Step) -> None:
                last[:] = [step]
                show(step.step, step.distillation + self.reg * step.regularisation)

            found = identify_retrieval_heads(
                backbone.module,
                data,
                self.sink_size,
                self.recent_size,
                self.steps,
                self.lr,
                self.reg,
                teacher_mix=self.teacher_mix,
                report=report,
                checkpoint=checkpoint,
            )
        about = {"model": self.model, "seed": self.seed, **found.about}
        gates = HeadGates(found.values, found.sink, found.recent, about)
        gates.save(self.out)
        checkpoint.unlink(missing_ok=True)
        if self.plot:
            draw_gates(gates, self.plot)
        return {
            "folder": str(self.out),
            "layers": gates.values.shape[0],
            "heads a layer": gates.values.shape[1],
            "mean gate": round(float(gates.values.mean()), 4),
            "share above 0.5": round(float((gates.values > 0.5).mean()), 4),
            "share below 0.05": round(float((gates.values < 0.05).mean()), 4),
            "distillation loss of the last step": last[0].distillation if last else None,
            "seconds": round(time.perf_counter() - began, 1),
        }

    def _checkpoint(self, weights: str) -> Path:
        """A file of its own for each run that would end in other gates."""
        told = {**asdict(self), "out": "", "plot": "", "weights": weights}
        name = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:8]
        return self.out / f"checkpoint-{name}.safetensors"

    def _data(self, backbone: backbones.LanguageBackbone) -> MultiPasskeyDataset | RecallPasskeys:
        longest = min(self.max_length or _LONGEST, backbone.limit)
        if backbone.tokenizer is None:
            if 2 + self.keys + self.values != backbone.vocabulary:
                raise InputError(
                    f"{self.model} has no tokenizer and {backbone.vocabulary} token ids; a recall stream of"
                    f" {self.keys} keys and {self.values} values has {2 + self.keys + self.values}"
                )
            return RecallPasskeys(length=longest, keys=self.keys, values=self.values, seed=self.seed)
        if self.haystack:
            parts = [chunk.text for chunk in read_text(self.haystack)]
        else:
            parts = ["\n\n".join(library_docstrings().values())]
        return MultiPasskeyDataset(
            backbone.tokenizer,
            "".join(parts),
            max_length=longest,
            min_length=min(self.min_length, longest),
            num_passkeys=self.num_passkeys,
            passkey_length=self.passkey_length,
            reserve=self.reserve,
            seed=self.seed,
        )


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("a picture needs matplotlib: pip install 'unending[plot]'") from error
    return Figure


def _require_picture(path: Path) -> None:
    """Refuse a picture that cannot be written before there is anything to draw."""
    kinds = _figure()().canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".") not in kinds or not path.absolute().parent.is_dir():
        raise InputError(
            f"no picture can be written to {path}: its folder must exist, its ending be a picture's (.png)"
        )


def draw_gates(gates: HeadGates, path: Path) -> None:
    """A heat map of the table: a row a layer, a column a head.

    Raises
    ------
    MissingExtraError
        without matplotlib.
    StorageError
        if the file cannot be written, or its ending is none that matplotlib knows.
    """
    layers, heads = gates.values.shape
    figure = _figure()(figsize=(2.2 + 0.45 * heads, 1.4 + 0.2 * max(layers, 5)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(gates.values, vmin=0, vmax=1, cmap="coolwarm", aspect="auto", interpolation="nearest")
    ticks = np.arange(0, layers, 1 + layers // 16)
    axes.set(xlabel="head of keys and values", ylabel="layer", xticks=np.arange(heads), yticks=ticks)
    axes.set_title(f"gates ({gates.about.get('model', 'model')})", fontsize=9)
    figure.colorbar(image, ax=axes)
    try:
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot write the picture {path}: {error}") from error
