"""A mixed batch on paged keys against each sequence alone through the plain model."""

import numpy as np
import pytest
import torch
from tests.parts import models

from unending.core.errors import InputError
from unending.parts import backbones
from unending.parts.backbones.tiny import tiny_llama, tiny_model
from unending.parts.prefix import PagedKVPool, PagedRouter, Piece, forward_pieces


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def shapes(model):
    backbone = backbones.load(backbones.register(model))
    return tuple((heads, dim) for _, heads, dim in backbone.kv_shapes())


class Sequences:
    """Sequences in a pool, each with the prefix that it shares."""

    def __init__(self, model, block_size=4):
        self.model = model
        self.pool = PagedKVPool.of(shapes(model), 64, block_size)
        self.prefixes = {}
        self.tables, self.done = {}, {}

    def piece(self, name, tokens, group=-1):
        prefix = self.prefixes.get(group, np.zeros(0, dtype=np.int64))
        done = self.done.get(name, 0)
        table, _ = self.pool.extend(self.tables.get(name, []), done, len(tokens))
        self.tables[name], self.done[name] = table, done + len(tokens)
        own = self.pool.rows(table, 0, self.done[name])
        return Piece(np.array(tokens), np.concatenate([prefix, own]), len(prefix), group)

    def run(self, pieces, **options):
        logits = forward_pieces(self.model, self.pool, pieces, **options)
        self.pool.commit()
        return logits

    def prefix(self, group, tokens):
        self.run([self.piece(("prefix", group), tokens)])
        self.prefixes[group] = self.pool.rows(self.tables["prefix", group], 0, len(tokens))


@torch.no_grad()
def alone(model, tokens):
    return model(torch.as_tensor(np.asarray(tokens))[None]).logits[0, -1].float()


@pytest.mark.parametrize("name", ["llama", "qwen3"])
@pytest.mark.parametrize("shared_rows", [1, 7, 1000])
@pytest.mark.parametrize("prefix_length", [1, 3, 4, 5, 13])
def test_a_mixed_batch_equals_every_sequence_alone(name, shared_rows, prefix_length):
    model = tiny_model(models.CONFIGS[name]())
    ids = models.tokens(200, vocabulary=97).tolist()
    prefix, other = ids[:prefix_length], ids[20:26]
    world = Sequences(model)
    world.prefix(0, prefix)
    world.prefix(1, other)
    texts = {"a": prefix, "b": prefix, "c": prefix, "d": other, "e": [], "f": prefix}
    groups = {"a": 0, "b": 0, "c": 0, "d": 1, "e": -1, "f": 0}
    rounds = [
        {"a": 3, "b": 5, "d": 2, "e": 6},
        {"a": 1, "c": 9, "b": 1, "e": 1},
        {"a": 1, "b": 1, "c": 1, "d": 3, "f": 4, "e": 2},
        {"f": 1, "e": 1, "d": 1, "c": 1, "b": 1, "a": 1},
    ]
    at = 40
    for batch in rounds:
        pieces = []
        for name, n in batch.items():
            texts[name] = texts[name] + ids[at : at + n]
            pieces.append(world.piece(name, ids[at : at + n], groups[name]))
            at += n
        logits = world.run(pieces, shared_rows=shared_rows)
        for name, found in zip(batch, logits, strict=True):
            torch.testing.assert_close(found, alone(model, texts[name]), rtol=1e-4, atol=1e-5)
        world.pool.check()


def test_prefixes_are_read_once_a_group_only_where_the_largest_group_is_large_enough():
    model, _ = tiny_llama()
    world = Sequences(model)
    world.prefix(0, [1, 2, 3, 4, 5])
    world.prefix(1, [6, 7, 8])
    names = [("a", 0), ("b", 0), ("c", 0), ("d", 1), ("e", 1), ("f", -1)]
    pieces = [world.piece(name, [9], group) for name, group in names]
    assert len(PagedRouter(world.pool, pieces, shared_rows=4)._prefixes) == 0
    assert len(PagedRouter(world.pool, pieces, shared_rows=3)._prefixes) == 2
    assert len(PagedRouter(world.pool, [pieces[0], pieces[3]], shared_rows=1)._prefixes) == 0


def test_only_the_logits_that_are_wanted_are_computed():
    model, _ = tiny_llama()
    world = Sequences(model)
    pieces = [world.piece(name, [3, 4, index]) for index, name in enumerate("abc")]
    logits = world.run(pieces, keep=[2, 0])
    torch.testing.assert_close(logits[0], alone(model, [3, 4, 2]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits[1], alone(model, [3, 4, 0]), rtol=1e-5, atol=1e-5)
    assert world.run([world.piece("d", [5])], keep=[]).shape[0] == 0
    logits = world.run([world.piece("d", [6])])
    torch.testing.assert_close(logits[0], alone(model, [5, 6]), rtol=1e-5, atol=1e-5)


def test_pieces_that_make_no_sense_are_refused():
    pool = PagedKVPool.of(((1, 2),), 4, 4)
    for bad in (
        [Piece(np.zeros(0, dtype=np.int64), np.arange(3))],
        [Piece(np.arange(2), np.arange(3), shared=2, group=0)],
    ):
        with pytest.raises(InputError, match="1 new token or more"):
            PagedRouter(pool, bad)
    pieces = [Piece(np.arange(1), np.arange(4), shared=shared, group=0) for shared in (1, 2)]
    with pytest.raises(InputError, match="different length"):
        PagedRouter(pool, pieces, shared_rows=1)
