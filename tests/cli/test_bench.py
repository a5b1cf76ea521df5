"""`unending bench`."""

import json

import pytest

from unending.cli import bench, main

ROW = {
    "claim": "flat",
    "paper": "22.2x",
    "peer": "recompute",
    "peer_value": 3,
    "ours": 1,
    "unit": "ms",
    "setting": "tiny",
}
SCRIPT = f"""
import json, pathlib, sys
print("at work")
if "--fail" in sys.argv: sys.exit(3)
row = {{**{ROW!r}, "setting": " | ".join(sys.argv[1:])}}
pathlib.Path(__file__).with_name("results").joinpath("streaming-llm.json").write_text(json.dumps([row]))
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    folder = tmp_path / "benchmarks"
    (folder / "results").mkdir(parents=True)
    monkeypatch.setattr(bench, "_benchmarks", lambda: folder)
    return folder


def test_stored_rows_are_shown_as_json(checkout, capsys):
    assert main(["bench", "streaming-llm", "--show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    (checkout / "results" / "streaming-llm.json").write_text(json.dumps([ROW]))
    assert main(["bench", "streaming-llm", "--show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [ROW]


def test_stored_rows_are_shown_to_a_person(checkout, capsys):
    (checkout / "results" / "streaming-llm.json").write_text(json.dumps([ROW]))
    assert main(["bench", "streaming-llm", "--show"]) == 0
    assert capsys.readouterr().out == "flat\n  ours 1 ms; recompute 3; the paper: 22.2x\n  tiny\n\n"


def test_the_rows_of_this_checkout_are_json(capsys):
    assert main(["bench", "streaming-llm", "--show", "--json"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), list)


def test_the_script_runs_with_what_stands_after_the_dashes(checkout, capfd):
    (checkout / "streaming_llm.py").write_text(SCRIPT)
    assert main(["bench", "streaming-llm", "--json", "--", "--only", "two words"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)[0]["setting"] == "--only | two words"
    assert err == "at work\n"


def test_a_script_that_fails_is_exit_code_1(checkout, capfd):
    (checkout / "streaming_llm.py").write_text(SCRIPT)
    assert main(["bench", "streaming-llm", "--", "--fail"]) == 1
    assert capfd.readouterr().out == ""


def test_a_system_without_a_benchmark(checkout, capsys):
    assert main(["bench", "streaming-llm"]) == 1
    assert "unending: streaming-llm has no benchmark" in capsys.readouterr().err


def test_rows_that_are_no_json(checkout, capsys):
    (checkout / "results" / "streaming-llm.json").write_text("[")
    assert main(["bench", "streaming-llm", "--show"]) == 1
    assert "is not JSON" in capsys.readouterr().err


def test_outside_a_checkout(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "a" / "b" / "c" / "d.py"))
    assert main(["bench", "streaming-llm", "--show"]) == 1
    assert "unending: benchmarks run in a checkout" in capsys.readouterr().err
