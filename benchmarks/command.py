"""The command line that the benchmark scripts share: parts by name, those with rows skipped, progress on stderr."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from rows import RESULTS, Row, store

__all__ = ["progress", "run"]


def progress(text: str) -> None:
    """A line with the time on stderr."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def run(
    system: str,
    script: str,
    parts: Mapping[str, Callable[[], list[Row]]],
    draw: Callable[[], None] | None = None,
) -> int:
    """Run the parts that have no rows yet (or those of `--only`, `--again` for all), store their rows, draw.

    Parameters
    ----------
    system
        names the file of results.
    script
        `__file__` of the benchmark; its first docstring is the help.
    parts
        name to function that gives the rows.
    draw
        makes the pictures out of what is stored.
    """
    name = Path(script).name
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument(
        "--only", choices=sorted(parts), action="append", help="run these parts, whatever is stored"
    )
    parser.add_argument("--again", action="store_true", help="run everything anew")
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / f"{system}.json"
    done = {row["command"] for row in json.loads(path.read_text())} if path.is_file() else set()
    for part, function in parts.items():
        command = f"python benchmarks/{name} --only {part}"
        if options.only and part not in options.only:
            continue
        if not options.only and not options.again and command in done:
            progress(f"{part}: rows are stored (--again runs it anew)")
            continue
        progress(part)
        store(system, function(), command)
    if draw:
        draw()
    return 0
