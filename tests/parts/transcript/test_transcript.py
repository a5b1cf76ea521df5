"""Layouts of a transcript against their definitions, and collation."""

import numpy as np
import pytest
import torch

from unending.core.errors import InputError
from unending.parts.transcript import (
    Transcript,
    collate,
    loss,
    positions,
    reach_aligned,
    reach_all,
    reach_wait_k,
    streaming_mask,
    visible_counts,
)

SOURCE, TARGET = [3, 1, 2, 4], [2, 1, 3]


def made(source=SOURCE, target=TARGET, first=10):
    ids = iter(range(first, first + 100))
    segments = [
        tuple(np.array([next(ids) for _ in range(n)], dtype=np.int64) for n in part)
        for part in (source, target)
    ]
    return Transcript(*segments)


def test_reaches():
    assert reach_wait_k(4, 6, 2).tolist() == [2, 3, 4, 4, 4, 4]
    assert reach_aligned(4, 3).tolist() == [1, 2, 4]  # the last sees all
    assert reach_aligned(2, 4).tolist() == [1, 2, 2, 2]
    assert reach_aligned(5, 4, lookahead=1).tolist() == [2, 3, 4, 5]
    assert reach_all(3, 2).tolist() == [3, 3]


def test_a_row_sees_what_the_token_it_predicts_may_see():
    reach = reach_wait_k(4, 3, 1)
    plain = visible_counts(SOURCE, TARGET, reach, shift=False)
    assert plain.tolist() == [3, 3, 4, 6, 6, 6]
    shifted = visible_counts(SOURCE, TARGET, reach)
    assert shifted.tolist() == [3, 4, 6, 6, 6, 6]
    assert shifted.tolist() != plain.tolist()  # the toy: the last header row would not see word 1


@pytest.mark.parametrize("source_sees_target", [False, True])
def test_the_mask_is_the_rule_written_out(source_sees_target):
    reach = reach_wait_k(4, 3, 2)
    counts, n = visible_counts(SOURCE, TARGET, reach), sum(SOURCE)
    mask = streaming_mask(counts, n, source_sees_target=source_sees_target)
    for row in range(n + sum(TARGET)):
        for column in range(n + sum(TARGET)):
            if row < n and column < n:
                wanted = column <= row
            elif row < n:
                wanted = source_sees_target and counts[column - n] <= row
            elif column < n:
                wanted = column < counts[row - n]
            else:
                wanted = column <= row
            assert mask[row, column] == wanted, (row, column)


def test_positions_of_each_layout():
    counts = visible_counts([2, 1, 1], [1, 2], np.array([1, 3]))  # rows see 4, 4, 4
    assert positions(counts, 4).tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert positions(counts, 4, phi=64).tolist()[4:] == [64, 65, 66]
    assert positions(counts, 4, "continued").tolist() == list(range(7))
    counts = np.array([2, 3, 3])
    assert positions(counts, 4, "arrival").tolist() == [0, 1, 3, 6, 2, 4, 5]


def test_the_arrival_layout_is_one_sequence_in_order():
    rng = np.random.default_rng(0)
    for _ in range(20):
        source, target = rng.integers(1, 4, 5), rng.integers(1, 4, 6)
        counts = visible_counts(source, target, reach_wait_k(5, 6, int(rng.integers(1, 6))))
        order = positions(counts, int(source.sum()), "arrival")
        assert sorted(order) == list(range(len(order)))
        mask = streaming_mask(counts, int(source.sum()), source_sees_target=True)
        # In its own order it is an ordinary causal sequence.
        place = np.argsort(order)
        assert np.array_equal(mask[np.ix_(place, place)], np.tril(np.ones_like(mask)))


def test_a_batch_pads_on_the_right_and_leaves_no_row_blind():
    long, short = made(), made([2, 1], [1, 1], first=60)
    batch = collate([long, short], [reach_all(4, 3), reach_all(2, 2)], pad=7)
    assert batch.ids.shape == (2, 16)
    assert batch.ids[1].tolist() == [60, 61, 62, 63, 64, *[7] * 11]
    assert batch.labels[1].tolist() == [63, 64, -100, -100, -100, -100]
    assert batch.rows[0].tolist() == [9, 10, 11, 12, 13, 14]
    assert bool(batch.mask.any(dim=-1).all())
    assert not bool(batch.mask[1, 0, :5, 5:].any())


def test_the_row_of_the_first_target_token():
    one = made()
    prompt = collate([one], [reach_all(4, 3)], header_row="prompt")
    assert prompt.rows[0, 0] == 3  # the first token after the prompt
    alone = Transcript((np.arange(3),), (np.arange(2),))
    assert collate([alone], [reach_all(1, 1)], header_row="prompt").rows[0].tolist() == [2, 3]


def test_the_loss_is_over_target_tokens_alone():
    batch = collate([made(), made([2, 1], [1, 1])], [reach_all(4, 3), reach_all(2, 2)])
    logits = torch.randn(2, 16, 40, generator=torch.Generator().manual_seed(0))
    by_hand = [
        -logits[b, batch.rows[b, t]].log_softmax(-1)[batch.labels[b, t]]
        for b in range(2)
        for t in range(6)
        if batch.labels[b, t] >= 0
    ]
    assert len(by_hand) == 8
    assert torch.allclose(loss(logits, batch), torch.stack(by_hand).mean())


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: Transcript((), (np.arange(2),)), "source"),
        (lambda: Transcript((np.arange(2),), (np.array([]),)), "target"),
        (lambda: reach_wait_k(3, 3, -1), "k is -1"),
        (lambda: reach_aligned(3, 3, -1), "lookahead"),
        (lambda: visible_counts([1], [1, 1], np.array([1])), "1 entries for 2"),
        (lambda: visible_counts([1], [1], np.array([2])), "of 1 source"),
        (lambda: positions(np.array([1]), 1, "sideways"), "sideways"),
        (lambda: positions(np.array([1]), 1, phi=-1), "phi"),
        (lambda: collate([made()], [reach_all(4, 3)], header_row="middle"), "middle"),
    ],
)
def test_bad_input_is_told(wrong, says):
    with pytest.raises(InputError, match=says):
        wrong()
