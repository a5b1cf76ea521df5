"""kill -9 of a real server under live sessions, again and again: outputs lost, doubled or changed.

    python benchmarks/reliability_kill.py --operator activity --count 200 --seed 0
    python benchmarks/reliability_kill.py --operator streaming-llm --count 20 --seed 0

Each client keeps its own script and its own outputs, speaks the public WebSocket protocol, and after every kill
reconnects with the number of the last output that it has. In the end what it got is held against the operator run
alone in this process. The kills already made for a seed are not repeated: the sessions of the store go on, if it is
given with `--store` and the process was cut after a round.
"""

import argparse
import asyncio
import base64
import json
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import websockets
from light import RATE, Activity
from rows import Row, store

from unending.core import Audio, Operator, Query, Session, Tokens

ROOT = Path(__file__).parents[1]
SESSIONS, CONNECTIONS = 64, 8
TINY = {"model": "tiny-bytes", "sink_size": 4, "window_size": 60, "chunk": 16, "max_new_tokens": 8}
WINDOW = 16
"""Inputs that a client sends before the first of them is acknowledged."""
WAIT = 60.0


def progress(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


@dataclass
class Kind:
    """One operator under test: how to serve it, its input as JSON and as chunks, the pause between two pushes."""

    serve: list[str]
    system: str
    pause: float
    operator: Operator[Any]

    def chunk(self, rng: np.random.Generator) -> Any:
        """The next input of a session."""
        if self.system == "activity":
            return Audio(rng.normal(0, 0.1, int(rng.integers(1, 700))).astype(np.float32), RATE)
        if rng.random() < 0.2:
            return Query("and then?")
        return Tokens(rng.integers(32, 127, int(rng.integers(1, 40))))


def activity() -> Kind:
    return Kind(["benchmarks.light:Activity", "--slots", str(SESSIONS)], "activity", 0.1, Activity())


def streaming() -> Kind:
    from unending.systems.language import StreamingLLM

    flags = [flag for name, value in TINY.items() for flag in ("--set", f"{name}={value}")]
    served = ["streaming-llm", "--slots", str(SESSIONS), *flags]
    return Kind(served, "streaming-llm", 1.0, StreamingLLM(**TINY))  # type: ignore[arg-type]


def to_json(chunk: Any) -> dict[str, Any]:
    if isinstance(chunk, Query):
        return {"kind": "Query", "text": chunk.text}
    if isinstance(chunk, Tokens):
        return {"kind": "Tokens", "ids": chunk.ids.tolist()}
    held = base64.b64encode(chunk.samples.tobytes()).decode()
    array = {"dtype": "float32", "shape": list(chunk.samples.shape), "base64": held}
    return {"kind": "Audio", "samples": array, "rate": chunk.rate}


@dataclass
class Client:
    """One user with his session."""

    name: str
    kind: Kind
    rng: np.random.Generator
    script: list[Any] = field(default_factory=list)
    accepted: int = 0
    outputs: list[dict[str, Any]] = field(default_factory=list)
    existing: bool = False
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    counts: Counter[str] = field(default_factory=Counter)
    ending: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def greeting(self) -> dict[str, Any]:
        if not self.existing:
            return {"type": "session.open"}
        return {"type": "session.resume", "after": len(self.outputs) - 1, "take_over": True}

    def hear(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """Take in what the server says; an answer, if there is one to give at once."""
        match message["type"]:
            case "session.opened":
                self.existing = True
                if message["in_seq"] < self.accepted:
                    self.counts["inputs lost"] += 1
                self.ready.set()
            case "input.ack":
                self.accepted = max(self.accepted, message["seq"])
            case "output":
                seq = message["seq"]
                if seq < len(self.outputs):
                    self.counts["doubled"] += 1
                elif seq > len(self.outputs):
                    self.counts["lost"] += 1
                else:
                    self.outputs.append(message)
                return {"type": "output.ack", "seq": seq}
            case "session.finished":
                self.over.set()
            case "error":
                self.counts[message["code"]] += 1
                if message["code"] == "exists":
                    self.existing = True
                    return self.greeting()
                if message["code"] == "not_found":
                    self.existing = False
                    return self.greeting()
                if message["code"] in ("busy", "draining", "taken"):
                    return {"later": True, **self.greeting()}
        return None


class Connection:
    """Several clients over one WebSocket, which is made anew whenever it breaks."""

    def __init__(self, clients: list[Client], port: int) -> None:
        self.clients = {client.name: client for client in clients}
        self.port = port
        self.going = True

    async def run(self) -> None:
        """Until told to stop."""
        while self.going:
            for client in self.clients.values():
                client.ready.clear()
            try:
                async with (
                    websockets.connect(f"ws://127.0.0.1:{self.port}/v1/sessions", open_timeout=5) as socket,
                    asyncio.TaskGroup() as tasks,
                ):
                    for client in self.clients.values():
                        tasks.create_task(self._talk(client, socket))
                    tasks.create_task(self._listen(socket))
            except* (OSError, websockets.WebSocketException, TimeoutError, EOFError):
                await asyncio.sleep(0.05)

    async def _send(self, client: Client, socket: Any, message: dict[str, Any]) -> None:
        if message.pop("later", False):
            await asyncio.sleep(0.2)
        await socket.send(json.dumps({"system": client.kind.system, "session": client.name, **message}))

    async def _listen(self, socket: Any) -> None:
        async for text in socket:
            message = json.loads(text)
            client = self.clients.get(message.get("session", ""))
            if client is not None and (answer := client.hear(message)):
                await self._send(client, socket, answer)
            if not self.going:
                return
        raise EOFError

    async def _talk(self, client: Client, socket: Any) -> None:
        await self._send(client, socket, client.greeting())
        await client.ready.wait()
        sent = client.accepted
        while self.going:
            if sent - client.accepted >= WINDOW:
                await asyncio.sleep(0.01)
            elif sent < len(client.script):
                message = {"type": "input.push", "seq": sent + 1, "chunk": to_json(client.script[sent])}
                await self._send(client, socket, message)
                sent += 1
            elif client.ending:
                await self._send(client, socket, {"type": "input.finish", "seq": sent + 1})
                await client.over.wait()
                return
            else:
                client.script.append(client.kind.chunk(client.rng))
                continue
            await asyncio.sleep(client.kind.pause * float(client.rng.uniform(0.2, 1.8)))


class Server:
    """The server as a process of its own."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.command = [
            sys.executable, "-m", "unending", "serve", *kind.serve,
            "--port", str(self.port), "--store", str(folder), "--limits", "sessions=1000 rate=100000 bytes=1e9",
        ]  # fmt: skip
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *self.command, cwd=ROOT, stdout=asyncio.subprocess.DEVNULL, stderr=sys.stderr
        )

    async def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


def same(got: dict[str, Any], event: Any, bitwise: bool) -> bool:
    """Whether an output is what the operator gives alone."""
    chunk = got["chunk"]
    if chunk["kind"] != type(event.data).__name__ or abs(got["t_end"] - event.t_end) > 1e-9:
        return False
    if chunk["kind"] == "Text":
        return bool(chunk["text"] == event.data.text)
    packed = chunk["values"]
    values = np.frombuffer(base64.b64decode(packed["base64"]), packed["dtype"]).reshape(packed["shape"])
    wanted = event.data.values
    if values.shape != wanted.shape:
        return False
    return (
        bool((values == wanted).all()) if bitwise else bool(np.allclose(values, wanted, atol=2e-4, rtol=2e-4))
    )


def verdict(client: Client) -> str:
    """What is wrong with all that a client got, against the operator run alone; empty if nothing is."""
    events = list(Session(client.kind.operator).run(client.script))
    if len(events) != len(client.outputs):
        return f"{client.name}: {len(client.outputs)} outputs, alone {len(events)}"
    bitwise = client.kind.system == "activity"
    for got, event in zip(client.outputs, events, strict=True):
        if not same(got, event, bitwise):
            return f"{client.name}: output {got['seq']} is not what the operator gives alone"
    return ""


async def ordeal(kind: Kind, count: int, seed: int, folder: Path) -> tuple[Counter[str], int]:
    """All kills; counts of what went wrong, and outputs in all."""
    rng = np.random.default_rng(seed)
    clients = [Client(f"s{index}", kind, np.random.default_rng([seed, index])) for index in range(SESSIONS)]
    server = Server(kind, folder)
    await server.start()
    connections = [Connection(clients[index::CONNECTIONS], server.port) for index in range(CONNECTIONS)]
    running = [asyncio.create_task(each.run()) for each in connections]
    for kill in range(count):
        async with asyncio.timeout(WAIT * 2):
            await asyncio.gather(*(client.ready.wait() for client in clients))
        await asyncio.sleep(float(rng.uniform(0.0, 1.0)))
        await server.kill()
        for client in clients:
            client.ready.clear()
        await server.start()
        if (kill + 1) % 10 == 0:
            outputs = sum(len(client.outputs) for client in clients)
            bad = sum((client.counts for client in clients), Counter())
            progress(f"{kill + 1} of {count} kills, {outputs:,} outputs, {dict(bad)}")
    for client in clients:
        client.ending = True
    async with asyncio.timeout(WAIT * 5):
        await asyncio.gather(*(client.over.wait() for client in clients))
    await asyncio.sleep(1.0)
    for each in connections:
        each.going = False
    await server.kill()
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    total = sum((client.counts for client in clients), Counter())
    for client in clients:
        if wrong := verdict(client):
            progress(wrong)
            total["wrong"] += 1
    return total, sum(len(client.outputs) for client in clients)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--operator", choices=("activity", "streaming-llm"), default="activity")
    parser.add_argument("--count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    kind = activity() if given.operator == "activity" else streaming()
    count = given.count or (200 if given.operator == "activity" else 20)
    with tempfile.TemporaryDirectory() as folder:
        total, outputs = asyncio.run(ordeal(kind, count, given.seed, Path(folder) / "store"))
    sessions = f"{SESSIONS} live sessions of {kind.system} over {CONNECTIONS} WebSockets"
    setting = f"{count} kills, {sessions}; seed {given.seed}"
    note = f"{outputs:,} outputs; acknowledged inputs lost {total['inputs lost']}"
    rows = [
        Row(
            claim=f"outputs {what} over kill -9 of the server",
            paper="first bar: 0",
            peer=peer,
            peer_value=0,
            ours=total[what],
            unit=unit,
            setting=setting,
            note=note,
        )
        for what, unit, peer in (
            ("lost", "outputs", "every number in its turn"),
            ("doubled", "outputs", "every number once"),
            ("wrong", "sessions", "the operator run alone on the same input"),
        )
    ]
    store(
        "reliability",
        rows,
        f"benchmarks/reliability_kill.py --operator {given.operator} --count {count} --seed {given.seed}",
    )


if __name__ == "__main__":
    main()
