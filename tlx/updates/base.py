"""What an update is: a pure function from the terms' losses to where the trainable leaves go."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

from tlx.trees import Tree
from tlx.types import Array, Tick, Turn

Aux = Any


class At(Protocol):
    """What `Slope.at` is called with."""

    def __call__(
        self, trainable: Tree, weights: Sequence[Array | float] | None = None, turn: int = 0, held: Tree | None = None
    ) -> tuple[Tree, Aux]: ...


class Slope(NamedTuple):
    """The losses of the terms as an update sees them: by their gradients, which are already those of the whole batch,
    however it is cut into micro-batches and shared by devices.

    `at(trainable, weights, turn, held)` is `(gradient, aux)` of the sum of weight x loss over the terms; `weights` has
    one number a term, a plain 0 leaves it out, None is the plain sum. Trainable leaves that are to have no gradient are
    given as `held`. `turn` is the place of the move in its step: what a term that takes turns is asked, and the noise.
    `aux` is what the step goes on with (running statistics, numbers to log), and an update returns that of the one
    point that it wants to have happened. `terms` names the terms, in order, `turns` has the turns of each.
    """

    terms: tuple[str, ...]
    at: At
    turns: tuple[tuple[Turn, ...], ...] = ()


class Point(NamedTuple):
    """Where a step stands: the leaves that learn, and the optimiser's state."""

    trainable: Tree
    optimiser: Any


# `descend(point, gradient)`: a step of the optimiser, from which the leaves that the gradient does not have, and what
# the optimiser knows of them, come back bit for bit.
Descend = Callable[[Point, Tree], Point]


class Update:
    """Of the two hooks of an update, a frozen dataclass, one is its own: `gradient`, a gradient with the structure of
    `trainable` and the `aux` of one call of `slope.at`, which the optimiser goes down once; or, where that is not
    enough, `step`, from one point to the next, with the gradient that is logged.

    `alternates` says whether it takes the turns of a term that takes some. `elementwise` says that the step of a
    parameter depends on the gradient of this parameter alone, so that runs in which other parameters learn may share a
    program, where those that do not learn have a gradient of zero.
    """

    alternates: ClassVar[bool] = False
    elementwise: ClassVar[bool] = False

    def gradient(self, slope: Slope, trainable: Tree, tick: Tick) -> tuple[Tree, Aux]:
        raise TypeError(f"{type(self).__name__} does not say which gradient it takes")

    def step(self, slope: Slope, descend: Descend, point: Point, tick: Tick) -> tuple[Point, Tree, Aux]:
        gradient, aux = self.gradient(slope, point.trainable, tick)
        return descend(point, gradient), gradient, aux
