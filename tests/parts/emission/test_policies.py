"""Read/write policies as moves of a passage."""

import pytest

from unending.core.errors import InputError
from unending.parts.emission import Progress, SentenceBoundary, UserPolicy, WaitK


def delays(policy, source, target):
    """Words read when each target word is written; True in `source` and `target` ends a sentence."""
    read = written = sentences_read = sentences_written = 0
    found = []
    while written < len(target):
        now = Progress(read, written, sentences_read, sentences_written)
        if read == len(source) or policy.write(now):
            found.append(read)
            sentences_written += target[written]
            written += 1
        else:
            sentences_read += source[read]
            read += 1
    return found


def test_wait_k_stays_k_words_behind():
    assert delays(WaitK(3), [False] * 6, [False] * 6) == [3, 4, 5, 6, 6, 6]
    assert delays(WaitK(1), [False] * 3, [False] * 5) == [1, 2, 3, 3, 3]
    assert delays(WaitK(9), [False] * 3, [False] * 2) == [3, 3]


def test_sentence_boundary_writes_sentence_by_sentence():
    source = [False, False, True, False, True]
    assert delays(SentenceBoundary(), source, [False, True, False, False, True]) == [3, 3, 5, 5, 5]


def test_a_function_of_the_user_is_a_policy():
    pairs = UserPolicy(lambda now: now.read % 2 == 0 and now.written < now.read)
    assert delays(pairs, [False] * 4, [False] * 4) == [2, 2, 4, 4]


def test_no_lag_is_refused():
    with pytest.raises(InputError, match="accepted is 1 or more"):
        WaitK(0)
