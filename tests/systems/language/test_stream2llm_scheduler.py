"""Schedulers: the two phases, the orders, preemption by cost, and what a toy of each does."""

import math
from dataclasses import replace

import numpy as np
import pytest

from unending.core.errors import CapacityError, InputError
from unending.parts.simulation import Curve
from unending.systems.language.stream2llm import (
    FCFS,
    LCAS,
    MCPS,
    BlockLedger,
    CostModel,
    DefaultVLLM,
    Plan,
    Request,
    Serving,
    Status,
    TwoPhase,
)

BLOCK = 4
POLICIES = [FCFS(), LCAS(), LCAS(recent_first=True), MCPS()]


def prompt(n):
    return np.arange(n)


def recorded(rng, n=12):
    """Requests in states such as a run leaves them in."""
    requests = []
    for index in range(n):
        request = Request(f"r{index}", float(rng.permutation(100)[0]) + index / 100)
        request.append(prompt(int(rng.integers(1, 30))), bool(rng.random() < 0.4), float(rng.random()))
        request.computed = int(rng.integers(0, len(request) + (not request.finished)))
        request.status = Status.RUNNING if request.computed else Status.WAITING
        requests.append(request)
    return requests


def upstream_order(policy, requests):
    """The published orders, as lists that are sorted and joined."""
    if isinstance(policy, MCPS):
        busy = [each for each in requests if len(each) > each.computed]
        idle = [each for each in requests if len(each) == each.computed]
        return sorted(busy, key=lambda each: (-each.computed, each.arrival_time)), idle
    if isinstance(policy, FCFS):
        time = {each.name: each.arrival_time for each in requests}
    else:
        sign = -1 if policy.recent_first else 1
        time = {each.name: sign * each.last_chunk_time for each in requests}
    complete = sorted((each for each in requests if each.finished), key=lambda each: time[each.name])
    partial = sorted(
        (each for each in requests if not each.finished),
        key=lambda each: time[each.name] if len(each) > each.computed else math.inf,
    )
    idle = [each for each in partial if len(each) == each.computed]
    return complete + partial[: len(partial) - len(idle)], idle


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_orders_are_the_published_ones(policy):
    for seed in range(20):
        requests = recorded(np.random.default_rng(seed))
        busy, idle = upstream_order(policy, requests)
        ours = sorted(requests, key=policy.key)
        assert ours[: len(busy)] == busy
        assert set(ours[len(busy) :]) == set(idle)


def test_recent_first_turns_last_chunk_arrival_around():
    early, late = Request("early", 0.0), Request("late", 0.0)
    early.append(prompt(3), True, 1.0)
    late.append(prompt(3), True, 2.0)
    assert sorted([late, early], key=LCAS().key) == [early, late]
    assert sorted([early, late], key=LCAS(recent_first=True).key) == [late, early]


def running(server, sizes, finished=False):
    """Requests of these sizes, computed; they have caught up and wait for more."""
    made = [server.submit(prompt(n), finished, float(index)) for index, n in enumerate(sizes)]
    while (plan := server.plan(0.0)).work:
        server.complete(plan, 0.0)
    return made


def names(plan: Plan):
    return [each.name for each, _, _ in plan.preempted]


def scheduler(policy=None, **settings):
    return TwoPhase(policy or FCFS(), **{"preallocate": 0, **settings})


def test_the_lowest_rank_is_preempted_first_and_no_more_than_needed():
    server = Serving(scheduler(), BlockLedger(6, 0, BLOCK))
    running(server, [8, 8, 8])
    server.submit(prompt(8), True, 9.0)
    plan = server.plan(9.0)
    assert names(plan) == ["request-2"]
    assert [work.request.name for work in plan.work] == ["request-3"]


def test_most_computed_evicts_who_has_least():
    server = Serving(scheduler(MCPS()), BlockLedger(6, 0, BLOCK))
    running(server, [8, 4, 12])
    server.submit(prompt(4), True, 9.0)
    assert names(server.plan(9.0)) == ["request-1"]


