"""Simulators in simulated time: queues of events, cost models, arrivals, and what is read off a run."""

from unending.parts.simulation.costs import Curve, StepCost, fit_curve
from unending.parts.simulation.events import Timeline, percentiles, poisson_times

__all__ = ["Curve", "StepCost", "Timeline", "fit_curve", "percentiles", "poisson_times"]
