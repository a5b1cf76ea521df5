"""The main job: a real language model reads a real text far past its trained context, at constant memory.

Three readers take the same text in lockstep: the streaming memory (attention sinks and a window), a plain window of
the same size, and the dense cache that every framework has, which stops at 1.25 times the model's context. Then the
streaming reader is asked a question, is killed, is resumed in a new process, and goes on bit for bit.
"""

import argparse
import hashlib
import math
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Read when torch is loaded: threads that spin while they wait cost a busy machine most of its speed.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from rich.console import Console
from rich.live import Live
from rich.table import Table
from transformers import DynamicCache

from unending.cli.monitor import Sample
from unending.cli.pictures import plot
from unending.core import Query, Session, Text, Tokens
from unending.core.errors import UnendingError
from unending.io.sources import STANDARD_TEXT
from unending.io.text import read_text, standard_text
from unending.parts import backbones
from unending.parts.memory import forward, next_token_losses
from unending.systems.language import StreamingCache, StreamingLLM

MODEL = "smollm2-135m"
SINKS, WINDOW, CHUNK = 4, 1020, 64
TAIL = 512
"""Tokens that the killed reader has left to read."""


@dataclass
class Reader:
    """One way to read, and how it has fared."""

    name: str
    stops_at: int
    samples: list[Sample] = field(default_factory=list)
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=1024))
    seconds: float = 0.0
    tokens: int = 0
    note: str = ""

    def read(self, ids: np.ndarray) -> tuple[np.ndarray, int]:
        """Losses of a block of tokens, and the bytes held after it."""
        raise NotImplementedError

    def advance(self, ids: np.ndarray) -> None:
        """Read a block and take its measure."""
        began = time.perf_counter()
        losses, held = self.read(ids)
        spent = time.perf_counter() - began
        self.seconds += spent
        self.tokens += len(ids)
        self.recent.extend(losses.tolist())
        perplexity = math.exp(sum(self.recent) / len(self.recent)) if self.recent else None
        self.samples.append(Sample(self.tokens, 1000 * spent / len(ids), held, perplexity))


@dataclass
class SessionReader(Reader):
    """The operator in a session."""

    session: Any = None

    def read(self, ids: np.ndarray) -> tuple[np.ndarray, int]:
        self.session.push(Tokens(ids))
        losses = [event.data.values[:, 0] for event in self.session.poll()]
        return np.concatenate(losses) if losses else np.zeros(0), self.session.nbytes


