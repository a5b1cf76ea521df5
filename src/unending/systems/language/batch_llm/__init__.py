"""BatchLLM: a large batch of known prompts, prefixes shared over all of it, iterations kept full."""

from unending.systems.language.batch_llm.engine import BatchEngine
from unending.systems.language.batch_llm.forest import PrefixForest, PrefixGroup
from unending.systems.language.batch_llm.gathering import BatchLLMState
from unending.systems.language.batch_llm.operator import BatchLLM
from unending.systems.language.batch_llm.progress import Policy
from unending.systems.language.batch_llm.report import Iteration, Report
from unending.systems.language.batch_llm.simulation import CostModel, simulate

__all__ = [
    "BatchEngine",
    "BatchLLM",
    "BatchLLMState",
    "CostModel",
    "Iteration",
    "Policy",
    "PrefixForest",
    "PrefixGroup",
    "Report",
    "simulate",
]
