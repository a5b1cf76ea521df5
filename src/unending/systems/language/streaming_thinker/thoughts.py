"""What a thinker gives out, and what its two threads share."""

from dataclasses import dataclass

from unending.parts.memory import DualMemory

__all__ = ["Source", "Thought"]


@dataclass(frozen=True)
class Thought:
    """A unit of the target that is complete."""

    kind: str
    """"thought", "deep" or "answer"."""
    segment: int
    """Of the target: 1 restates the question, where there is one; those that follow are about a sentence each."""
    ids: tuple[int, ...]
    """Its tokens, marks and fixed texts included."""
    text: str
    """What the model says, without them; empty for a sentence that it ignores."""
    t_start: float
    """Seconds since the thinker was made, by its clock, before the first token was computed."""
    t_end: float
    received: int
    """Source tokens that had been read by `t_start`, seen by this unit or not."""


@dataclass(frozen=True)
class Source:
    """What the reader has published: segments that are whole, and whether more may come. Never changed."""

    memory: DualMemory
    closed: bool
