"""The operator and the automaton: roles, passages, failures of the model, bounds, resume."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from unending.core import TICK, Control, Query, Session, Text, replay
from unending.core.errors import CapacityError, InputError, ModelUnsupportedError, SessionClosedError
from unending.parts.backbones.tiny import byte_tokenizer, tiny_llama, tiny_model
from unending.systems.language.streaming_thinker import (
    MARKS,
    Layout,
    Marks,
    Sample,
    StreamingThinker,
    StreamingThinking,
    add_marks,
    transcript,
)
from unending.systems.language.streaming_thinker.examples import tiny_thinker
from unending.systems.language.streaming_thinker.script import ANSWER, DEEP, DONE, THOUGHTS, Progress, Script

TEXT = "Ann has 12. Ben has 3 more. It rains. Cat has 4. "


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def operator(**settings):
    defaults = {
        "source_tokens": 256,
        "max_sentences": 8,
        "max_sentence": 64,
        "max_unit_tokens": 4,
        "max_new_tokens": 4,
    }
    return StreamingThinking.from_model(*tiny_thinker(), **{**defaults, "temperature": 1.0, **settings})


def units(events):
    """Role, time and text of each unit."""
    found = []
    for event in events:
        key = (event.data.role, event.t_end)
        if found and found[-1][0] == key:
            found[-1][1] += event.data.text
        else:
            found.append([key, event.data.text])
    return [(*key, text) for key, text in found]


def test_thoughts_come_while_the_text_is_still_arriving():
    session = Session(operator())
    session.push(Query("how many?"))
    session.push(Text("Ann has 12. Ben "))
    first = units(_all(session))
    assert {role for role, _, _ in first} == {"thought"}
    assert [t for _, t, _ in first] == [0.0, 12.0]
    session.push(Text("has 3 more. It rains. Cat has 4. "))
    more = units(_all(session))
    assert [t for _, t, _ in more] == [28.0, 38.0, 49.0]
    session.finish()
    last = units(_all(session))
    assert [role for role, _, _ in last] == ["deep", "answer"]


def _all(session):
    found = []
    while events := session.poll():
        found += events
    return found


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_outputs_do_not_depend_on_how_the_text_arrives_or_on_ticks(size):
    op = operator()
    expected = units(replay(op, [Query("how many?"), Text(TEXT)]))
    state, events = op.step(op.init(), Query("how many?"))
    for start in range(0, len(TEXT), size):
        state, more = op.step(state, Text(TEXT[start : start + size]))
        events += more
        for _ in range(start % 3):
            if op.pending(state):
                state, more = op.step(state, TICK)
                events += more
    _, more = op.finish(state)
    assert units(events + more) == expected


def test_a_first_sentence_with_a_question_mark_is_the_question():
    op = operator()
    asked = units(replay(op, [Query("how many?"), Text(TEXT)]))
    found = units(replay(op, [Text("how many? " + TEXT)]))
    assert [(role, text) for role, _, text in found] == [(role, text) for role, _, text in asked]


def test_the_next_query_ends_the_passage():
    op = operator()
    found = units(replay(op, [Query("how many?"), Text(TEXT), Query("who?"), Text("Ida has 1. ")]))
    roles = [role for role, _, _ in found]
    assert roles.count("answer") == 2
    assert roles.index("answer") < len(roles) - roles[::-1].index("thought")
    alone = units(replay(op, [Query("how many?"), Text(TEXT)]))
    assert found[: len(alone)] == alone


def test_end_closes_a_passage_and_its_answer_comes_by_ticks():
    session = Session(operator())
    session.push(Query("how many?"))
    session.push(Text("Ann has 12. "))
    _all(session)
    session.push(Control("end"))
    assert session.pending
    assert [role for role, _, _ in units(_all(session))] == ["deep", "answer"]
    session.push(Control("end"))
    assert _all(session) == []


def test_a_full_passage_is_answered_and_the_next_has_the_same_question():
    op = operator(max_sentences=2)
    found = units(replay(op, [Query("how many?"), Text(TEXT)]))
    times = [t for role, t, _ in found if role == "answer"]
    assert times == [38.0, 49.0]  # when the third sentence came, and at the end
    # The memory of the first passage is gone: the second is that of a stream which begins there.
    op = operator(max_sentences=2, temperature=0.0)
    found = units(replay(op, [Query("how many?"), Text(TEXT)]))
    fresh = units(replay(op, [Query("how many?"), Text(TEXT[28:])]))
    first_answer = [role for role, _, _ in found].index("answer")
    assert "".join(text for _, _, text in found[first_answer + 1 :]) == "".join(text for _, _, text in fresh)


def test_a_passage_without_room_for_tokens_turns_over_too():
    op = operator(source_tokens=64)
    found = units(replay(op, [Query("why?"), Text("a bb ccc dddd. " * 8)]))
    assert sum(role == "answer" for role, _, _ in found) >= 3
    long = units(replay(op, [Query("why?"), Text("音" * 63 + "。")]))
    assert sum(role == "answer" for role, _, _ in long) >= 2


def test_one_sentence_and_none():
    one = units(replay(operator(), [Query("how many?"), Text("Ann has 12.")]))
    assert [role for role, _, _ in one] == ["thought", "thought", "deep", "answer"]
    none = units(replay(operator(), [Query("how many?")]))
    assert [role for role, _, _ in none] == ["thought", "deep", "answer"]
    assert replay(operator(), [Text("  \n\n   \n\n  ")]) == []
    assert replay(operator(), []) == []


def test_without_a_question_there_is_no_question_segment():
    found = units(replay(operator(), [Text("Ann has 12. Ben has 3. ")]))
    assert [role for role, _, _ in found] == ["thought", "thought", "deep", "answer"]


def test_an_interrupt_drops_what_is_owed_to_a_closed_passage():
    session = Session(operator())
    session.push(Query("how many?"))
    session.push(Text(TEXT))
    session.push(Control("end"))
    session.interrupt()
    kept = {role for role, _, _ in units(_all(session))}
    assert kept <= {"thought"}
    session.push(Query("who?"))
    session.push(Text("Ida has 1. "))
    session.finish()
    assert units(_all(session))[-1][0] == "answer"


def test_draws_depend_on_the_seed_alone():
    op = operator()
    stream = [Query("how many?"), Text(TEXT)]
    one, again, other = (units(replay(op, stream, seed)) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_depths_differ_by_their_connectors():
    texts = {}
    for depth in ("D1", "D2", "D3"):
        found = units(replay(operator(depth=depth), [Query("how many?"), Text(TEXT)]))
        texts[depth] = found[-1]
        assert ("deep" in [role for role, _, _ in found]) == (depth != "D1")
    assert len({text for _, _, text in texts.values()}) > 1


def test_the_bound_is_exact_at_any_position():
    op = operator()
    session = Session(op)
    assert session.nbytes == op.bound().resident
    for _ in range(10):
        session.push(Text(TEXT))
        _all(session)
        assert session.nbytes == op.bound().resident


def test_settings_that_do_not_fit_are_refused():
    for settings in ({"depth": "D4"}, {"max_unit_tokens": 0}, {"lookahead": -1}):
        with pytest.raises(InputError):
            Session(operator(**settings))
    for settings in ({"temperature": -1.0}, {"top_p": 0.0}, {"max_sentence": 1}, {"max_sentences": 0}):
        with pytest.raises(InputError):
            operator(**settings)
    with pytest.raises(CapacityError, match="attends over at most 512"):
        Session(operator(source_tokens=400, max_sentences=40))
    with pytest.raises(CapacityError, match="half of it is for the question"):
        Session(operator(source_tokens=16))


def test_a_question_that_is_too_long_is_refused_and_nothing_is_lost():
    session = Session(operator(source_tokens=64))
    session.push(Text("Ann has 12. And "))
    before = session.snapshot()
    with pytest.raises(CapacityError, match="longer than 31"):
        session.push(Query("a question of more than thirty-one tokens"))
    assert session.snapshot() == before
    with pytest.raises(InputError, match="knows end and interrupt"):
        session.push(Control("run"))


def test_a_model_without_the_marks_is_refused():
    from unending.parts import backbones

    name = backbones.register(*tiny_llama())
    with pytest.raises(ModelUnsupportedError, match="use add_marks"):
        Session(
            StreamingThinking(
                model=name, source_tokens=16, max_sentences=1, max_unit_tokens=1, max_new_tokens=1
            )
        )


def test_marks_get_rows_where_there_are_none():
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=258,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=False,
    )
    model, tokenizer = tiny_model(config), byte_tokenizer()
    old = model.get_input_embeddings().weight.detach().clone()
    state = torch.get_rng_state()
    marks = add_marks(tokenizer, model)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.config.vocab_size == 265
    assert torch.equal(model.get_input_embeddings().weight[:258], old)
    assert torch.allclose(model.get_input_embeddings().weight[marks.eot], old.mean(dim=0))
    assert model.get_output_embeddings().weight.shape[0] == 265
    assert add_marks(tokenizer, model) == marks
    assert len(tokenizer) == 265


def test_a_matrix_with_spare_rows_stays():
    model, tokenizer = tiny_model(tiny_llama()[0].config), byte_tokenizer()
    weight = model.get_input_embeddings().weight
    add_marks(tokenizer, model)
    assert model.get_input_embeddings().weight is weight


def test_no_text_splits_a_mark_and_a_toy_tokenizer_does():
    _, tokenizer = tiny_thinker()
    for mark in MARKS:
        assert len(tokenizer(f"x {mark} y", add_special_tokens=False).input_ids) < len("x  y") + 2
    with pytest.raises(ModelUnsupportedError):
        Marks.of(byte_tokenizer())


def test_the_question_comes_first():
    """A toy that puts it last has thoughts that cannot know what is asked."""
    _, tokenizer = tiny_thinker()
    script = transcript(Sample("why?", ("a.", "b."), ("x", "y"), answer="z"), tokenizer, Layout())
    marks = Marks.of(tokenizer)
    ends = [segment[-1] for segment in script.source[:-1]]
    assert ends == [marks.sep, marks.eoq, marks.eos, marks.eos]
    assert [segment[-1] for segment in script.target[:-1]] == [marks.sep, marks.eoq, marks.eot, marks.eot]
    with pytest.raises(InputError, match="1 thoughts do not fit 2 sentences"):
        transcript(Sample("why?", ("a.", "b."), ("x",)), tokenizer, Layout())


def test_a_chat_template_gives_the_turns():
    _, tokenizer = tiny_llama()
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}[/{{ m.role }}]{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    layout = Layout.of(None, tokenizer)
    assert layout.instruction == f"[user]{Layout().instruction}\n"
    assert (layout.header, layout.end_of_turn) == ("[assistant]<think>\n", "[/user]")


def script(depth="D2", **limits):
    module, tokenizer = tiny_thinker()
    defaults = {"max_unit_tokens": 4, "max_new_tokens": 4, "stops": frozenset({256})}
    return Script.of(tokenizer, Layout.of(module, tokenizer), depth, **{**defaults, **limits})


def test_the_writer_waits_for_the_segment_of_its_unit():
    made, now = script(), Progress(THOUGHTS, 2, 0, 5)
    assert made.sees(now, 2, closed=False) is None
    assert made.sees(now, 3, closed=False) == 3
    assert made.sees(now, 9, closed=False) == 3  # however much more has been read
    assert script(lookahead=1).sees(now, 3, closed=False) is None
    assert script(lookahead=1).sees(now, 9, closed=False) == 4
    # Closed, the last segment is the end of turn: it belongs to the deep part.
    assert made.sees(now, 3, closed=True) == 3
    assert made.part(now, 3, closed=True) == DEEP
    assert made.part(now, 4, closed=True) == THOUGHTS
    assert made.sees(Progress(DONE, 2, 0, 5), 9, closed=True) is None


def test_a_forgotten_end_of_a_thought_is_forced():
    made, marks = script(), script().marks
    now = Progress(THOUGHTS, 2, 4, 5)
    assert made.forced(now, THOUGHTS, question=True) == marks.eot
    assert made.forced(Progress(THOUGHTS, 1, 4, 5), THOUGHTS, question=True) == marks.eoq
    assert made.forced(Progress(THOUGHTS, 1, 4, 5), THOUGHTS, question=False) == marks.eot
    assert made.forced(Progress(THOUGHTS, 2, 3, 5), THOUGHTS, question=True) is None


@pytest.mark.parametrize("mark", ["sep", "eoq", "eos", "eot", "eor", "eoa", "ignore"])
def test_any_mark_ends_a_thought_an_early_end_of_reasoning_too(mark):
    made = script()
    after = made.after(Progress(THOUGHTS, 2, 1, 5), THOUGHTS, getattr(made.marks, mark))
    assert (after.part, after.unit, after.said) == (THOUGHTS, 3, 0)


def test_a_stop_within_a_thought_is_the_end_of_the_thought_alone():
    made = script()
    assert made.admit(Progress(THOUGHTS, 2, 1, 5), THOUGHTS, 256, question=True) == made.marks.eot
    assert made.admit(Progress(DEEP, 2, 1, 5), DEEP, 256, question=True) == 256


def test_nothing_is_read_on_an_end_of_thought_within_deep_reasoning():
    """A toy reads on any `<EOT>`."""
    made = script()
    said = len(made.connector) + 1
    after = made.after(Progress(DEEP, 5, said, 5), DEEP, made.marks.eot)
    assert (after.part, after.unit) == (DEEP, 5)
    assert made.after(after, DEEP, made.marks.eor).part == ANSWER
    assert made.after(after, DEEP, made.marks.eoa).part == DONE


def test_fixed_texts_are_given_and_limits_hold():
    made = script()
    now, given = Progress(THOUGHTS, 3, 0, made.marks.eot), []
    while (token := made.forced(now, DEEP, question=True)) is not None:
        given.append(token)
        now = made.after(now, DEEP, token)
    assert tuple(given) == made.connector
    for _ in range(4):
        assert made.forced(now, DEEP, question=True) is None
        now = made.after(now, DEEP, 7)
    assert made.forced(now, DEEP, question=True) == made.marks.eor
    assert script("D1").connector[-1] == made.marks.eor


def test_the_thinker_survives_a_model_that_never_ends_a_thought():
    module, tokenizer = tiny_thinker()
    with torch.no_grad():
        module.get_output_embeddings().weight[258:] = -module.get_output_embeddings().weight[:1]
        module.get_output_embeddings().weight[256] = 0
    made = StreamingThinker(
        module,
        tokenizer,
        question="why?",
        temperature=0.0,
        max_unit_tokens=3,
        max_new_tokens=4,
        source_tokens=128,
        max_sentences=4,
    )
    made.feed("Ann has 1. Ben has 2.")
    made.close()
    found = list(made)
    assert [each.kind for each in found] == ["thought"] * 3 + ["deep", "answer"]
    assert all(len(each.ids) == 4 for each in found[:3])


def thinker(**settings):
    return StreamingThinker(
        *tiny_thinker(),
        **{
            "temperature": 0.0,
            "max_unit_tokens": 3,
            "max_new_tokens": 4,
            "source_tokens": 128,
            "max_sentences": 4,
            **settings,
        },
    )


def test_the_thinker_takes_what_a_person_may_feed():
    made = thinker()
    for piece in ("", "  ", "why", "? Ann h", "as 1.", " "):
        made.feed(piece)
    made.feed("", whole=True)
    with made:
        assert [each.segment for each in made] == [1, 2]
    assert [each.kind for each in made] == ["deep", "answer"]
    assert list(made) == []
    with pytest.raises(SessionClosedError, match="no more text"):
        made.feed("more")


@pytest.mark.parametrize("concurrent", [False, True])
def test_the_thinker_refuses_what_does_not_fit_and_goes_on_without_it(concurrent):
    made = thinker(question="why?", concurrent=concurrent)
    with pytest.raises(CapacityError, match="128 source tokens at most"):
        made.feed("Ann has 1. " + "x" * 128 + ". ")
    with pytest.raises(CapacityError, match="4 sentences at most"):
        made.feed("Aa! Bb! Cc! Dd! Ee! ")
    made.feed("Ann has 1. ")
    made.close()
    plain = thinker(question="why?")
    plain.feed("Ann has 1. ")
    plain.close()
    assert [each.ids for each in made] == [each.ids for each in plain]
    with pytest.raises(CapacityError, match="source tokens"):
        thinker(question="x" * 128)


def test_an_error_of_a_thread_reaches_the_caller(monkeypatch):
    from unending.systems.language.streaming_thinker import thinker as module

    made = thinker(question="why?", concurrent=True)

    def broken(*arguments):
        raise ArithmeticError("broken")

    monkeypatch.setattr(module, "forward", broken)
    made.feed("Ann has 1. ")
    with pytest.raises(ArithmeticError, match="broken"):
        list(made)


def test_what_is_said_of_a_thought_tells_its_delay():
    made = thinker(question="why?")
    made.feed("Ann has 1. Ben has 2. ")
    made.close()
    found = list(made)
    assert [each.segment for each in found] == [1, 2, 3, 4, 4]
    assert all(one.t_start <= one.t_end <= two.t_start for one, two in pairwise(found))
    assert np.all(np.diff([each.received for each in found]) >= 0)
