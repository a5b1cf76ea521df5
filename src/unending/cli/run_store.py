"""The folder of a run that goes on where it was cut."""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from unending.cli.monitor import Monitor
from unending.core import Operator, Session, snapshot
from unending.core.errors import SnapshotCorruptError, SnapshotForeignError, StorageError
from unending.io.sources import StreamSource

__all__ = ["RunStore"]


class RunStore:
    """A folder with the newest snapshot of one run, and what its monitor and its source knew at that moment."""

    def __init__(self, folder: Path, source: StreamSource) -> None:
        self._source = source
        self._folder, self._snapshot, self._about = folder, folder / "snapshot", folder / "run.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StorageError(f"cannot use the folder {folder}: {error.strerror or error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise StorageError(f"another run is at work in {folder}") from error
        for left_over in folder.glob(".*.tmp"):
            left_over.unlink(missing_ok=True)

    def __enter__(self) -> "RunStore":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def open(
        self, operator: Operator[Any], source: str, seed: int, monitor: Monitor, first: str = ""
    ) -> Session[Any]:
        """The session of an earlier run, or a new one; `first` is a question that stands before the stream."""
        about = {"source": str(Path(source).resolve()) if Path(source).exists() else source, "seed": seed}
        about |= {"ask": first} if first else {}
        if not self._snapshot.exists():
            session = Session(operator, seed=seed)
            snapshot.write(self._about, json.dumps(about).encode())
            self.save(session, monitor)
            return session
        found = self._load(self._about)
        if found != about:
            asked = f" and the question {found['ask']!r}" if "ask" in found else ""
            raise SnapshotForeignError(
                f"{self._folder} holds a run on {found['source']} with seed {found['seed']}{asked};"
                " give this one a folder of its own"
            )
        try:
            session = Session.resume(operator, self._snapshot)
        except SnapshotCorruptError as error:
            raise SnapshotCorruptError(f"{error}; {self._anew}") from error
        known = self._load(self._progress(session))
        monitor.restore(known)
        if "source" in known:
            self._source.restore(known["source"])
        return session

    @property
    def _anew(self) -> str:
        return f"delete {self._folder} to begin anew"

    def _load(self, path: Path) -> Any:
        try:
            return json.loads(snapshot.read(path))
        except ValueError as error:
            raise SnapshotCorruptError(f"{path} is damaged; {self._anew}") from error

    def _progress(self, session: Session[Any]) -> Path:
        return self._folder / f"progress-{session.in_seq}.json"

    def save(self, session: Session[Any], monitor: Monitor) -> None:
        """Save both; killed in between, the older pair is still there."""
        now = self._progress(session)
        known = monitor.record()
        if record := self._source.record():
            known["source"] = record
        snapshot.write(now, json.dumps(known).encode())
        session.save(self._snapshot)
        for older in self._folder.glob("progress-*.json"):
            if older != now:
                older.unlink(missing_ok=True)
