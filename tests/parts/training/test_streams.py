import hashlib
import subprocess
import sys

import numpy as np
import pytest

from unending.io.text import standard_text
from unending.parts.training import (
    RecallStream,
    byte_windows,
    digest,
    library_docstrings,
    library_sources,
    repeats,
)


def naive_recall(stream, lines):
    """The stream token by token from its records, in plain loops: ids and the positions of scored answers."""
    records = stream._records(0, lines).tolist()
    ids, answers = [0], []
    for n, record in enumerate(records, 1):
        ids += record
        if n % stream.every == 0:
            key, value = records[max(n - stream.distance, 0)]
            ids += [1, key, value]
            if n >= stream.distance:
                answers.append(len(ids) - 1)
    return ids, answers


@pytest.mark.parametrize("stream", [RecallStream(3), RecallStream(4, every=1, distance=7, keys=16, values=4)])
def test_recall_stream_is_its_definition(stream):
    ids, answers = naive_recall(stream, 200)
    assert stream.tokens(0, len(ids)).tolist() == ids
    assert stream.answers(0, len(ids)).tolist() == answers


@pytest.mark.parametrize("distance", [0, 1, 20])
def test_any_piece_equals_the_whole(distance):
    stream = RecallStream(9, every=5, distance=distance, keys=64)
    whole, scored = stream.tokens(0, 2000), stream.answers(0, 2000)
    for start, stop in [(0, 0), (0, 1), (1, 1), (1, 14), (13, 14), (14, 15), (700, 701), (333, 1999)]:
        np.testing.assert_array_equal(stream.tokens(start, stop), whole[start:stop])
        inside = scored[(scored >= start) & (scored < stop)]
        np.testing.assert_array_equal(stream.answers(start, stop), inside)


def test_far_positions_cost_as_little_as_near_ones():
    far = RecallStream(1).tokens(10**12, 10**12 + 50)
    assert far.shape == (50,)
    assert far.max() < RecallStream(1).vocabulary


def test_a_key_has_one_answer_within_half_the_keys():
    records = RecallStream(5, keys=32, distance=16)._records(0, 4000)
    for line in range(16, len(records)):
        assert records[line, 0] not in records[line - 16 : line, 0]


def test_random_distances_cover_their_range_and_stay_in_it():
    stream = RecallStream(2, every=1, distance=0, keys=32)
    asked = stream._asked(0, 4000)
    distances = np.arange(1, 4001) - asked
    assert set(distances[40:]) == set(range(1, 17))
    assert (asked >= 0).all()


def test_seeds_differ():
    assert (RecallStream(0).tokens(0, 500) != RecallStream(1).tokens(0, 500)).any()


@pytest.mark.parametrize("wrong", [{"keys": 7}, {"distance": 200}, {"distance": -1}, {"every": 0}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"keys|distance"):
        RecallStream(0, **wrong)


def test_negative_positions_are_refused():
    with pytest.raises(ValueError, match="positions"):
        RecallStream(0).tokens(-1, 5)


def test_held_out_text_is_long_and_stays_out_of_the_training_text():
    text = standard_text()
    assert len(text) > 400_000
    sources = library_sources()
    assert len(sources) > 300
    assert not [
        path for path in sources if "pydoc_data" in path or path.startswith(("test/", "_sysconfigdata"))
    ]
    code = "\n".join(sources.values())
    pieces = [text[at : at + 200] for at in range(0, len(text) - 200, 5000)]
    assert sum(piece in code for piece in pieces) == 0


def test_docstrings_come_from_the_sources():
    docstrings = library_docstrings()
    assert docstrings.keys() <= library_sources().keys()
    assert "Heap queue" in docstrings["heapq.py"]


def test_the_text_is_the_same_in_another_process():
    program = (
        "from unending.parts.training import digest, library_docstrings\n"
        "print(digest(repr(library_docstrings()).encode()))"
    )
    theirs = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert theirs.strip() == digest(repr(library_docstrings()).encode())


def test_byte_windows_follow_from_seed_and_step():
    text = bytes(range(256)) * 4
    windows = byte_windows(text, seed=1, step=2, rows=5, length=9)
    assert windows.shape == (5, 9)
    assert windows.dtype == np.int64
    assert (np.diff(windows) % 256 == 1).all()
    np.testing.assert_array_equal(windows, byte_windows(text, 1, 2, 5, 9))
    assert (windows != byte_windows(text, 1, 3, 5, 9)).any()
    assert (windows != byte_windows(text, 2, 2, 5, 9)).any()


def test_byte_windows_reach_both_ends_of_the_text():
    windows = byte_windows(b"abc", 0, 0, 100, 2)
    assert {bytes(row.astype(np.uint8)) for row in windows} == {b"ab", b"bc"}
    with pytest.raises(ValueError, match="bytes"):
        byte_windows(b"abc", 0, 0, 1, 4)


def test_repeats_say_their_beginning_again():
    rows = np.arange(14).reshape(2, 7)
    assert repeats(rows, np.array([3, 9])).tolist() == [[0, 1, 2, 0, 1, 2, 0], [7, 8, 9, 10, 11, 12, 13]]


def test_digest_is_sha256():
    assert digest(b"x") == hashlib.sha256(b"x").hexdigest()
