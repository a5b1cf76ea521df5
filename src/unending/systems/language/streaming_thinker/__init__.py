"""StreamingThinker (Tong et al. 2025, arXiv 2510.17238): thoughts on each sentence while the text is still arriving."""

from unending.systems.language.streaming_thinker.latency import (
    Latency,
    Rates,
    Trace,
    reading_times,
    simulate_latency,
)
from unending.systems.language.streaming_thinker.layout import (
    DEPTHS,
    MARKS,
    Layout,
    Marks,
    Sample,
    add_marks,
    direct,
    transcript,
)
from unending.systems.language.streaming_thinker.operator import StreamingThinking
from unending.systems.language.streaming_thinker.quality import (
    QualityReport,
    Teacher,
    build_streaming_cot,
    check_streaming_cot,
)
from unending.systems.language.streaming_thinker.sentences import SentenceSplitter
from unending.systems.language.streaming_thinker.thinker import StreamingThinker
from unending.systems.language.streaming_thinker.thoughts import Thought

__all__ = [
    "DEPTHS",
    "MARKS",
    "Latency",
    "Layout",
    "Marks",
    "QualityReport",
    "Rates",
    "Sample",
    "SentenceSplitter",
    "StreamingThinker",
    "StreamingThinking",
    "Teacher",
    "Thought",
    "Trace",
    "add_marks",
    "build_streaming_cot",
    "check_streaming_cot",
    "direct",
    "reading_times",
    "simulate_latency",
    "transcript",
]
