"""Sample sizes under which merges are right and the automaton is close, with a stated probability.

These are statements of the kind that the paper proves (polynomial in the number of states and symbols, in 1 / mu,
1 / epsilon and ln 1 / delta), derived here from Hoeffding's inequality and union bounds; the constants are ours.
"""

from dataclasses import dataclass
from math import ceil, log, sqrt

from unending.core.errors import InputError

__all__ = ["SampleSizes", "comparison_delta", "hoeffding_radius", "sample_sizes", "visits_for_distance"]


def _require(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < 1 and not (name in ("mu", "epsilon") and value == 1):
            raise InputError(f"{name} is {value}, accepted is a number between 0 and 1")


def hoeffding_radius(visits: int, delta: float) -> float:
    """With probability 1 - delta a relative frequency of `visits` draws is within this of its probability.

    Raises
    ------
    InputError
        if there are no visits, or delta is not between 0 and 1.
    """
    _require(delta=delta)
    if visits < 1:
        raise InputError(f"{visits} visits; 1 upwards are accepted")
    return sqrt(log(2 / delta) / (2 * visits))


def comparison_delta(delta: float, states: int, symbols: int, events: int, batches: int = 1) -> float:
    """The `delta` of one comparison so that the pairs of red and blue states are all told right with 1 - `delta`.

    Union bound: at most `states * symbols` blue states meet at most `states` red ones, in `events` codes (and ends)
    each, in every batch. Pairs that folding identifies below them are not counted.
    """
    _require(delta=delta)
    if min(states, symbols, events, batches) < 1:
        raise InputError("states, symbols, events and batches are 1 upwards")
    return delta / (states * states * symbols * events * batches)


def visits_for_distance(mu: float, delta: float) -> int:
    """Visits of both states from which one comparison is right with probability 1 - 2 delta.

    Two states of one distribution differ by less than r_1 + r_2 (radii of both) and pass the test. Two that differ by
    `mu` or more in some event differ by more than mu - r_1 - r_2 in what was seen, and fail it if 2 (r_1 + r_2) <= mu:
    n >= 8 ln(2 / delta) / mu^2.
    """
    _require(mu=mu, delta=delta)
    return ceil(8 * log(2 / delta) / mu**2)


@dataclass(frozen=True)
class SampleSizes:
    """What `sample_sizes` gives.

    Parameters
    ----------
    comparison_delta
        `delta` of the learner's settings.
    visits
        of a state before it is tested and before its probabilities are used: `sink`.
    strings
        of one batch: with them every state that matters has that many visits.
    """

    comparison_delta: float
    visits: int
    strings: int


def sample_sizes(
    states: int,
    symbols: int,
    mu: float,
    epsilon: float,
    delta: float,
    *,
    length: float,
    events: int = 105,
    batches: int = 1,
) -> SampleSizes:
    """Sizes with which all merges are right and |P - P_C|_1 <= epsilon, with probability 1 - delta.

    `events` are those of one pair: `future_steps * (cells + 1)` with a table of one row, 105 as shipped. Delta is
    halved between tests and estimates. Tests: `visits_for_distance` at the delta of `comparison_delta`. Estimates:
    over strings of expected length `length` the errors of the `symbols + 1` next-step probabilities of the states on
    the way add up, so that each may be off by epsilon / (4 (length + 1) (symbols + 1)); and the at most `states *
    symbols` transitions that are too rare to be learned may carry epsilon / 4 together. A state at that limit, of
    probability epsilon / (4 states symbols), gets its visits out of N strings (Chernoff, half the expected number,
    with probability 1 - delta / 4) for N >= max(2 visits, 8 ln(4 states symbols / delta)) / that.

    Raises
    ------
    InputError
        if a size is below 1, or a probability not between 0 and 1.
    """
    _require(mu=mu, epsilon=epsilon, delta=delta)
    if not length > 0:
        raise InputError(f"length is {length}, accepted is a positive number")
    one = comparison_delta(delta / 2, states, symbols, events, batches)
    precision = epsilon / (4 * (length + 1) * (symbols + 1))
    entries = states * (symbols + 1)
    for_estimates = ceil(log(2 * entries / (delta / 4)) / (2 * precision**2))
    visits = max(visits_for_distance(mu, one), for_estimates)
    rare = epsilon / (4 * states * symbols)
    strings = ceil(max(2 * visits, 8 * log(4 * states * symbols / delta)) / rare)
    return SampleSizes(one, visits, strings)
