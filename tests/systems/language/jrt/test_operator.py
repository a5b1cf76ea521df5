"""The operator: prefix, losses, answers, bounds, resume, on tiny models; and the shipped one."""

import numpy as np
import pytest
import torch
from tests.systems.language.jrt.tiny import model

from unending.core import Control, Query, Rows, Session, Text, Tokens, nbytes, replay
from unending.core.errors import InputError, ModelUnsupportedError, NumericalError
from unending.parts.backbones import language
from unending.parts.backbones.tiny import byte_tokenizer, tiny_llama
from unending.systems.language.jrt import JRT, read_twice
from unending.systems.language.jrt.naive import naive_logits

TEXT = "Streams that never end:\n  language, vidéo, 音声 — all behind one contract, with bounded state. " * 2
PREFIX = 8


def operator(chunk=4, enc_length=None, temperature=0.0, max_new_tokens=8, seed=0, **changes):
    shape = {"vocab_size": 272, "mask_token_id": 271, "pad_token_id": 257, "eos_token_id": 256, **changes}
    return JRT.from_model(
        model(torch.float32, seed, **shape),
        byte_tokenizer(),
        chunk=chunk,
        enc_length=enc_length,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
    )


def ids(n, seed=0):
    return np.random.default_rng(seed).integers(3, 250, n)


def losses(events):
    found = [event.data.values[:, 0] for event in events if type(event.data) is Rows]
    return np.concatenate(found) if found else np.zeros(0)


def answer(session):
    out = []
    while events := session.poll():
        out += [event.data.text for event in events if type(event.data) is Text]
    return out


def reference(op, tokens, m):
    """Losses of the tokens behind a prefix of m, from one full pass."""
    logits = naive_logits(op.backbone.module, torch.from_numpy(tokens)[None], m)[0]
    at = torch.arange(min(m, len(tokens) - 1), len(tokens) - 1)
    return -logits[at].log_softmax(-1)[torch.arange(len(at)), torch.from_numpy(tokens)[at + 1]].numpy()


@pytest.mark.parametrize("chunk", [1, 4, 7, 64])
@pytest.mark.parametrize("enc_length", [None, 0, 5, 200])
def test_losses_are_those_of_one_full_pass(chunk, enc_length):
    op, tokens = operator(chunk, enc_length), ids(60)
    m = PREFIX if enc_length is None else enc_length
    found = losses(replay(op, [Tokens(tokens)]))
    assert len(found) == max(0, 60 - m - 1)  # none in the prefix, none for the first token behind it
    np.testing.assert_allclose(found, reference(op, tokens, m), rtol=1e-4, atol=1e-5)


def test_a_causal_reading_gives_other_losses():
    tokens = ids(60)
    ours = losses(replay(operator(), [Tokens(tokens)]))
    causal = losses(replay(operator(enc_length=0), [Tokens(tokens)]))
    assert np.abs(ours - causal[-len(ours) :]).max() > 1e-2


@pytest.mark.parametrize("size", [1, 3, 17, 1000])
def test_text_in_any_pieces_gives_the_same_bits(size):
    op = operator()
    pieces = [Text(TEXT[start : start + size]) for start in range(0, len(TEXT), size)]
    np.testing.assert_array_equal(losses(replay(op, pieces)), losses(replay(op, [Text(TEXT)])))
    whole = np.array(op.backbone.tokenizer(TEXT).input_ids)
    np.testing.assert_array_equal(losses(replay(op, [Tokens(whole)])), losses(replay(op, [Text(TEXT)])))


def test_losses_carry_the_times_of_their_tokens():
    events = replay(operator(), [Tokens(ids(20))])
    assert [(event.t_start, event.t_end) for event in events] == [(10.0, 12.0), (13.0, 16.0), (17.0, 20.0)]


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9])
def test_a_query_closes_the_prefix_early(n):
    op = operator()
    session = Session(op)
    if n:
        session.push(Tokens(ids(n)))
        session.poll()
        assert session.state.closed == (n >= PREFIX)
    session.push(Query("why?"))
    said = "".join(answer(session))
    assert session.state.closed
    assert session.state.count == min(n, PREFIX)
    assert not session.state.gathered.any()
    backbone = op.backbone
    whole = [*ids(n).tolist(), *backbone.tokenizer("why?").input_ids]
    wanted = []
    for _ in range(op.max_new_tokens):
        logits = naive_logits(backbone.module, torch.tensor([whole + wanted]), min(n, PREFIX))
        if int(logits[0, -1].argmax()) in backbone.stops:
            break
        wanted.append(int(logits[0, -1].argmax()))
    assert said == backbone.decode(wanted)


