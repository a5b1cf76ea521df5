"""Atari games, preprocessed."""

import numpy as np
import pytest


@pytest.fixture
def game(needs):
    needs("ale_py")
    needs("cv2")
    from unending.io.atari import atari

    return atari("ALE/Breakout-v5")


def test_pictures_lives_and_scores(game):
    observation, _ = game.reset(seed=0)
    assert (observation.shape, observation.dtype) == ((84, 84), np.uint8)
    lives = game.unwrapped.ale.lives()
    lost, told = 0, None
    for _ in range(3000):
        _, _, terminated, truncated, info = game.step(2)
        if terminated or truncated:
            lost += 1
            if "episode" in info:
                told = info["episode"]
                break
            game.reset()
            assert game.unwrapped.ale.lives() == lives - lost  # the game goes on
    assert lost == lives  # each life is an episode; the score is told at the last one
    assert told is not None
    game.reset()
    assert game.unwrapped.ale.lives() == lives


def test_it_is_what_the_pictures_wrapper_takes(game):
    from unending.systems.learning.stream_x import AtariNetwork, StreamQ, wrap_pictures

    env = wrap_pictures(game)
    agent = StreamQ(env.observation_space, env.action_space, network=AtariNetwork(int(env.action_space.n)))
    assert env.observation_space.shape == (4, 84, 84)
    agent.learn(env, 3, seed=0)
    assert agent.updates == 3
