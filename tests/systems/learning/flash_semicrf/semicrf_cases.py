"""Random potentials for the tests of the semi-Markov CRF."""

import torch

from unending.systems.learning.flash_semicrf import Potentials, prefix_sums


def draw(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def case(
    lengths,
    durations,
    labels,
    *,
    static=True,
    start="pi",
    projections=False,
    scale=1.0,
    centering="label",
    seed=0,
):
    """Leaves that want gradients, and a function that makes potentials of them."""
    lengths = torch.tensor(lengths)
    batch, positions = len(lengths), int(lengths.max())
    shapes = {
        "emissions": (batch, positions, labels),
        "transition": (labels, labels) if static else (durations, labels, labels),
        "duration": (durations, labels),
        "final": (labels,),
    }
    if start == "pi":
        shapes["initial"] = (labels,)
    if projections:
        shapes |= {"start_scores": (batch, positions, labels), "end_scores": (batch, positions, labels)}
    leaves = {
        name: draw(*shape, seed=100 * seed + index, scale=scale).requires_grad_()
        for index, (name, shape) in enumerate(shapes.items())
    }

    def potentials(*given):
        held = dict(zip(leaves, given or leaves.values(), strict=True))
        cum, _ = prefix_sums(held.pop("emissions"), lengths, centering)
        return Potentials.of(cum, held.pop("transition"), held.pop("duration"), lengths, start, **held)

    return list(leaves.values()), potentials
