"""Sessions of different ages that answer together, through the operator that uses it."""

import re

import numpy as np
import pytest
import torch
from tests.parts import models

from unending.core import TICK, Control, Query, Rows, Text, Tokens, fork
from unending.core.errors import InputError, NumericalError
from unending.laws.equality import same_events, state_difference
from unending.parts.backbones.tiny import tiny_llama
from unending.parts.memory.trained_sinks import SOFTMAX1
from unending.systems.language import StreamingLLM

TEXT = "Streams that never end:\n  language, vidéo, 音声 — all behind one contract, with bounded state. " * 3
SETTINGS = {"sink_size": 2, "window_size": 40, "chunk": 4, "max_new_tokens": 8, "temperature": 1.0}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def operator():
    module, tokenizer = tiny_llama()
    return StreamingLLM.from_model(module, tokenizer, **SETTINGS)


def asked(operator, age, seed=0):
    """A state with an answer in the making, after `age` characters."""
    state = operator.init(seed)
    for chunk in (Text(TEXT[:age]), Query("why?")):
        state, _ = operator.step(state, chunk)
    return state


def many(operator, states, chunks, width=0):
    """`step_many` on copies."""
    return operator.step_many([fork(each) for each in states], chunks, width)


def assert_same(ours, theirs, tolerance=0.0):
    assert not isinstance(ours, Exception), ours
    assert not (how := state_difference(ours[0], theirs[0], tolerance)), how
    assert not (how := same_events(ours[1], theirs[1], tolerance)), how


@pytest.mark.parametrize("frame", ["cache", "absolute"])
def test_whole_answers_together_are_those_alone(frame):
    module, tokenizer = tiny_llama()
    op = StreamingLLM.from_model(module, tokenizer, frame=frame, **SETTINGS)
    alone = [asked(op, age, age) for age in (0, 9, 60, 200)]
    together = [fork(each) for each in alone]
    texts = [["", ""] for _ in alone]
    for _ in range(8):
        results = op.step_many(together, [TICK] * 4)
        together = [state for state, _ in results]
        for index, (_, events) in enumerate(results):
            alone[index], expected = op.step(alone[index], TICK)
            texts[index][0] += "".join(event.data.text for event in events)
            texts[index][1] += "".join(event.data.text for event in expected)
            assert not (how := state_difference(together[index], alone[index], 1e-4)), how
    assert all(ours == theirs for ours, theirs in texts)
    assert any(ours for ours, _ in texts)


def test_width_one_is_a_step(operator):
    state = asked(operator, 70)
    assert_same(many(operator, [state], [TICK], 1)[0], operator.step(fork(state), TICK), 1e-4)


@pytest.mark.parametrize("width", [1, 2, 3, 5, 8])
def test_bits_depend_on_the_width_alone(operator, width):
    rng = np.random.default_rng(width)
    pool = [(asked(operator, int(age), 7), TICK) for age in rng.integers(0, 250, 6)]
    quiet, ended = operator.init(3), operator.step(asked(operator, 5), Control("interrupt"))[0]
    pool += [
        (quiet, Text("a piece of text")),
        (ended, Query("and now?")),
        (ended, TICK),
        (pool[0][0], Text("too early")),
        (pool[1][0], object()),
        (quiet, Tokens(np.arange(9))),
    ]
    subject = asked(operator, 77, 5)
    expected = many(operator, [subject], [TICK], width)[0]
    for _ in range(40):
        others = [pool[int(index)] for index in rng.integers(0, len(pool), int(rng.integers(0, width + 3)))]
        place = int(rng.integers(0, len(others) + 1))
        entries = [*others[:place], (subject, TICK), *others[place:]]
        found = many(operator, *zip(*entries, strict=True), width)
        assert_same(found[place], expected)
        for (state, chunk), result in zip(entries, found, strict=True):
            if isinstance(result, Exception):
                with pytest.raises(InputError, match=re.escape(str(result))):
                    operator.step(fork(state), chunk)
            elif chunk is not TICK:
                assert_same(result, operator.step(fork(state), chunk))


def test_more_answers_than_the_width_go_in_turns(operator):
    states = [asked(operator, age) for age in (3, 50, 90, 130, 170)]
    one_by_one = [many(operator, [each], [TICK], 2)[0] for each in states]
    for found, expected in zip(many(operator, states, [TICK] * 5, 2), one_by_one, strict=True):
        assert_same(found, expected)


def test_a_step_that_is_dropped_never_was(operator):
    states = [asked(operator, age) for age in (20, 150, 222)]
    kept = [fork(each) for each in states]
    for _ in range(2):
        results = operator._step_many(states, [TICK] * 3, 4)
        assert not any(map(state_difference, states, kept))
    again = operator.step_many(states, [TICK] * 3, 4)
    for found, expected in zip(again, results, strict=True):
        assert_same(found, expected)


def test_one_poisoned_memory_is_one_error(operator):
    states = [asked(operator, age) for age in (20, 150, 222)]
    expected = many(operator, states, [TICK] * 3)
    for values in states[1].memory.values:
        values.fill_(torch.nan)
    kept = fork(states[1])
    found = operator.step_many(states, [TICK] * 3)
    assert isinstance(found[1], NumericalError)
    assert not state_difference(states[1], kept)
    assert_same(found[0], expected[0])
    assert_same(found[2], expected[2])


def test_a_pass_that_fails_as_a_whole_is_an_error_of_each(operator, monkeypatch):
    states = [asked(operator, age) for age in (20, 150)]
    operator.step_many([fork(each) for each in states], [TICK] * 2)

    def fails(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("unending.parts.memory.joint.routed", fails)
    found = operator.step_many([*states, operator.init()], [TICK, TICK, Tokens(np.arange(9))])
    assert [str(each) for each in found[:2]] == ["out of memory"] * 2
    assert type(found[2][1][0].data) is Rows


def test_a_model_that_cannot_goes_one_by_one():
    module, tokenizer = tiny_llama()
    module.set_attn_implementation(SOFTMAX1)
    op = StreamingLLM.from_model(module, tokenizer, **SETTINGS)
    states = [asked(op, age) for age in (20, 150)]
    for found, state in zip(many(op, states, [TICK] * 2), states, strict=True):
        assert_same(found, op.step(state, TICK))


def test_the_reference_honours_softmax1():
    module = models.model("llama")
    module.set_attn_implementation(SOFTMAX1)
    op = StreamingLLM.from_model(module, sink_size=2, window_size=10, chunk=4, max_new_tokens=2)
    stream = [Tokens(models.tokens(60))]
    state, events = op.step(op.init(), stream[0])
    events += op.finish(state)[1]
    found, expected = (
        np.concatenate([event.data.values for event in each if type(event.data) is Rows])
        for each in (events, op.offline(stream))
    )
    np.testing.assert_allclose(found, expected, atol=2e-4, rtol=2e-4)