def test_who_does_not_fit_is_skipped_and_smaller_ones_behind_it_run():
    server = Serving(scheduler(), BlockLedger(4, 0, BLOCK))
    for index, n in enumerate((12, 8, 4)):
        server.submit(prompt(n), True, float(index))
    assert [work.request.name for work in server.plan(3.0).work] == ["request-0", "request-2"]


def test_the_baseline_stops_at_the_first_that_does_not_fit():
    server = Serving(DefaultVLLM(preallocate=0), BlockLedger(4, 0, BLOCK))
    for index, n in enumerate((12, 8, 4)):
        server.submit(prompt(n), True, float(index))
    assert [work.request.name for work in server.plan(3.0).work] == ["request-0"]


def test_the_baseline_preempts_who_started_last_and_lets_nobody_in_after_it():
    server = Serving(DefaultVLLM(preallocate=0), BlockLedger(6, 0, BLOCK))
    first, second, third = running(server, [8, 8, 8])
    server.append(first, prompt(4), False, 5.0)
    server.submit(prompt(4), True, 5.0)
    plan = server.plan(6.0)
    assert names(plan) == [third.name]
    assert [work.request for work in plan.work] == [first]
    assert second.status is Status.RUNNING


def test_the_baseline_leaves_waiting_requests_outside_while_idle_ones_hold_the_memory():
    server = Serving(DefaultVLLM(preallocate=0), BlockLedger(4, 0, BLOCK))
    running(server, [8, 8])
    server.submit(prompt(4), True, 9.0)
    assert not server.plan(9.0).work
    two_phase = Serving(scheduler(), BlockLedger(4, 0, BLOCK))
    running(two_phase, [8, 8])
    two_phase.submit(prompt(4), True, 9.0)
    assert two_phase.plan(9.0).work


def test_requests_that_wait_for_input_need_not_drive_each_other_out():
    def preempted(evict_for):
        server = Serving(scheduler(evict_for=evict_for), BlockLedger(6, 0, BLOCK))
        running(server, [8, 8, 8])
        server.submit(prompt(8), False, 9.0)
        total = 0
        for step in range(10):
            plan = server.plan(10.0 + step)
            total += len(plan.preempted)
            server.complete(plan, 10.0 + step)
        server.submit(prompt(8), True, 20.0)
        plan = server.plan(20.0)
        assert [work.request.finished for work in plan.work][:1] == [True]
        return total, len(plan.preempted)

    assert preempted("all")[0] >= 10
    assert preempted("complete") == (0, 1)


class OnePhase(TwoPhase):
    """The toy: blocks are taken, and victims made, while requests are ranked."""

    def plan(self, requests, blocks, costs):
        plan, order = Plan(), sorted(requests, key=self.policy.key)
        budget = self.max_batched_tokens
        for request in order:
            tokens = min(request.remaining, budget)
            while tokens and not blocks.grow(request, request.computed + tokens, 0):
                victims = [each for each in order if each is not request and len(each.blocks)]
                if not victims:
                    tokens = 0
                    break
                self._preempt(victims[-1], tokens, blocks, costs, plan)
            if tokens:
                self._take(request, tokens, plan)
                budget -= tokens
        return plan


def planned_and_preempted(made):
    """Over random states: requests that one plan both runs and preempts."""
    both = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        server = Serving(made, BlockLedger(12, 12, BLOCK))
        for step in range(25):
            for request in list(server.live.values()):
                if not request.finished and rng.random() < 0.5:
                    server.append(request, prompt(int(rng.integers(1, 9))), bool(rng.random() < 0.2), step)
            if len(server.live) < 6:
                server.submit(prompt(int(rng.integers(1, 20))), bool(rng.random() < 0.3), step)
            for request in list(server.live.values()):
                if len(request) > 36:
                    server.abort(request)
            plan = server.plan(step)
            chosen = [work.request.name for work in plan.work]
            both += len(set(chosen) & set(names(plan))) + (len(set(chosen)) < len(chosen))
            server.complete(plan, step)
            server.check()
    return both


@pytest.mark.parametrize(
    "made",
    [
        *(scheduler(policy, max_batched_tokens=20) for policy in POLICIES),
        scheduler(max_batched_tokens=20, evict_for="complete"),
        DefaultVLLM(preallocate=8),
    ],
    ids=repr,
)
def test_who_is_chosen_is_never_a_victim(made):
    assert planned_and_preempted(made) == 0


