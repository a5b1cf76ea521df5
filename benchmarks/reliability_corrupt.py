"""Truncated and bit-flipped stores, snapshots and stored chunks: how many are taken for what they are not.

`--count N --seed S`; trials already done for this seed and code are kept under `.cache/` and not done again. They run
in processes of their own, so that a crash or a hang is a result too.
"""

import argparse
import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from rows import Row, store
from safetensors import SafetensorError
from safetensors.numpy import load
from tests.engine.store import damage

from unending.core import Query, Rows, Session, Tokens
from unending.core.errors import SnapshotError, StoreCorruptError
from unending.engine.codec import decode_chunk, encode_chunk
from unending.systems.language import StreamingLLM

ROOT = Path(__file__).parents[1]
PIECE = 500
TIMEOUT = 300.0
SHARES = {"store": 7, "snapshot": 2, "chunk": 1}
"""Of ten trials in a row."""
VERDICTS = ("equal", "named", "refused")
Trial = Callable[[np.random.Generator], tuple[str, bool]]
"""What became of one damaged thing, and whether it is accepted wrongly when its checksums are not looked at."""


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def harmed(content: bytes, generator: np.random.Generator) -> bytes:
    """Cut, or with up to 64 bits flipped."""
    if generator.random() < 0.3:
        return content[: generator.integers(len(content))]
    flipped = bytearray(content)
    for place in generator.integers(len(content) * 8, size=generator.choice([1, 1, 1, 2, 8, 64])):
        flipped[place // 8] ^= 1 << int(place % 8)
    return bytes(flipped)


def store_trial(folder: Path) -> Trial:
    """A directory of seven sessions, left in order or by a killed process; each loads, goes on and loads again."""
    histories = damage.build(folder)
    whole = {
        variant: damage.read_without_checksums(shutil.copytree(folder / variant, folder / f"{variant}-bare"))
        for variant in histories
    }

    def trial(generator: np.random.Generator) -> tuple[str, bool]:
        variant = str(generator.choice(sorted(histories)))
        target, bare = folder / "target", folder / "bare"
        for leftover in (target, bare):
            shutil.rmtree(leftover, ignore_errors=True)
        shutil.copytree(folder / variant, target)
        damage.harm(target, generator)
        shutil.copytree(target, bare)
        wrong = False
        with suppress(sqlite3.Error, UnicodeDecodeError):
            wrong = damage.read_without_checksums(bare) != whole[variant]
        return damage.judge(target, histories[variant]), wrong

    return trial


def snapshot_trial() -> Trial:
    """The snapshot of a session of a tiny language model, in the midst of an answer."""
    operator = StreamingLLM.example()
    session = Session(operator, seed=1)
    session.push(Tokens(np.arange(40) % 7))
    session.push(Query("why?"))
    session.poll()
    content = session.snapshot()
    leaves = load(content)

    def trial(generator: np.random.Generator) -> tuple[str, bool]:
        given = harmed(content, generator)
        wrong = False
        with suppress(SafetensorError, ValueError, KeyError, TypeError):
            found = load(given)
            wrong = any(not np.array_equal(found[name], leaf) for name, leaf in leaves.items())
        try:
            again = Session.resume(operator, given)
        except SnapshotError:
            return "refused", wrong
        return "equal" if again.snapshot() == content else "other data", wrong

    return trial


def chunk_trial() -> Trial:
    """A chunk of the journal, without the checksum of its row."""
    values = np.random.default_rng(0).normal(size=(30, 4))
    content = encode_chunk(Rows(values, names=("a", "b", "c", "d"), t=1.5))

    def trial(generator: np.random.Generator) -> tuple[str, bool]:
        given = harmed(content, generator)
        wrong = False
        with suppress(SafetensorError, ValueError, KeyError, TypeError):
            wrong = not np.array_equal(load(given[16:])["values"], values)
        try:
            again = decode_chunk(given)
        except StoreCorruptError:
            return "refused", wrong
        return "equal" if encode_chunk(again) == content else "other data", wrong

    return trial


def piece(seed: int, first: int, last: int) -> None:
    """Trials `first` to `last`; a line of JSON for each."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        trials = {"store": store_trial(Path(name)), "snapshot": snapshot_trial(), "chunk": chunk_trial()}
        turns = [what for what, share in SHARES.items() for _ in range(share)]
        for number in range(first, last):
            what, wrong, detail = turns[number % len(turns)], False, ""
            try:
                verdict, wrong = trials[what](np.random.default_rng((seed, number)))
            except damage.Wrong as error:
                verdict, detail = "other data", str(error)
            except Exception:
                verdict, detail = "untyped error", traceback.format_exc(limit=-3)
            told = {"number": number, "what": what, "verdict": verdict, "bare": bool(wrong), "detail": detail}
            print(json.dumps(told), flush=True)


def run_piece(seed: int, first: int, last: int) -> list[dict[str, object]]:
    """The same in a process of its own; the trial in which it dies or hangs is one too."""
    command = [sys.executable, __file__, "--seed", str(seed), "--piece", str(first), str(last)]
    try:
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT)
        output, end = ran.stdout, "" if ran.returncode == 0 else f"crash ({ran.returncode})"
    except subprocess.TimeoutExpired as error:
        output, end = (error.stdout or b"").decode(), "hang"
    told = [json.loads(line) for line in output.splitlines() if line.endswith("}")]
    if not told and end:
        raise SystemExit(f"trials {first} to {last} do not even begin: {end}")
    if end:
        told.append(
            {"number": first + len(told), "what": "process", "verdict": end, "bare": False, "detail": ""}
        )
    return told


def code() -> str:
    """What the trials are of: changes with every change of it."""
    engine = (
        "engine/codec.py",
        *(f"engine/store/{name}.py" for name in ("index", "journal", "mark", "recovery", "stores")),
    )
    files = [ROOT / "src/unending" / name for name in (*engine, "core/snapshot.py")]
    digest = hashlib.sha256()
    for file in (*files, ROOT / "tests/engine/store/damage.py", Path(__file__)):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--count", type=int, default=10_000, help="trials in all, those already done included"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--piece", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.piece:
        piece(options.seed, *options.piece)
        return
    kept = ROOT / ".cache" / f"reliability_corrupt-{options.seed}-{code()}.jsonl"
    kept.parent.mkdir(exist_ok=True)
    told = [json.loads(line) for line in kept.read_text().splitlines()] if kept.is_file() else []
    while len(told) < options.count:
        new = run_piece(options.seed, len(told), min(len(told) + PIECE, options.count))
        with open(kept, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(each) + "\n" for each in new)
        told += new
        progress(f"{len(told):,} of {options.count:,}: {dict(Counter(each['verdict'] for each in told))}")
    report(told[: options.count], options.seed)


def report(told: list[dict[str, object]], seed: int) -> None:
    for each in told:
        if each["verdict"] not in VERDICTS:
            progress(f"trial {each['number']} ({each['what']}): {each['verdict']}: {each['detail']}")
    verdicts = Counter(str(each["verdict"]) for each in told)
    tried = Counter(str(each["what"]) for each in told)
    setting = f"seed {seed}; " + ", ".join(f"{number:,} {what}s" for what, number in sorted(tried.items()))
    outcome = ", ".join(f"{verdicts[verdict]:,} {verdict}" for verdict in VERDICTS)
    bare = sum(bool(each["bare"]) for each in told)
    peer = "the same files read by SQLite and safetensors alone"
    others = sum(verdicts.values()) - sum(verdicts[verdict] for verdict in VERDICTS) - verdicts["other data"]
    command = f"python benchmarks/reliability_corrupt.py --count {len(told)} --seed {seed}"
    count = f"of {len(told):,} damaged"
    rows = [
        Row("damage accepted as data", "bar: 0", peer, bare, verdicts["other data"], count, setting),
        Row("crashes, hangs and untyped errors on damage", "bar: 0", "none", None, others, count, setting),
        Row("what became of damaged data", "no bar", "none", None, outcome, count, setting),
    ]
    store("reliability", rows, command)


if __name__ == "__main__":
    main()
