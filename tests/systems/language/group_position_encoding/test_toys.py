"""What a toy gets wrong, each beside the real thing."""

import numpy as np
import pytest
import torch
from tests.systems.language.group_position_encoding.forcing import (
    SOURCE,
    TARGET,
    forced,
    frame,
    model,
    runner,
    writer,
)

from unending.parts.emission import WaitK
from unending.parts.memory import DualCache
from unending.parts.transcript import collate, reach_wait_k
from unending.systems.language.group_position_encoding import GroupPositions, StreamingSFTCollator, Template
from unending.systems.language.group_position_encoding.positions import run

K = 2


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def one():
    return frame().transcript(SOURCE, TARGET)


@torch.no_grad()
def rows(batch):
    """Logits of the target rows."""
    logits = model()(
        input_ids=batch.ids, position_ids=batch.positions, attention_mask=batch.mask, use_cache=False
    ).logits[0]
    return logits[len(one().source_ids) : -1]


@pytest.fixture(scope="module")
def real():
    return forced(writer(frame(), WaitK(K)), SOURCE, TARGET, runner(frame(), "router"))[0]


def reach(k=K):
    return reach_wait_k(len(one().source), len(one().target), k)


def moved(toy, real):
    return float((toy - real).abs().max())


def test_the_real_one_agrees(real):
    assert moved(rows(collate([one()], [reach()])), real) < 1e-5


def test_without_the_shift_by_one_row(real):
    assert moved(rows(collate([one()], [reach()], shift=False)), real) > 0.01


def test_with_a_source_that_sees_the_target(real):
    toy = collate([one()], [reach()], source_sees_target=True)
    assert moved(rows(toy), real) > 0.01


@pytest.mark.parametrize("layout", ["continued", "arrival"])
def test_with_target_ids_that_go_on_behind_the_source(real, layout):
    assert moved(rows(collate([one()], [reach()], layout=layout)), real) > 0.01


@pytest.mark.parametrize("k", [K - 1, K + 1])
def test_with_the_prompt_counted_otherwise(real, k):
    assert moved(rows(collate([one()], [reach(k)])), real) > 0.01


@torch.no_grad()
def test_without_a_mask_transformers_sees_packed_sequences():
    """The target of the collator's batch sees the source; the same ids and positions alone do not."""
    batch = StreamingSFTCollator(frame(), 99)([(SOURCE, TARGET)])
    labels = batch.pop("labels")
    whole = model()(**batch, use_cache=False).logits
    bare = model()(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    n = len(one().source_ids)
    alone = model()(
        input_ids=batch["input_ids"][:, n:], position_ids=batch["position_ids"][:, n:], use_cache=False
    ).logits
    assert moved(bare, whole) > 0.01
    assert torch.allclose(bare[:, n:], alone, atol=1e-5)  # blind to the source
    assert (labels != -100).sum() == len(one().target_ids)


def test_popping_the_token_and_not_its_keys(real):
    class Forgetful(DualCache):
        def pop_target(self, n=1):
            """Keeps the keys: the token comes twice."""

    work = writer(frame(), WaitK(K))
    work.cache = Forgetful(work.cache.memory())
    ids = frame().transcript(SOURCE, TARGET).target_ids
    call, header = runner(frame(), "router"), len(frame().header)
    for word in SOURCE[:K]:
        work.read(word, frame().word(word), call)
    fed = 0
    while work.wants_write() and work.now.written == 0:
        pending = work.pending() or [int(ids[work.now.tokens - 1])]
        logits = call(pending, work.cache, True)
        fed += len(pending)
        choice = torch.zeros(logits.shape[-1])
        choice[ids[work.now.tokens]] = 1
        work.take(choice)
    # The last token of the word is in the memory already when it is to be fed with more of the source.
    last = header + len(frame().word(TARGET[0])) - 1
    assert work.cache.target_count == last + 1
    work.read(SOURCE[K], frame().word(SOURCE[K]), call)
    work.cache.mode = "write"
    toy = call([int(ids[last])], work.cache, True)[-1]
    assert moved(toy, real[last]) > 0.01


def test_words_without_the_space_before_them_do_not_add_up():
    template = frame()
    whole = template.backbone._ids(" " + " ".join(SOURCE))
    assert sum(len(template.word(word)) for word in SOURCE) == len(whole)
    assert np.array_equal(np.concatenate([template.word(word) for word in SOURCE]), whole)
    assert sum(len(template.backbone._ids(word)) for word in SOURCE) != len(whole)


def test_the_header_as_upstream_reads_it_is_not_the_header_of_training(real):
    for form in ("transformers", "router"):
        upstream, _ = forced(
            writer(frame(), WaitK(K), header_mode="upstream"), SOURCE, TARGET, runner(frame(), form)
        )
        assert moved(upstream[: len(frame().header)], real[: len(frame().header)]) > 1e-3
    template = Template(frame().backbone, frame().prompt, frame().end, frame().header[:1], frame().stop)
    exact, other = (
        forced(writer(template, WaitK(K), header_mode=mode), SOURCE, TARGET, runner(template, "router"))[0]
        for mode in ("exact", "upstream")
    )
    assert torch.equal(exact, other)  # a header of one token leaves nothing to differ in


def test_positions_restart_and_do_not_jump():
    cache = DualCache.of(model(), 32, 32, phi=7)
    places = []
    for _ in range(3):
        cache.mode = "read"
        run(model(), [1, 2], cache)
        cache.mode = "write"
        places.append(cache.position)
        run(model(), [3], cache)
    assert places == [7, 8, 9]
    assert GroupPositions(7).position_ids(3, 2).tolist() == [0, 1, 2, 7, 8]
