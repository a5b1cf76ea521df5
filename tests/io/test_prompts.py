"""Files of prompts."""

import json

import pytest

from unending.core import Control, Query, Text
from unending.core.errors import InputError, StorageError
from unending.io.sources import open_source

TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]


@pytest.fixture
def write(tmp_path):
    def written(*lines):
        path = tmp_path / "prompts.jsonl"
        path.write_text(
            "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), "utf-8"
        )
        return str(path)

    return written


def test_each_line_is_a_prompt_and_its_number_is_its_time(write):
    name = write(
        '"Pourquoi, 河流?"', {"prompt": "What?", "id": 7}, "", {"messages": TALK[1:]}, {"messages": TALK}
    )
    source = open_source(name, (Query, Control))
    assert (source.kind, source.size, source.unit) == (Query, 4, "prompts")
    chunks = list(source.chunks(512))
    assert [chunk.t for chunk in chunks] == [1, 2, 3, 4]
    assert [chunk.text for chunk in chunks[:3]] == ["Pourquoi, 河流?", "What?", "Why?"]
    assert (chunks[3].name, chunks[3].value) == ("messages", TALK)
    assert [chunk.t for chunk in source.chunks(512, skip=3)] == [4]
    assert not list(source.chunks(512, skip=4))
    with pytest.raises(InputError, match="ends at 4, before 5"):
        list(source.chunks(512, skip=5))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2 is not JSON"),
        ("3", "line 2 is no prompt; accepted are"),
        ('"  "', "line 2 is no prompt"),
        ("[]", "line 2 is no prompt"),
        ('{"text": "why?"}', "line 2 is no prompt"),
        ('{"prompt": 3}', "line 2 is no prompt"),
        ('{"messages": []}', "line 2 has no list of messages"),
        ('{"messages": [{"role": "user"}]}', "line 2 has no list of messages"),
        ('"why \\ud800?"', "line 2: the query holds half a surrogate pair"),
    ],
)
def test_a_bad_line_is_named_by_its_number_before_anything_runs(write, line, says):
    with pytest.raises(InputError, match=says) as raised:
        open_source(write('"fine"', line), (Query,))
    assert "\n" not in str(raised.value)


def test_files_that_cannot_be_read(write, tmp_path):
    with pytest.raises(StorageError, match="no such file"):
        open_source(str(tmp_path / "none.jsonl"), (Query,))
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b'"caf\xe9"\n')
    with pytest.raises(InputError, match="not a file in UTF-8"):
        open_source(str(path), (Query,))
    with pytest.raises(InputError, match="gives Query, but the system takes Text"):
        open_source(write('"why?"'), (Text,))


def test_an_empty_file_is_an_empty_stream(write):
    source = open_source(write(""), (Query,))
    assert source.size == 0
    assert not list(source.chunks(512))
