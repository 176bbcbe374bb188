"""What an update is: a pure function from the terms' losses to the gradient of the trainable leaves."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tlx.trees import Tree
from tlx.types import Array, Tick

Aux = Any


class Slope(NamedTuple):
    """The losses of the terms as an update sees them: by their gradients, which are already those of the whole batch,
    however it is cut into micro-batches and shared by devices.

    `at(trainable, weights)` is `(gradient, aux)` of the sum of weight x loss over the terms; `weights` has one number
    a term, None is the plain sum. `aux` is what the step goes on with (running statistics, numbers to log), and an
    update returns that of the one point that it wants to have happened. `terms` names the terms, in order.
    """

    terms: tuple[str, ...]
    at: Callable[[Tree, Sequence[Array | float] | None], tuple[Tree, Aux]]


class Update:
    """`gradient` is the one hook of an update, a frozen dataclass: a gradient with the structure of `trainable`, and
    the `aux` of one call of `slope.at`."""

    def gradient(self, slope: Slope, trainable: Tree, tick: Tick) -> tuple[Tree, Aux]:
        raise TypeError(f"{type(self).__name__} does not say which gradient it takes")
