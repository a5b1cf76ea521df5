"""Word problems: what is told gives what is thought, held-out templates, and the tokenizer."""

import re

import pytest

from unending.parts.training.problems import MOST, WordProblems, held_out, word_tokenizer

MARKS = ("<SEP>", "<ignore>")


def values_of(sentences):
    """The values after each sentence, by a plain reading of the text."""
    values, found = {}, []
    for sentence in sentences:
        number = next(iter(map(int, re.findall(r"\d+", sentence))), 0)
        names = re.findall(r"\b(?:Ann|Ben|Cat|Dan|Eva|Fay)\b", sentence)
        if not names:
            found.append(None)
            continue
        old = values.get(names[-1], 0)
        if "fewer" in sentence or "loses" in sentence:
            value = old - number
        elif "times" in sentence:
            value = old * number
        elif "more" in sentence:
            value = old + number
        else:
            value = number
        values[names[0]] = value
        found.append((names[0], old, value))
    return values, found


@pytest.mark.parametrize("test", [False, True])
def test_thoughts_and_answers_follow_from_the_text(test):
    for index in range(300):
        made = WordProblems(3, (2, 6), test=test).problem(index)
        values, found = values_of(made.sentences)
        for thought, known in zip(made.thoughts, found, strict=True):
            assert (thought == "<ignore>") == (known is None)
            if known:
                assert thought.endswith(f"{known[0]}: {known[2]}")
        names = re.findall(r"[A-Z][a-z]{2}\b", made.restated)
        asked = [values[name] for name in names]
        expected = {"+": sum(asked), "-": asked[0] - asked[-1]}.get(made.restated.split()[1], max(asked))
        if made.restated.startswith("max"):
            expected = max(asked)
        assert made.answer == f"\\boxed{{{expected}}}"
        assert 1 <= made.deep.count(",") + 1 <= 3
        steps = re.sub(r"[A-Z][a-z]{2} ", "", f"{made.deep} {made.reflection}")
        for left, sign, right, result in re.findall(r"(\d+) ([-+]) (\d+) = (\d+)", steps):
            assert int(left) + (1 if sign == "+" else -1) * int(right) == int(result)
        assert all(
            int(number) <= MOST for number in re.findall(r"\d+", " ".join((*made.sentences, made.deep)))
        )


def test_templates_of_the_test_problems_are_new():
    train = [WordProblems(0).problem(index) for index in range(300)]
    test = [WordProblems(0, test=True).problem(index) for index in range(300)]
    assert not any(held_out(each.templates) for each in train)
    assert all(held_out(each.templates) for each in test)


def test_a_problem_follows_from_its_number():
    assert WordProblems(1).problem(7) == WordProblems(1).problem(7)
    assert WordProblems(1).problem(7) != WordProblems(2).problem(7)
    assert all(len(WordProblems(1, (4, 4)).problem(index).sentences) == 4 for index in range(20))


def test_about_fifteen_in_a_hundred_sentences_say_nothing():
    thoughts = [thought for index in range(400) for thought in WordProblems(0).problem(index).thoughts]
    assert 0.1 < sum(thought == "<ignore>" for thought in thoughts) / len(thoughts) < 0.2


def test_the_tokenizer_keeps_every_text_and_splits_numbers():
    tokenizer = word_tokenizer(MARKS)
    for index in range(200):
        made = WordProblems(4, (2, 6)).problem(index)
        for text in (
            made.question,
            *made.sentences,
            made.restated,
            *made.thoughts,
            made.deep,
            made.reflection,
            made.answer,
        ):
            ids = tokenizer(text, add_special_tokens=False).input_ids
            assert tokenizer.unk_token_id not in ids, text
            assert tokenizer.decode(ids) == text
    assert len(tokenizer("47").input_ids) == 2
    for mark in MARKS:
        assert len(tokenizer(f"Ann {mark} Ben").input_ids) == 3
    assert "<unk>" in tokenizer.convert_ids_to_tokens(tokenizer("xylophone").input_ids)


def test_senseless_settings_are_refused():
    for settings in (
        {"sentences": (1, 3)},
        {"sentences": (5, 3)},
        {"filler": 0.6},
        {"values": 100},
        {"operands": 0},
    ):
        with pytest.raises(ValueError):
            WordProblems(**settings)
