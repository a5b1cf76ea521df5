"""Head gates: files in the authors' form, and the choice of heads."""

import json

import numpy as np
import pytest

from unending.core.errors import InputError, StorageError
from unending.systems.language.duo_attention import HeadGates, shipped_patterns


def gates(*rows):
    return HeadGates(np.array(rows))


def test_a_table_is_written_as_the_authors_write_theirs(tmp_path):
    found = HeadGates(np.random.default_rng(0).random((4, 3)), 64, 256, {"steps": 7})
    folder = found.save(tmp_path / "a" / "b")
    lines = (folder / "full_attention_heads.tsv").read_text().splitlines()
    assert [len(line.split("\t")) for line in lines] == [3] * 4
    assert json.loads((folder / "config.json").read_text()) == {
        "steps": 7,
        "sink_size": 64,
        "recent_size": 256,
    }
    again = HeadGates.load(folder)
    np.testing.assert_array_equal(again.values, found.values)
    assert (again.sink, again.recent, dict(again.about)) == (64, 256, {"steps": 7})


@pytest.mark.parametrize("shape", [(1, 3), (3, 1), (1, 1), (32, 32)])
def test_tables_of_one_row_or_column_stay_tables(tmp_path, shape):
    found = HeadGates(np.random.default_rng(1).random(shape))
    assert HeadGates.load(found.save(tmp_path)).values.shape == shape


def test_a_table_of_the_authors_is_read_and_clipped(tmp_path):
    (tmp_path / "full_attention_heads.tsv").write_text("1.02e+00\t-3.0e-03\n5.0e-01\t0.0\n")
    (tmp_path / "config.json").write_text(json.dumps({"sink_size": 128, "recent_size": 256, "lr": 0.02}))
    found = HeadGates.load(tmp_path)
    assert found.values.tolist() == [[1.0, 0.0], [0.5, 0.0]]
    assert (found.sink, found.recent) == (128, 256)


def test_the_quantile_is_over_all_layers_together():
    table = gates([0.9, 0.8, 0.7, 0.6], [0.4, 0.3, 0.2, 0.1])
    assert table.binarize(0.5).tolist() == [
        [True] * 4,
        [False] * 4,
    ]  # half of each layer would be a toy's choice
    assert table.binarize(0.25).tolist() == [[True] * 4, [True, True, False, False]]
    assert gates([0.0, 1.0], [1.0, 1.0]).binarize(0.25).tolist() == [[False, True], [True, True]]


def test_ties_are_broken_by_noise_and_nothing_is_changed():
    table = gates(*np.ones((8, 8)))
    before = table.values.copy()
    chosen = [table.binarize(0.5, seed=seed) for seed in (0, 0, 1)]
    assert [int(each.sum()) for each in chosen] == [32, 32, 32]
    assert (chosen[0] == chosen[1]).all()
    assert (chosen[0] != chosen[2]).any()
    np.testing.assert_array_equal(table.values, before)
    with pytest.raises(ValueError, match="read-only"):
        table.values[0, 0] = 0.0


def test_the_array_that_was_given_is_neither_kept_nor_changed():
    given = np.array([[1.5, -0.5]])
    made = HeadGates(given)
    given[0, 0] = 0.25
    assert made.values.tolist() == [[1.0, 0.0]]


def test_the_ends_are_all_and_none():
    table = gates([0.2, 0.0], [1.0, 0.0])
    for sparsity in (0, -1):
        assert table.binarize(sparsity).all()
    for sparsity in (1, 2.0):
        assert not table.binarize(sparsity).any()
    assert table.binarize(threshold=0.2).tolist() == [[True, False], [True, False]]
    assert table.binarize().sum() == 2
    with pytest.raises(InputError, match="not both"):
        table.binarize(0.5, 0.5)
    with pytest.raises(InputError, match="finite"):
        table.binarize(float("nan"))


@pytest.mark.parametrize("shape", [(32, 32), (32, 8)], ids=["as Llama-2-7B, MHA", "as Llama-3-8B, GQA"])
def test_tables_of_the_published_shapes(shape):
    table = HeadGates(np.random.default_rng(2).random(shape) ** 3)
    for sparsity in (0.25, 0.5, 0.75):
        assert table.binarize(sparsity).mean() == pytest.approx(1 - sparsity, abs=1 / table.values.size)


def test_what_is_no_table_is_refused(tmp_path):
    for values in ([1.0, 0.0], [[]], [[np.nan]]):
        with pytest.raises(InputError, match="table"):
            HeadGates(np.array(values))
    with pytest.raises(InputError, match="recent"):
        HeadGates(np.ones((1, 1)), recent=0)
    with pytest.raises(InputError, match=r"known are .*smollm2-135m"):
        HeadGates.load("nowhere")
    with pytest.raises(InputError, match="rows of equal length"):
        HeadGates.load("1 0 / 1")
    (tmp_path / "full_attention_heads.tsv").write_text("1.0\tx\n")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="no readable gates"):
        HeadGates.load(tmp_path)
    (tmp_path / "full_attention_heads.tsv").write_text("1.0\n")
    with pytest.raises(InputError, match="no readable gates"):
        HeadGates.load(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        HeadGates(np.ones((1, 1))).save(tmp_path / "file")


def test_a_small_table_may_stand_in_place_of_a_name():
    assert HeadGates.load("1 0 / 0.5 .25").values.tolist() == [[1.0, 0.0], [0.5, 0.25]]


def test_shipped_tables_are_what_they_say():
    assert set(shipped_patterns()) >= {"smollm2-135m", "tiny-recall"}
    small, real = (HeadGates.load(name) for name in ("tiny-recall", "smollm2-135m"))
    assert small.values.shape == (2, 4)
    assert real.values.shape == (30, 3)
    assert small.binarize(0.5).sum(axis=1).tolist() == [1, 3]  # most of the second layer retrieves
    assert (small.sink, small.recent, real.sink, real.recent) == (4, 28, 16, 64)
