import numpy as np

from unending.core.random import philox


def test_a_draw_depends_on_seed_and_position_alone() -> None:
    assert philox(3, 5).random() == philox(3, 5).random()
    draws = {philox(seed, place, sub).random() for seed in range(5) for place in range(5) for sub in range(5)}
    assert len(draws) == 125


def test_draws_of_neighbouring_positions_do_not_overlap() -> None:
    one, two = philox(1, 0).random(10_000), philox(1, 1).random(10_000)
    assert not np.intersect1d(one, two).size
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.05


def test_positions_are_independent() -> None:
    first = np.array([philox(1, place).standard_normal() for place in range(4000)])
    assert abs(first.mean()) < 0.06
    assert abs(first.std() - 1) < 0.05
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.05


def test_any_64_bit_seed_and_position() -> None:
    assert philox(-1, 2**64 - 1).random() == philox(2**64 - 1, -1).random()


def test_global_generators_stay() -> None:
    before = np.random.get_state()[1].tobytes()  # noqa: NPY002
    philox(1, 2).random(100)
    assert np.random.get_state()[1].tobytes() == before  # noqa: NPY002