def test_the_end_closes_the_prefix_early():
    op = operator()
    state, _ = op.step(op.init(), Tokens(ids(5)))
    assert not state.closed
    assert state.gathered.tolist() == [*ids(5)[:4], 0, 0, 0, 0]  # the fifth waits for its block
    state, events = op.finish(state)
    assert events == []
    assert state.closed
    assert state.memory.position.item() == 5
    hidden, _ = op.backbone.module.model.prefill(torch.from_numpy(ids(5))[None])
    assert torch.allclose(state.logits, op.backbone.module.lm_head(hidden[0, -1]), atol=1e-5)


def test_a_model_that_masks_before_the_feature_map_gets_its_padding():
    """Such a checkpoint was evaluated on prefixes padded to their full length."""
    tokens = ids(5)
    for exact in (True, False):
        op = operator(mask_after_feature_map=exact)
        state, _ = op.finish(op.step(op.init(), Tokens(tokens))[0])
        net = op.backbone.module
        short = PREFIX - 5
        padded = torch.tensor([[257] * short + tokens.tolist()])
        mask = (torch.arange(PREFIX) >= short)[None]
        wanted = net(padded, attention_mask=mask).logits[0, -1]
        torch.testing.assert_close(state.logits, wanted, atol=1e-4, rtol=1e-4)
        alone = net(torch.from_numpy(tokens)[None]).logits[0, -1]
        assert (exact and torch.allclose(alone, wanted, atol=1e-4)) or (alone - wanted).abs().max() > 1e-2


def test_greedy_answers_are_those_of_generate():
    op = operator(max_new_tokens=12)
    session = Session(op)
    session.push(Text("hello hello hello "))
    session.push(Query("hello"))
    answer(session)
    backbone = op.backbone
    prompt = torch.tensor([backbone.tokenizer("hello hello hello hello").input_ids])
    out = backbone.module.generate(prompt, max_new_tokens=12, do_sample=False)[0, prompt.shape[1] :]
    ours = session.state.answer.ids[: session.state.answer.count].tolist()
    assert out.tolist()[: len(ours)] == ours


def test_answers_come_token_by_token_and_are_part_of_the_stream():
    session = Session(operator(temperature=1.0), seed=3)
    session.push(Text(TEXT))
    session.poll()
    before = session.state.memory.position.item()
    session.push(Query("why?"))
    first = session.poll()
    assert session.pending
    pieces = [event.data.text for event in first if type(event.data) is Text] + answer(session)
    assert pieces
    read = session.state.memory.position.item() - before
    assert read >= len("why?") + len(pieces)
    assert session.state.count + session.state.behind == session.state.memory.position.item()


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


def test_an_interrupt_ends_the_answer_and_the_stream_goes_on():
    session = Session(operator(temperature=1.0))
    session.push(Query("why?"))
    session.poll()
    session.interrupt()
    assert session.poll() == []
    session.push(Text("and on it goes for a while"))
    assert len(losses(session.poll())) > 0
    with pytest.raises(InputError, match="knows interrupt"):
        session.push(Control("restart"))


