"""Snapshots that somebody made up, under a checksum that fits."""

import json

import numpy as np
import pytest
from tests.serve.toys import Echo, Sum

from unending.core import Query, Rows, Session, snapshot
from unending.core.errors import SnapshotCorruptError, SnapshotForeignError
from unending.serve.uploads import require_sound


@pytest.fixture(scope="module")
def content():
    session = Session(Echo())
    session.push(Query("why?"))
    content = bytearray(session.snapshot())
    session.poll()
    return bytes(content)


def forged(content, change):
    """The snapshot with its header changed, and its checksum right again."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["unending"])
    held = snapshot.parse(content)
    change(header)
    header["checksum"] = snapshot._checksum(header, held)
    return snapshot.serialise(held, metadata={"unending": json.dumps(header, sort_keys=True)})


def test_what_a_session_wrote_is_sound(content):
    require_sound(content)
    require_sound(forged(content, lambda header: None))
    session = Session(Sum())
    session.push(Rows(np.ones((3, 2))))
    require_sound(session.snapshot())  # with an output that waits, and its array


OUTPUT = {"data": {"kind": "Text", "text": "a", "t": None}, "t": [0.0, 0.0], "final": True, "seq": 0}


@pytest.mark.parametrize(
    "values",
    [
        {"in_seq": "1"},
        {"in_seq": -1},
        {"in_seq": 2**70},
        {"time": None},
        {"finished": 1},
        {"taken": 3},
        {"extra": 1},
        {"outbox": {}},
        {"outbox": [OUTPUT]},  # it does not end before the next number
        {"outbox": [OUTPUT, OUTPUT], "out_seq": 2},
        {"outbox": [{**OUTPUT, "data": {"kind": "Tick", "t": None}}], "out_seq": 1},
        {"outbox": [{**OUTPUT, "data": {"kind": "os.system"}}], "out_seq": 1},
        {"outbox": [{**OUTPUT, "data": {"kind": ["Text"]}}], "out_seq": 1},
        {"outbox": [{**OUTPUT, "data": {"kind": "Text", "text": 7}}], "out_seq": 1},
        {"outbox": [{**OUTPUT, "data": {"kind": "Rows"}}], "out_seq": 1},
        {"outbox": [{**OUTPUT, "t": [0.0]}], "out_seq": 1},
    ],
)
def test_numbers_and_outputs_that_are_made_up(content, values):
    made_up = forged(content, lambda header: header["session"].update(values))
    with pytest.raises(SnapshotCorruptError):
        require_sound(made_up)


def test_an_output_that_fits_is_taken(content):
    require_sound(forged(content, lambda header: header["session"].update(outbox=[OUTPUT], out_seq=1)))


@pytest.mark.parametrize("name", ["operator", "version", "settings", "runtime", "session", "format"])
def test_a_header_of_other_types(content, name):
    for value in ([], None, 1.5, {"a": []}):
        with pytest.raises(SnapshotCorruptError):
            require_sound(forged(content, lambda header, value=value: header.update({name: value})))


def test_the_threads_of_the_process_stay_as_they_are(content):
    import torch

    before = torch.get_num_threads()
    with pytest.raises(SnapshotForeignError, match="threads"):
        require_sound(forged(content, lambda header: header.update(runtime={"threads": 10**6})))
    require_sound(forged(content, lambda header: header.update(runtime={"threads": before})))
    assert torch.get_num_threads() == before


def test_bytes_of_all_lengths(content):
    for length in range(0, len(content), 97):
        with pytest.raises(SnapshotCorruptError):
            require_sound(content[:length])
