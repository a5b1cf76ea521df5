"""Failures: what a client is told when something is refused, by code, HTTP status and one line."""

import logging
import re
import traceback
from dataclasses import dataclass
from typing import Any

from unending.core.errors import (
    BusyError,
    InputError,
    NumericalError,
    SequenceError,
    SessionClosedError,
    SessionExistsError,
    SessionNotFoundError,
    SessionTakenError,
    SnapshotCorruptError,
    SnapshotForeignError,
    StorageError,
    StoreCorruptError,
    UnendingError,
)

__all__ = ["Failure", "Refusal", "failure_of"]

_log = logging.getLogger("unending.serve")

_STATUS = {
    "bad_message": 400,
    "input": 400,
    "unauthorized": 401,
    "origin": 403,
    "forbidden": 403,
    "not_found": 404,
    "unknown_system": 404,
    "timeout": 408,
    "closed": 409,
    "exists": 409,
    "foreign_snapshot": 409,
    "sequence": 409,
    "taken": 409,
    "too_large": 413,
    "corrupt": 422,
    "limit": 429,
    "internal": 500,
    "busy": 503,
    "draining": 503,
    "storage": 507,
}

_CODES: tuple[tuple[type[UnendingError], str], ...] = (
    (BusyError, "busy"),
    (SequenceError, "sequence"),
    (SessionExistsError, "exists"),
    (SessionNotFoundError, "not_found"),
    (SessionTakenError, "taken"),
    (SessionClosedError, "closed"),
    (SnapshotForeignError, "foreign_snapshot"),
    (SnapshotCorruptError, "corrupt"),
    (StoreCorruptError, "corrupt"),
    (StorageError, "storage"),
    (NumericalError, "input"),
    (InputError, "input"),
)


_FOLDERS = re.compile(r"(?<![\w./~-])/(?:[^\s/'\",;:()]+/)+")
"""The folders of an absolute path: of files and models of the server a client learns the name alone."""


class Refusal(UnendingError):
    """The server itself refuses: wrong message, no permission, a limit, an end.

    Parameters
    ----------
    code
        one of the error codes of the protocol.
    message
        one line for a person.
    retry_after
        seconds until it may go better.
    param
        the field of a request that is meant.
    """

    def __init__(
        self, code: str, message: str, *, retry_after: float | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.code, self.retry_after, self.param = code, retry_after, param


@dataclass(frozen=True)
class Failure:
    """What goes out."""

    code: str
    message: str
    expected: int | None = None
    retry_after: float | None = None
    param: str | None = None

    @property
    def status(self) -> int:
        """The HTTP status of the code."""
        return _STATUS[self.code]

    def event(self, **about: Any) -> dict[str, Any]:
        """An `error` event of the WebSocket protocol; `about` names the session, the number, the message."""
        told = {"code": self.code, "message": self.message, **about}
        for name in ("expected", "retry_after"):
            if (value := getattr(self, name)) is not None:
                told[name] = value
        return {"type": "error", **{name: value for name, value in told.items() if value is not None}}

    def body(self) -> dict[str, Any]:
        """A body in the shape of OpenAI's errors."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error | ({"expected": self.expected} if self.expected is not None else {})}

    def headers(self) -> dict[str, str]:
        """`retry-after`, where there is one; `www-authenticate` without a token; the end where a body is left."""
        headers = {"www-authenticate": "Bearer"} if self.code == "unauthorized" else {}
        if self.code in ("timeout", "too_large"):
            headers["connection"] = "close"
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, round(self.retry_after)))
        return headers


def failure_of(error: Exception) -> Failure:
    """What to tell of an error. Of one that is not foreseen the client learns no more than that it happened."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, Refusal):
        return Failure(error.code, str(error), retry_after=error.retry_after, param=error.param)
    for kind, code in _CODES:
        if isinstance(error, kind):
            said = (
                "the store cannot be used now; nothing of this was accepted"
                if code == "storage"
                else _FOLDERS.sub("", str(error))
            )
            return Failure(
                code,
                said,
                expected=error.expected if isinstance(error, SequenceError) else None,
                retry_after=error.retry_after if isinstance(error, BusyError) else None,
            )
    # The text of an unforeseen error may hold a part of a stream: the log gets the place and the kind alone.
    places = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
    _log.error("internal error", extra={"kind": type(error).__name__, "places": places[-8:]})
    return Failure("internal", f"the server failed at this ({type(error).__name__})")
