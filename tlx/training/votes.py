"""What the processes of a run wish, so that all of them save or stop after the same step."""

from enum import IntEnum
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tlx import processes


class Wish(IntEnum):
    """What a process wishes at a step; of the wishes of all processes the largest counts."""

    NOTHING = 0
    SAVE = 1
    STOP = 2
    FAIL = 3


class Votes:
    """The largest wish of all processes at one step.

    Each process gives its own; a small program on all devices finds the largest, and runs after the steps that were
    dispatched before. So a signal to one process is known to all of them at the same step, without a wait.
    """

    def __init__(self, mesh: Mesh, wish: Wish):
        self.answer: Any = wish
        if jax.process_count() > 1:
            places = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
            row = np.array([wish], np.int32)
            given = jax.make_array_from_callback((mesh.size,), places, lambda _: row)
            self.answer = processes.in_order(largest(mesh)(given))

    @property
    def wish(self) -> Wish:
        """Return the largest wish; waits for the devices."""
        return Wish(int(self.answer))


@cache
def largest(mesh: Mesh) -> Any:
    """Return the program that finds the largest of the numbers on all devices."""
    return jax.jit(lambda wishes: wishes.max(), out_shardings=NamedSharding(mesh, PartitionSpec()))
