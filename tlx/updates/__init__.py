"""How the terms become one step: one file each, one line in the table."""

from tlx.updates.alternating import Alternating, in_turns, taker_of
from tlx.updates.base import Descend, Point, Slope, Update
from tlx.updates.sam import Sam
from tlx.updates.sum import Sum

UPDATES: dict[str, type] = {kind.__name__: kind for kind in (Sum, Sam, Alternating)}

__all__ = ["UPDATES", "Alternating", "Descend", "Point", "Sam", "Slope", "Sum", "Update", "in_turns", "taker_of"]
