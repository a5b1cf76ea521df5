"""Collator and fine-tuning: the loss that transformers computes is ours, and a run leaves a checkpoint that opens."""

import numpy as np
import pytest
import torch
from tests.systems.language.group_position_encoding.forcing import CONFIGS, SOURCE, TARGET, frame, model

from unending.core import Session, Text
from unending.core.errors import InputError, MissingExtraError, StorageError
from unending.parts.backbones.tiny import byte_tokenizer, tiny_model
from unending.parts.transcript import loss
from unending.systems.language.group_position_encoding import (
    MODES,
    GroupPositionEncoding,
    StreamingSFTCollator,
)
from unending.systems.language.group_position_encoding.training import (
    TrainGroupPositionEncoding,
    objective,
    read_pairs,
)

PAIRS = [(SOURCE, TARGET), ("so it goes", "ainsi va la vie"), (["on"], ["en", "avant", "!"])]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_the_loss_of_transformers_is_the_loss_of_the_batch(mode):
    made = StreamingSFTCollator(frame(), 2, mode=mode)
    batch = made.batch(PAIRS)
    logits = model()(
        input_ids=batch.ids, position_ids=batch.positions, attention_mask=batch.mask, use_cache=False
    ).logits
    wanted = loss(logits, batch)
    assert model()(**made(PAIRS), use_cache=False).loss == pytest.approx(wanted.item(), abs=1e-6)
    assert objective(model(), batch).item() == pytest.approx(wanted.item(), abs=1e-6)


@torch.no_grad()
def test_eager_attention_takes_the_additive_mask():
    made = StreamingSFTCollator(frame(), 2, additive=True)
    eager = tiny_model(CONFIGS["llama"](), 3)
    eager.set_attn_implementation("eager")
    plain = StreamingSFTCollator(frame(), 2)(PAIRS)
    assert eager(**made(PAIRS), use_cache=False).loss == pytest.approx(
        model()(**plain, use_cache=False).loss.item(), abs=1e-5
    )


def test_the_first_target_token_is_predicted_behind_the_prompt_as_upstream():
    one = frame().transcript(SOURCE, TARGET)
    batch = StreamingSFTCollator(frame(), 2).batch([(SOURCE, TARGET)])
    n = len(one.source_ids)
    assert batch.rows[0, 0] == len(frame().prompt)
    assert batch.rows[0, 1:].tolist() == list(range(n, n + len(one.target_ids) - 1))
    last = StreamingSFTCollator(frame(), 2, header_row="last").batch([(SOURCE, TARGET)])
    assert last.rows[0, 0] == n - 1


def test_padding_changes_nothing_and_sees_itself_alone():
    made = StreamingSFTCollator(frame(), 2)
    alone, padded = made.batch(PAIRS[2:]), made.batch(PAIRS)
    with torch.no_grad():
        one, two = (
            model()(input_ids=b.ids, position_ids=b.positions, attention_mask=b.mask, use_cache=False).logits
            for b in (alone, padded)
        )
    n = alone.ids.shape[1]
    assert torch.allclose(one[0], two[2, :n], atol=1e-5)
    assert padded.mask[2, 0, n:].sum(-1).tolist() == [1] * (padded.ids.shape[1] - n)
    assert torch.isfinite(two).all()


def test_prefixes_hold_one_word_and_what_is_read_by_then():
    made = StreamingSFTCollator(frame(), 2, mode="batch-streaming")
    seen = set()
    for seed in range(20):
        batch = StreamingSFTCollator(frame(), 2, mode="batch-streaming", seed=seed).batch([(SOURCE, TARGET)])
        counted = batch.labels[0][batch.labels[0] != -100]
        word = frame().backbone.decode(counted.tolist())
        seen.add(word)
        j = [*TARGET, ""].index(word.strip()) + 1
        read = sum(len(s) for s in frame().transcript(SOURCE, TARGET).source[: min(2 + j, 7)])
        assert batch.ids[0, read] == frame().header[0]
    assert len(seen) > 3
    assert torch.equal(made.batch(PAIRS).ids, made.batch(PAIRS).ids)


def test_bad_settings_are_refused():
    with pytest.raises(InputError, match="accepted are group"):
        StreamingSFTCollator(frame(), mode="other")
    with pytest.raises(InputError, match="k is 0"):
        StreamingSFTCollator(frame(), 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("base")
    tiny_model(CONFIGS["llama"](), 5).save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    return path


def pairs_file(path, lines=("one two\tun deux", "", "three four\ttrois quatre", "five six\tcinq six")):
    path.write_text("\n".join(lines), "utf-8")
    return path


def test_a_run_learns_saves_and_opens_by_its_path(tmp_path, folder):
    settings = {"out": tmp_path / "out", "data": pairs_file(tmp_path / "pairs.tsv"), "model": str(folder)}
    made = TrainGroupPositionEncoding(
        **settings, k=1, lora_rank=0, steps=12, rows=2, lr=1e-2, warmup=2, held_out=1, instruction="Fr:"
    )
    facts = made.run()
    assert facts["pairs trained on"] == 2
    assert facts["held-out loss after"] < facts["held-out loss before"]
    assert not (tmp_path / "out" / "checkpoint.safetensors").exists()
    opened = GroupPositionEncoding(
        model=str(tmp_path / "out"),
        k=1,
        instruction="Fr:",
        source_capacity=64,
        target_capacity=48,
        per_write=4,
    )
    assert list(Session(opened).run([Text("one two\n")]))
    with pytest.raises(InputError, match="too few: 3 are held out"):
        TrainGroupPositionEncoding(**settings, held_out=3, lora_rank=0).run()


def test_low_rank_adapters_are_merged(tmp_path, folder):
    pytest.importorskip("peft")
    made = TrainGroupPositionEncoding(
        tmp_path, pairs_file(tmp_path / "pairs.tsv"), str(folder), lora_rank=2, steps=2, rows=2, held_out=1
    )
    facts = made.run()
    assert 0 < facts["parameters trained"] < sum(p.numel() for p in model().parameters())
    names = (tmp_path / "model.safetensors").read_bytes()
    assert b"lora" not in names


def test_without_peft_it_is_said(tmp_path, folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    data = pairs_file(tmp_path / "pairs.tsv")
    with pytest.raises(MissingExtraError, match=r"pip install 'unending\[train\]'"):
        TrainGroupPositionEncoding(tmp_path, data, str(folder), held_out=1).run()


def test_a_bad_line_is_named(tmp_path):
    bad = pairs_file(tmp_path / "a.tsv", ("one\tun", "two deux"))
    with pytest.raises(InputError, match="line 2: accepted is a source, one tab, a target"):
        read_pairs(bad)
    (tmp_path / "b.tsv").write_bytes(b"one\t\xff")
    with pytest.raises(InputError, match="byte 4 is not UTF-8"):
        read_pairs(tmp_path / "b.tsv")
    with pytest.raises(StorageError, match="cannot read"):
        read_pairs(tmp_path / "none.tsv")


def test_every_pair_comes_once_before_any_comes_again():
    from unending.systems.language.group_position_encoding.training import drawn

    made = StreamingSFTCollator(frame(), 2)
    batch = drawn(made, PAIRS, 2)
    firsts = [int(length) for step in range(3) for length in (batch(0, step).labels != -100).sum(1)]
    once = [int((made.batch([pair]).labels != -100).sum()) for pair in PAIRS]
    assert sorted(firsts[:3]) == sorted(firsts[3:]) == sorted(once)
    assert np.array_equal(batch(0, 1).ids, batch(0, 1).ids)
