"""What a check found: one result a law."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

__all__ = ["Report", "Result", "Status"]

Status = Literal["held", "failed", "opted out", "not applicable"]
"""How a law fared."""


@dataclass(frozen=True)
class Result:
    """One law on one operator.

    `detail` is what was tried if the law held, the counterexample in one line if it failed, else the reason.
    """

    law: str
    name: str
    status: Status
    detail: str
    seconds: float


@dataclass(frozen=True)
class Report:
    """All laws on one operator; printing it gives a plain table."""

    system: str
    profile: str
    seed: int
    results: tuple[Result, ...]

    def __iter__(self) -> Iterator[Result]:
        return iter(self.results)

    def __getitem__(self, law: str) -> Result:
        return next(result for result in self.results if result.law == law)

    @property
    def ok(self) -> bool:
        """Whether no law failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[str, ...]:
        """The laws that failed, in order."""
        return tuple(result.law for result in self.results if result.status == "failed")

    @property
    def seconds(self) -> float:
        """Time that all laws took."""
        return sum(result.seconds for result in self.results)

    def to_json(self) -> str:
        """The report as one JSON object, for programs."""
        head = {"system": self.system, "profile": self.profile, "seed": self.seed, "ok": self.ok}
        return json.dumps({**head, "laws": [asdict(result) for result in self.results]}, indent=2)

    def __str__(self) -> str:
        lines = [f"{self.system}: {'ok' if self.ok else 'BROKEN'} ({self.profile}, {self.seconds:.1f} s)"]
        lines += [f"  {r.law:<4}{r.name:<12} {r.status:<15}{r.detail}".rstrip() for r in self.results]
        return "\n".join(lines)
