"""Joint decoding: as alone within rounding, and to the bit whatever the neighbours."""

import pytest
import torch
from tests.systems.language.jrt.tiny import model, tokens

from unending.core import TICK, Query, Text, fork
from unending.core.errors import ModelUnsupportedError, NumericalError
from unending.systems.language.jrt import JRT
from unending.systems.language.jrt import operator as module_of_operator
from unending.systems.language.jrt.joint import decode_together, joint_rows
from unending.systems.language.jrt.memory import joined, row


@pytest.fixture(scope="module")
def net():
    return model(torch.float32)


def memories(net, ages=(3, 20, 9, 1)):
    return [net.model.prefill(tokens(1, n, seed=n))[1] for n in ages]


def test_together_is_as_alone(net):
    held = memories(net)
    for token, memory, (logits, after) in zip(
        (5, 6, 7, 8), held, decode_together(net, [5, 6, 7, 8], held, 4), strict=True
    ):
        hidden, wanted = net.model.extend(torch.tensor([[token]]), memory)
        torch.testing.assert_close(logits, net.lm_head(hidden)[0, 0], atol=1e-4, rtol=1e-4)
        for ours, theirs in zip(after.tensors, wanted.tensors, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("width", [1, 3, 4, 8])
def test_no_neighbour_changes_a_bit(net, width):
    held = memories(net, (3, 20, 9, 1, 7, 12, 30, 2)[:width])
    alone = decode_together(net, [5], [held[0]], width)[0]
    for place in range(width):
        order = [*range(1, place + 1), 0, *range(place + 1, width)]
        found = decode_together(net, [5 + i for i in order], [held[i] for i in order], width)[place]
        assert torch.equal(found[0], alone[0])
        assert all(torch.equal(one, two) for one, two in zip(found[1].tensors, alone[1].tensors, strict=True))


def test_rows_share_no_memory_with_the_batch(net):
    held = memories(net)
    for _, after in decode_together(net, [1, 2, 3, 4], held, 4):
        assert after.nbytes == net.model.empty().nbytes
        for each in after.tensors:
            assert each.untyped_storage().nbytes() == each.nbytes
    again = row(joined(held), 1)
    assert all(torch.equal(one, two) for one, two in zip(again.tensors, held[1].tensors, strict=True))


def test_a_stream_without_numbers_fails_alone(net):
    held = memories(net)
    held[1].layers[1].S.fill_(torch.nan)
    found = decode_together(net, [1, 2, 3, 4], held, 4)
    assert isinstance(found[1], NumericalError)
    assert not any(isinstance(each, Exception) for i, each in enumerate(found) if i != 1)


def test_rows_that_do_not_come_out_alike_are_found(net, monkeypatch):
    """A model whose last row differs gets a spare one; a model whose rows all differ is stepped one by one."""
    other = model(torch.float32, seed=1)
    true_step = other.model.step

    def last_row_off(ids, memory):
        hidden, after = true_step(ids, memory)
        off = torch.zeros_like(hidden)
        off[-1] = 1e-6
        return hidden + off, after

    monkeypatch.setattr(other.model, "step", last_row_off)
    assert joint_rows(other, 4) > 4
    third = model(torch.float32, seed=2)

    def each_row_off(ids, memory):
        hidden, after = true_step(ids, memory)
        return hidden + torch.arange(len(ids))[:, None] * 1e-5, after

    monkeypatch.setattr(third.model, "step", each_row_off)
    with pytest.raises(ModelUnsupportedError, match="depend on each other or on their place"):
        joint_rows(third, 4)


def test_a_model_without_joint_decoding_is_stepped_one_by_one(monkeypatch):
    op = JRT.example()

    def begun():
        return op.step(op.init(1), Query("why?"))[0]

    def refuse(*_):
        raise ModelUnsupportedError("no")

    wanted, events = op.step(begun(), TICK)
    monkeypatch.setattr(module_of_operator, "joint_rows", refuse)
    ((found, same),) = op.step_many([begun()], [TICK], 4)
    assert torch.equal(found.logits, wanted.logits)
    assert [e.data.text for e in events] == [e.data.text for e in same]


def test_more_answers_than_rows_go_in_turns():
    op = JRT.example()
    states = [op.step(op.step(op.init(s), Text("ab cd " * s))[0], Query("why?"))[0] for s in range(5)]
    wide = op.step_many([fork(each) for each in states], [TICK] * 5, 5)
    narrow = op.step_many(states, [TICK] * 5, 2)
    for (one, _), (two, _) in zip(wide, narrow, strict=True):
        torch.testing.assert_close(one.logits, two.logits, atol=1e-4, rtol=1e-4)
