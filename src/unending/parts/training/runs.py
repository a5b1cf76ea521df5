"""Small seeded training runs: progress, checkpoints without pickle, and a resume that continues bit for bit."""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from unending.core.errors import NumericalError, SnapshotCorruptError, SnapshotForeignError

__all__ = ["Recipe", "Run", "learning_rate", "progress", "train"]

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class Recipe:
    """How to train: AdamW, linear warm-up then cosine decay, clipping by global norm.

    Attributes
    ----------
    steps : int
        optimiser steps in all.
    peak : float
        learning rate at the end of the warm-up.
    floor : float
        learning rate at the last step, as a share of the peak.
    warmup : int
        steps of the warm-up.
    decay : float
        decoupled weight decay, on matrices only.
    betas : (float, float)
        of AdamW.
    clip : float
        largest global norm of a gradient.
    seed : int
        given to the batch function; with the step it decides every draw.
    bfloat16 : bool
        compute the forward pass under autocast to bfloat16; weights and optimiser stay in their own dtype.
    """

    steps: int
    peak: float = 1e-3
    floor: float = 0.1
    warmup: int = 100
    decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    seed: int = 0
    bfloat16: bool = False


@dataclass(frozen=True)
class Run:
    """What a run has done so far: loss of every step, float32 [step], and CPU seconds over all its processes."""

    losses: Tensor
    cpu_seconds: float

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.losses)


def learning_rate(recipe: Recipe, step: int) -> float:
    """The learning rate of a step, counted from 0."""
    if step < recipe.warmup:
        return recipe.peak * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(recipe.steps - recipe.warmup - 1, 1)
    cosine = 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return recipe.peak * (recipe.floor + (1 - recipe.floor) * cosine)


def train(
    model: nn.Module,
    batch: Callable[[int, int], Any],
    loss: Callable[[nn.Module, Any], Tensor],
    recipe: Recipe,
    folder: Path | None = None,
    *,
    every: int = 200,
    until: int | None = None,
    title: str = "training",
    quiet: bool = False,
) -> Run:
    """Train a model in place, resuming from the folder's checkpoint where there is one.

    A run stopped at any moment and started again ends with the same bits as one that was never stopped (same
    machine, same thread count): a batch is a function of (seed, step), randomness inside the model (dropout) is
    seeded by them too, and the checkpoint holds the optimiser.

    Parameters
    ----------
    model : torch.nn.Module
        on the CPU; a resume overwrites its parameters and persistent buffers.
    batch : callable
        ``batch(seed, step)``, pure.
    loss : callable
        ``loss(model, batch)``, a scalar.
    recipe : Recipe
        a checkpoint of another recipe is refused.
    folder : pathlib.Path, optional
        where the checkpoint lies; without it nothing is written.
    every : int
        steps between checkpoints.
    until : int, optional
        stop after so many steps of the recipe, with a checkpoint.
    title : str
        shown beside the progress.
    quiet : bool
        show nothing.

    Returns
    -------
    Run
        the whole history, also of what earlier processes did.

    Raises
    ------
    NumericalError
        a loss or a gradient is not finite; the last checkpoint is intact.
    """
    stop = recipe.steps if until is None else min(until, recipe.steps)
    optimiser = _optimiser(model, recipe)
    path = None if folder is None else Path(folder) / CHECKPOINT
    run = Run(torch.empty(0), 0.0)
    if path is not None and path.exists():
        run = _restore(path, model, optimiser, recipe)
    elif path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    losses, spent, began = run.losses.tolist(), run.cpu_seconds, time.process_time()
    model.train()
    with progress(title, recipe.steps, quiet) as show:
        for step in range(run.step, stop):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(recipe, step)
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed((recipe.seed << 32) + step)
                with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
                    value = loss(model, batch(recipe.seed, step))
                value.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            if not (torch.isfinite(value) and torch.isfinite(norm)):
                raise NumericalError(
                    f"step {step}: the loss is {value.item()}, the gradient norm {norm.item()}"
                )
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            losses.append(value.item())
            show(step + 1, losses[-1])
            done = step + 1
            if done == stop or done % every == 0:
                run = Run(torch.tensor(losses), spent + time.process_time() - began)
                if path is not None:
                    _save(path, model, optimiser, recipe, run)
    model.eval()
    return run


def _optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": recipe.decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=recipe.peak, betas=recipe.betas
    )


def _save(path: Path, model: nn.Module, optimiser: torch.optim.AdamW, recipe: Recipe, run: Run) -> None:
    tensors = {"losses": run.losses}
    tensors |= {f"model.{name}": tensor for name, tensor in _tensors(model)}
    for index, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": tensor for name, tensor in moments.items()}
    facts = {"recipe": json.dumps(asdict(recipe)), "cpu_seconds": repr(run.cpu_seconds)}
    fresh = path.with_suffix(".tmp")
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, fresh, facts)
    with fresh.open("rb+") as file:
        os.fsync(file.fileno())
    fresh.replace(path)


def _restore(path: Path, model: nn.Module, optimiser: torch.optim.AdamW, recipe: Recipe) -> Run:
    try:
        with safe_open(path, "pt") as file:
            facts, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise SnapshotCorruptError(f"{path} is not a readable checkpoint: {error}") from error
    theirs = json.loads(facts.get("recipe", "{}"))
    ours = json.loads(json.dumps(asdict(recipe)))
    if theirs != ours:
        names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
        raise SnapshotForeignError(f"{path} belongs to another recipe: {', '.join(names)} differ")
    moments: dict[int, dict[str, Tensor]] = {}
    for name in [name for name in tensors if name.startswith("adam.")]:
        _, index, kind = name.split(".")
        moments.setdefault(int(index), {})[kind] = tensors[name]
    for name, tensor in _tensors(model):
        saved = tensors.get(f"model.{name}")
        if saved is None or saved.shape != tensor.shape:
            raise SnapshotForeignError(f"{path} belongs to another model: {name} does not fit")
        tensor.data.copy_(saved)
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
    return Run(tensors["losses"], float(facts["cpu_seconds"]))


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and persistent buffers, a shared one once."""
    yield from model.named_parameters()
    kept = model.state_dict().keys()
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name in kept)


@contextmanager
def progress(title: str, steps: int, quiet: bool) -> Iterator[Callable[[int, float], None]]:
    """A live bar on a terminal, otherwise about fifty lines over the whole run; both on stderr."""
    if quiet:
        yield lambda step, loss: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        count, loss_now = (
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("loss {task.fields[loss]:.4f}"),
        )
        columns = (TextColumn("{task.description}"), BarColumn(), count, loss_now, TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bars:
            bar = bars.add_task(title, total=steps, loss=math.nan)
            yield lambda step, loss: bars.update(bar, completed=step, loss=loss)
    else:
        stride = max(steps // 50, 1)

        def line(step: int, loss: float) -> None:
            if step % stride == 0 or step == steps:
                print(f"{title}: step {step}/{steps}, loss {loss:.4f}", file=sys.stderr, flush=True)

        yield line