def test_preempting_while_ranking_is_the_toy():
    """Negative control: in one phase, requests that were already picked lose their blocks."""
    assert planned_and_preempted(OnePhase(FCFS(), max_batched_tokens=20)) > 0


@pytest.mark.parametrize("made", [scheduler(), DefaultVLLM()], ids=["two-phase", "default"])
def test_a_request_larger_than_the_memory_is_an_error_and_no_deadlock(made):
    server = Serving(made, BlockLedger(4, 0, BLOCK))
    with pytest.raises(CapacityError, match="17 tokens; the memory holds 16"):
        server.submit(prompt(17), False, 0.0)
    request = server.submit(prompt(10), False, 0.0)
    with pytest.raises(CapacityError, match="17 tokens"):
        server.append(request, prompt(7), False, 0.0)
    with pytest.raises(CapacityError, match="17 tokens"):
        server.update(request, prompt(17), False, 0.0)
    assert len(request) == 10
    request.append(prompt(7), True, 0.0)  # behind the server's back
    with pytest.raises(CapacityError, match="take 5 blocks of 4; there are 4"):
        server.plan(1.0)
    server.check()


def test_a_request_of_exactly_the_memory_runs_in_spite_of_blocks_ahead():
    server = Serving(TwoPhase(FCFS(), preallocate=64), BlockLedger(4, 0, BLOCK))
    request = server.submit(prompt(16), True, 0.0)
    assert [work.request for work in server.complete(server.plan(0.0), 1.0)] == [request]


def test_blocks_are_taken_ahead_when_a_request_grows():
    server = Serving(TwoPhase(FCFS(), preallocate=8), BlockLedger(8, 0, BLOCK))
    request = server.submit(prompt(5), False, 0.0)
    server.complete(server.plan(0.0), 0.0)
    assert len(request.blocks) == 2 + 2
    server.append(request, prompt(8), False, 1.0)
    server.complete(server.plan(1.0), 1.0)
    assert len(request.blocks) == 4


def test_beyond_max_num_seqs_who_is_chosen_waits():
    server = Serving(scheduler(max_num_seqs=2), BlockLedger(16, 0, BLOCK))
    requests = [server.submit(prompt(4), True, float(index)) for index in range(3)]
    plan = server.plan(3.0)
    assert [work.request for work in plan.work] == requests[:2]
    assert plan.deferred == requests[2:]
    server.complete(plan, 4.0)
    assert [work.request for work in server.plan(4.0).work] == requests[2:]


def test_a_pass_has_no_more_tokens_than_allowed():
    server = Serving(scheduler(max_batched_tokens=10), BlockLedger(16, 0, BLOCK))
    for n in (8, 8, 8):
        server.submit(prompt(n), True, 0.0)
    counts = []
    while (plan := server.plan(0.0)).work:
        counts.append([work.tokens for work in plan.work])
        server.complete(plan, 0.0)
    assert counts == [[8, 2], [6, 4], [4]]


CROSSING = CostModel(Curve(0.0, 1.0), Curve(8.0))
"""Recomputing costs a second a token, a swap eight seconds."""


