"""What the scheduler tells its shell."""

from dataclasses import dataclass

from unending.core import Event

__all__ = ["Acknowledged", "Delivered", "Done", "Failed", "Idle", "Notice", "Ready", "Refused", "Room"]


@dataclass(frozen=True)
class Acknowledged:
    """Input up to `seq` is durable; or it was shed."""

    key: str
    seq: int
    shed: bool = False


@dataclass(frozen=True)
class Delivered:
    """An output may go out."""

    key: str
    event: Event


@dataclass(frozen=True)
class Refused:
    """Accepted input (or a tick, `seq` 0) whose step failed; the session goes on without it."""

    key: str
    seq: int
    error: Exception


@dataclass(frozen=True)
class Idle:
    """All accepted input is worked off, nothing is pending, and every output is on its way."""

    key: str
    finished: bool


@dataclass(frozen=True)
class Room:
    """There is room in the session's queue again."""

    key: str


@dataclass(frozen=True)
class Ready:
    """A session that was opened, resumed or imported is in memory and durable."""

    key: str


@dataclass(frozen=True)
class Failed:
    """A session could not be opened, resumed or imported."""

    key: str
    error: Exception


@dataclass(frozen=True)
class Done:
    """An export, a save on request or a deletion is done (`result` holds the bytes of an export), or failed."""

    key: str
    what: str
    result: bytes | Exception | None


Notice = Acknowledged | Delivered | Refused | Idle | Room | Ready | Failed | Done
