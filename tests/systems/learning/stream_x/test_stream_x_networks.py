"""Sparse starts and layer normalisation."""

from math import ceil, sqrt

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from unending.core.errors import InputError
from unending.systems.learning.stream_x import MLP, AtariNetwork, MinAtarNetwork, sparse_init
from unending.systems.learning.stream_x.networks import flat_size, flatten


@pytest.mark.parametrize("made", [MLP((20, 13, 9, 3)), AtariNetwork(4), MinAtarNetwork(3, 4)])
def test_every_output_row_has_exactly_so_many_zeros(made):
    sparse_init(made, 0.9, seed=1)
    layers = [each for each in made.modules() if isinstance(each, nn.Linear | nn.Conv2d)]
    assert len(layers) >= 3
    for layer in layers:  # heads too
        rows = layer.weight.detach().flatten(1)
        fan_in = rows.shape[1]
        assert (rows == 0).sum(1).tolist() == [ceil(0.9 * fan_in)] * len(rows)
        assert rows.abs().max() <= 1 / sqrt(fan_in)
        assert not layer.bias.any()
    assert (layers[0].weight.detach()[0] == 0).ne(layers[0].weight.detach()[1] == 0).any()


def test_few_inputs_start_at_zero_and_learn_all_the_same():
    network = sparse_init(MLP((5, 8, 8, 2)), 0.9)
    assert not network.layers[0].weight.any()
    network(torch.ones(5))[0].backward()
    assert network.layers[-1].bias.grad.any()


def test_starts_are_reproducible_and_streams_apart():
    one, two, other = (flatten(sparse_init(MLP((20, 9, 2)), 0.5, 3, stream)) for stream in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()
    with pytest.raises(InputError, match="sparsity is 2"):
        sparse_init(MLP((2, 2)), 2.0)


def test_normalisation_goes_over_all_elements_and_has_no_parameters():
    made = MinAtarNetwork(3, 4)
    names = {name.rsplit(".", 1)[-1] for name, _ in made.named_parameters()}
    assert names == {"weight", "bias"}
    assert sum(1 for _ in made.parameters()) == 6  # one convolution, two dense layers
    x = torch.rand(4, 10, 10)
    maps = made.convolutions[0](x)
    centred = (maps - maps.mean()) / (maps.var(unbiased=False) + 1e-5).sqrt()
    hidden = made.dense(functional.leaky_relu(centred, 0.01).flatten())
    hidden = (hidden - hidden.mean()) / (hidden.var(unbiased=False) + 1e-5).sqrt()
    wanted = made.head(functional.leaky_relu(hidden, 0.01))
    torch.testing.assert_close(made(x), wanted)


def test_the_last_layer_is_not_normalised():
    network = sparse_init(MLP((4, 6, 3)), 0.0)
    with torch.no_grad():
        network.layers[-1].bias.fill_(100.0)
    assert network(torch.ones(4)).mean() > 90


def test_shapes_of_the_paper():
    atari = AtariNetwork(6)
    assert (atari.dense.in_features, atari.dense.out_features) == (256, 256)
    minatar = MinAtarNetwork(6, 7)
    assert (minatar.dense.in_features, minatar.dense.out_features) == (1024, 128)
    assert atari(torch.zeros(4, 84, 84)).shape == (6,)
    assert flat_size((5, 32, 32, 2)) == sum(p.numel() for p in MLP((5, 32, 32, 2)).parameters())
