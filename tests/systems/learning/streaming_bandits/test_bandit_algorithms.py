"""The algorithms against plain loops, their accounting, their memories, and the schedules of the paper."""

from functools import partial
from math import ceil, e, log

import numpy as np
import pytest

from unending.core import nbytes
from unending.core.errors import InputError
from unending.systems.learning.streaming_bandits import (
    ALGORITHMS,
    AggressiveTower,
    ArmStream,
    Draft,
    FullMemory,
    GameOfArms,
    NaiveEpsBest,
    UniformExploration,
    clear_cut,
    mix_in,
    play,
)
from unending.systems.learning.streaming_bandits.naive import Arena, play_naively
from unending.systems.learning.streaming_bandits.tower import Level, log_star

VARIANTS = {
    **ALGORITHMS,
    "fresh": partial(GameOfArms, keep_max=False),
    "early-side": partial(GameOfArms, side_run=True, cap=0.5),
    "no-margin": partial(GameOfArms, margin=0.0),
    "tower-eps": partial(AggressiveTower, constants="theory", eps=1.0),
}
INDEXED = {"moss": FullMemory, "ucb1": partial(FullMemory, index="ucb1")}
SIZES = ((1, 5), (2, 3), (7, 900), (12, 5), (40, 100_000), (150, 3000), (300, 10**6))


@pytest.mark.parametrize("name", VARIANTS)
def test_the_machines_play_as_the_plain_loops_do(name):
    for seed in range(6):
        for arms, horizon in SIZES:
            means = mix_in(arms, seed).tolist()
            stream, arena = ArmStream(means), Arena(means, horizon, seed)
            found = play(stream, horizon, VARIANTS[name], seed)
            play_naively(VARIANTS[name](arms, horizon), arena)
            np.testing.assert_array_equal(stream.counts, arena.counts)
            assert found.champion == arena.champion
            np.testing.assert_allclose(
                found.trace[:arms, 1], [row[0] for row in arena.rows[:arms]], atol=1e-6
            )


@pytest.mark.parametrize("name", VARIANTS | INDEXED)
@pytest.mark.parametrize(("arms", "horizon"), SIZES[:-2])
def test_pulls_are_exactly_t_and_regret_is_counts_times_gaps(name, arms, horizon):
    make = (VARIANTS | INDEXED)[name]
    means = mix_in(arms, 3)
    stream = ArmStream(means, "random", 1)
    found = play(stream, min(horizon, 5000), make, 2)
    assert found.pulls == min(horizon, 5000) == stream.counts.sum() == found.trace[-1, 0]
    assert found.regret == pytest.approx((stream.counts * (means.max() - stream.means)).sum())
    # The running regret, which was charged pull by pull, ends at the same number.
    assert found.trace[-1, 1] == pytest.approx(found.regret, abs=1e-6)
    assert (np.diff(found.trace, axis=0) >= 0).all()


@pytest.mark.parametrize(
    ("make", "most"),
    [
        (UniformExploration, 1),
        (NaiveEpsBest, 1),
        (GameOfArms, 1),
        (partial(GameOfArms, side_run=True), 2),
        (AggressiveTower, log_star(2000) + 1),
        (partial(AggressiveTower, levels="log"), int(log(2000))),
        (partial(AggressiveTower, levels="loglog"), int(log(log(2000))) + 1),
        (partial(FullMemory, memory=3, batch=0.5), 3),
    ],
)
def test_the_arms_stored_are_those_documented(make, most):
    assert make(2000, 10**9).capacity == most
    for order in ("random", "increasing"):
        found = play(ArmStream(mix_in(2000, 0), order, 0), 10**7, make)
        assert 1 <= found.max_stored <= most
    assert found.max_stored == min(most, 3) or make is not AggressiveTower


def test_equal_seeds_give_equal_matches_and_others_do_not():
    def regret(seed):
        return play(ArmStream(mix_in(50, 0)), 10**5, GameOfArms, seed).regret

    assert regret(4) == regret(4)
    assert regret(4) != regret(5)


def test_state_does_not_grow_with_the_number_of_arms():
    """Keeping all empirical means "for logging" would."""
    for make in (UniformExploration, NaiveEpsBest, GameOfArms):
        assert nbytes(make(10, 10**6).start()) == nbytes(make(10**6, 10**9).start())
    assert nbytes(AggressiveTower(10**8, 10**9).start()) < 500
    assert nbytes(FullMemory(10**4, 10**6).start()) > 10**5


