"""Traces and the simulator: seeded generators, files, and the paper's findings in their direction."""

import json
from itertools import pairwise

import numpy as np
import pytest

from unending.core.errors import CapacityError, InputError, StorageError
from unending.parts.simulation import Curve
from unending.systems.language.stream2llm import (
    FCFS,
    LCAS,
    MCPS,
    CostModel,
    DefaultVLLM,
    StreamingEngine,
    TraceEvent,
    TwoPhase,
    anns_trace,
    crawler_trace,
    delayed,
    read_trace,
    replay,
    simulate,
    waiting,
    write_trace,
)

COSTS = CostModel(Curve(0.008, 4e-5, 0.65e-9), Curve(0.02, 1.2e-5))
"""A large model on a data-centre GPU: about 25,000 tokens a second; swapping pays from 430 tokens on."""


def by_request(trace):
    found = {}
    for event in trace:
        found.setdefault(event.req, []).append(event)
    return found


def same(one, two):
    return len(one) == len(two) and all(
        (a.t, a.req, a.op) == (b.t, b.req, b.op) and np.array_equal(a.tokens, b.tokens)
        for a, b in zip(one, two, strict=True)
    )


@pytest.mark.parametrize("make", [crawler_trace, anns_trace])
def test_traces_are_seeded_and_in_order(make):
    trace = make(20, 1.0, seed=3)
    assert same(trace, make(20, 1.0, seed=3))
    assert not same(trace, make(20, 1.0, seed=4))
    assert all(one.t <= two.t for one, two in pairwise(trace))
    for events in by_request(trace).values():
        operations = [each.op for each in events]
        assert (operations[0], operations[-1], operations.count("close")) == ("open", "close", 1)


def test_a_crawl_has_pages_as_the_paper_has_them():
    requests = by_request(crawler_trace(200, 1.0, seed=0)).values()
    assert {len(each) for each in requests} == {16}
    assert np.mean([each[-1].t - each[0].t for each in requests]) == pytest.approx(14 * 0.7, rel=0.1)
    sizes = [event.tokens for each in requests for event in each if event.op == "append"]
    assert (min(sizes) >= 500, max(sizes) <= 1500) == (True, True)


def test_a_search_becomes_stable():
    early, late = [], []
    for events in by_request(anns_trace(60, 1.0, seed=0)).values():
        prompts = [each.tokens for each in events if each.op == "update"]
        changes = [np.mean(one != two) for one, two in pairwise(prompts)]
        early.append(changes[0])
        late.append(changes[-1])
        assert all(len(each) == 64 + 10 * 200 for each in prompts)
        assert events[-1].t - events[0].t <= 4.5
    assert np.mean(late) < np.mean(early) / 2


def test_a_delay_stretches_requests_and_not_their_arrival():
    trace = crawler_trace(5, 1.0, seed=0)
    slow = delayed(trace, 10)
    for name, events in by_request(slow).items():
        before = by_request(trace)[name]
        assert events[0].t == before[0].t
        assert events[-1].t - events[0].t == pytest.approx(10 * (before[-1].t - before[0].t))
    with pytest.raises(InputError):
        delayed(trace, -1)


@pytest.mark.parametrize("make", [crawler_trace, anns_trace])
def test_waiting_submits_the_final_prompt_at_the_close(make):
    trace = make(5, 1.0, seed=0)
    for name, events in by_request(waiting(trace)).items():
        assert [each.op for each in events] == ["open", "close"]
        prompt = np.zeros(0, dtype=np.int64)
        for event in by_request(trace)[name]:
            before = prompt[:0] if event.op == "update" else prompt
            prompt = np.concatenate([before, event.ids(len(before))])
        np.testing.assert_array_equal(events[1].tokens, prompt)


