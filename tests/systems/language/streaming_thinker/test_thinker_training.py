"""Training: arms, samples from a file, a run and its resume, and greedy targets that are those of the automaton."""

import json

import numpy as np
import pytest
import torch

from unending.core.errors import InputError, StorageError
from unending.parts import backbones
from unending.parts.training.problems import WordProblems
from unending.parts.transcript import loss
from unending.systems.language.streaming_thinker import (
    Layout,
    Marks,
    Sample,
    StreamingThinker,
    StreamingThinking,
    direct,
    transcript,
)
from unending.systems.language.streaming_thinker.examples import tiny_thinker
from unending.systems.language.streaming_thinker.judging import greedy_targets, judge
from unending.systems.language.streaming_thinker.training import (
    ARMS,
    TINY,
    TrainStreamingThinker,
    batch_of,
    logits_of,
    read_samples,
    tiny_language_model,
)

SAMPLES = [Sample.of(WordProblems(2, (2, 4)).problem(index)) for index in range(6)]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def fresh():
    return tiny_language_model(0, layers=2, width=32)


def scripts(fresh, arm="streaming"):
    make = direct if arm == "direct" else transcript
    return [make(each, fresh[1], TINY) for each in SAMPLES]


def test_an_arm_sees_what_its_name_says(fresh):
    made = scripts(fresh)
    first = made[0]
    n, total = len(first.source_ids), len(first.ids)
    seen = {arm: batch_of(made, arm).mask[0, 0, :total, :total] for arm in ARMS if arm != "direct"}
    header = n  # the first row of the target
    assert not seen["streaming"][header, n - 1]
    assert seen["streaming"][total - 1, n - 1]
    assert not seen["streaming"][:n, n:].any()
    assert seen["batch"][header, n - 1]
    assert torch.equal(seen["streaming"], seen["continued"])
    assert torch.equal(seen["batch"], seen["batch-from-zero"])
    assert seen["interleaved"][:n, n:].any()
    where = {arm: batch_of(made, arm).positions[0, n].item() for arm in ARMS if arm != "direct"}
    assert (where["streaming"], where["batch-from-zero"], where["continued"], where["batch"]) == (0, 0, n, n)
    assert 0 < where["interleaved"] < n


def test_the_interleaved_arm_is_one_sequence_in_the_order_of_arrival(fresh):
    """Sorted by position, its mask is an ordinary causal one."""
    batch = batch_of(scripts(fresh)[:1], "interleaved")
    order = batch.positions[0].argsort()
    assert batch.positions[0].unique().numel() == batch.ids.shape[1]
    mask = batch.mask[0, 0][order][:, order]
    assert torch.equal(mask, torch.ones_like(mask).tril())


def test_every_arm_has_a_loss_and_a_gradient(fresh):
    for arm in ARMS:
        batch = batch_of(scripts(fresh, arm), arm)
        value = loss(logits_of(fresh[0], batch), batch)
        value.backward()
        assert torch.isfinite(value)
        fresh[0].zero_grad()


def test_greedy_targets_are_those_of_the_automaton():
    """Masked passes without a cache, and the dual cache of the thinker, up to the fixed texts of the deep part."""
    model, tokenizer = tiny_thinker()
    layout, marks = Layout.of(model, tokenizer), Marks.of(tokenizer)
    sample = Sample("why?", ("Ann has 1.", "Ben has 2."), ("x", "y"), "z", "", "q")
    script = transcript(sample, tokenizer, layout)
    longest = 40
    header = script.target[0].tolist()
    (found,) = greedy_targets(model, [script.source], [header], [len(header)], "streaming", marks, longest)
    thinker = StreamingThinker(
        model,
        tokenizer,
        question="why?",
        temperature=0.0,
        max_unit_tokens=longest,
        source_tokens=128,
        max_sentences=4,
        max_new_tokens=4,
    )
    for sentence in sample.sentences:
        thinker.feed(sentence, whole=True)
    thinker.close()
    said = [
        *script.target[0].tolist(),
        *(token for each in thinker if each.kind == "thought" for token in each.ids),
    ]
    common = min(len(found), len(said))
    assert common > len(script.target[0]) + 5
    assert found[:common] == said[:common]


def test_judging_counts_what_is_right(fresh, monkeypatch):
    from unending.systems.language.streaming_thinker import judging

    wanted = [each.target_ids.tolist() for each in scripts(fresh)]
    marks = Marks.of(fresh[1])
    said = [ids[: ids.index(marks.eoa) + 1] for ids in wanted]
    said[0] = [*said[0][:-2], 3, marks.eoa]  # a wrong answer
    said[1] = [*said[1][:4], 3, *said[1][5:]]  # a wrong thought, and the right answer
    said[2] = said[2][:-1]  # no end
    monkeypatch.setattr(judging, "greedy_targets", lambda *arguments, **settings: said)
    found = judge(*fresh, SAMPLES, "streaming")
    assert (found.answers, found.thoughts, found.whole) == pytest.approx((4 / 6, 5 / 6, 3 / 6))


