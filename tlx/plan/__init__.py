"""Compile the step of a recipe for chips that are not there, and say whether it fits and how fast it can be.

`targets` finds the devices of a machine by its name, `compiling` compiles the step for them, `estimate` draws bounds
from the figures of the chips (`chips.toml`), and `collectives` reads what the devices send each other.
"""

from tlx.plan.chips import Chip, read_chips
from tlx.plan.compiling import Compilation, compile_for
from tlx.plan.estimate import Estimate, estimate
from tlx.plan.targets import Target, target_of

__all__ = ["Chip", "Compilation", "Estimate", "Target", "compile_for", "estimate", "read_chips", "target_of"]
