"""The exact equalities of streaming thinking on a real Qwen3 (queries and keys normed), each beside its toy."""

import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unending.parts.backbones.tiny import tiny_model
from unending.parts.memory import DualCache, forward
from unending.parts.transcript import (
    Transcript,
    collate,
    positions,
    reach_aligned,
    reach_all,
    streaming_mask,
    visible_counts,
)
from unending.systems.language.streaming_thinker import (
    Layout,
    Marks,
    Sample,
    StreamingThinker,
    direct,
    transcript,
)
from unending.systems.language.streaming_thinker import thinker as thinker_module
from unending.systems.language.streaming_thinker.examples import tiny_thinker

TOLERANCE = 1e-5
QUESTION = "How many?"
SENTENCES = ("Ann has 12.", "Ben has 3 more.", "It rains.", "Cat has 4.")
SAMPLE = Sample(
    QUESTION,
    SENTENCES,
    ("Ann=12", "Ben=15", "<ignore>", "Cat=4"),
    "12+15",
    "15+12",
    "\\boxed{27}",
    restated="Ann+Ben",
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model():
    return tiny_thinker()


def made(model, sample=SAMPLE, depth="D2"):
    return transcript(sample, model[1], Layout.of(*model), depth)


@torch.no_grad()
def masked(module, ids, where, mask):
    """One forward pass as in training; logits float32 [N, vocabulary]."""
    return (
        module(
            input_ids=torch.as_tensor(ids)[None],
            position_ids=torch.as_tensor(where)[None],
            attention_mask=torch.as_tensor(mask)[None, None],
            use_cache=False,
        )
        .logits[0]
        .float()
    )


def training_logits(module, script, reach, shift=True):
    """Logits of the rows of the target, [|T|, vocabulary]."""
    n = len(script.source_ids)
    counts = visible_counts(script.source_lengths, script.target_lengths, reach, shift)
    return masked(module, script.ids, positions(counts, n), streaming_mask(counts, n))[n:]


def inference_logits(module, script, reach, *, step=1):
    """The same by the dual cache: segments are read, and each target token is fed to what its successor may see."""
    cache = DualCache.of(module, 256, 256, segments=32)
    for segment in script.source:
        cache.mode = "read"
        if len(segment):
            forward(module, torch.tensor(segment)[None], cache)
        cache.end_segment()
    own = np.repeat(np.arange(len(script.target)), script.target_lengths)
    rows = []
    for index, token in enumerate(script.target_ids.tolist()):
        unit = own[min(index + step, len(own) - 1)]
        cache.mode, cache.visible = "write", cache.end_of(int(reach[unit]) - 1)
        rows.append(forward(module, torch.tensor([[token]]), cache)[0, -1])
    return torch.stack(rows)


@pytest.mark.parametrize("depth", ["D1", "D2", "D3"])
@pytest.mark.parametrize("lookahead", [0, 1])
def test_the_forward_pass_of_training_is_inference_segment_by_segment(model, depth, lookahead):
    script = made(model, depth=depth)
    reach = reach_aligned(len(script.source), len(script.target), lookahead)
    trained, inferred = training_logits(model[0], script, reach), inference_logits(model[0], script, reach)
    assert float((trained - inferred).abs().max()) < TOLERANCE


def test_without_the_shift_of_one_row_they_differ(model):
    script = made(model)
    reach = reach_aligned(len(script.source), len(script.target))
    trained, inferred = (
        training_logits(model[0], script, reach, shift=False),
        inference_logits(model[0], script, reach),
    )
    assert float((trained - inferred).abs().max()) > 100 * TOLERANCE


def test_a_writer_that_sees_all_that_was_read_differs_from_training(model):
    script = made(model)
    reach = reach_aligned(len(script.source), len(script.target))
    greedy_reader = np.full(len(script.target), len(script.source))
    leaky = inference_logits(model[0], script, greedy_reader)
    assert float((training_logits(model[0], script, reach) - leaky).abs().max()) > 100 * TOLERANCE


def test_the_norm_of_queries_and_keys_matters(model):
    """A toy that rotates Qwen3's keys without their norm has other logits."""
    script = made(model)
    reach = reach_aligned(len(script.source), len(script.target))
    expected = inference_logits(model[0], script, reach)
    twin = tiny_model(model[0].config)
    twin.load_state_dict(model[0].state_dict())
    for layer in twin.model.layers:
        layer.self_attn.q_norm, layer.self_attn.k_norm = torch.nn.Identity(), torch.nn.Identity()
    assert float((inference_logits(twin, script, reach) - expected).abs().max()) > 100 * TOLERANCE


def test_a_thought_does_not_depend_on_later_sentences(model):
    script = made(model)
    changed = list(script.source)
    changed[4] = (changed[4] + 1) % 200
    other = Transcript(tuple(changed), script.target)
    reach = reach_aligned(len(script.source), len(script.target))
    one, two = (inference_logits(model[0], each, reach) for each in (script, other))
    # Source segment 4 is sentence 3; the row that predicts the first token of its thought is the first to see it.
    before = int(script.target_lengths[:4].sum()) - 1
    assert torch.equal(one[:before], two[:before])
    assert float((one[before] - two[before]).abs().max()) > 100 * TOLERANCE


def test_the_segments_sum_to_the_sequence(model):
    for depth in ("D1", "D2", "D3"):
        script = made(model, depth=depth)
        assert len(script.ids) == script.source_lengths.sum() + script.target_lengths.sum()
        assert len(script.source) == len(script.target) == len(SENTENCES) + 3


def test_one_source_segment_is_a_batch_from_zero(model):
    script = made(model)
    whole = Transcript((script.source_ids,), (script.target_ids,))
    reach = reach_aligned(1, 1)
    batch = training_logits(model[0], whole, reach_all(1, 1))
    assert float((inference_logits(model[0], whole, reach) - batch).abs().max()) < TOLERANCE
    n, t = len(script.source_ids), len(script.target_ids)
    where = np.concatenate([np.arange(n), np.arange(t)])
    causal = masked(model[0], script.ids, where, np.tril(np.ones((n + t, n + t), dtype=bool)))[n:]
    assert float((batch - causal).abs().max()) < TOLERANCE


def test_positions_that_restart_need_the_mask(model):
    """Without it transformers takes them for packed sequences: the target does not see the source."""
    script = made(model)
    batch = collate([script], [reach_aligned(len(script.source), len(script.target))])
    n = len(script.source_ids)
    with torch.no_grad():
        given = model[0](
            input_ids=batch.ids, position_ids=batch.positions, attention_mask=batch.mask, use_cache=False
        )
        bare = model[0](input_ids=batch.ids, position_ids=batch.positions, use_cache=False)
    assert float((given.logits[0, n:] - bare.logits[0, n:]).abs().max()) > 100 * TOLERANCE


def thinker(model, **settings):
    defaults = {"question": QUESTION, "temperature": 1.0, "max_unit_tokens": 4, "max_new_tokens": 5}
    return StreamingThinker(*model, source_tokens=256, max_sentences=8, **{**defaults, **settings})


def said(thoughts):
    return [(each.kind, each.segment, each.ids, each.text) for each in thoughts]


def serial(model, sentences=SENTENCES, **settings):
    made = thinker(model, **settings)
    found = []
    for sentence in sentences:
        made.feed(sentence, whole=True)
        found += list(made)
    made.close()
    return said([*found, *made])


def test_fed_all_at_once_it_says_the_same(model):
    made = thinker(model)
    made.feed(" ".join(SENTENCES))
    made.close()
    assert said(made) == serial(model)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.001, 0.004]), min_size=64, max_size=64), st.sampled_from([0, 1]))
