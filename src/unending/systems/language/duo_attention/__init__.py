"""DuoAttention: the whole past only for the heads that retrieve, sinks and recent tokens for the others."""

from unending.systems.language.duo_attention.cache import ATTENTION, DuoCache
from unending.systems.language.duo_attention.gates import HeadGates, shipped_patterns
from unending.systems.language.duo_attention.identification import (
    GatedModel,
    Step,
    gate_shape,
    identify_retrieval_heads,
)
from unending.systems.language.duo_attention.operator import DuoAttention
from unending.systems.language.duo_attention.reordering import reorder_heads_
from unending.systems.language.duo_attention.static import StaticDuoCache

__all__ = [
    "ATTENTION",
    "DuoAttention",
    "DuoCache",
    "GatedModel",
    "HeadGates",
    "StaticDuoCache",
    "Step",
    "gate_shape",
    "identify_retrieval_heads",
    "reorder_heads_",
    "shipped_patterns",
]
