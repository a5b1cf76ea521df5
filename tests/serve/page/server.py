"""`unending serve` as a process of its own, for a browser to look at; it can be killed and started again."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[3]
SCRIBE = "tests.serve.page.scribe:Scribe"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


class PageServer:
    """Serves a toy on loopback, with further arguments of the command."""

    def __init__(self, log: Path, system: str, arguments: Sequence[str] = ()) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self._log, self._system, self._arguments = log, system, arguments
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Come back when requests are answered."""
        command = [sys.executable, "-m", "unending", "serve", self._system, "--example"]
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [*command, "--port", str(self.port), *self._arguments],
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        ready = self._process.stdout.readline()
        assert self.url in ready, f"the server did not start: {self._log.read_text()}"

    def kill(self) -> None:
        """As a power cut would."""
        assert self._process is not None
        self._process.kill()
        self._end(self._process)

    def stop(self) -> None:
        """With a signal that it may obey."""
        assert self._process is not None
        self._process.terminate()
        self._end(self._process)

    def _end(self, process: subprocess.Popen[str]) -> None:
        process.wait(timeout=30)
        assert process.stdout is not None
        process.stdout.close()


@contextmanager
def serving(folder: Path, *arguments: str, system: str = SCRIBE) -> Iterator[PageServer]:
    """A server that runs for as long as one is in here."""
    server = PageServer(folder / "log", system, arguments)
    server.start()
    try:
        yield server
    finally:
        server.stop()
