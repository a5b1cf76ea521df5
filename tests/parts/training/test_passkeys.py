"""Pass keys: the data of DuoAttention, piece by piece."""

import numpy as np
import pytest

from unending.core.errors import InputError
from unending.parts.backbones.tiny import byte_tokenizer
from unending.parts.training.passkeys import ALPHABET, IGNORED, MultiPasskeyDataset, RecallPasskeys

BOOK = "".join(f"Sentence number {index} of the book. " for index in range(400))
ORDINALS = ("first", "second", "third")


def dataset(**settings):
    chosen = {
        "max_length": 2500,
        "min_length": 500,
        "num_passkeys": 3,
        "passkey_length": 4,
        "lengths": 5,
        **settings,
    }
    return MultiPasskeyDataset(byte_tokenizer(), BOOK, **chosen)


def test_a_sample_is_a_book_with_keys_in_it_and_all_questions_behind():
    data = dataset()
    for index in range(6):
        sample, keys, book = data.ask(index)
        text = data.tokenizer.decode(sample.ids.tolist())
        context, questions = data.tokenizer.decode(sample.ids[:book].tolist()), text[book:]
        assert context.startswith("<|im_start|> This is a very long story book: <book> ")
        assert context.endswith(" </book>.\n\n")
        places = []
        for ordinal, key in zip(ORDINALS, keys, strict=True):
            needle = f"\n\nRemeber this sequence of words, it's the {ordinal} passkey to the vault: {key}\n\n"
            assert context.count(needle) == 1
            places.append(context.index(needle))
            assert len(key.split()) == 4
            assert set(key.split()) <= set(ALPHABET)
        assert places == sorted(places)
        asked = [
            f"Based on the content of the book, what is the {ordinal} passkey to the vault?\nPasskey: {key}\n\n"
            for ordinal, key in zip(ORDINALS, keys, strict=True)
        ]
        assert questions == "".join(asked)
        assert (sample.labels[:book] == IGNORED).all()
        np.testing.assert_array_equal(sample.labels[book:], sample.ids[book:])
        assert len(sample.ids) % 16 == 0
        assert len(sample.ids) <= 2500


def test_without_its_needles_the_context_is_the_book_and_a_tail_of_it():
    data = dataset()
    sample, keys, book = data.ask(1)
    text = data.tokenizer.decode(sample.ids[:book].tolist())
    for ordinal, key in zip(ORDINALS, keys, strict=True):
        text = text.replace(
            f"\n\nRemeber this sequence of words, it's the {ordinal} passkey to the vault: {key}\n\n", ""
        )
    text = text.removeprefix("<|im_start|> This is a very long story book: <book> ").removesuffix(
        " </book>.\n\n"
    )
    whole = data.tokenizer.decode(data.haystack)
    tail = next(size for size in range(1, 17) if text[:-size] == whole[: len(text) - size])
    assert text.endswith(whole[-tail:])


def test_depths_lie_in_their_range_and_differ():
    data = dataset(min_depth=0.4, max_depth=0.6, depths=11, lengths=1, min_length=2500)
    shares = []
    for index in range(5):
        sample, _, _ = data.ask(index)
        text = data.tokenizer.decode(sample.ids.tolist())
        first = text.index("Remeber") - len("<|im_start|> This is a very long story book: <book> \n\n")
        shares.append(first / len(data.haystack))
    assert all(0.39 < share < 0.61 for share in shares)
    assert len(set(shares)) > 1


def test_every_context_length_comes_once_before_any_comes_again(monkeypatch):
    data, seen = dataset(max_length=4000, min_length=200), []
    hidden = data._hidden
    monkeypatch.setattr(data, "_hidden", lambda book, *rest: seen.append(len(book)) or hidden(book, *rest))
    for index in range(15):
        data[index]
    wanted = sorted(min(len(data.haystack), int(each)) for each in data.context_lengths)
    assert len(set(wanted)) > 3
    epochs = [seen[start : start + 5] for start in (0, 5, 10)]
    assert [sorted(each) for each in epochs] == [wanted] * 3
    assert epochs[0] != epochs[1] or epochs[1] != epochs[2]


def test_an_item_is_a_function_of_seed_and_index():
    one, two, other = dataset(), dataset(), dataset(seed=1)
    for index in (7, 0, 3):
        np.testing.assert_array_equal(one[index].ids, two[index].ids)
        assert one.ask(index)[1] != other.ask(index)[1]
    assert one.ask(0)[1] != one.ask(1)[1]


def test_the_sizes_of_the_authors_are_the_defaults():
    data = MultiPasskeyDataset(byte_tokenizer(), BOOK * 4)
    assert data.context_lengths[[0, -1]].tolist() == [1000, 32000]
    assert (len(data), len(data.depths), data.num_passkeys, data.passkey_length) == (50, 1000, 10, 32)
    assert data.depths[[0, -1]].tolist() == [0.05, 0.95]
    assert len(data[0].ids) <= 32000 - 300 + 10 * 2 * 32 * 6  # keys differ in their length


def test_the_book_may_come_in_parts():
    parts = MultiPasskeyDataset(
        byte_tokenizer(), iter([BOOK[:3000], BOOK[3000:]]), max_length=2500, num_passkeys=3, passkey_length=4
    )
    assert parts.haystack == dataset(min_length=1000, lengths=50).haystack


def test_what_leaves_no_room_is_refused():
    with pytest.raises(InputError, match="leave no room for a book in 800 tokens"):
        dataset(max_length=800)
    with pytest.raises(InputError, match="1 to 20"):
        dataset(num_passkeys=21)
    with pytest.raises(InputError, match="min_length"):
        dataset(min_length=3000)


def test_in_symbols_the_queries_are_labelled():
    data = RecallPasskeys(length=128, every=(2, 5), keys=32, values=8)
    for index in range(4):
        sample = data[index]
        at = np.flatnonzero(sample.labels != IGNORED)
        np.testing.assert_array_equal(sample.labels[at], sample.ids[at])
        assert len(at) % 3 == 0
        for mark, key, value in sample.ids[at].reshape(-1, 3):
            assert mark == 1
            assert 2 <= key < 34 <= value
    assert (data[0].ids != data[2].ids).any()
    np.testing.assert_array_equal(data[3].ids, data[3].ids)
