"""Rewards from outside: what is asked for, what may be told, what is refused; and the same as a River policy."""

import copy
import pickle

import numpy as np
import pytest

from unending.core.errors import InputError
from unending.core.random import philox
from unending.systems.learning.streaming_bandits import (
    ALGORITHMS,
    ArmStream,
    FullMemory,
    GameOfArms,
    StreamingPolicy,
    UniformExploration,
    mix_in,
    play,
)

MEANS = mix_in(30, 0)
HORIZON = 20_000


def finish(policy, draws=0, arms=range(30)):
    """Play by whole asks, with the draws that `play` would make."""
    for arm in [None, *list(arms)[policy.arrived :]]:
        if arm is not None:
            policy.arrive(f"arm {arm}")
        while due := policy.wanted:
            name, pulls = due
            total = philox(0, draws).binomial(pulls, MEANS[int(name.split()[1])])
            policy.tell(float(total), pulls)
            draws += 1
    return policy


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_policy_makes_the_decisions_of_the_simulation(name):
    algorithm = ALGORITHMS[name](30, HORIZON)
    policy = finish(StreamingPolicy(algorithm))
    found = play(ArmStream(MEANS), HORIZON, ALGORITHMS[name], 0)
    assert policy.champion == f"arm {found.champion}"
    assert (policy.pulls, policy.done, policy.max_stored) == (HORIZON, True, found.max_stored)
    assert policy.stored == [policy.champion]
    assert policy.pull() is None


@pytest.mark.parametrize("algorithm", [GameOfArms(30, HORIZON), FullMemory(30, HORIZON, memory=4, batch=0.5)])
def test_rewards_one_by_one_are_rewards_in_bulk(algorithm):
    bulk, single = StreamingPolicy(algorithm), StreamingPolicy(algorithm)
    rng = np.random.default_rng(0)
    for arm in range(30):
        bulk.arrive(arm)
        single.arrive(arm)
        while due := bulk.wanted:
            rewards = rng.random(due[1])
            rewards = np.round(rewards)  # sums are exact in any order
            bulk.tell(float(rewards.sum()), due[1])
            for reward in rewards.tolist():
                assert single.pull() == due[0]
                single.update(single.pull(), reward)
            assert single.wanted == bulk.wanted
    assert single.done
    assert bulk.champion == single.champion


def test_never_more_than_the_capacity_is_stored():
    policy = StreamingPolicy(GameOfArms(30, HORIZON))
    rng = np.random.default_rng(1)
    for arm in range(30):
        assert policy.pull() is None
        policy.arrive(("any", arm))
        while not policy.done and (due := policy.pull()) is not None:
            assert due == ("any", arm) or due in policy.stored
            policy.learn_one(due, float(rng.random() < MEANS[arm]))
            assert len(policy.stored) <= 1
            if policy.arrived == 30 and not policy.wanted:
                break
    assert policy.champion in policy.stored


def test_an_early_end_commits():
    policy = StreamingPolicy(UniformExploration(30, HORIZON))
    policy.arrive("a")
    due = policy.wanted
    policy.tell(0.5 * due[1], due[1])
    policy.end()
    assert policy.wanted == ("a", HORIZON - due[1])
    with pytest.raises(InputError, match="still due"):
        policy.arrive("b")


@pytest.mark.parametrize("reward", [1.01, -0.5, float("nan"), float("inf"), 1e300])
def test_a_reward_that_explodes_is_refused_and_nothing_changes(reward):
    policy = StreamingPolicy(GameOfArms(30, HORIZON))
    policy.arrive("a")
    before = copy.deepcopy(policy)
    with pytest.raises(InputError, match="each is to be a number from 0 to 1"):
        policy.update("a", reward)
    assert policy.wanted == before.wanted
    assert policy.pulls == 0
    policy.update("a", 1.0)
    assert policy.pulls == 1


def test_what_comes_at_the_wrong_time_is_refused_and_nothing_changes():
    policy = StreamingPolicy(GameOfArms(2, HORIZON))
    with pytest.raises(InputError, match="'a', but None"):
        policy.update("a", 1.0)
    with pytest.raises(InputError, match="cannot end"):
        policy.end()
    assert policy.champion is None
    policy.arrive("a")
    with pytest.raises(InputError, match="still due"):
        policy.arrive("b")
    with pytest.raises(InputError, match="'b', but 'a'"):
        policy.update("b", 1.0)
    most = policy.wanted[1]
    for pulls in (0, -1, most + 1):
        with pytest.raises(InputError, match="pulls were reported"):
            policy.tell(0.0, pulls)
    assert policy.wanted == ("a", most)


