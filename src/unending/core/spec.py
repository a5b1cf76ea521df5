"""What an operator says about itself before anything runs: kinds, timing, exactness, bound, paper."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from unending.core.chunk import Chunk

__all__ = ["Bound", "Exactness", "Growth", "Paper", "Spec"]


@dataclass(frozen=True)
class Exactness:
    """How equal the same stream is, cut in another way or computed by the offline reference."""

    kind: str
    tolerance: float = 0.0
    metric: str = ""
    band: tuple[float, float] = (0.0, 0.0)
    reason: str = ""

    @classmethod
    def bitwise(cls) -> Self:
        """Equal to the last bit."""
        return cls("bitwise")

    @classmethod
    def allclose(cls, tolerance: float) -> Self:
        """Equal within `tolerance`, absolute and relative to the reference."""
        return cls("allclose", tolerance=tolerance)

    @classmethod
    def statistical(cls, metric: str, band: tuple[float, float]) -> Self:
        """Only a metric over the outputs agrees, within a band."""
        return cls("statistical", metric=metric, band=band)

    @classmethod
    def none(cls, reason: str) -> Self:
        """Nothing is promised, and why."""
        return cls("none", reason=reason)

    def __str__(self) -> str:
        detail = {
            "bitwise": "",
            "allclose": f"({self.tolerance:g})",
            "statistical": f"({self.metric} in {self.band[0]:g}..{self.band[1]:g})",
            "none": f"({self.reason})",
        }
        return self.kind + detail[self.kind]


@dataclass(frozen=True)
class Growth:
    """Memory outside the state that grows by design, up to a cap."""

    bytes_per_unit: int
    cap: int
    at_cap: str
    """What happens when the cap is reached."""


@dataclass(frozen=True)
class Bound:
    """The most bytes that one session can ever hold: `resident` in its state, `growth` by medium."""

    resident: int
    growth: Mapping[str, Growth] = field(default_factory=dict)

    def __str__(self) -> str:
        grown = "".join(f" + {each.cap:,} on {medium}" for medium, each in self.growth.items())
        return f"{self.resident:,} bytes{grown}"


@dataclass(frozen=True)
class Paper:
    """Where a system was published."""

    title: str
    authors: str
    year: int
    arxiv: str = ""

    def __str__(self) -> str:
        where = f", arXiv {self.arxiv}" if self.arxiv else ""
        return f"{self.title}. {self.authors}, {self.year}{where}"


@dataclass(frozen=True)
class Spec:
    """The static description of an operator class.

    Parameters
    ----------
    name, family, title
        the dashed name, the family folder, and one line for listings.
    takes, gives
        kinds of chunks that go in, kinds of data that come out.
    exactness
        what L1 and L2 hold to.
    paper
        the publication.
    hop
        items of the main kind that one block holds: a number, or the name of the field that holds it.
    lookahead
        items of future that an output may wait for.
    ticks
        `None`: a session ticks until idle before it admits input. `k`: it ticks k times after each chunk.
    unit
        what one item is called in listings ("token", "frame", "row").
    version
        goes up when the meaning of a snapshot of this operator changes.
    """

    name: str
    family: str
    title: str
    takes: tuple[type[Chunk], ...]
    gives: tuple[type[Chunk], ...]
    exactness: Exactness
    paper: Paper | None = None
    hop: int | str = 1
    lookahead: int = 0
    ticks: int | None = None
    unit: str = "item"
    version: int = 1
