"""The operator: prompts gathered, run in ticks, answered in order; cut anywhere and gone on with."""

import numpy as np
import pytest
import torch

from unending.core import TICK, Control, Query, Session, Text, fork, leaves, nbytes, replay
from unending.core.errors import CapacityError, InputError
from unending.core.state import canonical
from unending.parts.backbones.tiny import tiny_llama
from unending.parts.prefix import PagedKVPool
from unending.systems.language.batch_llm import BatchLLM, PrefixForest

SYSTEM = "Answer: "
QUESTIONS = ["why?", "why not?", "who?", "why?", "how so?"]
PROMPTS = [Query(SYSTEM + each) for each in QUESTIONS]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def operator(**settings):
    module, tokenizer = tiny_llama()
    return BatchLLM.from_model(
        module,
        tokenizer,
        **{
            "prompts": 8,
            "prompt_tokens": 24,
            "max_new_tokens": 6,
            "kv_tokens": 96,
            "block_size": 4,
            "max_batched_tokens": 16,
            "shared_rows": 2,
            **settings,
        },
    )


def drained(session):
    events = []
    while more := session.poll():
        events += more
    return events


def final(events):
    return [(event.t_end, event.data.text) for event in events if event.final]


def test_completions_are_those_of_every_prompt_alone_and_say_which_it_was():
    op = operator()
    events = replay(op, [*PROMPTS, Control("run")])
    assert final(events) == [(event.t_end, event.data.text) for event in op.offline(PROMPTS)]
    assert [time for time, _ in final(events)] == [1, 2, 3, 4, 5]
    assert all(type(event.data) is Text for event in events)


def test_a_control_a_full_batch_and_the_end_of_the_stream_each_start_it():
    op = operator()
    expected = final(replay(op, PROMPTS))
    assert final(replay(op, [*PROMPTS, Control("run")])) == expected
    assert final(replay(operator(prompts=5), PROMPTS)) == expected
    assert final(replay(operator(prompts=2), PROMPTS)) == expected
    session = Session(op)
    for prompt in PROMPTS:
        session.push(prompt)
        assert not session.pending
    session.push(Control("run"))
    assert session.pending


def test_what_is_ready_early_comes_at_once_and_is_final_in_its_turn():
    # The long prompt comes last by its ratio, and fits in memory only when the others have gone.
    op = operator(kv_tokens=32)
    events = replay(op, [Query("a prompt of length 22"), *PROMPTS[:3], Control("run")])
    early = [(event.t_end, event.data.text) for event in events if not event.final]
    assert early
    assert set(early) <= set(final(events))
    assert [time for time, _ in final(events)] == [1, 2, 3, 4]


def test_times_of_the_stream_are_kept():
    stream = [Query("one", t=0.5), Query("two"), Query("three", t=7.25)]
    assert [time for time, _ in final(replay(operator(), stream))] == [0.5, 1.5, 7.25]


def test_what_prompts_share_is_computed_once():
    session = Session(operator())
    for prompt in PROMPTS:
        session.push(prompt)
    session.push(Control("run"))
    drained(session)
    ids = [list(prompt.text.encode()) for prompt in PROMPTS]
    assert session.state.logical == sum(map(len, ids))
    assert (
        session.state.prefilled == PrefixForest.from_prompts(ids).enlarge().physical < session.state.logical
    )


def ticked(op, ticks):
    state = op.init()
    for prompt in PROMPTS:
        state, _ = op.step(state, prompt)
    state, _ = op.step(state, Control("run"))
    for _ in range(ticks):
        state, _ = op.step(state, TICK)
    return state


def same(one, two):
    return all(
        np.array_equal(np.asarray(left), np.asarray(right))
        for left, right in zip(leaves(canonical(one)).values(), leaves(canonical(two)).values(), strict=True)
    )


@pytest.mark.parametrize("ticks", range(0, 8, 2))
def test_cut_between_any_two_ticks_it_goes_on_bit_for_bit(ticks):
    op = operator()
    session = Session(op)
    for prompt in PROMPTS:
        session.push(prompt)
    session.push(Control("run"))
    whole = Session.resume(op, session.snapshot())
    expected = final(drained(whole))
    state = ticked(op, ticks)
    assert op.pending(state)
    kept = fork(state)
    again, one = op.step(fork(state), TICK)
    op.advance(state, TICK)
    assert same(state, kept)
    new, two = op.step(state, TICK)
    assert same(new, again)
    assert final(one) == final(two)
    got = []
    for _ in range(ticks):
        got += session.poll() if session.pending else []
    resumed = Session.resume(op, session.snapshot())
    assert final(got + drained(resumed)) == expected
    assert same(resumed.state, whole.state)


def test_blocks_in_use_add_up_between_any_two_ticks_and_all_are_free_at_the_end():
    op = operator()
    state, ticks = ticked(op, 0), 0
    while op.pending(state):
        state, ticks = op.step(state, TICK)[0], ticks + 1
        pool = PagedKVPool(state.blocks)
        pool.check()
    assert ticks > 5
    assert pool.held == 0
    assert not state.batch.prompts.any()
    assert same(state.batch, op.init().batch)


