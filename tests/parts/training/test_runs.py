import math
from itertools import pairwise

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from unending.core.errors import NumericalError, SnapshotCorruptError, SnapshotForeignError
from unending.parts.training import Recipe, learning_rate, train

RECIPE = Recipe(steps=12, peak=1e-2, warmup=3, seed=5)


def model():
    """Dropout, a buffer that learns and tied weights: what a resume forgets first."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 4))
    net[3].weight = net[0].weight
    return net


def batch(seed, step):
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(1000 * seed + step))


def loss(net, x):
    return (net(x) - x.flip(1)).square().mean()


def bits(net):
    return torch.cat([tensor.detach().flatten().double() for tensor in net.state_dict().values()])


def test_training_lowers_the_loss():
    run = train(model(), batch, loss, Recipe(steps=200, peak=1e-2, warmup=5, decay=0.0), quiet=True)
    assert run.step == 200
    assert run.losses[-20:].mean() < 0.8 * run.losses[:20].mean()
    assert run.cpu_seconds > 0


def test_equals_the_plain_loop():
    ours, plain = model(), model()
    run = train(ours, batch, loss, RECIPE, quiet=True)
    matrices = [p for p in plain.parameters() if p.ndim >= 2]
    vectors = [p for p in plain.parameters() if p.ndim < 2]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
    )
    plain.train()
    for step in range(RECIPE.steps):
        torch.manual_seed((RECIPE.seed << 32) + step)
        value = loss(plain, batch(RECIPE.seed, step))
        assert run.losses[step] == value
        optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), RECIPE.clip)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(RECIPE, step)
        optimiser.step()
    assert torch.equal(bits(ours), bits(plain))


@pytest.mark.parametrize("cuts", [(1,), (4,), (11,), (2, 3, 9)])
def test_resume_continues_bit_for_bit(tmp_path, cuts):
    whole = model()
    expected = train(whole, batch, loss, RECIPE, quiet=True)
    for cut in cuts:
        part = train(model(), batch, loss, RECIPE, tmp_path, until=cut, quiet=True)
        assert part.step == cut
    resumed = model()
    run = train(resumed, batch, loss, RECIPE, tmp_path, quiet=True)
    assert torch.equal(bits(resumed), bits(whole))
    assert torch.equal(run.losses, expected.losses)


def test_a_resume_without_the_optimiser_would_differ(tmp_path):
    whole = model()
    train(whole, batch, loss, RECIPE, quiet=True)
    train(model(), batch, loss, RECIPE, tmp_path, until=6, quiet=True)
    path = tmp_path / "checkpoint.safetensors"
    with safe_open(path, "pt") as file:
        facts = file.metadata()
    kept = {name: t * 0 if "exp_avg" in name else t for name, t in load_file(path).items()}
    save_file(kept, path, facts)
    resumed = model()
    train(resumed, batch, loss, RECIPE, tmp_path, quiet=True)
    assert not torch.equal(bits(resumed), bits(whole))


def test_a_crash_between_checkpoints_loses_nothing_but_time(tmp_path):
    def dies(seed, step):
        if step == 8:
            raise RuntimeError("the machine went away")
        return batch(seed, step)

    whole = model()
    train(whole, batch, loss, RECIPE, quiet=True)
    with pytest.raises(RuntimeError, match="went away"):
        train(model(), dies, loss, RECIPE, tmp_path, every=3, quiet=True)
    resumed = model()
    train(resumed, batch, loss, RECIPE, tmp_path, quiet=True)
    assert torch.equal(bits(resumed), bits(whole))


def test_a_finished_run_is_read_back(tmp_path):
    first = train(model(), batch, loss, RECIPE, tmp_path, quiet=True)
    net = model()
    again = train(net, batch, loss, RECIPE, tmp_path, quiet=True)
    assert torch.equal(first.losses, again.losses)
    assert first.cpu_seconds == again.cpu_seconds
    assert not net.training


def test_the_global_generator_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    net = model()
    torch.manual_seed(3)
    train(net, batch, loss, RECIPE, quiet=True)
    assert torch.equal(torch.rand(4), expected)


def test_foreign_and_broken_checkpoints_are_refused(tmp_path):
    train(model(), batch, loss, RECIPE, tmp_path, until=2, quiet=True)
    with pytest.raises(SnapshotForeignError, match="peak"):
        train(model(), batch, loss, Recipe(steps=12, peak=1.0, warmup=3, seed=5), tmp_path, quiet=True)
    with pytest.raises(SnapshotForeignError, match="does not fit"):
        train(nn.Linear(4, 5), batch, loss, RECIPE, tmp_path, quiet=True)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(SnapshotCorruptError):
        train(model(), batch, loss, RECIPE, tmp_path, quiet=True)


def test_a_loss_that_is_not_finite_stops_the_run_before_the_weights_suffer(tmp_path):
    def explodes(net, x):
        return loss(net, x) * (math.inf if x is last else 1.0)

    def some(seed, step):
        return last if step == 5 else batch(seed, step)

    last = batch(0, 99)
    train(model(), batch, loss, RECIPE, tmp_path, until=5, quiet=True)
    kept = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(NumericalError, match="step 5"):
        train(model(), some, explodes, RECIPE, tmp_path, quiet=True)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == kept


def test_learning_rate_warms_up_and_decays_to_the_floor():
    recipe = Recipe(steps=100, peak=2.0, floor=0.1, warmup=10)
    rates = [learning_rate(recipe, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == max(rates) == 2.0
    assert rates[-1] == pytest.approx(0.2)
    assert all(a >= b for a, b in pairwise(rates[9:]))


def test_progress_is_lines_where_there_is_no_terminal(capsys):
    train(model(), batch, loss, RECIPE, title="tiny")
    out, err = capsys.readouterr()
    assert out == ""
    assert "tiny: step 12/12, loss" in err