def test_input_into_an_answer_is_refused_by_the_bare_operator():
    op = operator()
    state, _ = op.step(op.init(), Query("why?"))
    with pytest.raises(InputError, match="tick until idle"):
        op.step(state, Text("more"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_bound_is_exact_at_any_stream_position(dtype):
    op = operator()
    net = model(dtype, vocab_size=272, mask_token_id=271)
    op = JRT.from_model(net, byte_tokenizer(), chunk=4, max_new_tokens=3)
    session = Session(op)
    assert session.nbytes == op.bound().resident
    for n in (3, 9, 1, 300):
        session.push(Tokens(ids(n)))
        session.poll()
        assert session.nbytes == op.bound().resident
    session.push(Query("why?"))
    while session.poll():
        assert session.nbytes == op.bound().resident
    assert nbytes(session.state) == op.bound().resident


@pytest.mark.parametrize("read", [5, 100])
def test_a_snapshot_continues_bit_for_bit(read):
    """Cut while the prefix gathers, and far behind it."""
    session = Session(operator(temperature=1.0), seed=5)
    session.push(Text(TEXT[:read]))
    session.poll()
    twin = Session.resume(session.operator, session.snapshot())
    for each in (session, twin):
        each.push(Text(TEXT[read:]))
    np.testing.assert_array_equal(losses(session.poll()), losses(twin.poll()))
    for each in (session, twin):
        each.push(Query("why?"))
    assert answer(session) == answer(twin)
    assert session.snapshot() == twin.snapshot()


def test_other_models_are_refused_in_one_line():
    op = JRT.from_model(tiny_llama()[0])
    with pytest.raises(ModelUnsupportedError, match="jrt takes JRTForCausalLM"):
        op.init()


def test_a_model_without_a_tokenizer_takes_tokens_only():
    op = JRT.from_model(model(torch.float32), chunk=4)
    session = Session(op)
    session.push(Tokens(np.arange(20)))
    assert len(losses(session.poll())) > 0
    for chunk in (Text("two words "), Query("why?")):
        with pytest.raises(InputError, match="has no tokenizer"):
            session.push(chunk)
    with pytest.raises(InputError, match="token id 64 is outside the accepted 0 to 63"):
        session.push(Tokens([1, 64]))


def test_logits_that_are_no_numbers_leave_the_last_state():
    op = operator()
    session = Session(op)
    session.push(Text(TEXT))
    session.poll()
    before = session.snapshot()
    weight = op.backbone.module.model.norm.weight
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
    for settings in ({"chunk": 0}, {"max_new_tokens": 0}, {"temperature": -1.0}, {"enc_length": -1}):
        with pytest.raises(InputError):
            operator(**settings)


def test_a_checkpoint_folder_is_a_model(tmp_path):
    op, tokens = operator(), ids(40)
    op.backbone.module.save_pretrained(tmp_path)
    op.backbone.tokenizer.save_pretrained(tmp_path)
    try:
        loaded = JRT(model=str(tmp_path), chunk=4, max_new_tokens=4)
        found = losses(replay(loaded, [Tokens(tokens)]))
        np.testing.assert_array_equal(found, losses(replay(op, [Tokens(tokens)])))
        session = Session(loaded)
        session.push(Text("some words"))
        session.push(Query("why?"))
        answer(session)
    finally:
        language._loaded.pop((str(tmp_path), "float32"))


def test_a_stream_read_twice_takes_twice_the_room_in_the_stream_and_none_in_the_state():
    op = operator()
    session = Session(op)
    for chunk in read_twice([Text(TEXT[:50])], "language"):
        session.push(chunk)
        session.poll()
    answer(session)
    assert session.state.memory.position.item() > 2 * 50
    assert session.nbytes == op.bound().resident
    assert JRT.spec.name == "jrt"


def recalled(op, records):
    """Share of records whose digit comes first when their letter is said behind all of them."""
    session = Session(op)
    session.push(Text("".join(f"{letter}{digit}\n" for letter, digit in records.items())))
    session.poll()
    hits = 0
    for letter, digit in records.items():
        asked = session.fork()
        asked.push(Query(letter))
        hits += "".join(answer(asked)) == digit
    return hits / len(records)


def test_the_shipped_model_recalls_records_behind_its_prefix_and_not_without_it():
    rng = np.random.default_rng(0)
    records = {chr(97 + letter): str(rng.integers(10)) for letter in rng.permutation(26)[:16]}
    assert recalled(JRT(max_new_tokens=1), records) > 0.8
    assert recalled(JRT(max_new_tokens=1, enc_length=0), records) < 0.5
