"""The six exact equalities of the method, on real classes of transformers."""

import pytest
import torch
from tests.systems.language.group_position_encoding.forcing import (
    CONFIGS,
    SOURCE,
    TARGET,
    forced,
    frame,
    model,
    runner,
    writer,
)
from transformers import DynamicCache

from unending.laws.equality import state_difference
from unending.parts.emission import SentenceBoundary, WaitK
from unending.parts.memory import DualCache
from unending.parts.transcript import collate, reach_wait_k
from unending.systems.language.group_position_encoding import GroupPositions, StreamingSFTCollator, Template
from unending.systems.language.group_position_encoding.positions import run

FORMS = ("transformers", "router")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@torch.no_grad()
def trained(kind, source, target, k, phi):
    """The rows of the target in the one forward pass of training."""
    template = frame(kind)
    batch = StreamingSFTCollator(template, k, phi).batch([(source, target)])
    logits = model(kind)(
        input_ids=batch.ids, position_ids=batch.positions, attention_mask=batch.mask, use_cache=False
    ).logits[0]
    return logits[len(template.transcript(source, target).source_ids) : -1]


LAGS = [(1, 0), (2, 64), (5, 0), (6, 0), (7, 0), (99, 0)]
CASES = [
    (kind, form, k, phi)
    for kind in CONFIGS
    for form in FORMS
    for k, phi in (LAGS if kind == "llama" else LAGS[1:2])
]


@pytest.mark.parametrize(("kind", "form", "k", "phi"), CASES)
def test_the_forward_pass_of_training_is_the_inference(kind, form, k, phi):
    """Around k = m + 1 the header sees what wait-k gives it, with and without the end of the source."""
    template = frame(kind)
    got, words = forced(writer(template, WaitK(k), phi=phi), SOURCE, TARGET, runner(template, form))
    assert [word.text for word in words] == [" " + word for word in TARGET]
    assert [word.delay for word in words] == [min(k + j, len(SOURCE)) for j in range(len(TARGET))]
    assert torch.allclose(got, trained(kind, SOURCE, TARGET, k, phi), atol=1e-5)


@pytest.mark.parametrize(
    ("source", "target"), [(SOURCE[:1], TARGET), (SOURCE, TARGET[:2]), (SOURCE, TARGET[:1])]
)
def test_it_holds_where_one_side_is_much_longer(source, target):
    for k in (1, 2, 3):
        got, _ = forced(writer(frame(), WaitK(k)), source, target, runner(frame(), "router"))
        assert torch.allclose(got, trained("llama", source, target, k, 0), atol=1e-5)


def test_upstream_takes_an_early_end_from_where_its_word_was_written():
    """Training predicts the end marker with one word more of the source: a toy translates nothing at k = 1."""
    template = Template(frame().backbone, frame().prompt, frame().end, frame().header[:1], frame().stop)
    rows = {}
    for mode in ("exact", "upstream"):
        work = writer(template, WaitK(1), header_mode=mode)
        rows[mode], words = forced(work, SOURCE, TARGET[:2], runner(template, "router"))
        assert words[-1].last
        assert [word.delay for word in words] == ([1, 2, 3] if mode == "exact" else [1, 2])
    assert torch.allclose(rows["exact"][:-1], rows["upstream"][:-1], atol=1e-5)
    assert not torch.allclose(rows["exact"][-1], rows["upstream"][-1], atol=1e-3)


def test_another_policy_is_its_reach():
    """Read to the end of a sentence, then write it: the mask of the reach that the automaton shows."""
    template = frame()
    got, words = forced(writer(template, SentenceBoundary()), SOURCE, TARGET, runner(template, "router"))
    assert [word.delay for word in words] == [3, 3, 3, 5, 5, 5]
    one = template.transcript(SOURCE, TARGET)
    # The prompt counts; the end of the source is the seventh segment.
    batch = collate([one], [torch.tensor([3, 4, 4, 4, 7, 7, 7, 7]).numpy()])
    with torch.no_grad():
        wanted = model()(
            input_ids=batch.ids, position_ids=batch.positions, attention_mask=batch.mask, use_cache=False
        ).logits[0, len(one.source_ids) : -1]
    assert torch.allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize("kind", CONFIGS)
@torch.no_grad()
def test_with_all_read_and_phi_behind_the_source_it_is_batch_decoding(kind):
    template = frame(kind)
    one = template.transcript(SOURCE, TARGET)
    n = len(one.source_ids)
    got, _ = forced(writer(template, WaitK(99), phi=n), SOURCE, TARGET, runner(template, "transformers"))
    plain = model(kind)(input_ids=torch.from_numpy(one.ids)[None]).logits[0, n:-1]
    assert torch.allclose(got, plain, atol=1e-5)


@torch.no_grad()
def test_the_source_is_encoded_as_in_a_batch():
    template, work = frame(), writer(frame(), WaitK(2))
    forced(work, SOURCE, TARGET, runner(template, "transformers"))
    plain, memory = DynamicCache(config=model().config), work.cache.memory()
    source = template.transcript(SOURCE, TARGET).source_ids
    model()(input_ids=torch.from_numpy(source)[None], past_key_values=plain)
    for layer, keys, values in zip(plain.layers, memory.source_keys, memory.source_values, strict=True):
        assert torch.allclose(keys[:, :, : len(source)], layer.keys, atol=1e-5)
        assert torch.allclose(values[:, :, : len(source)], layer.values, atol=1e-5)


def test_a_word_that_was_not_read_changes_nothing():
    template, other = frame(), [*SOURCE[:3], "lay", *SOURCE[4:]]
    one, two = (
        forced(writer(template, WaitK(2)), source, TARGET, runner(template, "router"))[0]
        for source in (SOURCE, other)
    )
    # Word 4 of the source is read for word 3 of the target, whose first token the row before it predicts.
    before = len(template.header) + sum(len(template.word(word)) for word in TARGET[:2]) - 1
    assert torch.equal(one[:before], two[:before])
    assert not torch.allclose(one[before], two[before], atol=1e-3)


def test_a_pop_restores_the_memory_to_the_bit():
    cache = DualCache.of(model(), 16, 16)
    positions = GroupPositions()
    run(model(), [5, 6, 7], positions.view(cache))
    cache.mode = "write"
    run(model(), [8, 9], positions.view(cache))
    before = cache.memory().canonical()
    first = run(model(), [10], cache)
    cache.pop_target(1)
    assert state_difference(before, cache.memory()) is None
    assert torch.equal(run(model(), [10], cache), first)


def test_reach_is_what_the_specification_says():
    template = frame()
    one = template.transcript(SOURCE, TARGET)
    assert len(one.source) == len(SOURCE) + 2
    assert len(one.target) == len(TARGET) + 2
    assert reach_wait_k(len(one.source), len(one.target), 2).tolist() == [2, 3, 4, 5, 6, 7, 7, 7]