def test_an_interrupt_answers_with_what_there_is_and_the_stream_goes_on():
    op = operator()
    session = Session(op)
    for prompt in PROMPTS:
        session.push(prompt)
    session.push(Control("run"))
    whole = dict(final(drained(session.fork())))
    before = session.poll()
    session.interrupt()
    session.push(PROMPTS[0])
    assert not session.pending
    after = drained(session)
    found = final(before + after)
    assert [time for time, _ in found] == [1, 2, 3, 4, 5]
    assert all(whole[time].startswith(text.rstrip("\N{REPLACEMENT CHARACTER}")) for time, text in found)
    assert PagedKVPool(session.state.blocks).held == 0
    session.push(Control("run"))
    assert final(drained(session)) == [(6, whole[1])]


def test_a_prompt_in_the_middle_of_a_run_is_refused_by_the_bare_operator():
    op = operator()
    with pytest.raises(InputError, match="tick until idle"):
        op.step(ticked(op, 1), PROMPTS[0])
    state, events = op.step(ticked(op, 1), Control("run"))
    assert op.pending(state)
    assert not events
    state, _ = op.step(op.init(), Control("run"))
    assert not op.pending(state)


def test_prompts_that_do_not_fit_are_refused_and_nothing_is_lost():
    session = Session(operator())
    session.push(PROMPTS[0])
    before = session.snapshot()
    with pytest.raises(CapacityError, match="has 30 tokens; 1 to prompt_tokens=24 fit"):
        session.push(Query("x" * 30))
    with pytest.raises(InputError, match="knows messages, run and interrupt"):
        session.push(Control("stop"))
    with pytest.raises(InputError, match="no chat template"):
        session.push(Control("messages", [{"role": "user", "content": "why?"}]))
    assert session.snapshot() == before


def test_a_conversation_is_put_in_the_template_of_the_model():
    module, tokenizer = tiny_llama()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
        "{{ m.role[0] }}:{{ m.content }};{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    op = BatchLLM.from_model(module, tokenizer, prompts=2, prompt_tokens=24, max_new_tokens=4, kv_tokens=64)
    talk = [{"role": "system", "content": "brief"}, {"role": "user", "content": "why?"}]
    plain = BatchLLM.from_model(
        module, tokenizer, prompts=2, prompt_tokens=24, max_new_tokens=4, kv_tokens=64, chat=False
    )
    assert final(replay(op, [Control("messages", talk)])) == final(replay(plain, [Query("s:brief;u:why?;>")]))
    assert final(replay(op, [Query("why?")])) == final(replay(plain, [Query("u:why?;>")]))
    for bad in ([], "text", [{"role": "user"}], [3], [{"role": "user", "content": 3}]):
        with pytest.raises(InputError, match="messages are a list"):
            op.step(op.init(), Control("messages", bad))
    with pytest.raises(InputError, match="refuses these messages: no tools"):
        op.step(op.init(), Control("messages", [{"role": "tool", "content": "x"}]))


def test_the_bound_is_exact_and_does_not_come_from_the_state():
    op = operator()
    session = Session(op)
    for _ in range(3):
        for prompt in PROMPTS:
            session.push(prompt)
            assert session.nbytes == op.bound().resident
        session.push(Control("run"))
        while session.poll():
            assert session.nbytes == op.bound().resident
    larger = operator(kv_tokens=100).bound().resident - op.bound().resident
    # One block of 4 tokens more: 2 tensors x 2 layers x 2 heads x 8 channels x 4 bytes each, and 2 x 4 bytes.
    assert larger == 4 * (2 * 2 * 2 * 8 * 4) + 8
    assert nbytes(op.init()) == op.bound().resident


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(CapacityError, match="kv_tokens=24 makes 6"):
        operator(kv_tokens=24)
    with pytest.raises(InputError, match="1 or more"):
        operator(prompts=0)
    with pytest.raises(InputError, match="order"):
        operator(order="lifo")
    with pytest.raises(CapacityError, match="attends over at most 64"):
        operator(prompt_tokens=60, kv_tokens=128).init()
    module, _ = tiny_llama()
    op = BatchLLM.from_model(module, None, prompt_tokens=8, max_new_tokens=2, kv_tokens=64)
    with pytest.raises(InputError, match="no tokenizer"):
        op.step(op.init(), Query("why?"))


def test_weights_load_by_path_and_answer_alike(tmp_path):
    for part in tiny_llama():
        part.save_pretrained(tmp_path / "tiny")
    settings = {"prompts": 8, "prompt_tokens": 24, "max_new_tokens": 6, "kv_tokens": 96, "block_size": 4}
    loaded = BatchLLM(model=str(tmp_path / "tiny"), **settings)
    assert final(replay(loaded, PROMPTS)) == final(replay(operator(), PROMPTS))
