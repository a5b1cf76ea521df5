"""Fuzzed protocol frames and HTTP bodies against a server on loopback: crashes, hangs, leaked sessions.

`--count N --seed S`; trials already done for this seed and code are kept under `.cache/` and not done again. Each
piece has a server process of its own, so that a crash or a hang is a result too. A crash is an answer with status
500 or code `internal`, an exception that reaches the server's loop, or the end of the process; a hang is no answer
to a valid request within 20 s; a leak is a session, connection, task or slot that is left when all clients are gone.
"""

import argparse
import asyncio
import hashlib
import json
import logging
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

import anyio
import httpx
import numpy as np
from fuzzing import Log, Maker, Seen
from rows import Row, store
from tests.serve.toys import Echo, Sum
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from unending.core import Query, Rows, Session
from unending.engine import Engine, Limits
from unending.serve import Access, Address, Options, Service, serve
from unending.systems.language import StreamingLLM

ROOT = Path(__file__).parents[1]
PIECE, GROUP = 5000, 50
TIMEOUT, PATIENCE = 900.0, 20.0
KINDS = (*["sessions"] * 9, *["realtime"] * 3, *["chat"] * 4, "snapshots", "requests", "requests", "frames")
"""What the groups of trials are, in turn."""


class Fuzzer:
    """The clients of one server."""

    def __init__(self, service: Service, port: int, maker: Maker, seen: Seen) -> None:
        self._service, self._port, self._maker, self._seen = service, port, maker, seen
        self._where = ""
        self._http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE)

    async def group(self, first: int, last: int) -> None:
        """Some trials of one kind; afterwards the server answers a valid request."""
        kind = KINDS[first // GROUP % len(KINDS)]
        self._where = f"{kind} {first} to {last}"
        try:
            async with asyncio.timeout(3 * PATIENCE):
                await getattr(self, kind)(last - first)
                self._seen.status((await self._http.get("/health")).status_code, self._where)
        except (TimeoutError, httpx.TimeoutException):
            self._seen.wrong.append(f"hang: {self._where}")

    async def _talk(
        self, path: str, count: int, make: object, valid: dict[str, str], before: Sequence[dict] = ()
    ) -> None:
        """Send so many messages, on new connections where the server ends one, and read all answers."""
        left = count
        while left > 0:
            with suppress(ConnectionClosed):
                async with connect(f"ws://127.0.0.1:{self._port}{path}", max_queue=None) as socket:
                    reader = asyncio.create_task(self._read(socket))
                    try:
                        for message in before:
                            await socket.send(json.dumps(message))
                        while left > 0:
                            left -= 1
                            content = make()
                            text = self._maker.chance(0.95)
                            await socket.send(content.decode("utf-8", "replace") if text else content)
                        await socket.send(json.dumps(valid))
                        await reader
                    finally:
                        reader.cancel()

    async def _read(self, socket: object) -> None:
        """Read to the answer to the valid request."""
        async with asyncio.timeout(PATIENCE):
            while True:
                text = await socket.recv()
                self._seen.message(text, self._where)
                if b"sentinel" in (text.encode() if isinstance(text, str) else text):
                    return

    async def sessions(self, count: int) -> None:
        maker = self._maker
        valid = {"type": "session.watch", "system": "none", "session": "s", "id": "sentinel"}
        await self._talk("/v1/sessions", count, lambda: maker.text(maker.message()), valid, maker.opened())

    async def realtime(self, count: int) -> None:
        maker = self._maker
        query = maker.pick(("model=echo", "model=echo&session=rt", "model=streaming-llm"))
        valid = {"type": "response.cancel", "response_id": "none", "event_id": "sentinel"}
        await self._talk(f"/v1/realtime?{query}", count, lambda: maker.text(maker.event()), valid)

    async def chat(self, count: int) -> None:
        for _ in range(count):
            content = self._maker.text(self._maker.body())
            answer = await self._http.post("/v1/chat/completions", content=content)
            self._seen.status(answer.status_code, self._where)
            if b'"internal"' in answer.content:
                self._seen.wrong.append(f"crash: {self._where}: {content!r}")

    async def snapshots(self, count: int) -> None:
        for _ in range(count):
            path = f"/v1/sessions/{self._maker.pick(('echo', 'sum'))}/snap{self._maker.pick('abc')}/snapshot"
            answer = await self._http.put(path, content=self._maker.snapshot())
            self._seen.status(answer.status_code, self._where)
            if answer.status_code == 201:
                await self._http.delete(path.removesuffix("/snapshot"))

    async def requests(self, count: int) -> None:
        for _ in range(count):
            content = self._maker.request()
            answer = await self._raw(content)
            parts = answer.split(b" ", 2)
            if len(parts) > 1 and parts[1].isdigit():
                self._seen.status(int(parts[1]), f"{self._where}: {content[:300]!r}")

    async def frames(self, count: int) -> None:
        head = (
            b"GET /v1/sessions HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        for _ in range(count):
            await self._raw(head, self._maker.frames())

    async def _raw(self, *parts: bytes) -> bytes:
        """Send bytes, end the sending, and read for a moment."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        answer = b""
        with suppress(ConnectionError, TimeoutError):
            for part in parts:
                writer.write(part)
                async with asyncio.timeout(0.02):
                    answer += await reader.read(65536)
        writer.transport.abort()
        return answer

    async def clean(self) -> None:
        """Delete what the clients left; then nothing may be left."""
        for _ in range(3):
            for each in (await self._http.get("/v1/sessions")).json()["sessions"]:
                await self._http.delete(f"/v1/sessions/{each['system']}/{each['session']}")
        await self._http.aclose()


async def run(seed: int, first: int, last: int, folder: Path) -> Seen:
    """The trials `first` to `last`, a server around them."""
    seen, operators = Seen(), (Echo(), Sum(), StreamingLLM.example())
    log = Log(seen)
    for name in ("unending", "uvicorn.error", "asyncio"):
        logging.getLogger(name).addHandler(log)
    snapshots = {}
    for operator, chunk in ((operators[0], Query("why?")), (operators[1], Rows(np.ones((2, 2))))):
        session = Session(operator)
        session.push(chunk)
        snapshots[operator.spec.name] = session.snapshot()
    limits = Limits(slots=24, idle=0.05, turn=0.1)
    engines = {each.spec.name: Engine(each, limits, store=folder / each.spec.name) for each in operators}
    for engine in engines.values():
        await engine.__aenter__()
    options = Options(max_frame=1 << 16, max_body=1 << 16, handshake=2.0, idle=5.0, slow=5.0, grace=1.0)
    service = Service(engines, Access(), options)
    stop, ready, listener = anyio.Event(), anyio.Event(), Address(port=0).listen()
    serving = asyncio.create_task(serve(service, listener, ready=ready.set, stop=stop))
    await ready.wait()
    before = len(asyncio.all_tasks())
    port = listener.getsockname()[1]
    for begin in range(first, last, GROUP):
        maker = Maker(np.random.default_rng((seed, begin)), snapshots)
        fuzzer = Fuzzer(service, port, maker, seen)
        await fuzzer.group(begin, min(begin + GROUP, last))
        await fuzzer.clean()
    await leaks(service, before, seen)
    stop.set()
    await serving
    for engine in engines.values():
        await engine.__aexit__()
    return seen


async def leaks(service: Service, before: int, seen: Seen) -> None:
    """What is left some seconds after the last client has gone."""
    left: dict[str, object] = {}
    for _ in range(200):
        left = {
            "sessions": [key for engine in service.engines.values() for key in engine.scheduler.entries],
            "connections": len(service.connections) + service.access.accounts[""].connections,
            "tasks": max(0, len(asyncio.all_tasks()) - before),
            "slots": [wrong for engine in service.engines.values() for wrong in engine.check()],
        }
        if not any(left.values()):
            return
        await asyncio.sleep(0.05)
    seen.wrong += [f"leak: {what}: {found}" for what, found in left.items() if found]


def piece(seed: int, first: int, last: int) -> None:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        seen = asyncio.run(run(seed, first, last, Path(folder)))
    print(json.dumps({"first": first, "last": last, "wrong": seen.wrong, "codes": seen.codes}))


def run_piece(seed: int, first: int, last: int) -> dict[str, object]:
    command = [sys.executable, __file__, "--seed", str(seed), "--piece", str(first), str(last)]
    wrong = []
    try:
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT)
        if ran.returncode == 0:
            return json.loads(ran.stdout)
        wrong.append(f"crash: the process ended with {ran.returncode}")
    except subprocess.TimeoutExpired:
        wrong.append("hang: the process did not end")
    return {"first": first, "last": last, "wrong": wrong, "codes": {}}


def code() -> str:
    """What the trials are of: changes with every change of it."""
    files = [
        *sorted((ROOT / "src/unending/serve").glob("*.py")),
        *sorted((ROOT / "src/unending/engine").glob("*.py")),
    ]
    digest = hashlib.sha256()
    for file in (*files, Path(__file__), Path(__file__).with_name("fuzzing.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--count", type=int, default=100_000, help="trials in all, those already done included"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="server processes at a time")
    parser.add_argument("--piece", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.piece:
        piece(options.seed, *options.piece)
        return
    kept = ROOT / ".cache" / f"reliability_fuzz-{options.seed}-{code()}.jsonl"
    kept.parent.mkdir(exist_ok=True)
    told = [json.loads(line) for line in kept.read_text().splitlines()] if kept.is_file() else []
    done = {each["first"] for each in told}
    left = [first for first in range(0, options.count, PIECE) if first not in done]
    with ThreadPoolExecutor(options.jobs) as jobs:
        ends = [min(first + PIECE, options.count) for first in left]
        for new in jobs.map(run_piece, [options.seed] * len(left), left, ends):
            with open(kept, "a", encoding="utf-8") as file:
                file.write(json.dumps(new) + "\n")
            told.append(new)
            print(f"{len(told) * PIECE:,} of {options.count:,}: {len(new['wrong'])} wrong", file=sys.stderr)
            print(*new["wrong"][:5], sep="\n", end="", file=sys.stderr, flush=True)
    report(told, options.seed)


def report(told: list[dict], seed: int) -> None:
    wrong = [each for piece in told for each in piece["wrong"]]
    codes = sum((Counter(piece["codes"]) for piece in told), Counter())
    count = sum(piece["last"] - piece["first"] for piece in told)
    shares = ", ".join(f"{number / len(KINDS):.0%} {kind}" for kind, number in Counter(KINDS).items())
    setting = f"seed {seed}; echo, sum and a tiny streaming-llm with a store on loopback; {shares}"
    command = f"python benchmarks/reliability_fuzz.py --count {count} --seed {seed}"
    rows = [
        Row(f"{what} on fuzzed frames and bodies", "bar: 0", "none", None,
            sum(each.startswith(sort) for each in wrong), f"of {count:,} frames and bodies", setting)
        for sort, what in (("crash", "crashes"), ("hang", "hangs"), ("leak", "leaked sessions, connections, tasks"))
    ]  # fmt: skip
    answers = ", ".join(f"{number:,} {answer}" for answer, number in codes.most_common(12))
    rows.append(
        Row("answers to fuzzed frames and bodies", "no bar", "none", None, answers, "answers", setting)
    )
    store("reliability", rows, command)


if __name__ == "__main__":
    main()
