"""Identification: one-off optimisation of head gates against the model itself, all of its weights frozen."""

import json
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AttentionInterface

from unending.core.errors import InputError, NumericalError, SnapshotCorruptError, SnapshotForeignError
from unending.parts.backbones.twins import twin
from unending.parts.memory.head_attention import streaming_mask
from unending.parts.training.passkeys import IGNORED, Labelled
from unending.systems.language.duo_attention.gates import HeadGates

__all__ = ["GatedModel", "Step", "gate_shape", "identify_retrieval_heads", "rate_multiplier"]

_NAME = "unending_gated"
_EVERY = 50
"""Steps between checkpoints."""


class Dataset(Protocol):
    """An endless sequence of labelled sequences, such as `MultiPasskeyDataset`."""

    def __getitem__(self, index: int) -> Labelled: ...


@dataclass(frozen=True, eq=False)
class Step:
    """What one step of the identification came to."""

    step: int
    """Steps done."""
    distillation: float
    """Mean squared distance of the final hidden states, over labelled tokens."""
    regularisation: float
    """Mean gate."""
    gates: Tensor
    """float32 `[layers, kv_heads]` before the step."""


def rate_multiplier(step: int, steps: int) -> float:
    """Factor on the learning rate of a step, from 0: up from 0.1 over the first fifth, down to it over the last."""
    fifth = max(steps // 5, 1)
    return min(1.0, max((step + 1) / fifth, 0.1), max((steps - step) / fifth, 0.1))


def gate_shape(model: nn.Module) -> tuple[int, int]:
    """Layers and heads of keys and values: a gate each."""
    config: Any = model.config
    config = config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return int(config.num_hidden_layers), int(heads)


class _Pass:
    """Attention of one forward pass: the teacher's, which is kept a layer each, or the student's, which is mixed."""

    def __init__(
        self, teacher: list[Tensor], gates: Tensor | None, mask: Tensor | None, teacher_mix: bool
    ) -> None:
        self.teacher, self.gates, self.mask, self.teacher_mix = teacher, gates, mask, teacher_mix

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        grouped = query.shape[1] != key.shape[1]

        def attention(mask: Tensor | None) -> Tensor:
            return nn.functional.scaled_dot_product_attention(
                query, key, value, mask, is_causal=mask is None, scale=scaling, enable_gqa=grouped
            )

        if self.gates is None:
            self.teacher.append(attention(None))
            return self.teacher[-1]
        full = self.teacher[layer] if self.teacher_mix else attention(None)
        group = query.shape[1] // key.shape[1]
        gate = self.gates[layer].clamp(0, 1).repeat_interleave(group)[:, None, None].to(query.dtype)
        return gate * full + (1 - gate) * attention(self.mask)


_pass: ContextVar[_Pass] = ContextVar("unending_gated_pass")


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float, **kwargs: object
) -> tuple[Tensor, None]:
    """What transformers calls; `kwargs` are what the interface passes to every attention."""
    out = _pass.get().attend(int(module.layer_idx), query, key, value, scaling)
    return out.transpose(1, 2), None


AttentionInterface.register(_NAME, _attention)


