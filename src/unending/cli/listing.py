"""`unending list`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tyro

from unending import catalogue
from unending.cli.options import parse

__all__ = ["main"]


@dataclass(frozen=True)
class _Options:
    """List the systems of the catalogue."""

    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """print a JSON list of objects"""


def _rows() -> list[dict[str, Any]]:
    """What is stored, and live descriptions of plug-ins that other packages bring."""
    rows = {row["name"]: row for row in catalogue.stored()}
    for name in catalogue.names():
        if name not in rows:
            rows[name] = catalogue.describe(catalogue.load(name))
    return [rows[name] for name in sorted(rows)]


def main(arguments: Sequence[str]) -> int:
    """Print the table or the JSON."""
    options = parse(_Options, arguments, "list")
    rows = _rows()
    if options.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return 0
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(box=None, pad_edge=False)
    table.add_column("system", no_wrap=True)
    table.add_column("what it does", ratio=3)
    table.add_column("takes -> gives", ratio=2)
    for row in rows:
        table.add_row(row["name"], row["title"], f"{', '.join(row['takes'])} -> {', '.join(row['gives'])}")
    console.print(table)
    for row in rows:
        for law, reason in row["opt_outs"].items():
            print(f"{row['name']} opts out of {law}: {reason}")
    return 0
