import pytest

from unending.core.errors import InputError
from unending.systems.language.streaming_thinker import SentenceSplitter

SPLIT = SentenceSplitter(limit=64)


def texts(text, splitter=SPLIT):
    return [unit.text for unit in splitter.split(text) if unit.text]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ann has 12. Ben has 3 ", ["Ann has 12."]),
        ("It costs 3.50 now. And ", ["It costs 3.50 now."]),
        ("Dr. J. Smith came. He ", ["Dr. J. Smith came."]),
        ("Fruit, e.g. apples, is good. Yes ", ["Fruit, e.g. apples, is good."]),
        ("Really?! Yes! (No.) Then", ["Really?!", "Yes!", "(No.)"]),
        ('He said "no." She left. ', ['He said "no."', "She left."]),
        ("安有三个。本有四个。然", ["安有三个。", "本有四个。"]),
        ("a heading\n\nText ", ["a heading"]),
        ("wrapped in\nthe middle. Next", ["wrapped in\nthe middle."]),
        ("\n\n  Ann has 1. ", ["Ann has 1."]),
        ("It was I. She", ["It was I."]),
        ("no end yet", []),
        ("Ann has 12.", []),
        ("", []),
    ],
)
def test_sentences(text, expected):
    assert texts(text) == expected


def test_a_full_stop_waits_for_what_follows():
    assert texts("It is 3.") == []
    assert texts("It is 3.5 ") == []
    assert texts("It is 3. ") == ["It is 3."]


def test_a_sentence_without_end_is_cut_at_white_space():
    small = SentenceSplitter(limit=8)
    units = small.split("abc defghijklmnop")
    assert [unit.text for unit in units] == ["abc", "defghij"]
    assert all(
        unit.known - begin == 8
        for unit, begin in zip(units, [0, *[each.end for each in units]], strict=False)
    )


@pytest.mark.parametrize("limit", [8, 13, 64])
def test_sentences_do_not_depend_on_how_the_text_arrives(limit):
    splitter = SentenceSplitter(limit)
    text = (
        "Ann has 12.  Dr. Who? \n\n\n Yes, 3.5!\n x" * 3
        + "averyveryverylongwordwithoutend and so on. "
        + " " * 20
    )
    whole = splitter.split(text)
    found, held, begins = [], "", 0
    for count, character in enumerate(text, 1):
        held += character
        for unit in splitter.split(held):
            found.append((unit.text, begins + unit.end, begins + unit.known))
            assert begins + unit.known == count  # it comes as soon as it is known, and not before
        if done := splitter.split(held):
            begins += done[-1].end
            held = held[done[-1].end :]
        assert len(held) < limit
    assert found == [tuple(unit) for unit in whole]


def test_a_senseless_limit():
    with pytest.raises(InputError, match="8 characters or more"):
        SentenceSplitter(7)
