"""How the terms become one step: one file each, one line in the table."""

from tlx.updates.base import Slope, Update
from tlx.updates.sam import Sam
from tlx.updates.sum import Sum

UPDATES: dict[str, type] = {kind.__name__: kind for kind in (Sum, Sam)}

__all__ = ["UPDATES", "Sam", "Slope", "Sum", "Update"]