def test_eps_is_never_above_one_and_pulls_are_never_none():
    for make in (VARIANTS | INDEXED).values():
        few = make(100, 7)
        assert few.gap == 1.0
        assert few.unit == 1
        found = play(ArmStream(mix_in(100, 0)), 7, make)
        assert found.pulls == 7
    assert GameOfArms(1000, 10**9).unit == 10**4  # an exact cube root, not one more
    assert NaiveEpsBest(1, 100).each == 1  # ln 1 is 0
    assert UniformExploration(5, 1).each == 1  # ln 1 again


def test_the_number_of_pulls_each():
    assert UniformExploration(100, 10**7).each == ceil((10**5) ** (2 / 3) * log(10**7) ** (1 / 3))
    assert NaiveEpsBest(100, 10**7).each == ceil(log(100) * (10**5) ** (2 / 3))


def test_the_tower_of_log_star_levels():
    assert [log_star(n) for n in (1, 2, 4, 16, 65536, 65537)] == [0, 1, 2, 3, 4, 5]
    tower = AggressiveTower(10**6, 10**9)
    assert tower.plan[:3] == (Level(100, 4), Level(400, 8), Level(3200, 16384))
    theory = AggressiveTower(10**6, 10**15, eps=1.0, constants="theory")
    for level, r in ((0, 4), (1, 16), (2, 65536)):
        eps = 1 / (10 * 2**level)
        assert theory.plan[level].pulls == pytest.approx(4 / eps**2 * (log(10) + 3 * r), abs=1)
    assert [level.cap for level in theory.plan[:2]] == [16, 32768]


def test_pulls_of_each_level_add_up_to_a_constant_times_those_of_the_lowest():
    for arms in (100, 10**4, 10**6, 10**8):
        for tower in (
            AggressiveTower(arms, 10**12, eps=0.05),
            AggressiveTower(arms, 10**12, eps=0.05, levels="log"),
            AggressiveTower(arms, 10**12, eps=0.05, levels="loglog"),
        ):
            visits, total = arms, 0
            for level in tower.plan:
                total += visits * level.pulls
                visits //= level.cap
            assert total <= 3.6 * arms * tower.unit


def test_the_towers_of_log_and_loglog_levels():
    log_space = AggressiveTower(2000, 10**9, levels="log")
    assert [level.pulls for level in log_space.plan] == [
        ceil(1.2**i * 2000 ** (-2 / 3) * 10**6) for i in range(7)
    ]
    assert {level.cap for level in log_space.plan} == {6}
    top = AggressiveTower(2000, 10**9, levels="loglog").plan
    assert [level.cap for level in top[:2]] == [10, 10]
    assert top[-1].pulls == ceil(log(2000) * 2000 ** (-2 / 3) * 10**6)
    assert len(AggressiveTower(2, 100, levels="loglog").plan) == 1
    assert len(AggressiveTower(int(e) + 1, 100, levels="log").plan) == 1


def test_a_level_is_judged_by_as_many_pulls_on_both_sides():
    """A champion's mean and its challenger's come from the same number of pulls, whatever happened before."""
    for tower in (AggressiveTower(300, 10**7), AggressiveTower(300, 10**7, levels="log")):
        at, rng = Draft(tower.start()), np.random.default_rng(0)
        for arm in range(300):
            tower.arrive(at, arm)
            while due := tower.wanted(at):
                tower.tell(at, float(rng.binomial(due.pulls, rng.random())), due.pulls)
            for slot, level in enumerate(tower.plan, start=1):
                assert not at.holds(slot) or at.counts[slot] == level.pulls


