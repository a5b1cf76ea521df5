"""Group position encoding (Tong et al. 2025, arXiv 2505.16983): a batch language model that writes while it reads."""

from unending.systems.language.group_position_encoding.collator import MODES, StreamingSFTCollator
from unending.systems.language.group_position_encoding.generator import StreamingGenerator
from unending.systems.language.group_position_encoding.operator import POLICIES, GroupPositionEncoding
from unending.systems.language.group_position_encoding.passage import HEADER_MODES, Limits, Word
from unending.systems.language.group_position_encoding.positions import (
    ArrivalPositions,
    GroupPositions,
    ReencodedPositions,
)
from unending.systems.language.group_position_encoding.template import Template
from unending.systems.language.group_position_encoding.work import GroupPositionEncodingState

__all__ = [
    "HEADER_MODES",
    "MODES",
    "POLICIES",
    "ArrivalPositions",
    "GroupPositionEncoding",
    "GroupPositionEncodingState",
    "GroupPositions",
    "Limits",
    "ReencodedPositions",
    "StreamingGenerator",
    "StreamingSFTCollator",
    "Template",
    "Word",
]
