"""The synthetic language pair: rules by hand, and a tokenizer that keeps words apart."""

import pytest

from unending.parts.training.translations import TranslationTask


def test_a_pair_is_drawn_by_seed_and_step_alone():
    task = TranslationTask()
    assert task.sentences(1, 2, 5) == task.sentences(1, 2, 5) != task.sentences(1, 3, 5)
    lengths = [len(source) for source, _ in task.sentences(0, 0, 200)]
    assert min(lengths) == 8
    assert max(lengths) == 24
    assert max(len(source) for source, _ in task.sentences(0, 0, 50, 6)) == 6


def test_a_modifier_before_a_head_comes_after_it():
    task = TranslationTask()
    source, target = task.lexicon
    modifier, other, head = source[0], source[1], source[-1]
    assert task.translate([head, modifier]) == [target[-1], target[0]]
    assert task.translate([modifier, head]) == [target[-1], target[0]]
    assert task.translate([modifier, other, head]) == [target[0], target[-1], target[1]]
    for words, translation in task.sentences(0, 0, 20):
        assert task.translate(words) == translation


def test_words_have_one_token_or_two_with_the_space_before_them():
    task = TranslationTask()
    tokenizer = task.tokenizer()
    for words in task.lexicon:
        assert len(set(words)) == task.words
        counts = [len(tokenizer(" " + word).input_ids) for word in words]
        assert sorted(set(counts)) == [1, 2]
        assert counts.count(2) == task.words // 3
        whole = tokenizer(" " + " ".join(words)).input_ids
        assert len(whole) == sum(counts)
        # The toy that leaves the space out gets other tokens.
        assert sum(len(tokenizer(word).input_ids) for word in words) != len(whole)


def test_other_text_survives_as_bytes():
    tokenizer = TranslationTask().tokenizer()
    assert tokenizer.decode(tokenizer(" naïve 河流 kama").input_ids) == " naïve 河流 kama"


def test_odd_sizes_are_refused():
    with pytest.raises(ValueError, match="multiple of 6"):
        TranslationTask(words=50)
