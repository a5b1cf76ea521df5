"""Environments: closed loops, episodes that can be lived again, and environments that break."""

import itertools
import json

import gymnasium
import numpy as np
import pytest
from tests.io.acting import Wanderer, registered

from unending.core import Control, Event, Rows, Session, Transitions
from unending.core.errors import EnvironmentFailedError, InputError, MissingExtraError, SnapshotForeignError
from unending.io.environments import Environment, interact
from unending.io.sources import fitted

DISCRETE, CONTINUOUS = registered("Corridor-v0"), registered("CorridorBox-v0", continuous=True)
BROKEN = registered("CorridorBroken-v0", broken=3)


class Odd(gymnasium.Env):
    """Does what it is told to: spaces, what a reset or a step gives, an error while it is made."""

    def __init__(self, seen=None, actions=None, answer=(0.0, False, False, {}), broken=None):
        if broken:
            raise broken
        one = gymnasium.spaces.Box(-1, 1, (3,), np.float64)
        self.observation_space = seen if isinstance(seen, gymnasium.Space) else one
        self.given = np.zeros(3) if seen is None else seen
        self.action_space = actions or gymnasium.spaces.Discrete(2)
        self.answer = answer

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(3), {}

    def step(self, action):
        assert self.action_space.contains(action), f"no such action: {action}"
        return (self.given, *self.answer)


def odd(name, **settings):
    if name not in gymnasium.registry:
        gymnasium.register(name, Odd, max_episode_steps=12, kwargs=settings)
    return name


def lived(name, steps, environment=None, session=None):
    environment = environment or Environment(name, seed=5)
    session = session or Session(fitted(Wanderer(), environment), seed=1)
    events = list(interact(session, environment, steps))
    return environment, session, events


def outline(events):
    return [
        (
            type(e.data).__name__,
            e.seq,
            np.asarray(e.data.value if isinstance(e.data, Control) else e.data.values).tolist(),
        )
        for e in events
    ]


@pytest.mark.parametrize("name", [DISCRETE, CONTINUOUS, "CartPole-v1"])
def test_a_loop_cut_at_any_step_goes_on_bit_for_bit(name, tmp_path):
    _, whole, events = lived(name, 60)
    for cut in (1, 7, 12, 33, 59):
        environment, session, first = lived(name, cut)
        record = json.loads(json.dumps(environment.record()))
        session.save(tmp_path / "snapshot")
        again = Environment(name, seed=5)
        again.restore(record)
        resumed = Session.resume(session.operator, tmp_path / "snapshot")
        _, resumed, rest = lived(name, 60 - cut, again, resumed)
        assert outline(first + rest) == outline(events)
        assert np.array_equal(resumed.state.seen, whole.state.seen)
    assert any(isinstance(event.data, Rows) for event in events)  # episodes ended on the way


def test_sizes_are_those_of_the_spaces():
    assert Environment(DISCRETE).sizes == {"observation": 2, "time_limit": 12, "actions": 2}
    assert Environment(CONTINUOUS).sizes == {"observation": 2, "time_limit": 12, "action_width": 1}
    assert fitted(Wanderer(), Environment(CONTINUOUS)) == Wanderer(observation=2, action_width=1)
    assert fitted(Wanderer(observation=7), Environment(DISCRETE)).observation == 7


def test_episodes_differ_from_each_other_and_follow_from_the_seed():
    resets = [
        [chunk.value.tolist() for chunk in pushed(DISCRETE, seed, 40) if isinstance(chunk, Control)]
        for seed in (5, 5, 6)
    ]
    assert resets[0] == resets[1] != resets[2]
    assert len({tuple(each) for each in resets[0]}) == len(resets[0]) > 2


def pushed(name, seed, steps):
    environment, chunks = Environment(name, seed), []
    session = Session(fitted(Wanderer(), environment), seed=1)
    for chunk in environment.chunks():
        chunks.append(chunk)
        session.push(chunk)
        environment.see(session.poll())
        if session.time >= steps:
            return chunks


def test_actions_beyond_the_space_are_clipped_for_the_environment_and_kept_for_the_agent():
    steps = [chunk for chunk in pushed(CONTINUOUS, 3, 40) if isinstance(chunk, Transitions)]
    actions = np.concatenate([chunk.actions for chunk in steps])
    assert np.abs(actions).max() > 1  # the environment itself asserts that what it gets is inside


def test_a_transition_follows_the_one_before():
    steps = [chunk for chunk in pushed(DISCRETE, 3, 40) if isinstance(chunk, Transitions)]
    for one, two in itertools.pairwise(steps):
        if not (one.terminated[0] or one.truncated[0]):
            assert np.array_equal(one.nexts, two.observations)


def test_an_environment_that_breaks_says_where_and_takes_nothing_with_it():
    environment = Environment(BROKEN, seed=5)
    session = Session(fitted(Wanderer(), environment), seed=1)
    with pytest.raises(
        EnvironmentFailedError, match=r"Broken-v0 failed in episode 0 at step 2: the floor gave way"
    ):
        list(interact(session, environment, 10))
    learned = session.state.seen.copy()
    assert session.time == 2
    other = Environment(DISCRETE, seed=5)
    assert len(list(interact(session, other, 5))) >= 5
    assert session.time == 7
    assert not np.array_equal(session.state.seen, learned)
    again = Environment(BROKEN, seed=5)
    again.restore(
        environment.record()
    )  # its first two steps can be had once more, and the third breaks again
    with pytest.raises(EnvironmentFailedError, match="at step 2"):
        next(again.chunks())


