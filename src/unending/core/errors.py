"""The tree of errors: everything the library raises on purpose derives from `UnendingError`."""

__all__ = [
    "BusyError",
    "CapacityError",
    "InputError",
    "KindError",
    "MissingExtraError",
    "ModelNotFoundError",
    "ModelUnsupportedError",
    "NoOfflineError",
    "NumericalError",
    "OwnershipError",
    "SequenceError",
    "SessionClosedError",
    "SessionExistsError",
    "SessionNotFoundError",
    "SessionTakenError",
    "SnapshotCorruptError",
    "SnapshotError",
    "SnapshotForeignError",
    "StateError",
    "StorageError",
    "StoreCorruptError",
    "SystemNotFoundError",
    "UnendingError",
]


class UnendingError(Exception):
    """Base of every error that this library raises on purpose; its text is one line for a person."""


class InputError(UnendingError, ValueError):
    """The data that came in is wrong; the session and its state are as they were before."""


class KindError(InputError, TypeError):
    """A chunk of a kind that the operator does not take, or stages of a pipeline that do not fit."""


class CapacityError(InputError):
    """The input asks for more room than the declared bound leaves."""


class NumericalError(UnendingError, ArithmeticError):
    """A computation gave NaN or infinity; the step did not happen."""


class StateError(UnendingError, TypeError):
    """A state breaks the contract: a leaf that is neither an array nor an integer, a foreign class."""


class OwnershipError(UnendingError, RuntimeError):
    """A state was used after `step` or `finish` had consumed it."""


class NoOfflineError(UnendingError, NotImplementedError):
    """The operator has no reference on a whole stream; the text says why."""


class SessionClosedError(UnendingError, RuntimeError):
    """The session is finished or closed."""


class SessionExistsError(UnendingError, ValueError):
    """A session of this key exists already."""


class SessionNotFoundError(UnendingError, LookupError):
    """There is no session of this key, in memory or in the store."""


class SessionTakenError(UnendingError, RuntimeError):
    """Another connection holds the session, or has taken it over."""


class SequenceError(InputError):
    """A sequence number that does not follow on; `expected` is the one that does."""

    def __init__(self, message: str, expected: int) -> None:
        super().__init__(message)
        self.expected = expected


class BusyError(UnendingError, RuntimeError):
    """No room now; `retry_after` seconds say when to try again."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SnapshotError(UnendingError):
    """A snapshot cannot be used."""


class SnapshotCorruptError(SnapshotError, ValueError):
    """The file is truncated, altered, or not a snapshot at all."""


class SnapshotForeignError(SnapshotError, ValueError):
    """An intact snapshot of another operator, configuration, model or format."""


class StorageError(UnendingError, OSError):
    """The disk refused: full, read-only, no permission."""


class StoreCorruptError(UnendingError, ValueError):
    """The store holds a damaged or missing piece of a session; it is not guessed at."""


class MissingExtraError(UnendingError, ImportError):
    """An optional package is absent; the text holds the command that installs it."""


class SystemNotFoundError(UnendingError, LookupError):
    """No system of that name is in the catalogue."""


class ModelNotFoundError(UnendingError, LookupError):
    """No model of that name or path; the text holds the command that installs it, where there is one."""


class ModelUnsupportedError(UnendingError, ValueError):
    """The mechanism cannot work on this model (its positions, its attention); the text says why."""


class EnvironmentFailedError(UnendingError, RuntimeError):
    """An environment raised, or the loop around it broke; what was learned until then is kept."""