@pytest.mark.parametrize(
    ("settings", "victim", "incoming", "kind"),
    [
        ({}, 7, 16, "recompute"),
        ({}, 8, 16, "swap"),
        ({}, 9, 4, "swap"),
        ({"cost_argument": "incoming_tokens"}, 7, 16, "swap"),
        ({"cost_argument": "incoming_tokens"}, 9, 4, "recompute"),
        ({"preemption": "recompute"}, 9, 16, "recompute"),
        ({"preemption": "swap"}, 7, 16, "swap"),
    ],
)
def test_a_victim_goes_the_way_that_costs_less(settings, victim, incoming, kind):
    blocks = -(-max(victim, incoming) // BLOCK)  # either fits alone
    server = Serving(scheduler(**settings), BlockLedger(blocks, 8, BLOCK), CROSSING)
    (request,) = running(server, [victim])
    server.submit(prompt(incoming), True, 2.0)
    assert server.plan(2.0).preempted == [(request, kind, victim)]
    assert request.status is (Status.PREEMPTED_SWAP if kind == "swap" else Status.PREEMPTED_RECOMPUTE)


def test_without_costs_victims_are_recomputed():
    server = Serving(scheduler(), BlockLedger(4, 8, BLOCK))
    running(server, [12])
    server.submit(prompt(16), True, 1.0)
    assert server.plan(1.0).preempted[0][1] == "recompute"


def test_a_full_host_means_recomputation():
    server = Serving(scheduler(preemption="swap"), BlockLedger(4, 2, BLOCK))
    running(server, [12])
    server.submit(prompt(16), True, 1.0)
    assert server.plan(1.0).preempted[0][1] == "recompute"


def test_host_blocks_that_a_step_frees_are_used_from_the_next_on():
    server = Serving(scheduler(MCPS(), preemption="swap"), BlockLedger(4, 4, BLOCK))
    first, second = running(server, [8, 8])
    third = server.submit(prompt(16), False, 2.0)
    server.complete(server.plan(2.0), 2.0)
    assert {first.status, second.status} == {Status.PREEMPTED_SWAP}
    assert third.computed == 16
    server.append(first, prompt(4), True, 3.0)
    plan = server.plan(3.0)
    # The host is full, and what the first leaves there is not free before the step is over.
    assert plan.preempted == [(third, "recompute", 16)]
    assert plan.swapped_in == [(first, 8)]
    server.complete(plan, 4.0)
    server.check()


def test_only_the_computed_tokens_are_swapped():
    server = Serving(TwoPhase(FCFS(), preallocate=8, preemption="swap"), BlockLedger(5, 8, BLOCK))
    (request,) = running(server, [9])
    assert len(request.blocks) == 5
    server.submit(prompt(12), True, 1.0)
    server.plan(1.0)
    assert len(request.host_blocks) == 3


@pytest.mark.parametrize(
    "settings",
    [
        {"evict_for": "none"},
        {"preemption": "never"},
        {"cost_argument": "mood"},
        {"max_batched_tokens": 0},
        {"max_num_seqs": 0},
    ],
)
def test_senseless_settings_are_refused(settings):
    with pytest.raises(InputError):
        TwoPhase(**settings)


class Hasty(Serving):
    """The toy: a token counts if the input has ended by the time that the pass is over."""

    def complete(self, plan, now):
        plan.work = [replace(work, finished=work.request.finished) for work in plan.work]
        return super().complete(plan, now)


class Careless(Serving):
    """The toy: whatever has caught up gets its token."""

    def complete(self, plan, now):
        plan.work = [replace(work, finished=True) for work in plan.work]
        return super().complete(plan, now)


def test_no_token_before_the_end_of_the_input():
    def first_step(kind):
        server = kind(scheduler(), BlockLedger(8, 0, BLOCK))
        server.submit(prompt(5), False, 0.0)
        return server.complete(server.plan(0.0), 1.0)

    assert first_step(Serving) == []
    assert first_step(Careless)  # negative control


def test_an_end_that_comes_while_the_pass_runs_does_not_count():
    def close_in_flight(kind):
        server = kind(scheduler(), BlockLedger(8, 0, BLOCK))
        request = server.submit(prompt(5), False, 0.0)
        plan = server.plan(0.0)
        server.append(request, [], True, 0.5)
        return server, server.complete(plan, 1.0)

    server, due = close_in_flight(Serving)
    assert due == []
    (work,) = server.plan(1.0).work
    assert (work.start, work.tokens, work.finished) == (4, 1, True)
    assert close_in_flight(Hasty)[1]  # negative control


def test_a_plan_that_failed_leaves_nothing_computed():
    server = Serving(scheduler(), BlockLedger(8, 0, BLOCK))
    request = server.submit(prompt(5), True, 0.0)
    server.undo(server.plan(0.0), 1.0)
    server.check()
    assert (request.computed, request.in_flight) == (0, 0)
    assert [work.request for work in server.complete(server.plan(1.0), 2.0)] == [request]