class GatedModel:
    """A model beside itself: as it is (the teacher), and with gated attention in every layer (the student).

    In the student, a head's output is `a * full + (1 - a) * streaming`, with `a` the gate of its group of heads.

    Parameters
    ----------
    model
        a causal language model of transformers; it is not changed.
    sink, recent
        tokens that a streaming head sees at the start and at the end, itself included.
    teacher_mix
        `full` is the teacher's output, without gradient, as the authors' code has it; else the student's own, which
        is how their paper writes it.
    """

    def __init__(self, model: nn.Module, sink: int, recent: int, *, teacher_mix: bool = True) -> None:
        self.body = twin(model, _NAME).base_model
        self.sink, self.recent, self.teacher_mix = sink, recent, teacher_mix

    def hidden(self, ids: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
        """Final hidden states, after the last norm, of teacher and student, `[batch, n, width]` each.

        `ids` is int64 `[batch, n]`, `gates` float32 `[layers, kv_heads]`; only the student's have a gradient.
        """
        outputs: list[Tensor] = []
        with torch.no_grad():
            wanted = self._run(ids, _Pass(outputs, None, None, False))
        mask = streaming_mask(ids.shape[1], self.sink, self.recent, ids.device)
        return wanted, self._run(ids, _Pass(outputs, gates, mask, self.teacher_mix))

    def _run(self, ids: Tensor, attention: _Pass) -> Tensor:
        token = _pass.set(attention)
        try:
            return self.body(input_ids=ids, use_cache=False).last_hidden_state
        finally:
            _pass.reset(token)

    def distillation(self, sample: Labelled, gates: Tensor) -> Tensor:
        """Squared distance of student and teacher: mean over the labelled tokens of the mean over channels."""
        asked = torch.from_numpy(sample.labels != IGNORED).to(gates.device)
        wanted, found = self.hidden(torch.from_numpy(sample.ids)[None].to(gates.device), gates)
        return (wanted[0][asked].float() - found[0][asked].float()).square().mean(dim=-1).mean()


def identify_retrieval_heads(
    model: nn.Module,
    dataset: Dataset,
    sink: int = 128,
    recent: int = 256,
    steps: int = 2000,
    lr: float = 0.02,
    reg: float = 0.05,
    *,
    teacher_mix: bool = True,
    report: Callable[[Step], None] | None = None,
    checkpoint: Path | None = None,
) -> HeadGates:
    """Find the retrieval heads of a model (Xiao et al. 2024, arXiv 2410.10819).

    A gate for each head of keys and values starts at 1 and is drawn to 0 by an L1 penalty, unless the hidden states
    at the labelled tokens suffer. The model is not changed. No randomness is drawn here: equal data, equal gates.

    Parameters
    ----------
    model
        a causal language model of transformers whose attention goes through its interface.
    dataset
        sequences with labels at questions and answers; one a step, in order.
    sink, recent
        tokens that a streaming head sees.
    steps, lr, reg
        of AdamW without weight decay; weight of the penalty.
    teacher_mix
        see `GatedModel`.
    report
        called after each step.
    checkpoint
        a file that is written every 50 steps; where it is there, the run goes on from it, bit for bit.

    Raises
    ------
    InputError
        if a number makes no sense, or a sequence has no label.
    NumericalError
        if a loss is not finite.
    SnapshotError
        if the checkpoint is damaged, or of another run.
    """
    if steps < 1 or sink < 0 or recent < 1 or lr <= 0 or reg < 0:
        raise InputError(
            "accepted are steps and recent of 1 or more, sink and reg of 0 or more, a positive lr"
        )
    gated = GatedModel(model, sink, recent, teacher_mix=teacher_mix)
    gates = torch.ones(gate_shape(model), device=next(model.parameters()).device, requires_grad=True)
    optimiser = torch.optim.AdamW([gates], lr=lr, weight_decay=0.0)
    about = {"steps": steps, "lr": lr, "reg_weight": reg, "teacher_mix": teacher_mix}
    run = json.dumps({**about, "sink": sink, "recent": recent})
    start = _restore(checkpoint, gates, optimiser, run) if checkpoint and checkpoint.exists() else 0
    for step in range(start, steps):
        with torch.no_grad():
            gates.clamp_(0, 1)
        optimiser.param_groups[0]["lr"] = lr * rate_multiplier(step, steps)
        sample = dataset[step]
        if not (sample.labels != IGNORED).any():
            raise InputError(f"item {step} of the data has no label: nothing can be learned from it")
        distillation, penalty = gated.distillation(sample, gates), gates.abs().mean()
        loss = distillation + reg * penalty
        if not torch.isfinite(loss):
            raise NumericalError(f"step {step}: the loss is {loss.item()}")
        # Of the gates alone: no gradient is left in the weights.
        (gates.grad,) = torch.autograd.grad(loss, [gates])
        before = gates.detach().clone()
        optimiser.step()
        if report:
            report(Step(step + 1, distillation.item(), penalty.item(), before))
        if checkpoint and (step + 1) % _EVERY == 0:
            _save(checkpoint, gates, optimiser, run, step + 1)
    return HeadGates(gates.detach().cpu().double().numpy(), sink, recent, about)


def _save(path: Path, gates: Tensor, optimiser: torch.optim.AdamW, run: str, step: int) -> None:
    tensors = {"gates": gates.detach(), **optimiser.state_dict()["state"][0]}
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".tmp")
    save_file(tensors, fresh, {"run": run, "step": str(step)})
    fresh.replace(path)


def _restore(path: Path, gates: Tensor, optimiser: torch.optim.AdamW, run: str) -> int:
    """Steps done."""
    try:
        with safe_open(path, "pt") as file:
            facts, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        moments = {name: tensors[name] for name in ("step", "exp_avg", "exp_avg_sq")}
        done, found = int(facts["step"]), tensors["gates"]
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise SnapshotCorruptError(f"{path} is not a readable checkpoint: {error}") from error
    if facts.get("run") != run or found.shape != gates.shape:
        raise SnapshotForeignError(f"{path} belongs to a run with other settings, or of another model")
    with torch.no_grad():
        gates.copy_(found)
    optimiser.load_state_dict({"state": {0: moments}, "param_groups": optimiser.state_dict()["param_groups"]})
    return done
