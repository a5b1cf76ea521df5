"""Stream2LLM: prompts whose context is still arriving or changing, prefilled as it comes."""

from unending.systems.language.stream2llm.costs import CostModel
from unending.systems.language.stream2llm.engine import EngineEvent, StreamingEngine
from unending.systems.language.stream2llm.ledger import BlockLedger, Blocks
from unending.systems.language.stream2llm.operator import Stream2LLM
from unending.systems.language.stream2llm.policies import FCFS, LCAS, MCPS, Policy
from unending.systems.language.stream2llm.request import Request, Status
from unending.systems.language.stream2llm.scheduler import DefaultVLLM, Plan, Scheduler, TwoPhase, Work
from unending.systems.language.stream2llm.serving import Serving
from unending.systems.language.stream2llm.simulator import Metrics, RequestMetrics, replay, simulate
from unending.systems.language.stream2llm.traces import (
    TraceEvent,
    anns_trace,
    crawler_trace,
    delayed,
    read_trace,
    waiting,
    write_trace,
)

__all__ = [
    "BlockLedger",
    "Blocks",
    "CostModel",
    "DefaultVLLM",
    "EngineEvent",
    "FCFS",
    "LCAS",
    "MCPS",
    "Metrics",
    "Plan",
    "Policy",
    "Request",
    "RequestMetrics",
    "Scheduler",
    "Serving",
    "Status",
    "Stream2LLM",
    "StreamingEngine",
    "TraceEvent",
    "TwoPhase",
    "Work",
    "anns_trace",
    "crawler_trace",
    "delayed",
    "read_trace",
    "replay",
    "simulate",
    "waiting",
    "write_trace",
]