def test_a_trace_comes_back_from_its_file(tmp_path):
    trace = crawler_trace(2, 1.0, seed=0) + anns_trace(2, 1.0, topk=2, document=5, seed=0)
    trace.sort(key=lambda event: event.t)
    write_trace(tmp_path / "trace.jsonl", trace)
    assert same(read_trace(tmp_path / "trace.jsonl"), trace)
    line = json.loads((tmp_path / "trace.jsonl").read_text().splitlines()[0])
    assert set(line) == {"t", "req", "op", "tokens"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 2"),
        ('{"t": 1, "op": "close"}', "'req' is missing"),
        ('{"t": 1, "req": "a", "op": "stop"}', "op is one of open, append, update, close"),
        ('{"t": 1, "req": "a", "op": "open"}', "open of request a after open"),
        ('{"t": 1, "req": "b", "op": "append"}', "append of request b after nothing"),
        ('{"t": -1, "req": "a", "op": "close"}', "in order of time"),
        ('{"t": NaN, "req": "a", "op": "close"}', "in order of time"),
        ('{"t": 1, "req": "a", "op": "update", "tokens": 5}', "but for an update"),
        ('{"t": 1, "req": "a", "op": "append", "tokens": [-5]}', "ids of 0 or more"),
        ('{"t": 1, "req": "a", "op": "append", "tokens": "x"}', "ids of 0 or more"),
        ("[1]", "line 2"),
    ],
)
def test_a_line_that_is_no_event_is_named(tmp_path, line, reason):
    path = tmp_path / "trace.jsonl"
    path.write_text('{"t": 0, "req": "a", "op": "open"}\n' + line + "\n")
    with pytest.raises(InputError, match="line 2") as caught:
        read_trace(path)
    assert reason in str(caught.value)


def test_a_trace_that_is_not_there(tmp_path):
    with pytest.raises(StorageError, match="cannot read"):
        read_trace(tmp_path / "none")


def test_one_request_by_hand():
    """Two chunks of 100 tokens at 1 s and 2 s, closed at 2 s; a pass costs 0.1 s and 1 ms a token."""
    costs = CostModel(Curve(0.1, 0.001), Curve(1.0))
    trace = [
        TraceEvent(0.0, "a", "open"),
        TraceEvent(1.0, "a", "append", 100),
        TraceEvent(2.0, "a", "append", 100),
        TraceEvent(2.0, "a", "close", 50),
    ]
    found = simulate(trace, TwoPhase(), costs, kv_blocks=100)
    (request,) = found.requests
    assert request.ttft == pytest.approx(2 + 0.1 + 0.15)
    assert request.after_close == pytest.approx(0.25)
    assert (request.prompt, request.computed, request.queue_time) == (250, 250, 0)
    assert (found.steps, found.unfinished, found.completion_time) == (2, 0, pytest.approx(2.25))
    late = simulate(trace, TwoPhase(), costs, kv_blocks=100, mode="wait")
    assert late.requests[0].ttft == pytest.approx(2 + 0.1 + 0.25)
    # The clock starts when the request opens; from its last chunk on it would look 11 times as fast.
    assert request.ttft > request.after_close


def test_a_close_while_the_pass_runs_takes_one_more_pass():
    costs = CostModel(Curve(0.1, 0.001), Curve(1.0))
    trace = [TraceEvent(0.0, "a", "open", 100), TraceEvent(0.15, "a", "close")]
    (request,) = simulate(trace, TwoPhase(), costs, kv_blocks=100).requests
    assert request.ttft == pytest.approx(0.2 + 0.101)
    assert (request.computed, request.recomputed) == (101, 1)


def test_accounts_add_up_under_pressure():
    found = simulate(anns_trace(60, 1.0, seed=1), TwoPhase(), COSTS, kv_blocks=600)
    assert found.unfinished == 0
    assert found.total("preempted_swap") + found.total("preempted_recompute") > 0
    assert found.total("invalidated") > 0
    for each in found.requests:
        assert each.computed == each.prompt + each.invalidated + each.recomputed


def test_requests_that_never_close_are_counted():
    trace = [TraceEvent(0.0, "a", "open", 10)]
    assert simulate(trace, TwoPhase(), COSTS, kv_blocks=4).unfinished == 1


