"""The laws: what holds for every operator, whatever it computes, and a check that tries to refute it."""

try:
    import hypothesis as _hypothesis  # noqa: F401
except ImportError as error:
    from unending.core.errors import MissingExtraError

    raise MissingExtraError("the laws need hypothesis: pip install 'unending[laws]'") from error

from unending.laws.report import Report, Result
from unending.laws.suite import LAWS, Law, check
from unending.laws.trial import PROFILES, NotApplicable, OptedOut, Profile, Trial, Violation

__all__ = [
    "LAWS",
    "PROFILES",
    "Law",
    "NotApplicable",
    "OptedOut",
    "Profile",
    "Report",
    "Result",
    "Trial",
    "Violation",
    "check",
]
