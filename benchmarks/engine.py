"""What one engine holds: sessions at real-time rate, three times too many of them, and a stream and a crowd for ever.

    python benchmarks/engine.py --only load|overload|endless|crowd

Tokens per second of sessions that decode together are in engine_decoding.py.
"""

import argparse
import asyncio
import gc
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from light import Activity
from rows import RESULTS, Row, store

from unending.core import Audio, Histogram, Tokens
from unending.core.errors import BusyError
from unending.engine import Engine, Limits

HOP, RATE = 320, 16_000
SECONDS_A_HOP = HOP / RATE
SESSIONS = 200
LOAD_SECONDS = 60.0
OVERLOAD_SECONDS = 60.0
ENDLESS_TOKENS, ENDLESS_CHUNK = 1_000_000, 64
ENDLESS_MODEL, ENDLESS_SINKS, ENDLESS_WINDOW = "tiny-bytes", 4, 60
CROWD = 10_000
SEED = 0
IMAGES = RESULTS.parents[1] / "docs" / "images"


def progress(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def memory() -> float:
    """Resident bytes of this process."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return float(int(pages) * os.sysconf("SC_PAGE_SIZE"))


def slope(x: Any, y: Any) -> tuple[float, float, float]:
    """Least-squares slope of `y` over `x` and its 95 % interval, from 20 means of neighbours (they are correlated)."""
    groups = 20
    x, y = (
        np.array([part.mean() for part in np.array_split(np.asarray(each, float), groups)]) for each in (x, y)
    )
    centred = x - x.mean()
    value = float(centred @ y / (centred @ centred))
    rest = y - y.mean() - value * centred
    error = float(np.sqrt(rest @ rest / (groups - 2) / (centred @ centred)))
    return value, value - 2.101 * error, value + 2.101 * error


async def talk(engine: Engine, sessions: int, seconds: float) -> tuple[int, int]:
    """Sessions at real-time rate, each with a phase of its own: hops pushed, outputs that came."""
    streams = [await engine.open(f"s{index}") for index in range(sessions)]
    hop = Audio(sound(), RATE)
    pushed = outputs = 0
    loop = asyncio.get_running_loop()
    began = loop.time()
    rounds = round(seconds / SECONDS_A_HOP)
    for number in range(rounds * sessions):
        due = began + number / sessions * SECONDS_A_HOP
        if (wait := due - loop.time()) > 0:
            await asyncio.sleep(wait)
        stream = streams[number % sessions]
        outputs += len(stream.take())
        await stream.push(hop)
        pushed += 1
    for stream in streams:
        await stream.finish()
        outputs += len([event async for event in stream])
    return pushed, outputs


def sound() -> np.ndarray:
    return np.random.default_rng(SEED).normal(0, 0.1, HOP).astype(np.float32)


async def load() -> list[Row]:
    """Sessions of the light operator, each with a hop of 20 ms every 20 ms."""
    async with Engine(Activity(), Limits(slots=SESSIONS, late="shed", deadline=1.0)) as engine:
        pushed, outputs = await talk(engine, SESSIONS, LOAD_SECONDS)
        counters = engine.scheduler.counters
        latency = counters.latency
        progress(
            f"load: {pushed:,} hops, p50 {latency.percentile(50) * 1e3:.1f} ms, p99 {latency.percentile(99) * 1e3:.1f}"
        )
        assert counters.violations == 0
        setting = (
            f"{SESSIONS} sessions of benchmarks/light.py, a hop of 20 ms each 20 ms, {LOAD_SECONDS:g} s;"
            " client in the same process"
        )
        note = f"{counters.stepped / counters.steps:.0f} sessions a step"
        return [
            Row(
                claim="latency from the arrival of a hop to the end of its step, 99th percentile",
                paper="first bar: under the hop of 20 ms",
                peer="the hop",
                peer_value=SECONDS_A_HOP * 1e3,
                ours=round(latency.percentile(99) * 1e3, 2),
                unit="ms",
                setting=setting,
                note=note,
            ),
            Row(
                claim="hops dropped at real-time rate",
                paper="first bar: 0",
                peer="hops pushed",
                peer_value=pushed,
                ours=pushed - outputs + counters.shed,
                unit="hops",
                setting=setting,
                note=note,
            ),
        ]


async def overload() -> list[Row]:
    """Three times as many sessions as there are slots: those let in keep their latency, the rest hear it at once."""
    engine = Engine(Activity(), Limits(slots=SESSIONS, late="refuse"))
    async with engine:
        inside = asyncio.create_task(talk(engine, SESSIONS, OVERLOAD_SECONDS))
        await asyncio.sleep(5.0)
        start = memory()
        refusals, refused, highest = Histogram(), 0, 0.0
        gap = 1.0 / (2 * SESSIONS)  # each of the other 400 tries again every second
        while not inside.done():
            before = time.perf_counter()
            try:
                await engine.open(f"late {refused}")
            except BusyError:
                refused += 1
                refusals.add(time.perf_counter() - before)
            else:
                raise AssertionError("a session was let in beyond the slots")
            highest = max(highest, memory())
            await asyncio.sleep(gap)
        pushed, outputs = await inside
        latency = engine.scheduler.counters.latency
        progress(
            f"overload: {refused} refused, p99 {refusals.percentile(99) * 1e3:.2f} ms;"
            f" inside {latency.percentile(99) * 1e3:.1f}"
        )
        setting = (
            f"{SESSIONS} sessions at real-time rate in {SESSIONS} slots, {2 * SESSIONS} more that try every second,"
            f" {OVERLOAD_SECONDS:g} s"
        )
        note = f"{refused:,} refusals; {pushed - outputs} hops lost inside"
        return [
            Row(
                claim="latency of the admitted at three times the capacity, 99th percentile",
                paper="first bar: as without the others",
                peer="the hop",
                peer_value=SECONDS_A_HOP * 1e3,
                ours=round(latency.percentile(99) * 1e3, 2),
                unit="ms",
                setting=setting,
                note=note,
            ),
            Row(
                claim="time until a session beyond the capacity hears that it is refused, 99th percentile",
                paper="first bar: 50 ms",
                peer="first bar",
                peer_value=50,
                ours=round(refusals.percentile(99) * 1e3, 3),
                unit="ms",
                setting=setting,
                note=note,
            ),
            Row(
                claim="growth of resident memory under overload",
                paper="first bar: flat",
                peer="at the start",
                peer_value=round(start / 2**20, 1),
                ours=round((highest - start) / 2**20, 2),
                unit="MiB",
                setting=setting,
                note=note,
            ),
        ]


def drawn(name: str, x: Any, lines: dict[str, Any], across: str) -> None:
    """A picture of what stays flat."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(lines), 1, figsize=(7, 2.2 * len(lines)), sharex=True)
    for axis, (label, values) in zip(np.atleast_1d(axes), lines.items(), strict=True):
        axis.plot(x, values, linewidth=1.2)
        axis.set_ylabel(label)
        axis.set_ylim(0, max(values) * 1.25)
        axis.grid(alpha=0.3)
    np.atleast_1d(axes)[-1].set_xlabel(across)
    figure.tight_layout()
    figure.savefig(IMAGES / f"{name}.png", dpi=110)


async def endless() -> list[Row]:
    """One streaming-llm session over a million tokens: memory and the time of a step against position."""
    import torch

    from unending.systems.language import StreamingLLM

    torch.set_num_threads(1)
    operator = StreamingLLM(
        model=ENDLESS_MODEL,
        sink_size=ENDLESS_SINKS,
        window_size=ENDLESS_WINDOW,
        chunk=ENDLESS_CHUNK,
        max_new_tokens=8,
    )
    tokens = np.random.default_rng(SEED).integers(0, 256, ENDLESS_TOKENS)
    steps = ENDLESS_TOKENS // ENDLESS_CHUNK
    times, resident, held = (
        np.zeros(steps),
        np.zeros(steps),
        set(),
    )  # in memory from the start: it is measured
    async with Engine(operator, Limits(slots=1)) as engine:
        stream = await engine.open("endless")
        for step in range(steps):
            start = step * ENDLESS_CHUNK
            before = time.perf_counter()
            await stream.push(Tokens(tokens[start : start + ENDLESS_CHUNK]))
            await stream.idle()
            took = time.perf_counter() - before
            stream.take()
            times[step], resident[step] = took * 1e3, memory() / 2**20
            if step % 1000 == 0:
                held.add(engine.session("endless").state_bytes)
                progress(f"endless: {start:,} tokens, {took * 1e3:.2f} ms, {memory() / 2**20:.1f} MiB")
    warm = steps // 8  # allocators warm up
    times, resident = times[warm:], resident[warm:]
    positions = np.arange(warm, steps) * ENDLESS_CHUNK
    drawn(
        "engine-endless",
        positions[::50],
        {
            "ms a step": [float(np.median(times[i : i + 50])) for i in range(0, len(times), 50)],
            "MiB resident": resident[::50],
        },
        "tokens read",
    )
    rows = []
    for what, values, unit in (("time of a step", times, "ms"), ("resident memory", resident, "MiB")):
        value, low, high = slope(positions, values)
        scale = 1e6
        rows.append(
            Row(
                claim=f"slope of the {what} over a stream of 10^6 tokens, 95 % interval",
                paper="first bar: not above 0 within its interval",
                peer=f"mean {what}, {unit}",
                peer_value=round(float(np.mean(values)), 3),
                ours=[round(each * scale, 4) for each in (value, low, high)],
                unit=f"{unit} per 10^6 tokens",
                setting=f"streaming-llm, {ENDLESS_MODEL}, {ENDLESS_SINKS} + {ENDLESS_WINDOW}, chunk {ENDLESS_CHUNK},"
                " one session in an engine, the first eighth left out",
                note=f"bytes of state: {sorted(held - {0})}",
            )
        )
    return rows


async def crowd() -> list[Row]:
    """Sessions opened, used and deleted, one after the other."""
    resident, times = (
        np.full(CROWD, 0.0),
        np.full(CROWD, 0.0),
    )  # in memory from the start: it is what is measured
    async with Engine(Activity(), Limits(slots=8)) as engine:
        hop = sound()
        for index in range(CROWD):
            before = time.perf_counter()
            stream = await engine.open(f"s{index}")
            await stream.push(Audio(hop, RATE))
            await stream.finish()
            assert len([event async for event in stream]) == 1
            await engine.delete(f"s{index}")
            times[index] = (time.perf_counter() - before) * 1e3
            if index % 100 == 0:
                gc.collect()
            resident[index] = memory() / 2**20
            if index % 2000 == 0:
                progress(f"crowd: {index:,} sessions, {resident[index]:.1f} MiB")
        assert not engine.sessions()
        assert engine.check() == []
    warm = CROWD // 5
    x = np.arange(warm, CROWD)
    drawn(
        "engine-crowd",
        x[::20],
        {
            "ms a session": [float(np.median(times[i : i + 20])) for i in range(warm, CROWD, 20)],
            "MiB resident": resident[warm::20],
        },
        "sessions opened and deleted",
    )
    rows = []
    for what, values, unit in (("life of a session", times, "ms"), ("resident memory", resident, "MiB")):
        value, low, high = slope(x, values[warm:])
        rows.append(
            Row(
                claim=f"slope of the {what} over 10^4 sessions opened and deleted, 95 % interval",
                paper="first bar: not above 0 within its interval",
                peer=f"mean {what}, {unit}",
                peer_value=round(float(np.mean(values[warm:])), 3),
                ours=[round(each * 1e4, 4) for each in (value, low, high)],
                unit=f"{unit} per 10^4 sessions",
                setting=f"{CROWD:,} sessions of benchmarks/light.py, the first {warm:,} left out",
            )
        )
    return rows


PARTS = {"load": load, "overload": overload, "endless": endless, "crowd": crowd}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS)
    given = parser.parse_args()
    for name, part in PARTS.items():
        if given.only in (None, name):
            store("engine", asyncio.run(part()), f"benchmarks/engine.py --only {name}")


if __name__ == "__main__":
    main()
