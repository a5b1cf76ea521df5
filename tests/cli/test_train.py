"""`unending train`."""

import json
from dataclasses import dataclass
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import numpy as np
import pytest

from unending.cli import main, train
from unending.core.errors import MissingExtraError
from unending.systems.language.duo_attention import HeadGates

DUO = "unending.systems.language.duo_attention.training:TrainDuoAttention"


@dataclass(frozen=True)
class Training:
    """Learn a number."""

    goal: int
    """what it is"""
    name: str = "n"
    """what it is called"""

    def run(self) -> dict[str, Any]:
        return {self.name: self.goal, "share": 1 / 3}


class NoTraining:
    pass


HERE = f"{__name__}:Training"


def test_flags_are_the_fields_and_the_facts_are_printed(capsys):
    assert main(["train", HERE, "--goal", "7"]) == 0
    out = capsys.readouterr().out
    assert [line.split() for line in out.splitlines()] == [["n", "7"], ["share", "0.333333"]]
    assert main(["train", HERE, "--goal", "7", "--name", "m", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "system": HERE,
        "settings": {"goal": 7, "name": "m"},
        "m": 7,
        "share": 1 / 3,
    }


def test_help_says_what_is_learned(capsys):
    assert main(["train", HERE, "--help"]) == 0
    out = capsys.readouterr().out
    assert "Learn a number." in out
    assert "what it is called" in out


def test_wrong_usage_is_one_line(capsys):
    cases = {
        ("train",): "SYSTEM",
        ("train", "nothing"): "nothing to train for 'nothing'",
        ("train", "nowhere:Training"): "cannot load nowhere:Training",
        ("train", f"{__name__}:NoTraining"): "is not a training",
        ("train", HERE): "--goal",
        ("train", HERE, "--goal", "x"): "goal",
    }
    for arguments, text in cases.items():
        assert main(list(arguments)) == 2
        said = capsys.readouterr().err
        assert text in said
        assert len(said.splitlines()) == 1


def test_entry_points_name_trainings(monkeypatch, capsys):
    group = "unending.training"
    points = EntryPoints(
        [
            EntryPoint("numbers", HERE, group),
            EntryPoint("absent", "unending_absent_package:Training", group),
        ]
    )
    monkeypatch.setattr(train, "entry_points", lambda **select: points.select(**select))
    assert main(["train", "numbers", "--goal", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["system"] == "numbers"
    with pytest.raises(MissingExtraError, match="unending_absent_package"):
        train.training_class("absent")
    assert main(["train", "others"]) == 2
    assert "there is for: absent, numbers" in capsys.readouterr().err


def test_gates_are_found_written_and_drawn(tmp_path, capsys):
    flags = "--model tiny-recall --steps 6 --sink-size 4 --recent-size 28 --max-length 128 --json"
    out, picture = tmp_path / "gates", tmp_path / "gates.png"
    assert main(["train", DUO, *flags.split(), "--out", str(out), "--plot", str(picture)]) == 0
    said = capsys.readouterr()
    facts = json.loads(said.out)
    gates = HeadGates.load(out)
    assert facts["folder"] == str(out)
    assert facts["mean gate"] == pytest.approx(gates.values.mean(), abs=1e-4)
    assert (gates.sink, gates.recent, gates.about["model"], gates.about["steps"]) == (4, 28, "tiny-recall", 6)
    assert gates.values.shape == (2, 4)
    assert sorted(each.name for each in out.iterdir()) == ["config.json", "full_attention_heads.tsv"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "step 6/6" in said.err


def test_a_run_that_was_stopped_goes_on(tmp_path, monkeypatch, capsys):
    from unending.systems.language.duo_attention import training

    flags = [
        "--model",
        "tiny-recall",
        "--steps",
        "54",
        "--sink-size",
        "4",
        "--recent-size",
        "8",
        "--max-length",
        "64",
        "--json",
    ]
    assert main(["train", DUO, *flags, "--out", str(tmp_path / "whole")]) == 0
    data = training.RecallPasskeys.__getitem__

    def interrupted(self, index):
        if index == 52:
            raise KeyboardInterrupt
        return data(self, index)

    monkeypatch.setattr(training.RecallPasskeys, "__getitem__", interrupted)
    again = ["train", DUO, *flags, "--out", str(tmp_path / "stopped")]
    assert main(again) == 130
    assert len(list((tmp_path / "stopped").glob("checkpoint-*.safetensors"))) == 1
    monkeypatch.setattr(training.RecallPasskeys, "__getitem__", data)
    capsys.readouterr()
    assert main(again) == 0
    assert "step 49/54" not in capsys.readouterr().err
    whole, stopped = (HeadGates.load(tmp_path / name) for name in ("whole", "stopped"))
    np.testing.assert_array_equal(stopped.values, whole.values)


def test_gates_are_found_on_text_of_the_user(tmp_path, model, capsys):
    book = tmp_path / "book.txt"
    book.write_text("Once upon a time there was a stream. " * 40)
    flags = "--steps 2 --max-length 2000 --min-length 200 --num-passkeys 2 --passkey-length 2 --sink-size 2"
    flags += " --recent-size 4 --reserve 0"
    arguments = ["train", DUO, *flags.split(), "--model", str(model), "--haystack", str(book)]
    assert main([*arguments, "--out", str(tmp_path / "g")]) == 2  # the model has 64 positions
    assert "leave no room for a book in 64 tokens" in capsys.readouterr().err
    config = json.loads((model / "config.json").read_text())
    longer = tmp_path / "longer"
    longer.mkdir()
    for each in model.iterdir():
        (longer / each.name).write_bytes(each.read_bytes())
    (longer / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    arguments[arguments.index(str(model))] = str(longer)
    assert main([*arguments, "--out", str(tmp_path / "g")]) == 0
    assert np.isfinite(HeadGates.load(tmp_path / "g").values).all()


def test_bad_input_is_one_line(tmp_path, capsys):
    for flags, text in (
        ("--model tiny-recall --keys 3", "3 keys and 64 values has 69"),
        ("--model nothing", "no model 'nothing'"),
        ("--model tiny-recall --steps 0", "steps"),
        ("--model tiny-recall --plot gates.nothing", "no picture"),
        ("--model tiny-recall --plot nowhere/gates.png", "no picture"),
    ):
        assert main(["train", DUO, *flags.split(), "--out", str(tmp_path / "g")]) == 2
        said = capsys.readouterr().err
        assert text in said
        assert len(said.splitlines()) == 1
