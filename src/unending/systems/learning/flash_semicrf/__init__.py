"""Flash-SemiCRF: exact semi-Markov CRFs on sequences of any length, in memory that holds no tensor of edges."""

from unending.systems.learning.flash_semicrf.distribution import SemiCRFDistribution
from unending.systems.learning.flash_semicrf.durations import DurationScores
from unending.systems.learning.flash_semicrf.function import semi_crf_log_partition
from unending.systems.learning.flash_semicrf.module import SemiMarkovCRF
from unending.systems.learning.flash_semicrf.operator import FlashSemiCRF
from unending.systems.learning.flash_semicrf.potentials import Potentials, checkpoint_interval, prefix_sums
from unending.systems.learning.flash_semicrf.segments import (
    Segment,
    gold_score,
    labels_to_segments,
    segments_to_labels,
)
from unending.systems.learning.flash_semicrf.streaming import Scores, StreamingSemiCRF

__all__ = [
    "DurationScores",
    "FlashSemiCRF",
    "Potentials",
    "Scores",
    "Segment",
    "SemiCRFDistribution",
    "SemiMarkovCRF",
    "StreamingSemiCRF",
    "checkpoint_interval",
    "gold_score",
    "labels_to_segments",
    "prefix_sums",
    "segments_to_labels",
    "semi_crf_log_partition",
]
