"""Small honest operators of different kinds, numpy only: the laws hold for each."""

from toys.signals import Average, Smooth
from toys.stores import Delay, Tally
from toys.words import Babble, Loud

__all__ = ["TOYS", "Average", "Babble", "Delay", "Loud", "Smooth", "Tally"]

TOYS = (Average, Smooth, Babble, Loud, Tally, Delay)