def test_two_threads_say_the_same_for_any_delays(model, delays, lookahead):
    """Random delays before every read and every write, so that each may be ahead of the other."""
    pauses, lock = iter(delays * 8), threading.Lock()
    real = thinker_module.forward

    def slow(*arguments):
        with lock:
            pause = next(pauses, 0.0)
        time.sleep(pause)
        return real(*arguments)

    expected = serial(model, lookahead=lookahead)
    thinker_module.forward = slow
    try:
        made = thinker(model, lookahead=lookahead, concurrent=True)
        for sentence in SENTENCES:
            made.feed(sentence, whole=True)
        made.close()
        assert said(made) == expected
    finally:
        thinker_module.forward = real


def test_the_targets_of_inference_are_those_of_the_mask(model):
    """What the automaton writes is, token by token, the likeliest under the mask of training."""
    found = serial(model, temperature=0.0)
    ids = [list(ids) for _, _, ids, _ in found]
    # The last unit of the target is the deep part and the answer together.
    header = made(model).target[0]
    target = (header, *map(np.array, ids[:-2]), np.array(ids[-2] + ids[-1]))
    script = Transcript(made(model).source, target)
    reach = reach_aligned(len(script.source), len(script.target))
    likeliest = training_logits(model[0], script, reach).argmax(dim=-1).numpy()
    wanted, predicted = script.target_ids[len(header) :], likeliest[len(header) - 1 : -1]
    layout, tokenizer = Layout.of(*model), model[1]
    # Marks at the limit of a unit and the fixed texts are given, not chosen.
    free = np.ones(len(wanted), dtype=bool)
    at = 0
    for index, segment in enumerate(script.target[1:]):
        last = index == len(script.target) - 2
        fixed = len(tokenizer(layout.connectors[1]).input_ids) if last else 0
        free[at : at + fixed] = False
        free[at + len(segment) - 1] = False
        if last:
            end = len(ids[-2])
            free[at + end - 1 : at + end + len(tokenizer(layout.think_end).input_ids)] = False
        at += len(segment)
    assert free.sum() >= 20
    assert (wanted[free] == predicted[free]).all()


def test_a_target_of_the_answer_alone(model):
    script = direct(SAMPLE, model[1], Layout.of(*model))
    marks = Marks.of(model[1])
    assert len(script.target) == 2
    assert script.target[1][0] == marks.eor
    assert marks.eot not in script.target_ids
