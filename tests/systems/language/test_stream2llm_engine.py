"""The engine on real architecture classes: whatever happens on the way, the first token is that of one pass."""

from itertools import count

import numpy as np
import pytest
import torch
from tests.parts import models

from unending.core.errors import CapacityError, InputError, NumericalError, StateError
from unending.parts.simulation import Curve
from unending.systems.language.stream2llm import (
    FCFS,
    LCAS,
    MCPS,
    BlockLedger,
    CostModel,
    DefaultVLLM,
    Serving,
    StreamingEngine,
    TwoPhase,
)
from unending.systems.language.stream2llm import (
    request as request_module,
)
from unending.systems.language.stream2llm import (
    scheduler as scheduler_module,
)
from unending.systems.language.stream2llm.memory import PoolBlocks, pool_of

BLOCK = 4
EVEN = CostModel(Curve(0.0, 1.0), Curve(12.0))
"""Swapping pays from 12 tokens on."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def engine(scheduler=None, blocks=16, name="llama", **settings):
    ticks = count()
    return StreamingEngine(
        models.model(name), blocks, BLOCK, scheduler, EVEN, clock=lambda: float(next(ticks)), **settings
    )


@torch.no_grad()
def one_pass(model, tokens):
    """The logits after a prompt, by the model alone."""
    return model(input_ids=torch.from_numpy(tokens)[None], use_cache=False).logits[0, -1]


def require_exact(events):
    """First tokens are those of one pass; gives how many there were."""
    firsts = [each for each in events if each.kind == "first-token"]
    for event in firsts:
        expected = one_pass(MODELS[0], event.request.tokens)
        torch.testing.assert_close(event.logits, expected, rtol=1e-5, atol=1e-5)
        assert event.tokens == int(expected.argmax())
        accounts = len(event.request) + event.request.invalidated + event.request.recomputed
        assert event.request.computed_total == accounts
    return len(firsts)


MODELS: list[torch.nn.Module] = []


def act(server, requests, rng, seed):
    """Something happens to a request, or a new one comes."""
    live = [each for each in requests if not each.finished and each.name in server.serving.live]
    if len(server.requests) < 5 and rng.random() < 0.4:
        tokens = models.tokens(int(rng.integers(0, 25)), seed=seed)
        requests.append(server.submit(tokens, bool(len(tokens) and rng.random() < 0.2)))
    elif live:
        request = live[int(rng.integers(len(live)))]
        new, ends = models.tokens(int(rng.integers(0, 12)), seed=seed), bool(rng.random() < 0.3)
        if rng.random() < 0.5:
            kept = request.tokens[: int(rng.integers(0, len(request) + 1))]
            if len(kept) + len(new) or not ends:
                server.update(request, np.concatenate([kept, new])[:40], ends)
        elif 0 < len(request) + len(new) <= 40:
            server.append(request, new, ends)


def random_run(seed, scheduler, name="llama"):
    """A random trace under pressure; events of all of it."""
    rng = np.random.default_rng(seed)
    server = engine(scheduler, 14, name, host_blocks=int(rng.integers(0, 20)))
    MODELS[:] = [server.model]
    requests, events = [], []
    for step in range(60):
        act(server, requests, rng, 1000 * seed + step)
        if rng.random() < 0.7:
            events += server.step()
            server.serving.check()
    for request in requests:
        if not request.finished:
            server.append(request, [5], True)
    while server.requests:
        events += server.step()
        server.serving.check()
    assert server.pool.free == server.pool.total
    assert {id(each.request) for each in events if each.kind == "first-token"} == set(map(id, requests))
    return events


SCHEDULERS = [
    TwoPhase(FCFS(), max_batched_tokens=7, preallocate=0),
    TwoPhase(LCAS(), max_batched_tokens=64, preallocate=4, preemption="swap"),
    TwoPhase(LCAS(recent_first=True), max_batched_tokens=16, preallocate=8, max_num_seqs=2),
    TwoPhase(MCPS(), max_batched_tokens=5, preallocate=0, preemption="recompute"),
    TwoPhase(MCPS(), max_batched_tokens=32, preallocate=4, cost_argument="incoming_tokens"),
    TwoPhase(FCFS(), evict_for="complete", max_batched_tokens=16, preallocate=4),
    DefaultVLLM(max_batched_tokens=16, preallocate=4),
]


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=range(len(SCHEDULERS)))
def test_any_way_to_the_first_token_gives_that_of_one_pass(scheduler):
    kinds = set()
    for seed in range(4):
        events = random_run(seed, scheduler)
        assert require_exact(events) > 3
        kinds |= {each.kind for each in events}
    assert "first-token" in kinds
    if isinstance(scheduler, TwoPhase) and scheduler.preemption == "swap":
        assert "swap" in kinds


@pytest.mark.parametrize("name", ["qwen3", "llama3-rope", "neox-partial", "gemma"])
def test_so_it_is_on_other_architectures(name):
    assert require_exact(random_run(1, SCHEDULERS[1], name))


def require_exact_runs():
    for seed in range(4):
        require_exact(random_run(seed, SCHEDULERS[0]))


def test_keys_above_the_prefix_are_stale_for_the_toy(monkeypatch):
    """Negative control: without invalidation the first token is another."""
    monkeypatch.setattr(request_module, "longest_common_prefix", lambda a, b: min(len(a), len(b)))
    with pytest.raises(AssertionError):
        require_exact_runs()


def test_block_tables_are_wrong_for_the_toy_that_does_not_send_them_again(monkeypatch):
    """Negative control: a runner that keeps its table after a truncation reads another request's blocks."""
    take = scheduler_module.Scheduler._take

    def forget(self, request, tokens, plan):
        request.resend = False
        take(self, request, tokens, plan)

    monkeypatch.setattr(scheduler_module.Scheduler, "_take", forget)
    with pytest.raises((AssertionError, StateError, CapacityError)):
        require_exact_runs()


