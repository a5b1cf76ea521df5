import pytest

from unending.core.errors import InputError
from unending.parts.training.problems import WordProblems
from unending.systems.language.streaming_thinker import Sample, build_streaming_cot, check_streaming_cot

GOOD = Sample(
    "How many do Ann and Ben have together?",
    ("Ann has 12.", "It rains.", "Ben has 3 more than Ann.", "Cat has 9."),
    ("Ann = 12", "<ignore>", "Ben = 12 + 3 = 15", "Cat = 9"),
    "12 + 15 = 27",
    "27 - 15 = 12",
    r"\boxed{27}",
)


def changed(index, thought):
    thoughts = list(GOOD.thoughts)
    thoughts[index] = thought
    return Sample(GOOD.question, GOOD.sentences, tuple(thoughts), GOOD.deep, GOOD.reflection, GOOD.answer)


class Program:
    """A teacher that knows the values; `leak` makes it look ahead."""

    def __init__(self, wrong=(), answer=r"\boxed{27}"):
        self.wrong, self.answer, self.prefixes = dict(wrong), answer, []

    def think(self, question, sentences, thoughts):
        self.prefixes.append(len(sentences))
        assert len(thoughts) == len(sentences) - 1
        return self.wrong.pop(len(sentences), None) or GOOD.thoughts[len(sentences) - 1]

    def conclude(self, question, sentences, thoughts):
        return GOOD.deep, GOOD.reflection, self.answer


def test_a_good_chain_passes():
    report = check_streaming_cot(GOOD, "27")
    assert report.ok
    assert str(report) == "ok"


@pytest.mark.parametrize(
    ("sample", "check", "says"),
    [
        (
            Sample(GOOD.question, GOOD.sentences, GOOD.thoughts[:3], answer="27"),
            "granularity",
            "3 thoughts for 4",
        ),
        (changed(0, "  "), "granularity", "thought 1 is empty"),
        (changed(0, "Ann = 12 <EOT> Ben"), "granularity", "holds <EOT>"),
        (changed(0, "Cat = 12"), "consistency", "knows 'Cat' before it is said"),
        (changed(0, "Ann = 3"), "consistency", "knows '3' before it is said"),
        (changed(2, "Ann more than rains, Cat"), "consistency", "knows 'Cat'"),
        (changed(2, "Cat Cat"), "consistency", "rather about sentence 4"),
    ],
)
def test_what_is_wrong_is_said(sample, check, says):
    report = check_streaming_cot(sample)
    assert not report.ok
    assert any(says in line for line in getattr(report, check))


def test_a_number_may_follow_from_two_known_ones():
    sample = Sample(
        "How many?", ("Ann has 4.", "Ann gets 5 more.", "Ann loses 9."), ("Ann = 4", "Ann = 9", "Ann = 0")
    )
    assert check_streaming_cot(sample).consistency == ()


def test_the_answer_is_compared_in_its_box_or_plain():
    assert check_streaming_cot(GOOD, r"so \boxed{27}").ok
    assert "not '28'" in str(check_streaming_cot(GOOD, "28"))
    assert "no answer" in str(check_streaming_cot(Sample("q?", ("a.",), ("a",))))


def test_generated_problems_pass():
    for index in range(200):
        sample = Sample.of(WordProblems(5, (2, 6)).problem(index))
        assert check_streaming_cot(sample, sample.answer).ok, sample


def test_a_teacher_sees_no_sentence_before_its_time():
    teacher = Program()
    made = build_streaming_cot(Sample(GOOD.question, GOOD.sentences, answer="27"), teacher)
    assert teacher.prefixes == [1, 2, 3, 4]
    assert made.thoughts == GOOD.thoughts


def test_a_teacher_may_begin_anew():
    teacher = Program(wrong={1: "Cat = 12"})
    assert (
        build_streaming_cot(Sample(GOOD.question, GOOD.sentences, answer="27"), teacher).thoughts
        == GOOD.thoughts
    )
    assert teacher.prefixes == [1, 2, 3, 4] * 2
    with pytest.raises(InputError, match="in 2 tries; the last: the answer is '28', not '27'"):
        build_streaming_cot(Sample(GOOD.question, GOOD.sentences, answer="27"), Program(answer="28"), tries=2)


def test_samples_come_from_mappings():
    assert Sample.of({"question": "q?", "sentences": ["a."], "more": 1}).sentences == ("a.",)
    with pytest.raises(InputError, match="question is missing"):
        Sample.of({"sentences": ["a."]})
    with pytest.raises(InputError, match="thoughts of a sample must be a list of texts"):
        Sample.of({"question": "q?", "sentences": ["a."], "thoughts": "a"})