def test_no_action_is_an_error_of_the_loop():
    chunks = Environment(DISCRETE).chunks()
    assert isinstance(next(chunks), Control)
    with pytest.raises(EnvironmentFailedError, match="waits for an action"):
        next(chunks)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NoSuchThing-v0", "there is no environment 'NoSuchThing-v0'"),
        ("not an id!", "there is no environment"),
        ("Blackjack-v1", None),
    ],
)
def test_what_is_no_environment_for_vectors(name, message):
    if message is None:
        assert Environment(name).sizes["actions"] == 2  # a tuple of numbers is flattened
        return
    with pytest.raises(InputError, match=message):
        Environment(name)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gymnasium", None)
    with pytest.raises(MissingExtraError, match=r"unending\[rl\]"):
        Environment("CartPole-v1")


def test_a_record_of_another_environment_is_foreign():
    with pytest.raises(SnapshotForeignError, match="seed 4"):
        Environment(DISCRETE, 3).restore(Environment(DISCRETE, 4).record())


def test_a_record_stays_what_it_was_while_the_environment_goes_on():
    environment, session, _ = lived(DISCRETE, 3)
    record = environment.record()
    before = json.dumps(record)
    list(interact(session, environment, 2))
    assert json.dumps(record) == before


def test_discrete_actions_may_begin_at_another_number_than_zero():
    name = odd("OddStart-v0", actions=gymnasium.spaces.Discrete(3, start=5))
    environment, _, events = lived(name, 20)
    actions = {event.data.value for event in events if isinstance(event.data, Control)}
    assert actions == {0, 1, 2}  # the agent's; the environment itself asserts that it gets 5, 6, 7
    assert set(environment.record()["actions"]) <= actions


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("OddNan-v0", {"seen": np.full(3, np.nan)}, "its observation holds NaN or infinity"),
        ("OddWide-v0", {"seen": np.zeros(4)}, "its observation has 4 numbers, not 3"),
        ("OddWord-v0", {"seen": "a word"}, "could not convert"),
        ("OddReward-v0", {"answer": (np.inf, False, False, {})}, "its reward is inf"),
        ("OddNone-v0", {"answer": (None, False, False, {})}, "its reward is nan"),
        ("OddOld-v0", {"answer": (0.0, False, {})}, "not enough values to unpack"),
    ],
)
def test_an_answer_that_is_none_is_said_with_its_step_and_can_be_gone_on_from(name, settings, message):
    environment = Environment(odd(name, **settings), seed=5)
    session = Session(fitted(Wanderer(), environment), seed=1)
    with pytest.raises(EnvironmentFailedError, match=f"{name} failed in episode 0 at step 0: .*{message}"):
        list(interact(session, environment, 10))
    assert session.time == 0
    again = Environment(name, seed=5)
    again.restore(json.loads(json.dumps(environment.record())))
    # The same step again, not one that waits for an action.
    with pytest.raises(EnvironmentFailedError, match=message):
        next(again.chunks())


def test_a_reward_may_be_an_array_of_one():
    name = odd("OddArray-v0", answer=(np.array([1.5]), False, False, {}))
    assert [c.rewards[0] for c in pushed(name, 3, 4) if isinstance(c, Transitions)] == [1.5] * 4


def test_what_the_agent_has_not_taken_is_lived_again():
    """Ctrl-C may come between a step of the environment and the push of it, and an agent may refuse it."""
    _, whole, events = lived(DISCRETE, 30)
    lost = []
    for taken in range(1, 32):
        environment = Environment(DISCRETE, seed=5)
        session, chunks = Session(fitted(Wanderer(), environment), seed=1), environment.chunks()
        first = []
        for _ in range(taken):
            session.push(next(chunks))
            first += session.poll()
            environment.see(first[-1:])
        lost.append(type(next(chunks)))
        again = Environment(DISCRETE, seed=5)
        again.restore(json.loads(json.dumps(environment.record())))
        rest = list(interact(session, again, 30 - round(session.time)))
        assert outline(first + rest) == outline(events)
        assert np.array_equal(session.state.seen, whole.state.seen)
    assert lost.count(Control) >= 2  # cut at resets as well


def test_actions_of_numpys_kinds_are_plain_in_a_record():
    environment = Environment(DISCRETE, seed=5)
    chunks = environment.chunks()
    next(chunks)
    for value in (np.int64(1), np.array(0)):
        environment.see([Event(Control("action", value), 0, 0)])
        assert json.loads(json.dumps(environment.record()))["pending"] == int(value)
        next(chunks)
    environment.see([])
    assert json.loads(json.dumps(environment.record()))["actions"] == [1, 0]


@pytest.mark.parametrize(
    ("name", "settings", "error", "message"),
    [
        (
            "OddSeq-v0",
            {"seen": gymnasium.spaces.Sequence(gymnasium.spaces.Discrete(2))},
            InputError,
            "flattened",
        ),
        (
            "OddMade-v0",
            {"broken": TypeError("needs a level")},
            EnvironmentFailedError,
            "cannot be made: needs a",
        ),
        (
            "OddFile-v0",
            {"broken": FileNotFoundError("no\nrom")},
            EnvironmentFailedError,
            "cannot be made: no rom",
        ),
        ("no_such_module:Odd-v0", None, MissingExtraError, "No module named 'no_such_module'"),
    ],
)
def test_what_cannot_be_made_is_one_line(name, settings, error, message):
    if settings:
        odd(name, **settings)
    with pytest.raises(error, match=message) as caught:
        Environment(name)
    assert "\n" not in str(caught.value)
    assert "unending[rl]" not in str(caught.value)  # which would not bring it