def test_a_weak_challenger_costs_one_round_and_a_strong_one_takes_over():
    algorithm = GameOfArms(1000, 10**9, keep_max=False)
    s = algorithm.unit
    at = Draft(algorithm.start())

    def answer(rate):
        due = algorithm.wanted(at)
        algorithm.tell(at, rate * due.pulls, due.pulls)
        return due

    algorithm.arrive(at, 0)
    assert answer(0.5) == (0, 12 * s // 10)
    algorithm.arrive(at, 1)
    assert answer(0.3) == (1, s)
    assert (algorithm.wanted(at), at.budget) == (None, 12 * s // 10)  # what it added, it used up
    algorithm.arrive(at, 2)
    assert answer(0.9) == (2, s)  # 2.2 s, less s; the next level wants 2 s: dethroned
    assert algorithm.wanted(at) == (2, 12 * s // 10)
    answer(0.25)
    assert at.mean(1) == 0.25  # fresh pulls alone: nothing is known of its gap to the old king
    assert at.arms.tolist() == [-1, 2]


def test_the_old_estimate_is_kept_where_it_is_higher():
    algorithm = GameOfArms(1000, 10**9)
    at = Draft(algorithm.start())
    for arm, rates in enumerate(((0.5,), (0.9, 0.25))):
        algorithm.arrive(at, arm)
        for rate in rates:
            due = algorithm.wanted(at)
            algorithm.tell(at, rate * due.pulls, due.pulls)
    assert at.mean(1) == 0.5


def test_the_side_run_takes_over_where_the_main_run_costs_too_much():
    for seed in range(5):
        means = clear_cut(200, seed)
        make = partial(GameOfArms, side_run=True, cap=0.5)
        found = play(ArmStream(means, "increasing", seed), 10**7, make, seed)
        sampled = [arm for arm in range(200) if make(200, 10**7).in_sample(seed, arm)]
        assert found.champion in sampled
        assert 0.1 < len(sampled) / 200 < 0.5  # 1.5 / ln 200 is 0.28


def test_the_limits_of_settings():
    for make, words in (
        (lambda: GameOfArms(0, 5), "0 arms"),
        (lambda: GameOfArms(5, 0), "horizon of 0"),
        (lambda: GameOfArms(5, 10**16), "10000000000000000"),
        (lambda: GameOfArms(5, 5, eps=1.5), "eps is 1.5"),
        (lambda: GameOfArms(5, 5, eps=float("nan")), "eps is nan"),
        (lambda: GameOfArms(5, 5, crown=0), "positive"),
        (lambda: GameOfArms(5, 5, eps=1e-200), "eps is 1e-200, accepted is 1e-9 to 1"),
        (lambda: GameOfArms(5, 1e6), r"horizon is 1000000\.0; a whole number is accepted"),
        (lambda: GameOfArms("5", 5), "arms is '5'"),
        (lambda: GameOfArms(5, 5, crown=float("nan")), "positive"),
        (lambda: GameOfArms(5, 5, increment=float("inf")), "positive"),
        (lambda: GameOfArms(5, 5, side_rate=float("nan")), "positive"),
        (lambda: GameOfArms(5, 5, cap=float("nan")), "positive"),
        (lambda: GameOfArms(5, 5, margin=float("nan")), "margin is one from 0"),
        (lambda: UniformExploration(5, 5, factor=0.0), r"factor is 0\.0; a positive number is accepted"),
        (lambda: NaiveEpsBest(5, 5, factor=float("nan")), "factor is nan"),
        (lambda: NaiveEpsBest(5, 5, factor=float("inf")), "factor is inf"),
        (lambda: GameOfArms(10**8, 10**15, eps=1e-7), "64 bits"),
        (lambda: AggressiveTower(5, 5, levels="tall"), "'tall'"),
        (lambda: AggressiveTower(5, 5, levels="log", constants="theory"), "theory on logstar"),
        (lambda: AggressiveTower(5, 5, growth=0.5), "growth 0.5"),
        (lambda: FullMemory(5, 5, index="exp3"), "exp3"),
        (lambda: FullMemory(5, 5, memory=6), "memory 6"),
    ):
        with pytest.raises(InputError, match=words):
            make()


def test_index_policies_pulled_in_batches_lose_little():
    exact, batched = (
        np.mean(
            [
                play(ArmStream(mix_in(20, s)), 6_000, partial(FullMemory, batch=batch), s).regret
                for s in range(6)
            ]
        )
        for batch in (0.0, 0.05)
    )
    assert batched < 1.4 * exact


def test_settings_far_out_are_no_more_pulls_than_the_horizon():
    assert NaiveEpsBest(10, 100, factor=1e308).each == 100
    for make in ALGORITHMS.values():
        assert play(ArmStream(mix_in(9, 0)), 500, partial(make, eps=1e-9)).pulls == 500


def test_numbers_of_numpys_kinds_are_plain_in_the_state():
    algorithm = GameOfArms(np.int64(5), np.int64(100))
    at = Draft(algorithm.start())
    algorithm.arrive(at, 0)
    algorithm.tell(at, np.float32(1), np.int64(2))
    assert type(at.used) is type(at.wanted) is int
