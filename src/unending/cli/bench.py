"""`unending bench`."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from unending import catalogue
from unending.cli.options import parse
from unending.core.errors import StorageError, SystemNotFoundError

__all__ = ["main"]


@dataclass(frozen=True)
class _Options:
    """Run the benchmark of a system from a checkout of the project, and print its rows."""

    system: tyro.conf.Positional[str]
    """name in the catalogue"""
    json: bool = False
    """print the rows as JSON"""
    show: bool = False
    """only print the rows that are stored, run nothing"""


def _benchmarks() -> Path:
    """The folder of benchmark scripts: of this checkout, or of the current folder."""
    for root in (Path(__file__).resolve().parents[3], Path.cwd()):
        if (root / "benchmarks" / "results").is_dir():
            return root / "benchmarks"
    raise StorageError("benchmarks run in a checkout of the project; there is no folder benchmarks/ here")


def main(arguments: Sequence[str]) -> int:
    """Run `benchmarks/<system>.py` (further arguments go to it, after --) and print what it stored."""
    own, _, theirs = " ".join(arguments).partition(" -- ")
    options = parse(_Options, own.split(), "bench")
    if options.system not in catalogue.names():
        raise SystemNotFoundError(f"no system {options.system!r}; there are: {', '.join(catalogue.names())}")
    folder = _benchmarks()
    if not options.show:
        script = folder / f"{options.system.replace('-', '_')}.py"
        # Its progress goes to standard error, so that --json leaves clean JSON on standard output.
        code = subprocess.run([sys.executable, str(script), *theirs.split()], stdout=sys.stderr).returncode
        if code:
            return 130 if code in (130, -2) else 1
    stored = folder / "results" / f"{options.system}.json"
    rows = json.loads(stored.read_text(encoding="utf-8")) if stored.is_file() else []
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("claim", "paper", "peer", "peer's", "ours", "unit", "setting"):
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(
            *(str(row[key]) for key in ("claim", "paper", "peer", "peer_value", "ours", "unit", "setting"))
        )
    Console().print(table)
    return 0