def test_what_cannot_be_replayed_is_refused():
    with pytest.raises(InputError, match="stream or wait"):
        simulate([], TwoPhase(), COSTS, kv_blocks=4, mode="fast")
    with pytest.raises(CapacityError, match="the memory holds 64"):
        simulate([TraceEvent(0.0, "a", "open", 65)], TwoPhase(), COSTS, kv_blocks=4)


def test_streaming_hides_the_prefill_and_costs_no_throughput():
    """At low load what is left after the last chunk is that chunk's prefill, and not all of it."""
    trace = crawler_trace(60, 0.25, seed=5)
    streamed, waited = (
        simulate(trace, TwoPhase(), COSTS, kv_blocks=20_000, mode=mode) for mode in ("stream", "wait")
    )
    assert waited.after_close["p50"] > 5 * streamed.after_close["p50"]
    assert waited.ttft["p50"] > streamed.ttft["p50"]
    assert streamed.completion_time == pytest.approx(waited.completion_time, rel=0.05)


def pressed(scheduler, mode="stream", seed=5):
    """Memory for about eight requests, and slow retrieval (the paper's stress: ten times)."""
    trace = crawler_trace(60, 0.5, seed=seed)
    return simulate(trace, scheduler, COSTS, kv_blocks=7000, mode=mode, delay_multiplier=10)


def test_under_pressure_streaming_without_its_scheduler_is_worse_than_none():
    naive, waited = pressed(DefaultVLLM()), pressed(DefaultVLLM(), "wait")
    assert naive.after_close["p95"] > 5 * waited.after_close["p95"]
    for policy in (FCFS(), LCAS(), MCPS()):
        ours = pressed(TwoPhase(policy))
        assert ours.after_close["p95"] < naive.after_close["p95"] / 5
        assert ours.completion_time == pytest.approx(waited.completion_time, rel=0.05)


CROSSING = CostModel(Curve(0.008, 4e-5, 0.65e-9), Curve(0.03, 3e-5))
"""The same with slower swaps: the two ways cost the same at about 1,950 tokens."""


def test_costs_choose_about_as_well_as_the_better_of_both_ways():
    """Where memory and computation are both short; where computation is idle, to recompute is free."""

    def p95(preemption):
        runs = [
            simulate(
                crawler_trace(120, 1.2, seed=seed),
                TwoPhase(FCFS(), preemption=preemption),
                CROSSING,
                kv_blocks=7000,
                delay_multiplier=5,
            )
            for seed in (100, 101, 102)
        ]
        return np.mean([each.after_close["p95"] for each in runs])

    either = p95("recompute"), p95("swap")
    assert p95("cost") < max(either)
    assert p95("cost") <= 1.1 * min(either)


def test_the_crossover_is_where_the_curves_cross():
    crossing = (-1e-5 + (1e-10 + 4 * 0.65e-9 * 0.022) ** 0.5) / (2 * 0.65e-9)
    assert crossing == pytest.approx(1950, rel=0.01)
    assert CROSSING.recompute(0.99 * crossing) < CROSSING.swap(0.99 * crossing)
    assert CROSSING.recompute(1.01 * crossing) > CROSSING.swap(1.01 * crossing)


def test_a_replay_on_a_real_model_gives_the_same_accounts():
    from unending.parts.backbones.tiny import tiny_llama

    class Clock:
        now = 0.0

        def __call__(self):
            self.now += 1e-2
            return self.now

        def sleep(self, seconds):
            self.now += seconds

    trace = anns_trace(4, 2.0, topk=3, document=9, question=4, vocabulary=250, seed=2)
    found = {}
    for mode in ("stream", "wait"):
        clock = Clock()
        server = StreamingEngine(tiny_llama()[0], 24, 4, TwoPhase(FCFS(), preallocate=0), clock=clock)
        found[mode] = replay(server, trace, mode=mode, sleep=clock.sleep)
        assert found[mode].unfinished == 0
        assert server.pool.free == server.pool.total
        for each in found[mode].requests:
            assert each.computed == each.prompt + each.invalidated + each.recomputed
            assert each.ttft > each.after_close > 0
    assert found["wait"].total("invalidated") == 0
    assert found["stream"].total("invalidated") > 0