@pytest.mark.parametrize("common", [BLOCK - 1, BLOCK, BLOCK + 1])
def test_updates_around_the_edge_of_a_block(common):
    server = engine()
    MODELS[:] = [server.model]
    old, new = models.tokens(11, seed=1), models.tokens(9, seed=2)
    request = server.submit(old)
    server.run()
    new[:common] = old[:common]
    new[common] = (old[common] + 1) % 90 + 3
    assert server.update(request, new, finished=True) == 11 - common
    assert require_exact(server.run()) == 1


def test_a_swap_and_back_is_bit_for_bit():
    server = engine(TwoPhase(FCFS(), preallocate=0, preemption="swap"), blocks=4)
    request = server.submit(models.tokens(14, seed=3))
    server.run()

    def held():
        return [server.pool.gather(layer, request.blocks, 14) for layer in range(2)]

    before = held()
    server.submit(models.tokens(9, seed=4), finished=True)
    events = server.run()
    assert [each.kind for each in events if each.request is request] == ["swap"]
    server.append(request, [7])
    events = server.run()
    assert [each.kind for each in events if each.request is request] == ["append", "swap-in", "compute"]
    for old, new in zip(before, held(), strict=True):
        assert all(torch.equal(one, two) for one, two in zip(old, new, strict=True))


@pytest.mark.parametrize("end", ["empty chunk", "update to a prefix"])
def test_a_prompt_that_ends_with_nothing_to_compute_still_gets_its_token(end):
    server = engine()
    MODELS[:] = [server.model]
    request = server.submit(models.tokens(2 * BLOCK + 1, seed=5))
    server.run()
    if end == "empty chunk":
        server.append(request, [], finished=True)
    else:
        server.update(request, request.tokens[: 2 * BLOCK], finished=True)
    assert require_exact(server.run()) == 1


def test_events_tell_what_happened_with_the_time_of_the_clock():
    server = engine()
    request = server.submit(models.tokens(5, seed=6))
    events = server.step()
    assert [(each.kind, each.tokens) for each in events] == [("open", 5), ("compute", 5)]
    assert request.arrival_time < events[0].time < events[1].time
    server.update(request, request.tokens[:3])
    server.append(request, [4, 5], finished=True)
    events = server.step()
    assert [(each.kind, each.tokens) for each in events[:3]] == [("update", 2), ("append", 2), ("compute", 2)]
    assert events[3].time == request.first_token_time


