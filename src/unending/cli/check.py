"""`unending check`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import tyro

from unending.cli.options import operator_class, parse

__all__ = ["main"]


@dataclass(frozen=True)
class _Options:
    """Check all laws on a system; exit code 0 only when every law without an opt-out holds."""

    system: tyro.conf.Positional[str]
    """name in the catalogue, or module:Operator (its `example()` is checked)"""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """print the report as JSON"""
    profile: Literal["fast", "thorough"] = "fast"
    """how many streams are tried"""
    seed: int = 0
    """seed of the streams"""


def main(arguments: Sequence[str]) -> int:
    """Run the laws and print the report."""
    options = parse(_Options, arguments, "check")
    from unending import laws

    report = laws.check(operator_class(options.system).example(), profile=options.profile, seed=options.seed)
    print(report.to_json() if options.json else report)
    return 0 if report.ok else 1
