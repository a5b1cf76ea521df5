"""The operator: laws, passages, times, capacities, and a checkpoint by its path."""

import copy
import dataclasses

import pytest
import torch
from tests.systems.language.group_position_encoding.forcing import CONFIGS, frame, model

from unending.core import Control, Session, Text
from unending.core.errors import CapacityError, InputError, ModelUnsupportedError
from unending.laws import check
from unending.parts.backbones.tiny import byte_tokenizer, tiny_model
from unending.parts.emission import WaitK
from unending.parts.training.translations import TranslationTask
from unending.systems.language.group_position_encoding import (
    GroupPositionEncoding,
    Limits,
    StreamingGenerator,
    Template,
)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def operator(kind="llama", **settings):
    settings = {"k": 2, "source_capacity": 96, "target_capacity": 48, "per_write": 4} | settings
    return GroupPositionEncoding.from_model(model(kind), byte_tokenizer(), **settings)


def written(made, chunks):
    """The text, and the events (text, time)."""
    events = list(Session(made).run(chunks))
    assert all(event.t_start == event.t_end for event in events)
    return "".join(event.data.text for event in events), [(event.data.text, event.t_end) for event in events]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"policy": "sentence"}, {"header_mode": "upstream", "phi": 3}])
def test_the_laws_hold_with_other_settings(settings):
    """All but L5: a fresh process has no model in memory, and rebuilds no example with other settings."""
    report = check(dataclasses.replace(GroupPositionEncoding.example(), **settings))
    assert [each.law for each in report.results if each.status != "held"] == ["L5"]


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_it_writes_what_the_generator_writes(kind):
    made = operator(kind)
    template = Template.of(made.backbone)
    generator = StreamingGenerator(
        model(kind), policy=WaitK(2), template=template, target_capacity=48, limits=Limits(4, 1024)
    )
    words = generator.translate("so it goes on and on")
    text, events = written(made, [Text("so it goes on and on")])
    assert text.strip() == generator.text.replace("\n", " ").strip()
    ends = [2, 5, 10, 13, 17, 20]
    shown = [word for word in words if word.text.strip()]
    assert [time for _, time in events] == [ends[word.delay - 1] for word in shown]


@pytest.mark.parametrize("size", [1, 5, 100])
def test_words_come_out_while_the_source_arrives(size):
    made, text = operator(), "so it goes on and on"
    with Session(made) as session:
        first = None
        for start in range(0, len(text), size):
            session.push(Text(text[start : start + size]))
            events = session.poll()
            first = first or (events and events[0].t_end)
        assert first == 5  # after two words
        session.finish()
    assert written(
        made, [Text(text[start : start + size]) for start in range(0, len(text), size)]
    ) == written(made, [Text(text)])


def test_a_word_waits_for_the_space_behind_it():
    """Whether "cc" is a word at character 8 shows at character 9: that is the lookahead of the operator."""
    made, here = operator(), "aa bb cc"
    one, other = (written(made, [Text(here + rest)])[1] for rest in (" dd", "dd"))
    at_once = [[event for event in events if event[1] <= len(here)] for events in (one, other)]
    assert at_once[0] != at_once[1]  # with a lookahead of 0 law L3 would not hold
    settled = [
        [event for event in events if event[1] + made.spec.lookahead <= len(here)] for events in (one, other)
    ]
    assert settled[0] == settled[1]


def test_a_line_is_a_passage_of_its_own():
    made = operator()
    lines = ["so it goes", "on and on we go", "stop here"]
    alone = [written(made, [Text(line)])[0].strip() for line in lines]
    together, _ = written(made, [Text("\n".join(lines) + "\n")])
    assert [line.strip() for line in together.split("\n")] == [*alone, ""]
    ended, _ = written(made, [chunk for line in lines for chunk in (Text(line), Control("end"))])
    assert "\n" not in ended
    assert written(made, [Text("\n \n")])[0] == "\n\n"
    # The record separator ends a passage as the control does, and is a character of the stream like any other.
    separated = written(made, [Text("so it\x1egoes on")])
    assert separated == written(made, [Text(part) for part in ("so it", "\x1e", "goes on")])
    assert separated[1][-1][1] == 13


