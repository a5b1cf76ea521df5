"""`unending list`."""

import json

from unending import catalogue
from unending.cli import main

KEYS = ["name", "family", "title", "paper", "takes", "gives", "bound", "exactness", "opt_outs"]


def test_json_is_a_list_of_objects_from_any_folder(shell, tmp_path):
    code, out, err = shell("list", "--json", cwd=tmp_path)
    assert (code, err) == (0, "")
    rows = json.loads(out)
    assert [row["name"] for row in rows] == catalogue.names()
    for row in rows:
        assert [key for key in row if key != "arxiv"] == KEYS
        assert row["takes"]
        assert row["gives"]
        assert isinstance(row["opt_outs"], dict)


def test_the_table_names_every_system(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for name in catalogue.names():
        assert f"\n{name} " in out
    assert "\x1b" not in out


def test_opt_outs_are_printed_with_their_reason(monkeypatch, capsys):
    row = {**catalogue.stored()[0], "opt_outs": {"L2": "it is a learner"}}
    monkeypatch.setattr(catalogue, "stored", lambda: [row])
    assert main(["list"]) == 0
    assert f"{row['name']} opts out of L2: it is a learner\n" in capsys.readouterr().out


def test_a_plug_in_that_is_not_stored_is_described_live(monkeypatch, capsys):
    monkeypatch.setattr(catalogue, "stored", list)
    assert main(["list", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == catalogue.names()
