"""Arms, their orders, their rewards: exact, bounded, gone when let go."""

from functools import partial

import numpy as np
import pytest
from scipy import stats

from unending.core.errors import InputError, OwnershipError
from unending.systems.learning.streaming_bandits import (
    Arm,
    ArmStream,
    GameOfArms,
    UniformExploration,
    beta_rewards,
    clear_cut,
    explore,
    mix_in,
    play,
)
from unending.systems.learning.streaming_bandits.arms import ORDERS


def bernoulli(mean):
    """One draw a pull, where `Arm` draws one binomial for all."""
    return lambda rng, n: (rng.random(n) < mean).astype(float)


def test_one_binomial_has_the_distribution_of_so_many_pulls():
    rng = np.random.default_rng(0)
    for n, mean in ((1, 0.3), (40, 0.05), (700, 0.82)):
        batched = [Arm(0, mean).pull(n, rng) for _ in range(3000)]
        single = [Arm(0, mean, bernoulli(mean)).pull(n, rng) for _ in range(3000)]
        assert stats.ks_2samp(batched, single).pvalue > 0.01


def test_matches_of_batches_and_of_single_pulls_have_one_distribution():
    means = mix_in(12, 0)
    batched, single = (
        [
            play(ArmStream(means, samplers=samplers), 3000, partial(GameOfArms, margin=0.0), seed).regret
            for seed in range(250)
        ]
        for samplers in (None, [bernoulli(mean) for mean in means])
    )
    assert stats.ks_2samp(batched, single).pvalue > 0.01


def test_rewards_of_another_distribution():
    rng = np.random.default_rng(0)
    total = Arm(0, 0.3, beta_rewards(0.3)).pull(200_000, rng)
    assert total / 200_000 == pytest.approx(0.3, abs=0.005)
    means = np.clip(mix_in(30, 0), 0.05, 0.95)
    samplers = [beta_rewards(float(mean)) for mean in means]
    stream = ArmStream(means, "random", 0, samplers)
    found = play(stream, 10**5, GameOfArms)
    assert found.pulls == 10**5 == stream.counts.sum()
    assert found.regret == pytest.approx(found.trace[-1, 1])


@pytest.mark.parametrize("rewards", [[1.5], [-0.1], [np.nan], [np.inf], [0.5, 0.5], 0.5])
def test_a_sampler_that_gives_something_else_is_refused(rewards):
    with pytest.raises(InputError, match="did not give 1 rewards from 0 to 1"):
        Arm(3, 0.5, lambda rng, n: np.array(rewards)).pull(1, np.random.default_rng(0))


def test_orders():
    means = np.array([0.3, 0.9, 0.1, 0.5, 0.7])

    def arrived(order, seed=0):
        stream = ArmStream(means, order, seed)
        assert sorted(arm.mean for arm in stream) == sorted(means)
        return stream.means.tolist()

    assert arrived("given") == means.tolist()
    assert arrived("increasing") == sorted(means)
    assert arrived("decreasing") == sorted(means)[::-1]
    assert arrived("best_first")[0] == arrived("best_last")[-1] == 0.9
    for order in ("random", "best_first", "best_last"):
        assert arrived(order) == arrived(order)
        assert len({tuple(arrived(order, seed)) for seed in range(9)}) > 3
    with pytest.raises(InputError, match="order 'worst'"):
        ArmStream(means, "worst")
    assert set(ORDERS) >= {"given", "random"}


def test_samplers_follow_their_means():
    means = [0.2, 0.8, 0.5]
    stream = ArmStream(means, "increasing", samplers=[beta_rewards(mean) for mean in means])
    for arm in stream:
        assert arm.pull(20_000, np.random.default_rng(0)) / 20_000 == pytest.approx(arm.mean, abs=0.02)
    assert stream.counts.tolist() == [20_000] * 3
    with pytest.raises(InputError, match="1 samplers for 3 means"):
        ArmStream(means, samplers=[beta_rewards(0.5)])


def test_a_stream_is_read_once():
    stream = ArmStream(mix_in(10, 0))
    play(stream, 1000, UniformExploration)
    with pytest.raises(OwnershipError, match="passes once"):
        play(stream, 1000, UniformExploration)
    with pytest.raises(TypeError):
        stream[3]


def test_the_arm_returned_is_alive_and_the_others_are_gone():
    class Remembering(ArmStream):
        def __next__(self):
            seen.append(super().__next__())
            return seen[-1]

    seen = []
    best = explore(Remembering(mix_in(40, 0), "random", 0), 10**6, GameOfArms)
    assert [arm for arm in seen if arm.alive] == [best]
    with pytest.raises(OwnershipError):
        next(arm for arm in seen if arm is not best).pull(1, np.random.default_rng(0))


@pytest.mark.parametrize(
    "means", [[], [0.5, np.nan], [0.5, 1.1], [-0.1], [[0.5]], [np.inf], ["half"], [[0.1], [0.1, 0.2]]]
)
def test_means_that_are_none(means):
    with pytest.raises(InputError, match="from 0 to 1"):
        ArmStream(means)


def test_the_settings_of_the_paper():
    means = clear_cut(1000, 0)
    assert means[-1] == 0.82
    assert means[:-1].max() <= 0.8
    assert means[:-1].mean() == pytest.approx(0.5, abs=0.02)
    assert means[:-1].std() == pytest.approx(0.1, abs=0.01)
    assert stats.kstest(mix_in(1000, 0), "uniform").pvalue > 0.01
    assert not np.array_equal(clear_cut(9, 0), clear_cut(9, 1))
    for setting in (clear_cut, mix_in):
        with pytest.raises(InputError, match="0 arms; 1 upwards"):
            setting(0)


def test_pulls_are_counted_and_at_least_one():
    with pytest.raises(InputError, match="0 pulls"):
        Arm(0, 0.5).pull(0, np.random.default_rng(0))
    with pytest.raises(InputError, match="mean of arm 0 is 2"):
        Arm(0, 2)
    with pytest.raises(InputError):
        beta_rewards(1.0)