def test_arms_may_be_arrays():
    policy = StreamingPolicy(GameOfArms(2, HORIZON))
    policy.arrive(np.array([0.5, 1.0]))
    policy.update(policy.pull(), 1.0)
    policy.update(np.array([0.5, 1.0]), 1.0)
    for other in (np.array([0.5, 2.0]), np.zeros(3)):
        with pytest.raises(InputError, match="was to be pulled"):
            policy.update(other, 1.0)
    assert policy.pulls == 2
    with pytest.raises(InputError, match="None is no arm"):
        StreamingPolicy(GameOfArms(2, HORIZON)).arrive(None)


@pytest.mark.parametrize(("total", "pulls"), [(1.0, 2.5), (None, 1), ("much", 1), (0.5, "one")])
def test_what_is_no_report_is_refused_and_nothing_changes(total, pulls):
    policy = StreamingPolicy(GameOfArms(2, HORIZON))
    policy.arrive("a")
    before = policy.wanted
    with pytest.raises(InputError, match="a number and a whole number are accepted"):
        policy.tell(total, pulls)
    assert (policy.wanted, policy.pulls) == (before, 0)


def test_a_policy_is_pickled_and_copied_in_the_middle():
    whole, cut = (StreamingPolicy(ALGORITHMS["tower-logstar"](30, HORIZON)) for _ in range(2))
    finish(whole)
    for arm in range(7):
        cut.arrive(f"arm {arm}")
        while due := cut.wanted:
            total = philox(0, cut_draws(cut)).binomial(due[1], MEANS[arm_of(due)])
            cut.tell(float(total), due[1])
            bump(cut)
    draws = COUNT.pop(id(cut))
    for again in (pickle.loads(pickle.dumps(cut)), copy.deepcopy(cut)):
        finish(again, draws)
        assert again.champion == whole.champion
        assert again._at.used == whole._at.used == HORIZON


COUNT = {}


def cut_draws(policy):
    return COUNT.get(id(policy), 0)


def bump(policy):
    COUNT[id(policy)] = cut_draws(policy) + 1


def arm_of(due):
    return int(due[0].split()[1])


def test_a_river_policy_in_rivers_evaluator(needs):
    needs("river")
    needs("gymnasium")
    import gymnasium
    from river import bandit

    from unending.systems.learning.streaming_bandits.river_policy import RiverPolicy

    environment = gymnasium.make("river_bandits/CandyCaneContest-v0", max_episode_steps=3000)
    policies = [RiverPolicy(name, 2500) for name in ("uniform", "game-of-arms", "tower-loglog")]
    picked = {0: [], 1: [], 2: []}
    for step in bandit.evaluate(policies, environment, n_episodes=1, seed=3):
        picked[step["policy_idx"]].append(step["arm"])
    for arms in picked.values():
        assert len(arms) == 3000
        assert len(set(arms[-500:])) == 1  # committed, and it stays so beyond its horizon


def test_a_river_policy_is_cloned_and_keeps_no_statistics_of_arms(needs):
    needs("river")
    from unending.systems.learning.streaming_bandits.river_policy import RiverPolicy

    policy = RiverPolicy("game-of-arms", 500, seed=2)
    rng = np.random.default_rng(0)
    for _ in range(500):
        arm = policy.pull(list(range(20)))
        policy.update(arm, float(rng.random() < arm / 20))
    assert policy.max_stored == 1
    assert not policy._rewards
    assert not policy._counts
    assert policy.ranking[0] == policy.pull(list(range(20)))
    fresh = policy.clone()
    assert (fresh.algorithm, fresh.horizon, fresh.seed, fresh.stored, fresh.ranking) == (
        "game-of-arms",
        500,
        2,
        [],
        [],
    )
    assert repr(fresh) == "RiverPolicy('game-of-arms', horizon=500, seed=2)"
    with pytest.raises(InputError):
        fresh.update(0, 1.0)
    fresh.pull([0, 1])
    with pytest.raises(InputError, match="each is to be"):
        fresh.update(0, 2.0)
    with pytest.raises(InputError, match="'best'"):
        RiverPolicy("best")
    shrunk = RiverPolicy("uniform", 10**4)
    shrunk.pull([0, 1])
    with pytest.raises(InputError, match="1 arms are offered, 2 were at first"):
        shrunk.pull([0])
