"""The model that is shipped: it thinks in time, and is right more often than not."""

import pytest
import torch

from unending.core import Query, Session, Text
from unending.io.models import known
from unending.parts.training.problems import WordProblems
from unending.systems.language.streaming_thinker import Sample, StreamingThinking

pytestmark = pytest.mark.skipif("tiny-thinker" not in known(), reason="the weights are not there")
TESTED = 12


def test_it_answers_problems_with_new_combinations_of_templates():
    torch.set_num_threads(1)
    op, problems = StreamingThinking(), WordProblems(11, test=True)
    answers = thoughts = 0
    for index in range(TESTED):
        sample = Sample.of(problems.problem(index))
        said = {"thought": "", "deep": "", "answer": ""}
        for event in Session(op).run([Query(sample.question), Text(" ".join(sample.sentences))]):
            said[event.data.role] += event.data.text
        answers += said["answer"].strip() == sample.answer
        thoughts += all(each in said["thought"] for each in sample.thoughts if each != "<ignore>")
    assert answers >= TESTED // 2
    assert thoughts >= TESTED // 2


def test_a_thought_is_there_before_the_next_sentence():
    session = Session(StreamingThinking())
    session.push(Query("How many do Ann and Ben have together?"))
    session.push(Text("Ann has 6. Ben has "))
    said = ""
    while events := session.poll():
        said += "".join(event.data.text for event in events)
    assert "Ann: 6" in said
