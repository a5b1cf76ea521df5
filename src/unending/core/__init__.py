"""The contract: operator, state, chunks, session, pipeline, snapshot. Imports numpy, optree and safetensors only."""

from unending.core import arrays, blocks, errors, random, snapshot
from unending.core.chunk import TICK, Chunk, Control, Domain, Event, Query, Tick, kinds
from unending.core.items import Audio, Edges, Frames, Rows, Symbols, Text, Tokens, Transitions
from unending.core.meters import Histogram, Meters
from unending.core.operator import Operator, drive, replay
from unending.core.pipeline import Pipeline, PipelineState
from unending.core.session import Session
from unending.core.spec import Bound, Exactness, Growth, Paper, Spec
from unending.core.state import canonical, fork, leaves, nbytes, state

__all__ = [
    "TICK",
    "Audio",
    "Bound",
    "Chunk",
    "Control",
    "Domain",
    "Edges",
    "Event",
    "Exactness",
    "Frames",
    "Growth",
    "Histogram",
    "Meters",
    "Operator",
    "Paper",
    "Pipeline",
    "PipelineState",
    "Query",
    "Rows",
    "Session",
    "Spec",
    "Symbols",
    "Text",
    "Tick",
    "Tokens",
    "Transitions",
    "arrays",
    "blocks",
    "canonical",
    "drive",
    "errors",
    "fork",
    "kinds",
    "leaves",
    "nbytes",
    "random",
    "replay",
    "snapshot",
    "state",
]