def test_the_real_pool_and_the_ledger_get_the_same_decisions():
    """One scheduler object, the engine's blocks and the simulator's, the same input: the same plans."""
    for scheduler in SCHEDULERS:
        pool = pool_of(models.model("llama"), 14, BLOCK, 9)
        servers = [
            Serving(scheduler, blocks, EVEN) for blocks in (PoolBlocks(pool), BlockLedger(14, 9, BLOCK))
        ]
        rng = np.random.default_rng(0)
        for step in range(150):
            draw = rng.random(8)
            plans = []
            for server in servers:
                live = list(server.live.values())
                tokens = np.arange(int(20 * draw[0]))
                if len(live) < 5 and draw[1] < 0.5:
                    server.submit(tokens, bool(len(tokens) and draw[2] < 0.3), step)
                elif live and not (request := live[int(draw[3] * len(live))]).finished:
                    if draw[4] < 0.3:
                        server.update(request, tokens[: 1 + int(10 * draw[5])], False, step)
                    elif len(request) < 25:
                        server.append(request, 50 + tokens[:9], bool(len(request) and draw[6] < 0.4), step)
                plan = server.plan(step)
                for work in plan.work:
                    if isinstance(server.blocks, PoolBlocks):
                        pool.extend(work.request.blocks, work.start, work.tokens)
                plans.append(
                    (
                        [(work.request.name, work.start, work.tokens, work.resend) for work in plan.work],
                        [(victim.name, kind, n) for victim, kind, n in plan.preempted],
                        [(each.name, n) for each, n in plan.swapped_in],
                        [each.name for each in plan.deferred],
                    )
                )
                server.complete(plan, step)
                server.check()
            assert plans[0] == plans[1]


def test_prompts_that_cannot_be_are_refused_and_nothing_changes():
    server = engine(blocks=100)
    request = server.submit(models.tokens(5))
    with pytest.raises(CapacityError, match="129 tokens; the model attends over 128"):
        server.append(request, models.tokens(124))
    with pytest.raises(InputError, match="token id 97 is outside the accepted 0 to 96"):
        server.append(request, [97])
    with pytest.raises(CapacityError, match="the memory holds 16"):
        engine(blocks=4).submit(models.tokens(17))
    assert len(request) == 5


def test_a_pass_that_fails_can_be_tried_again(monkeypatch):
    server = engine()
    MODELS[:] = [server.model]
    server.submit(models.tokens(9, seed=7), finished=True)
    module = type(server).__module__
    with monkeypatch.context() as patched:
        patched.setattr(f"{module}.forward_pieces", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            server.step()
    server.serving.check()
    assert require_exact(server.run()) == 1


def test_logits_that_are_no_numbers_are_an_error():
    server = engine()
    torch.nn.init.constant_(server.model.lm_head.weight, float("nan"))
    server.submit(models.tokens(5), finished=True)
    with pytest.raises(NumericalError, match="request-0"):
        server.step()
    assert server.pool.free == server.pool.total


def test_an_abort_frees_the_memory():
    server = engine()
    request = server.submit(models.tokens(9))
    server.step()
    server.abort(request)
    assert server.pool.free == server.pool.total
    assert server.requests == []


def test_costs_are_measured_at_powers_of_two_of_a_block():
    ticks = count()
    asked = []

    def clock():
        asked.append(next(ticks))
        return asked[-1] * 1.0

    found = CostModel.measure(models.model("llama"), BLOCK, longest=20, runs=3, dropped=1, clock=clock)
    assert len(asked) == 3 * 3 * 3  # three sizes (4, 8, 16), three runs, three looks at the clock
    assert found.recompute(10) == pytest.approx(1)
    assert found.swap(10) == pytest.approx(1)
    assert found.transfer(10) == pytest.approx(0.5)
    with pytest.raises(InputError):
        CostModel.measure(models.model("llama"), BLOCK, longest=2)


def test_measured_costs_grow_with_the_tokens():
    found = CostModel.measure(models.model("llama"), 16, longest=64, runs=3, dropped=1)
    assert found.recompute(64) > 0
    assert found.swap(64) > 0
