"""A whole engine from one seed: clients, store, clock, and everything that can go wrong."""

from unending.engine.simulation.verdict import unexplained
from unending.engine.simulation.witness import Witness
from unending.engine.simulation.world import World, simulate

__all__ = ["Witness", "World", "simulate", "unexplained"]
