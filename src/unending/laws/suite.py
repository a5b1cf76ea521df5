"""The twelve laws in order, and one check that tries them all."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from unending.core import Operator
from unending.core.errors import InputError
from unending.laws import agreement, behaviour, continuity, independence, memory
from unending.laws.report import Report, Result, Status
from unending.laws.restore import Restorer
from unending.laws.trial import PROFILES, NotApplicable, OptedOut, Profile, Trial

__all__ = ["LAWS", "Law", "check"]


@dataclass(frozen=True)
class Law:
    """A property of every operator.

    `function` gives what was tried, or raises: `NotApplicable`, `OptedOut`, and anything else is a counterexample.
    """

    id: str
    name: str
    statement: str
    function: Callable[[Trial], str]


LAWS: tuple[Law, ...] = (
    Law("L1", "chunking", "However a stream is cut, outputs and final state are equal.", agreement.chunking),
    Law("L2", "offline", "The outputs equal a reference on the whole stream.", agreement.offline),
    Law("L3", "causality", "What comes later does not change an output that is due.", agreement.causality),
    Law("L4", "bound", "The state stays within its bound, in leaves of constant shape.", memory.bound),
    Law(
        "L5", "snapshot", "Cut and restored in a fresh process, it goes on bit for bit.", continuity.snapshot
    ),
    Law(
        "L6",
        "neighbours",
        "Stepped together with others, a session gives what it gives alone.",
        independence.neighbours,
    ),
    Law("L7", "cancel", "A step that is stopped in its middle never happened.", continuity.cancel),
    Law("L8", "finish", "finish gives what was held back, once.", continuity.finish),
    Law("L9", "ownership", "A state is used once, a fork shares nothing, inputs stay.", memory.ownership),
    Law("L10", "seed", "Equal seeds give equal outputs; no global generator is touched.", independence.seed),
    Law("L11", "time", "Output times are in order and depend on no chunking and no clock.", behaviour.timing),
    Law("L12", "robustness", "Bad input raises a typed error and changes nothing.", behaviour.robustness),
)


def check(operator: Operator[Any], profile: str | Profile = "fast", seed: int = 0) -> Report:
    """Try every law on one operator.

    Parameters
    ----------
    operator
        what is tried; `YourOperator.example()` is meant for this.
    profile
        how hard to try: `"fast"` (seconds), `"thorough"` (minutes), or a `Profile` of your own.
    seed
        of the streams and of everything else that is drawn; the same seed tries the same streams, as far as the
        time of the profile reaches.

    Returns
    -------
    Report
        one result a law; `report.ok` says whether none failed.
    """
    if isinstance(profile, str):
        if profile not in PROFILES:
            raise InputError(f"there is no profile {profile!r}; there are {', '.join(PROFILES)}")
        profile = PROFILES[profile]
    if unknown := set(operator.opt_outs) - {law.id for law in LAWS}:
        raise InputError(
            f"opt_outs of {operator.spec.name} names what is no law: {', '.join(sorted(unknown))}"
        )
    with Restorer(operator) as restorer, _one_thread(), warnings.catch_warnings():
        # Numbers at the edge of what floats can hold are tried on purpose.
        warnings.simplefilter("ignore", RuntimeWarning)
        trial = Trial(operator, profile, seed, restorer)
        # L5 comes last: until then its process has time to import what it needs.
        found = {law: _try(law, trial) for law in sorted(LAWS, key=lambda law: law.id == "L5")}
    return Report(operator.spec.name, profile.name, seed, tuple(found[law] for law in LAWS))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Tiny operators run in one torch thread: more only wait for each other."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    if torch:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if torch:
            torch.set_num_threads(before)


def _try(law: Law, trial: Trial) -> Result:
    began = perf_counter()
    status: Status = "held"
    opt_out = trial.operator.opt_outs.get(law.id)
    try:
        if opt_out is not None:
            if not opt_out.strip():
                raise InputError("it opts out without a reason")
            raise OptedOut(opt_out)
        detail = law.function(trial)
    except OptedOut as reason:
        status, detail = "opted out", _line(reason)
    except NotApplicable as reason:
        status, detail = "not applicable", _line(reason)
    except Exception as error:
        status, detail = "failed", _line(error)
    return Result(law.id, law.name, status, detail, perf_counter() - began)


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    named = type(error).__name__ not in ("Violation", "OptedOut", "NotApplicable", "EndlessError")
    return f"{type(error).__name__}: {text}" if named else text
