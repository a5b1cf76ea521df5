"""Requests: what an append and an update leave computed, the edges, and what is refused."""

import numpy as np
import pytest

from unending.core.errors import InputError
from unending.systems.language.stream2llm import FCFS, BlockLedger, Request, Serving, Status, TwoPhase
from unending.systems.language.stream2llm import request as request_module

BLOCK = 4


def serving(blocks=16, host=16, **settings):
    return Serving(TwoPhase(FCFS(), preallocate=0, **settings), BlockLedger(blocks, host, BLOCK))


def run(server, now=1.0):
    """Steps until nothing is left to compute; names of the requests that got their first token."""
    due = []
    while (plan := server.plan(now)).work:
        due += [work.request.name for work in server.complete(plan, now)]
        server.check()
    return due


def prompt(n, start=0):
    return np.arange(start, start + n)


def test_append_extends_and_computes_once():
    server = serving()
    request = server.submit(prompt(5), False, 0.0)
    assert run(server) == []
    server.append(request, prompt(6, 5), True, 2.0)
    assert request.last_chunk_time == 2
    assert run(server, 2.0) == [request.name]
    assert request.computed_total == 11


@pytest.mark.parametrize("common", [0, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 9])
def test_an_update_keeps_the_longest_common_prefix_and_its_partial_block(common):
    server = serving()
    request = server.submit(prompt(9), False, 0.0)
    run(server)
    assert len(request.blocks) == 3
    new = np.concatenate([prompt(common), prompt(5, 100)])
    assert server.update(request, new, False, 1.0) == 9 - common
    assert request.computed == common
    assert len(request.blocks) == -(-common // BLOCK)
    assert request.invalidated == 9 - common
    server.check()
    server.append(request, [], True, 1.0)
    run(server)
    assert request.computed_total == len(new) + request.invalidated


def test_an_identical_update_invalidates_nothing():
    server = serving()
    request = server.submit(prompt(9), False, 0.0)
    run(server)
    held = request.blocks.tolist()
    assert server.update(request, prompt(9), False, 1.0) == 0
    assert (request.computed, request.blocks.tolist()) == (9, held)


def test_whole_blocks_below_the_prefix_is_the_toy(monkeypatch):
    """Negative control: rounding the prefix down to blocks computes valid tokens again."""
    real = request_module.longest_common_prefix
    monkeypatch.setattr(request_module, "longest_common_prefix", lambda a, b: real(a, b) // BLOCK * BLOCK)
    with pytest.raises(AssertionError):
        test_an_update_keeps_the_longest_common_prefix_and_its_partial_block(BLOCK + 1)


@pytest.mark.parametrize("end", ["empty chunk", "update to a prefix"])
def test_a_prompt_that_ends_with_nothing_to_compute_computes_its_last_token_again(end):
    server = serving()
    request = server.submit(prompt(9), False, 0.0)
    run(server)
    if end == "empty chunk":
        server.append(request, [], True, 1.0)
    else:
        server.update(request, prompt(5), True, 1.0)
    assert request.computed == len(request) - 1
    server.check()
    assert run(server) == [request.name]
    assert request.computed_total == len(request) + request.invalidated + request.recomputed


def test_a_swapped_request_of_which_nothing_stays_valid_is_computed_anew():
    server = serving(blocks=4, preemption="swap")
    victim = server.submit(prompt(9), False, 0.0)
    run(server)
    server.submit(prompt(13), True, 1.0)
    assert run(server)
    assert victim.status is Status.PREEMPTED_SWAP
    assert len(victim.host_blocks) == 3
    server.update(victim, prompt(5, 50), False, 2.0)
    assert victim.status is Status.PREEMPTED_RECOMPUTE
    assert len(victim.host_blocks) == 0
    server.check()
    server.append(victim, [], True, 3.0)
    assert run(server) == [victim.name]
    server.blocks.commit()
    assert server.blocks.free == 4


def test_a_swapped_request_keeps_its_prefix_on_the_host():
    server = serving(blocks=4, preemption="swap")
    victim = server.submit(prompt(9), False, 0.0)
    run(server)
    server.submit(prompt(13), True, 1.0)
    run(server)
    server.update(victim, np.concatenate([prompt(5), prompt(3, 70)]), True, 2.0)
    assert (victim.status, victim.computed, len(victim.host_blocks)) == (Status.PREEMPTED_SWAP, 5, 2)
    assert run(server) == [victim.name]
    assert victim.computed_total == 8 + victim.invalidated


def test_an_empty_prompt_waits_for_its_first_tokens():
    server = serving()
    request = server.submit([], False, 0.0)
    assert not server.plan(0.0).work
    server.append(request, prompt(3), True, 1.0)
    assert run(server) == [request.name]


def test_no_prompt_ends_empty():
    server = serving()
    with pytest.raises(InputError, match="would end empty"):
        server.submit([], True, 0.0)
    assert not server.live
    request = server.submit(prompt(2), False, 0.0)
    with pytest.raises(InputError, match="would end empty"):
        server.update(request, [], True, 1.0)
    assert len(request) == 2
    assert not request.finished
    assert server.update(request, [], False, 1.0) == 0


@pytest.mark.parametrize("what", ["append", "update"])
def test_input_after_the_end_is_refused_and_changes_nothing(what):
    server = serving()
    request = server.submit(prompt(5), True, 0.0)
    with pytest.raises(InputError, match="input of request request-0 has ended"):
        getattr(server, what)(request, prompt(2), False, 1.0)
    assert len(request) == 5
    run(server)
    with pytest.raises(InputError, match="has its first token"):
        getattr(server, what)(request, prompt(2), False, 1.0)
    server.check()


def test_names_are_unique_among_live_requests():
    server = serving()
    server.submit(prompt(2), False, 0.0, "a")
    with pytest.raises(InputError, match="there is a request a already"):
        server.submit(prompt(2), False, 0.0, "a")


@pytest.mark.parametrize("bad", [[-1], [[1]], [0.5], ["a"]])
def test_what_are_no_token_ids_is_refused(bad):
    with pytest.raises(InputError, match="token ids are integers"):
        serving().submit(bad, False, 0.0)


def test_an_abort_gives_all_back_even_in_flight():
    server = serving()
    request, other = (server.submit(prompt(9), True, 0.0) for _ in range(2))
    plan = server.plan(0.0)
    server.abort(request)
    assert [work.request for work in server.complete(plan, 1.0)] == [other]
    assert request.status is Status.FINISHED
    server.check()
    assert server.blocks.free == 16


def test_an_update_in_flight_discards_what_is_being_computed_above_the_prefix():
    server = serving(max_batched_tokens=6)
    request = server.submit(prompt(12), False, 0.0)
    server.complete(server.plan(0.0), 1.0)
    plan = server.plan(1.0)
    assert server.update(request, np.concatenate([prompt(8), prompt(3, 60)]), False, 1.5) == 4
    server.complete(plan, 2.0)
    assert request.computed == 8
    server.check()
    server.append(request, [], True, 3.0)
    run(server)
    assert request.computed_total == 11 + request.invalidated


def test_queue_time_is_the_time_with_work_and_without_service():
    server = serving()
    request = server.submit(prompt(3), False, 1.0)
    plan = server.plan(3.0)
    server.complete(plan, 10.0)
    server.append(request, prompt(1, 3), True, 12.0)
    server.complete(server.plan(12.5), 13.0)
    assert request.queue_time == pytest.approx(2.5)
    assert request.first_token_time == 13


def test_a_request_on_its_own_is_a_plain_record():
    request = Request("a", 0.0)
    request.append(prompt(3), False, 1.0)
    assert (len(request), request.remaining, request.idle) == (3, 3, False)
