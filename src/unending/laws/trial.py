"""What a law is given: one operator, streams for it, and the time it may take."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import seed as seeded
from hypothesis.errors import Flaky
from hypothesis.strategies import SearchStrategy

from unending.core import Operator
from unending.core.random import philox
from unending.laws.restore import Restorer
from unending.laws.streams import Source

__all__ = ["PROFILES", "NotApplicable", "OptedOut", "Profile", "Trial", "Violation"]

T = TypeVar("T")


class Violation(Exception):
    """The law does not hold; the text is the counterexample in one line."""


def require(how: str | None, what: str = "") -> None:
    """Raise a `Violation` if a comparison has found a difference."""
    if how:
        raise Violation(f"{what}: {how}" if what else how)


class NotApplicable(Exception):
    """The law says nothing of this operator; the text says why."""


class OptedOut(Exception):
    """The operator has said, with a reason, that it does not keep this law."""


@dataclass(frozen=True)
class Profile:
    """How hard to try.

    Parameters
    ----------
    name
        for reports.
    least, examples, seconds
        the fewest and the most streams of one exploration, and the time after which no more than the fewest are tried.
    windows, long_seconds
        length of the long stream of L4 in windows, and the time after which it is cut short.
    cuts
        snapshots that are restored in L5.
    injections
        exceptions that are injected in L7.
    """

    name: str
    least: int
    examples: int
    seconds: float
    windows: int
    long_seconds: float
    cuts: int
    injections: int


PROFILES = {
    "fast": Profile("fast", 8, 40, 0.4, 100, 3.0, 8, 24),
    "thorough": Profile("thorough", 100, 500, 30.0, 400, 120.0, 40, 200),
}
"""`fast` is for every run of the tests, `thorough` for a night."""


@dataclass(frozen=True)
class Trial:
    """One operator under one profile."""

    operator: Operator[Any]
    profile: Profile
    seed: int
    restorer: Restorer

    @cached_property
    def source(self) -> Source:
        """Streams that the operator takes."""
        return Source(self.operator)

    def rng(self, use: int) -> np.random.Generator:
        """A generator for one use in one law."""
        return philox(self.seed, use)

    def explore(self, cases: SearchStrategy[T], body: Callable[[T], None]) -> int:
        """Try cases until one raises or the time is up, and raise what the simplest failing case raised.

        Returns
        -------
        int
            how many cases were tried.
        """
        began = perf_counter()
        tried = 0
        failures: dict[str, Exception] = {}

        def attempt(case: T) -> None:
            nonlocal tried, began
            elapsed, name = perf_counter() - began, repr(case)
            if not failures and tried >= self.profile.least and elapsed > self.profile.seconds:
                return
            if failures and elapsed > 4 * self.profile.seconds:
                # Time for shrinking is up as well: what failed fails again, nothing else does.
                if name in failures:
                    raise failures[name]
                return
            tried += 1
            try:
                body(case)
                if tried == 1:
                    began = perf_counter()  # the first case pays for what is made at first use
            except Exception as error:
                failures[name] = error
                raise

        quiet = settings(
            max_examples=self.profile.examples,
            database=None,
            deadline=None,
            derandomize=False,
            phases=(Phase.generate, Phase.shrink),
            print_blob=False,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
            verbosity=Verbosity.quiet,
        )
        try:
            quiet(seeded(self.seed)(given(cases)(attempt)))()
        except Flaky as error:
            first = next(iter(failures.values()))
            raise Violation(f"not the same from run to run: {_line(first)}") from error
        return tried


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
