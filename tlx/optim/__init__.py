"""The optimiser: an optax transform over the trainable leaves alone, built inside the step.

All its numbers (rate, decay, moment coefficients, clip) may be traced arrays, so recipes that differ only in numbers
share one compiled program. `settings` has the optimiser's part of a recipe, `hyperparameters` its numbers as a tree,
`schedules` the rate at a step, `leaves` the facts about each leaf, `directions` the optimisers, and `transform` the
step.
"""

from tlx.optim.directions import Optimiser, Wave, directed
from tlx.optim.leaves import Layout, hidden_kernels, layout, leaf_rates, wave_names
from tlx.optim.schedules import rate
from tlx.optim.settings import OPTIMISERS, SCHEDULES, Optim
from tlx.optim.transform import averaged, by_wave, initial, state_bytes, together, transform

__all__ = [
    "OPTIMISERS", "SCHEDULES", "Layout", "Optim", "Optimiser", "Wave", "averaged", "by_wave", "directed",
    "hidden_kernels", "initial", "layout", "leaf_rates", "rate", "state_bytes", "together", "transform", "wave_names",
]  # fmt: skip
