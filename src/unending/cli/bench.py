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
    """Run the benchmark of a system from a checkout of the project, and print its rows.

    What stands after -- goes to the benchmark script.
    """

    system: tyro.conf.Positional[str]
    """name in the catalogue"""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """print the rows as JSON"""
    show: tyro.conf.FlagCreatePairsOff[bool] = False
    """only print the rows that are stored, run nothing"""


def _benchmarks() -> Path:
    """The folder of benchmark scripts: of this checkout, or of the current folder."""
    for root in (Path(__file__).resolve().parents[3], Path.cwd()):
        if (root / "benchmarks").is_dir() and (root / "pyproject.toml").is_file():
            return root / "benchmarks"
    raise StorageError("benchmarks run in a checkout of the project; there is no folder benchmarks/ here")


def main(arguments: Sequence[str]) -> int:
    """Run `benchmarks/<system>.py` and print what it stored."""
    cut = list(arguments).index("--") if "--" in arguments else len(arguments)
    options = parse(_Options, arguments[:cut], "bench")
    if options.system not in catalogue.names():
        raise SystemNotFoundError(f"no system {options.system!r}; there are: {', '.join(catalogue.names())}")
    folder = _benchmarks()
    if not options.show:
        script = folder / f"{options.system.replace('-', '_')}.py"
        if not script.is_file():
            raise StorageError(f"{options.system} has no benchmark: there is no {script.name} in {folder}")
        # Its progress goes to standard error, so that --json leaves clean JSON on standard output.
        ran = subprocess.run([sys.executable, str(script), *arguments[cut + 1 :]], stdout=sys.stderr)
        if ran.returncode:
            return 130 if ran.returncode in (130, -2) else 1
    stored = folder / "results" / f"{options.system}.json"
    try:
        rows = json.loads(stored.read_text(encoding="utf-8")) if stored.is_file() else []
    except ValueError as error:
        raise StorageError(f"{stored} is not JSON ({error}); run the benchmark again") from error
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        print(
            f"{row['claim']}\n"
            f"  ours {row['ours']} {row['unit']}; {row['peer']} {row['peer_value']}; the paper: {row['paper']}\n"
            f"  {row['setting']}\n"
        )
    return 0
