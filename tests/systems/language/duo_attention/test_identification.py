"""Identification of retrieval heads: gradients, what the loss looks at, frozen weights, and what it finds."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from tests.parts import models
from tests.systems.language.duo_attention.masks import causal, masked_logits

from unending.core.errors import InputError, ModelUnsupportedError, SnapshotCorruptError, SnapshotForeignError
from unending.parts import backbones
from unending.parts.training.passkeys import IGNORED, Labelled, RecallPasskeys
from unending.systems.language.duo_attention import GatedModel, gate_shape, identify_retrieval_heads
from unending.systems.language.duo_attention.identification import rate_multiplier

SINK, RECENT, LENGTH = 2, 6, 32


class Rows:
    """Random sequences, labelled in their last part."""

    def __getitem__(self, index: int) -> Labelled:
        ids = models.tokens(LENGTH, seed=index)
        return Labelled(ids, np.where(np.arange(LENGTH) >= LENGTH - 8, ids, IGNORED))


def sample() -> Labelled:
    return Rows()[0]


def gated(model: Any, **settings: Any) -> GatedModel:
    return GatedModel(model, SINK, RECENT, **settings)


@pytest.mark.parametrize("name", ["llama", "llama-multihead", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize("teacher_mix", [True, False])
def test_open_gates_lose_nothing_and_only_the_penalty_pulls(name, teacher_mix):
    model = models.model(name)
    gates = torch.ones(gate_shape(model), requires_grad=True)
    loss = gated(model, teacher_mix=teacher_mix).distillation(sample(), gates)
    assert loss.item() < 1e-10
    (pull,) = torch.autograd.grad(loss + 0.05 * gates.abs().mean(), [gates])
    torch.testing.assert_close(pull, torch.full_like(pull, 0.05 / gates.numel()), atol=1e-6, rtol=0)


@pytest.mark.parametrize("teacher_mix", [True, False])
def test_gradients_are_those_of_finite_differences(teacher_mix):
    model = models.model("llama").double()
    student = gated(model, teacher_mix=teacher_mix)
    gates = torch.rand(gate_shape(model), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gates = (0.2 + 0.6 * gates).requires_grad_()
    found = GatedLoss(student)
    (slope,) = torch.autograd.grad(found(gates), [gates])
    step = 1e-3  # the model's norms compute in float32
    for index in np.ndindex(*gates.shape):
        shift = torch.zeros_like(gates)
        shift[index] = step
        with torch.no_grad():
            numeric = (found(gates + shift) - found(gates - shift)) / (2 * step)
        assert slope[index].item() == pytest.approx(numeric.item(), rel=2e-3, abs=1e-4)


class GatedLoss:
    """The distillation in float64."""

    def __init__(self, student: GatedModel) -> None:
        self.student = student

    def __call__(self, gates: torch.Tensor) -> torch.Tensor:
        data = sample()
        wanted, found = self.student.hidden(torch.from_numpy(data.ids)[None], gates)
        asked = torch.from_numpy(data.labels != IGNORED)
        return (wanted[0][asked] - found[0][asked]).square().mean(-1).mean()


def test_closed_gates_are_streaming_attention_and_half_open_ones_lie_between():
    model = models.model("llama")
    ids = torch.from_numpy(sample().ids)[None]
    i, j = torch.arange(LENGTH)[:, None], torch.arange(LENGTH)
    stream = (j <= i) & ((j < SINK) | (j > i - RECENT))
    for table in (np.zeros((2, 2), dtype=bool), np.array([[True, False], [False, True]])):
        # `teacher_mix=False`: the full branch is the student's own, as in a dense pass with one mask a head.
        _, hidden = gated(model, teacher_mix=False).hidden(ids, torch.from_numpy(table).float())
        wanted = masked_logits(model, ids[0], table, stream)
        assert (model.lm_head(hidden)[0] - wanted).abs().max() < 1e-4
    _, half = gated(model).hidden(ids, torch.full((2, 2), 0.5))
    assert (half - hidden).abs().max() > 1e-3


def test_the_two_ways_to_mix_differ_below_the_first_layer():
    model = models.model("llama")
    ids, gates = torch.from_numpy(sample().ids)[None], torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    teacher, mixed = gated(model).hidden(ids, gates)
    _, own = gated(model, teacher_mix=False).hidden(ids, gates)
    assert (mixed - own).abs().max() > 1e-3
    with torch.no_grad():
        assert torch.equal(teacher, model.model(ids).last_hidden_state)


def test_hidden_states_are_compared_behind_the_last_norm():
    model = models.model("llama")
    seen: list[torch.Tensor] = []
    model.model.norm.register_forward_hook(lambda module, given, out: seen.extend((given[0], out)))
    wanted, found = gated(model).hidden(torch.from_numpy(sample().ids)[None], torch.zeros(2, 2))
    (before, after), (student_before, student_after) = seen[:2], seen[2:4]
    assert torch.equal(wanted, after)
    assert torch.equal(found, student_after)
    toy = (before - student_before).square().mean()
    assert abs(toy - (wanted - found).square().mean()) > 0.1 * toy


def test_only_labelled_tokens_count_and_all_tokens_would_be_another_loss():
    model, data = models.model("llama"), sample()
    gates = torch.zeros(2, 2)
    loss = gated(model).distillation(data, gates).item()
    wanted, found = gated(model).hidden(torch.from_numpy(data.ids)[None], gates)
    error = (wanted - found)[0].square().mean(-1)
    assert loss == pytest.approx(error[-8:].mean().item(), rel=1e-5)
    assert abs(loss - error.mean().item()) > 0.05 * loss
    # What the model could still see is no loss: the first tokens, labelled alone.
    early = Labelled(data.ids, np.where(np.arange(LENGTH) < RECENT, data.ids, IGNORED))
    assert gated(model).distillation(early, gates).item() < 1e-10


def test_a_gate_belongs_to_a_head_of_keys_and_values_not_to_a_query_head():
    model = models.model("llama")
    assert gate_shape(model) == (2, 2)  # four query heads
    ids = torch.from_numpy(sample().ids)[None]
    i, j = torch.arange(LENGTH)[:, None], torch.arange(LENGTH)
    stream = (j <= i) & ((j < SINK) | (j > i - RECENT))
    _, hidden = gated(model, teacher_mix=False).hidden(ids, torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    by_query = torch.stack([causal(LENGTH), stream, causal(LENGTH), stream])[
        None
    ]  # interleaved: a toy's grouping
    toy_layer = {0: by_query, 1: torch.stack([causal(LENGTH)] * 4)[None]}

    class Toy:
        def attend(self, layer, query, key, value, scaling):
            out = torch.nn.functional.scaled_dot_product_attention(
                query, key, value, toy_layer[layer], scale=scaling, enable_gqa=True
            )
            return out.transpose(1, 2)

    from unending.parts.backbones.routing import routed

    toy = routed(model, ids, torch.arange(LENGTH)[None], Toy())
    assert (model.lm_head(hidden) - toy).abs().max() > 1e-2


def test_gates_are_clamped_before_every_step_and_stay_between_0_and_1():
    model, seen = models.model("llama"), []
    made = identify_retrieval_heads(
        model, Rows(), SINK, LENGTH, steps=12, lr=0.3, reg=50.0, report=lambda step: seen.append(step)
    )
    # With a window as long as the row nothing is lost, so the penalty alone decides; unclamped it would go on.
    assert [step.step for step in seen] == list(range(1, 13))
    assert all(step.gates.min() >= 0 and step.gates.max() <= 1 for step in seen)
    assert seen[-1].regularisation == 0.0
    assert not made.values.any()


def test_the_learning_rate_goes_up_and_down():
    rates = [rate_multiplier(step, 100) for step in range(100)]
    assert rates[0] == 0.1
    assert rates[9] == pytest.approx(0.5)
    assert rates[19:81] == [1.0] * 62
    assert rates[89] == pytest.approx(0.55)
    assert rates[99] == pytest.approx(0.1)
    assert min(rates) == 0.1


def test_the_model_is_not_touched():
    model = models.model("llama")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = copy.deepcopy(model.config)
    identify_retrieval_heads(model, Rows(), SINK, RECENT, steps=3)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(each.grad is None and each.requires_grad for each in model.parameters())
    assert model.config._attn_implementation == config._attn_implementation
    assert model.config.to_dict() == config.to_dict()


def test_equal_data_give_equal_gates_also_across_a_stop(tmp_path):
    model = models.model("llama")
    whole = identify_retrieval_heads(model, Rows(), SINK, RECENT, steps=60, reg=0.01)
    path = tmp_path / "run" / "checkpoint.safetensors"

    class StopError(Exception):
        pass

    def stop(step):
        if step.step == 55:
            raise StopError

    settings = {"steps": 60, "reg": 0.01, "checkpoint": path}
    with pytest.raises(StopError):
        identify_retrieval_heads(model, Rows(), SINK, RECENT, report=stop, **settings)
    done = []
    again = identify_retrieval_heads(
        model, Rows(), SINK, RECENT, report=lambda step: done.append(step.step), **settings
    )
    assert done == list(range(51, 61))
    np.testing.assert_array_equal(again.values, whole.values)
    with pytest.raises(SnapshotForeignError, match="other settings"):
        identify_retrieval_heads(model, Rows(), SINK, RECENT, **{**settings, "reg": 0.02})
    path.write_bytes(b"nothing")
    with pytest.raises(SnapshotCorruptError, match="not a readable checkpoint"):
        identify_retrieval_heads(model, Rows(), SINK, RECENT, **settings)


def test_what_makes_no_sense_is_refused():
    model = models.model("llama")
    with pytest.raises(InputError, match="steps"):
        identify_retrieval_heads(model, Rows(), steps=0)

    class Unlabelled:
        def __getitem__(self, index):
            return Labelled(models.tokens(8), np.full(8, IGNORED))

    with pytest.raises(InputError, match="no label"):
        identify_retrieval_heads(model, Unlabelled(), SINK, RECENT, steps=1)
    with pytest.raises(ModelUnsupportedError, match="interface"):
        GatedModel(models.mpt(), SINK, RECENT)


def test_the_heads_that_retrieve_in_the_trained_model_are_found():
    """tiny-recall: its second layer looks up, its first does not; 60 steps are enough to order them."""
    model = backbones.load("tiny-recall").module
    found = identify_retrieval_heads(model, RecallPasskeys(), 4, 28, steps=60, lr=0.05, reg=0.1)
    assert found.binarize(0.5).tolist() == [[False] * 4, [True] * 4]
