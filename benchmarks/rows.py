"""Rows of results: one a claim, kept in `benchmarks/results/<system>.json` with the machine they came from."""

import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["RESULTS", "Row", "machine", "store"]

RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True)
class Row:
    """One claim: what the paper says, what a named peer gives in the same run, and what ours gives."""

    claim: str
    paper: str
    peer: str
    peer_value: Any
    ours: Any
    unit: str
    setting: str
    """What was chosen beforehand; a later run of the same claim and setting takes the row's place."""
    note: str = ""
    """What else the run showed."""


def machine() -> str:
    """Processor, cores, memory and versions; no host name."""
    model = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    import torch

    return (
        f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, {torch.get_num_threads()} thread(s) in use,"
        f" Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}"
    )


def _revision() -> str:
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=10"], cwd=RESULTS, capture_output=True, text=True
    )
    return found.stdout.strip() or "unknown"


def store(system: str, rows: list[Row], command: str) -> None:
    """Put rows in place of those of the same claim and setting, and print them."""
    path = RESULTS / f"{system}.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    told = {"machine": machine(), "revision": _revision(), "command": command}
    new = [{"system": system, **asdict(row), **told} for row in rows]
    replaced = {(row["claim"], row["setting"]) for row in new}
    kept = [row for row in kept if (row["claim"], row["setting"]) not in replaced] + new
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for row in new:
        print(
            f"{row['claim']}: ours {row['ours']}, {row['peer']} {row['peer_value']} {row['unit']}",
            file=sys.stderr,
        )
