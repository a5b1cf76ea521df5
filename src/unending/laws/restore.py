"""The other end of L5: a fresh process that resumes snapshots and goes on with the stream.

This process starts early and imports while other laws run; it has seen nothing of the stream when the snapshots
reach it. One process takes all cut points of an operator.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from safetensors.numpy import load_file, save_file

from unending.core import Chunk, Event, Session, arrays, canonical, leaves
from unending.core.errors import InputError, UnendingError
from unending.laws.rebuild import build, describe

__all__ = ["POLL", "Act", "Restorer", "act", "digests", "serve"]

POLL = None
Act = Chunk | None
"""One act on a session: push this chunk, or (`POLL`) poll once."""


def act(session: Session[Any], what: Act) -> list[Event]:
    """Do it, and give what was polled."""
    if what is not None:
        session.push(what)
        return []
    return session.poll()


def go_on(session: Session[Any], acts: Sequence[Act]) -> list[Event]:
    """Do the acts, finish, and give all that was polled."""
    events = [event for each in acts for event in act(session, each)]
    session.finish()
    while more := session.poll():
        events += more
    return events


def digests(events: Sequence[Event], state: Any) -> list[str]:
    """One line for each event (number, place, digest of its bits), then one for each leaf of the state."""
    lines = []
    for event in events:
        plain, held = event.data.encode()
        about = hashlib.sha256(json.dumps(plain, sort_keys=True, default=repr).encode())
        for name, array in held.items():
            about.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
        place = f"{event.t_start!r}..{event.t_end!r} {'final' if event.final else 'open'}"
        lines.append(f"event {event.seq} at {place} {about.hexdigest()[:16]}")
    for name, leaf in leaves(canonical(state)).items():
        array, dtype = arrays.to_numpy(leaf)
        lines.append(
            f"leaf {name} {dtype}{list(array.shape)} {hashlib.sha256(array.tobytes()).hexdigest()[:16]}"
        )
    return lines


class Restorer:
    """A fresh process for one operator; a context manager."""

    def __init__(self, operator: Any) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed on exit
        self._why = ""
        try:
            described = describe(operator)
        except UnendingError as error:
            self._why = str(error)
            return
        where = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from unending.laws.restore import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "PYTHONPATH": where, "PYTHONHASHSEED": "random"},
        )
        self._say(json.dumps(described))

    def _say(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def restore(self, acts: Sequence[Act], snapshots: Sequence[tuple[int, bytes]]) -> list[list[str]]:
        """What `digests` says of each snapshot after the acts that follow it.

        Parameters
        ----------
        acts
            all acts of the uncut run.
        snapshots
            each with the number of acts that were done before it.

        Raises
        ------
        InputError
            if the fresh process fails; its text says how.
        """
        if self._process is None:
            raise InputError(self._why)
        with tempfile.TemporaryDirectory() as folder:
            _write(Path(folder), acts, snapshots)
            self._say(folder)
            assert self._process.stdout is not None
            answer = self._process.stdout.readline()
        if not answer:
            raise InputError(f"the fresh process ended: {self._last_words()}")
        said = json.loads(answer)
        if "error" in said:
            raise InputError(f"in the fresh process: {said['error']}")
        return [list(lines) for lines in said["digests"]]

    def _last_words(self) -> str:
        assert self._process is not None
        self._process.wait()
        self._errors.seek(0)
        return (self._errors.read().strip().splitlines() or ["without a word"])[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._process.communicate()
        self._errors.close()


def _write(folder: Path, acts: Sequence[Act], snapshots: Sequence[tuple[int, bytes]]) -> None:
    plains: list[Any] = []
    arrays_held: dict[str, np.ndarray] = {}
    for index, each in enumerate(acts):
        plain, held = each.encode() if each is not None else (None, {})
        plains.append(plain)
        arrays_held |= {f"{index}.{name}": np.ascontiguousarray(array) for name, array in held.items()}
    save_file(arrays_held, folder / "acts.safetensors")
    (folder / "acts.json").write_text(json.dumps(plains), encoding="utf-8")
    for index, (done, content) in enumerate(snapshots):
        (folder / f"{index}.{done}.snapshot").write_bytes(content)


def _read(folder: Path) -> tuple[list[Act], list[tuple[int, bytes]]]:
    held = load_file(folder / "acts.safetensors")
    acts: list[Act] = []
    for index, plain in enumerate(json.loads((folder / "acts.json").read_text(encoding="utf-8"))):
        own = {name.partition(".")[2]: array for name, array in held.items() if name.startswith(f"{index}.")}
        acts.append(None if plain is None else Chunk.decode(plain, own))
    files = sorted(folder.glob("*.snapshot"), key=lambda path: int(path.name.split(".")[0]))
    return acts, [(int(path.name.split(".")[1]), path.read_bytes()) for path in files]


def serve() -> None:
    """What the fresh process runs: an operator on the first line, then one folder of work a line."""
    answers, sys.stdout = sys.stdout, sys.stderr
    operator, problem = None, ""
    try:
        operator = build(json.loads(sys.stdin.readline()))
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    for line in sys.stdin:
        try:
            if operator is None:
                raise InputError(problem)
            acts, snapshots = _read(Path(line.strip()))
            found = []
            # The latest cut first, so that none finds what an earlier one left behind in the process.
            for done, content in reversed(snapshots):
                session = Session.resume(operator, content)
                events = go_on(session, acts[done:])
                found.append(digests(events, session.state))
            said: dict[str, Any] = {"digests": found[::-1]}
        except Exception as error:
            said = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
        print(json.dumps(said), file=answers, flush=True)
