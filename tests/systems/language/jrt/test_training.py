"""`unending train jrt`: a folder that the operator opens, a loss that falls, and one line on bad input."""

import json

import numpy as np
import pytest
import torch

from unending.cli import main
from unending.core import Session, Text
from unending.core.errors import InputError
from unending.parts.backbones import language
from unending.systems.language.jrt import JRT
from unending.systems.language.jrt.training import TrainJRT

torch.set_num_threads(1)


@pytest.fixture
def book(tmp_path):
    words = np.random.default_rng(0).choice(["the", "stream", "never", "ends", "and", "so", "on."], 800)
    path = tmp_path / "book.txt"
    path.write_text(" ".join(words))
    return path


@pytest.mark.parametrize("start", ["tiny-jrt", ""])
def test_a_trained_folder_is_a_model_and_reads_better(book, tmp_path, start):
    folder = tmp_path / "model"
    settings = {
        "start": start,
        "steps": 12,
        "rows": 2,
        "length": 64,
        "prefix": 24,
        "rate": 3e-3,
        "quiet": True,
    }
    facts = TrainJRT(book, folder, **settings).run()
    assert facts["steps"] == 12
    assert facts["held_out_after"] < facts["held_out_before"] - 0.2
    try:
        op = JRT(model=str(folder), max_new_tokens=4)
        assert op.prefix == 24
        session = Session(op)
        session.push(Text(book.read_text()[:300]))
        session.poll()
        assert session.nbytes == op.bound().resident
    finally:
        language._loaded.pop((str(folder), "float32"), None)
    again = TrainJRT(book, folder, **settings).run()  # nothing is left to do
    assert again["training_loss"] == facts["training_loss"]


def test_on_the_command_line(book, tmp_path, capsys):
    target = "unending.systems.language.jrt.training:TrainJRT"
    flags = (
        f"--text {book} --folder {tmp_path / 'm'} --steps 2 --rows 1 --length 32 --prefix 8 --quiet --json"
    )
    assert main(["train", target, *flags.split()]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 5000}, "rows of 5000 need"),
        ({"prefix": 255}, "leaves two bytes"),
        ({"steps": 0}, "1 or more"),
        ({"mask_prob": 2.0}, "between 0 and 1"),
        ({"start": "tiny-recall"}, "no JRT model over bytes"),
    ],
)
def test_bad_input_is_one_line(book, tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        TrainJRT(book, tmp_path / "m", **settings).run()