@pytest.mark.parametrize("arm", list(ARMS))
def test_the_short_way_to_greedy_targets_is_exact(fresh, arm):
    """From the expected target as far as it is the likeliest, and from the header."""
    from unending.systems.language.streaming_thinker.judging import _as_far_as_right

    made, marks = scripts(fresh, arm)[:2], Marks.of(fresh[1])
    sources, headers = [each.source for each in made], [each.target[0].tolist() for each in made]
    lengths = list(map(len, headers))
    plain = greedy_targets(fresh[0], sources, headers, lengths, arm, marks, 20)
    gold = [[*each, marks.eoa] for each in plain]
    gold[1][12] += 1
    likely = _as_far_as_right(fresh[0], sources, [each[:-1] for each in gold], lengths, arm, marks, None)
    assert likely[0] == plain[0]
    assert likely[1] == plain[1][:13]
    assert greedy_targets(fresh[0], sources, likely, lengths, arm, marks, 20) == plain


@pytest.mark.parametrize("arm", list(ARMS))
def test_every_arm_can_be_judged(fresh, arm):
    found = judge(*fresh, SAMPLES[:2], arm)
    assert 0 <= found.answers <= 1
    if arm in ("continued", "batch-from-zero"):
        judge(*fresh, SAMPLES[:2], arm, streaming=True)


def test_positions_of_a_real_stream_follow_what_was_read(fresh):
    """The continued arm knows the length of its source in training; in a stream it cannot."""
    from unending.systems.language.streaming_thinker.judging import _row

    script, marks = scripts(fresh)[0], Marks.of(fresh[1])
    header = script.target[0].tolist()
    known = _row(script.source, header, len(header), "continued", True, False, None, marks)
    stream = _row(script.source, header, len(header), "continued", True, False, True, marks)
    n = len(script.source_ids)
    assert known[1][n] == n
    assert stream[1][n] < n
    np.testing.assert_array_equal(known[2], stream[2])


def written(folder, *values):
    path = folder / "samples.jsonl"
    path.write_text("\n".join(value if isinstance(value, str) else json.dumps(value) for value in values))
    return path


GOOD = {
    "question": "how many?",
    "sentences": ["Ann has 1."],
    "thoughts": ["Ann: 1"],
    "deep": "1",
    "answer": "1",
}


def test_samples_of_a_file(tmp_path):
    found = read_samples(written(tmp_path, GOOD, "", GOOD))
    assert [each.thoughts for each in found] == [("Ann: 1",)] * 2
    for values, says in (
        ((GOOD, "{"), "line 2 is not JSON"),
        (([1],), "line 1: a sample has question and sentences"),
        (({**GOOD, "thoughts": []},), "line 1 fails the checks: 0 thoughts for 1 sentences"),
        (({**GOOD, "answer": ""},), "there is no answer"),
        ((" ",), "holds no sample"),
    ):
        with pytest.raises(InputError, match=says):
            read_samples(written(tmp_path, *values))
    with pytest.raises(StorageError):
        read_samples(tmp_path / "none")


def test_a_run_on_word_problems_and_its_resume(tmp_path):
    settings = {"out": tmp_path / "thinker", "steps": 3, "batch": 2, "seed": 4}
    facts = TrainStreamingThinker(**settings).run()
    assert facts["steps"] == 3
    op = StreamingThinking(model=str(tmp_path / "thinker"))
    assert op.layout == TINY
    op.init()
    assert TrainStreamingThinker(**settings).run()["loss, last steps"] == facts["loss, last steps"]


def test_a_run_on_samples_from_a_base_model(tmp_path):
    base, path = backbones.register(*tiny_thinker()), written(tmp_path, GOOD, {**GOOD, "answer": "2"})
    before = {name: each.clone() for name, each in backbones.load(base).module.state_dict().items()}
    facts = TrainStreamingThinker(out=tmp_path / "t", data=path, base=base, epochs=3, batch=1, lr=1e-3).run()
    assert facts["steps"] == 6
    after = backbones.load(base).module.state_dict()
    assert all(torch.equal(each, after[name]) for name, each in before.items())  # others use it too
    assert StreamingThinking(model=str(tmp_path / "t")).layout == Layout.of(*tiny_thinker())
    with pytest.raises(InputError, match="--data needs a --base model"):
        TrainStreamingThinker(out=tmp_path / "u", data=path).run()
    with pytest.raises(InputError, match="1 or more"):
        TrainStreamingThinker(out=tmp_path / "u", batch=0).run()
