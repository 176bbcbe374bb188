"""Define an update: a pure function from the losses of the terms to the next values of the trainable leaves."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

from tlx.trees import Tree
from tlx.types import Array, Tick, Turn

Aux = Any


class At(Protocol):
    """The signature of `Slope.at`."""

    def __call__(
        self,
        trainable: Tree,
        weights: Sequence[Array | float] | None = None,
        turn: int = 0,
        constants: Tree | None = None,
    ) -> tuple[Tree, Aux]: ...


class Slope(NamedTuple):
    """The losses of the terms, as gradients of the whole batch, independent of micro-batches and devices.

    `at(trainable, weights, turn, constants)` returns `(gradient, aux)` of the sum of weight x loss over the terms.
    `weights` has one number per term: a plain 0 leaves the term out, and None is the plain sum. Pass trainable leaves
    that need no gradient as `constants`. `turn` is the number of the move in its step; it selects the loss of a term
    that takes turns, and the noise. `aux` holds the running statistics and the numbers to log; an update returns the
    `aux` of the one point that the step should report.

    Attributes:
        terms: the names of the terms, in order.
        at: the gradient function.
        turns: the turns of each term.
    """

    terms: tuple[str, ...]
    at: At
    turns: tuple[tuple[Turn, ...], ...] = ()


class Point(NamedTuple):
    """The state within a step: the trainable leaves and the optimiser's state."""

    trainable: Tree
    optimiser: Any


# `descend(point, gradient)`: one step of the optimiser. Leaves that are not in the gradient, and their optimiser state,
# stay bit-identical.
Descend = Callable[[Point, Tree], Point]


class Update:
    """An update: a frozen dataclass that overrides one of two hooks.

    `gradient` returns a gradient with the structure of `trainable` and the `aux` of one call of `slope.at`; the
    optimiser takes one step with it. Where that is not enough, `step` computes the next point, and the gradient to log.

    `alternates` declares that the update takes the turns of a term. `elementwise` declares that the step of a parameter
    depends on the gradient of this parameter alone. Runs that train different parameters may then share a program, in
    which frozen parameters have a gradient of zero.
    """

    alternates: ClassVar[bool] = False
    elementwise: ClassVar[bool] = False

    def gradient(self, slope: Slope, trainable: Tree, tick: Tick) -> tuple[Tree, Aux]:
        """Return the gradient for one optimiser step, and the `aux` to report."""
        raise TypeError(
            f"{type(self).__name__} does not define its gradient; give the class a method gradient(slope, trainable, "
            "tick)"
        )

    def step(self, slope: Slope, descend: Descend, point: Point, tick: Tick) -> tuple[Point, Tree, Aux]:
        """Return the next point, the gradient to log, and the `aux` to report."""
        gradient, aux = self.gradient(slope, point.trainable, tick)
        return descend(point, gradient), gradient, aux
