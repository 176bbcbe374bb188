"""How the terms become one step: one file each, exported here. A user's is a subclass of `Update`."""

from tlx.updates.alternating import Alternating, in_turns, taker_of
from tlx.updates.base import Descend, Point, Slope, Update
from tlx.updates.sam import Sam
from tlx.updates.sum import Sum

__all__ = ["Alternating", "Descend", "Point", "Sam", "Slope", "Sum", "Update", "in_turns", "taker_of"]
