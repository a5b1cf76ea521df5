"""Single-pass streaming bandits: near-optimal regret with one stored arm (Wang, ICML 2023, arXiv 2306.02208)."""

from unending.systems.learning.streaming_bandits.arms import Arm, ArmStream, beta_rewards, clear_cut, mix_in
from unending.systems.learning.streaming_bandits.exploration import Algorithm, Draft, Exploration, Wanted
from unending.systems.learning.streaming_bandits.full_memory import FullMemory
from unending.systems.learning.streaming_bandits.game_of_arms import GameOfArms
from unending.systems.learning.streaming_bandits.operator import ALGORITHMS, StreamingBandits
from unending.systems.learning.streaming_bandits.policy import StreamingPolicy
from unending.systems.learning.streaming_bandits.screening import NaiveEpsBest, UniformExploration
from unending.systems.learning.streaming_bandits.simulation import Result, explore, play
from unending.systems.learning.streaming_bandits.tower import AggressiveTower

__all__ = [
    "ALGORITHMS",
    "AggressiveTower",
    "Algorithm",
    "Arm",
    "ArmStream",
    "Draft",
    "Exploration",
    "FullMemory",
    "GameOfArms",
    "NaiveEpsBest",
    "Result",
    "StreamingBandits",
    "StreamingPolicy",
    "UniformExploration",
    "Wanted",
    "beta_rewards",
    "clear_cut",
    "explore",
    "mix_in",
    "play",
]