@dataclass
class CacheReader(Reader):
    """A transformers cache in a plain loop."""

    model: Any = None
    cache: Any = None
    logits: Any = None

    def read(self, ids: np.ndarray) -> tuple[np.ndarray, int]:
        block = torch.from_numpy(ids)[None]
        scores = forward(self.model, block, self.cache)
        losses = next_token_losses(self.logits, scores, block)[0].numpy()
        self.logits = scores[:, -1]
        held = sum(part.nbytes for layer in self._layers() for part in layer)
        return losses, held

    def _layers(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        if isinstance(self.cache, StreamingCache):
            return zip(self.cache.keys, self.cache.values, strict=True)
        return ((layer.keys, layer.values) for layer in self.cache.layers)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/demo", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--source", default=STANDARD_TEXT, help="a text file; default: Python's language reference"
    )
    parser.add_argument("--model", default=MODEL, help="name, path or hub id of a causal language model")
    parser.add_argument(
        "--quick", action="store_true", help="under two minutes: stays inside the trained context"
    )
    parser.add_argument(
        "--question", default="What does the assert statement do?", help="asked after the reading"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo-out"), help="folder for the picture and the snapshot"
    )
    parser.add_argument("--resume", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def load_tokens(source: str, backbone: backbones.LanguageBackbone) -> np.ndarray:
    """The text as token ids, int64 `[n]`."""
    text = standard_text() if source == STANDARD_TEXT else "".join(chunk.text for chunk in read_text(source))
    return np.array([*backbone.opening, *backbone.tokenizer(text, add_special_tokens=False)["input_ids"]])


def operator(options: argparse.Namespace) -> StreamingLLM:
    """The system with the settings of this demo."""
    window = 252 if options.quick else WINDOW
    return StreamingLLM(
        model=options.model, sink_size=SINKS, window_size=window, chunk=CHUNK, max_new_tokens=96
    )


def table(readers: list[Reader], total: int, context: int) -> Table:
    """How the readers stand."""
    shown = Table(
        title=f"reading {total:,} tokens (trained context {context:,}); perplexity of the last 1,024",
        title_justify="left",
        box=None,
    )
    for name in ("reader", "position", "perplexity", "ms a token", "MiB held", "tokens/s"):
        shown.add_column(name, justify="left" if name == "reader" else "right", no_wrap=True)
    for reader in readers:
        if not reader.samples:
            continue
        last = reader.samples[-1]
        recent = reader.samples[-16:]
        shown.add_row(
            reader.name,
            f"{last.position:,.0f}",
            f"{last.metric:,.2f}" if last.metric else "",
            f"{sum(sample.milliseconds for sample in recent) / len(recent):.1f}",
            f"{last.nbytes / 2**20:,.1f}",
            reader.note or f"{reader.tokens / reader.seconds:,.0f}",
        )
    return shown


def read_in_lockstep(readers: list[Reader], ids: np.ndarray, context: int, console: Console) -> None:
    """Give each block to every reader that still reads; the same block one after the other, so all share one load."""
    live = Live(console=console, refresh_per_second=4) if console.is_terminal else None
    printed = time.monotonic()
    if live:
        live.start()
    try:
        for start in range(0, len(ids), CHUNK):
            for reader in readers:
                if start < reader.stops_at:
                    reader.advance(ids[start : start + CHUNK])
                elif not reader.note:
                    reader.note = "stopped"
            if live:
                live.update(table(readers, len(ids), context))
            elif time.monotonic() - printed > 20:
                printed = time.monotonic()
                console.print(table(readers, len(ids), context))
    finally:
        if live:
            live.stop()
    if not live:
        console.print(table(readers, len(ids), context))


def ask(session: Session[Any], question: str, console: Console) -> None:
    """Put a question to a fork, so that the reading goes on as if nobody had asked."""
    console.print(f"\n[bold]Question[/] {question}")
    console.print("[bold]Answer[/] ", end="")
    twin = session.fork()
    twin.push(Query(question))
    while events := twin.poll():
        for event in events:
            if isinstance(event.data, Text):
                console.print(event.data.text, end="", markup=False, highlight=False, soft_wrap=True)
    console.print("\n(as it comes: a model of 135 million parameters is weak at facts)")


def fingerprint(losses: np.ndarray) -> str:
    """Digest of the exact bits of losses."""
    return hashlib.sha256(losses.tobytes()).hexdigest()[:16]


def read_on(session: Session[Any], ids: np.ndarray, snapshot: Path | None) -> np.ndarray:
    """Read to the end; with `snapshot`, save after each block until somebody kills this process."""
    parts = []
    for start in range(0, len(ids), CHUNK):
        session.push(Tokens(ids[start : start + CHUNK]))
        parts += [event.data.values[:, 0] for event in session.poll()]
        if snapshot:
            session.save(snapshot)
            print(start + CHUNK, flush=True)
    return np.concatenate(parts)


def child(options: argparse.Namespace) -> int:
    """The process that is killed in mid-text."""
    session = Session.resume(operator(options), options.out / "reader.snapshot")
    ids = load_tokens(options.source, session.operator.backbone)[: options.until]
    read_on(session, ids[session.state.memory.seen :], options.out / "reader.snapshot")
    return 0


def kill_and_resume(
    session: Session[Any], ids: np.ndarray, options: argparse.Namespace, console: Console
) -> bool:
    """Kill a reader in mid-text with SIGKILL, resume it, and compare with the one that was never killed."""
    console.print(
        "\n[bold]Kill and resume[/] a second process reads on and is killed (SIGKILL) in mid-text ..."
    )
    snapshot = options.out / "reader.snapshot"
    session.save(snapshot)
    begin = session.state.memory.seen
    command = [sys.executable, __file__, *sys.argv[1:], "--resume", "--until", str(len(ids))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip().isdigit() and int(line) >= TAIL // 2:
                process.send_signal(signal.SIGKILL)
                break
    resumed = Session.resume(session.operator, snapshot)
    at = resumed.state.memory.seen
    again = read_on(resumed, ids[at:], None)
    never_killed = read_on(session, ids[begin:], None)[at - begin :]
    same = fingerprint(again) == fingerprint(never_killed) and resumed.snapshot() == session.snapshot()
    console.print(
        f"killed at token {at:,}, resumed from {snapshot} ({snapshot.stat().st_size / 2**20:.0f} MiB), read on to"
        f" {len(ids):,}: losses {fingerprint(again)} against {fingerprint(never_killed)} without a kill,"
        f" [bold]{'bit for bit the same' if same else 'NOT THE SAME'}[/]"
    )
    return same


def main() -> int:
    """Read, ask, kill, resume, draw."""
    options = parse()
    if options.resume:
        return child(options)
    console = Console(soft_wrap=True)
    began = time.perf_counter()
    console.print(f"loading {options.model} (the first time it is converted, which takes about a minute) ...")
    op = operator(options)
    backbone = op.backbone
    context = backbone.limit
    total = 2048 if options.quick else 2 * context
    ids = load_tokens(options.source, backbone)
    if len(ids) < total + TAIL:
        console.print(
            f"the text has {len(ids):,} tokens, {total + TAIL:,} would show more; reading what there is"
        )
        total = max(CHUNK, len(ids) - TAIL)
    ids = ids[: total + TAIL]
    budget, dense = op.retention.budget, min(total, round(1.25 * context))
    session = Session(op)
    window = StreamingCache(backbone.module, 0, budget, "cache")
    cached = {"model": backbone.module}
    readers: list[Reader] = [
        SessionReader(f"streaming, {SINKS} sinks + {op.window_size}", total, session=session),
        CacheReader(f"window, 0 + {budget}", total, cache=window, **cached),
        CacheReader("dense", dense, cache=DynamicCache(config=backbone.config), **cached),
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    read_in_lockstep(readers, ids[:total], context, console)
    ask(session, options.question, console)
    same = kill_and_resume(session, ids, options, console)
    picture = options.out / "demo.png"
    series = {reader.name: smoothed(reader.samples) for reader in readers}
    plot(picture, series, unit="token", metric="perplexity", mark=context if total > context else None)
    console.print(f"\npicture: {picture.resolve()}\n{time.perf_counter() - began:.0f} s in all")
    return 0 if same else 1


def smoothed(samples: list[Sample], span: int = 8) -> list[Sample]:
    """Samples with the time a token averaged over `span` blocks, for the picture."""
    times = [sample.milliseconds for sample in samples]
    out = []
    for index, sample in enumerate(samples):
        part = times[max(0, index - span + 1) : index + 1]
        out.append(Sample(sample.position, sum(part) / len(part), sample.nbytes, sample.metric))
    return out


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UnendingError as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        sys.exit(130)