def test_controls():
    made = operator(k=3)
    with Session(made) as session:
        session.push(Text("so it"))
        session.push(Control("end"))
        before = session.poll()
        assert before
        session.push(Text("goes on and "))
        session.push(Control("interrupt"))
        session.poll()
        assert not session.pending
        session.push(Text("so it"))
        session.push(Control("end"))
        again = []
        while events := session.poll():
            again += events
        # Nothing of what was dropped is left: the same passage gives the same words.
        first = written(made, [Text("so it")])[0]
        assert "".join(event.data.text for event in again)[-len(first) :].strip() == first.strip()
        with pytest.raises(InputError, match="knows end, interrupt"):
            session.push(Control("faster"))
        assert not session.pending


def test_a_full_memory_begins_the_next_passage():
    made = operator(source_capacity=24, per_write=2)
    text = "so it goes on and on and on"
    whole, events = written(made, [Text(text)])
    first = written(made, [Text("so it goes on and on")])[0]  # 23 of 24 tokens
    assert whole.startswith(first.strip())
    assert len(whole) > len(first)
    assert events[-1][1] == len(text)
    with Session(made) as session:
        for _ in range(5):
            session.push(Text(text + " "))
            session.poll()
            assert session.nbytes == made.bound().resident


def test_very_long_words_are_cut_and_nothing_is_stuck():
    made = operator(source_capacity=24, target_capacity=12)
    assert made.longest == 5
    assert written(made, [Text("x" * 200 + "河" * 30)])[0]


def test_more_text_than_the_buffer_holds():
    made = operator(per_write=2, max_new_tokens=2)
    text = ("so" + "x" * 20 + " ") * 120
    assert written(made, [Text(text)]) == written(made, [Text(text[:700]), Text(text[700:])])


def test_a_chat_template_makes_the_frame_and_the_instruction_matters():
    made = dataclasses.replace(operator(), instruction="Fr:")
    assert made.rules.template.prompt == frame().prompt
    assert written(made, [Text("so it goes on")])[0] != written(operator(), [Text("so it goes on")])[0]


def test_a_checkpoint_folder_of_a_tiny_model_opens_by_its_path(tmp_path):
    task = TranslationTask()
    config = CONFIGS["qwen2"]()
    config.vocab_size, config.eos_token_id = 440, task.tokenizer().eos_token_id
    tiny_model(config, 1).save_pretrained(tmp_path)
    task.tokenizer().save_pretrained(tmp_path)
    made = GroupPositionEncoding(model=str(tmp_path), k=2)
    assert written(made, [Text("kama kima kuka\n")])[0].endswith("\n")


def test_what_does_not_fit_is_said():
    for settings, text in (
        ({"policy": "random"}, "accepted are wait-k, sentence"),
        ({"k": 0}, "k is 0"),
        ({"phi": -1}, "phi is -1"),
        ({"header_mode": "x"}, "accepted are exact, upstream"),
        ({"per_write": 1}, "per_write"),
        ({"source_capacity": 0}, "1 or more"),
    ):
        with pytest.raises(InputError, match=text):
            operator(**settings)
    for settings, text in (
        ({"source_capacity": 4}, "no room for a word"),
        ({"target_capacity": 1}, "no room behind"),
        ({"phi": 4000}, "attends over at most"),
        ({"source_capacity": 600}, "attends over at most"),
    ):
        with pytest.raises(CapacityError, match=text):
            operator(**settings).init()
    with pytest.raises(ModelUnsupportedError, match="no tokenizer"):
        GroupPositionEncoding.from_model(model(), None).init()


def test_a_model_whose_attention_is_its_own_runs_too():
    """Where no router may take the attention over, the model's own is used, one session at a time."""
    config = copy.deepcopy(CONFIGS["gemma"]())
    plain = GroupPositionEncoding.from_model(tiny_model(config, 3), byte_tokenizer(), k=2, source_capacity=96)
    own = tiny_model(config, 3)
    own._supports_attention_backend = False
    other = GroupPositionEncoding.from_model(own, byte_tokenizer(), k=2, source_capacity=96)
    assert not other._routable
    settings = {"per_write": 4, "target_capacity": 48}
    plain, other = (dataclasses.replace(each, **settings) for each in (plain, other))
    assert written(plain, [Text("so it goes on")]) == written(other, [Text("so it goes on")])
