"""Take the gradient of the sum of the terms."""

from dataclasses import dataclass

from tlx.trees import Tree
from tlx.types import Tick
from tlx.updates.base import Aux, Slope, Update


@dataclass(frozen=True, kw_only=True)
class Sum(Update):
    """Take one gradient of the sum of all terms."""

    elementwise = True

    def gradient(self, slope: Slope, trainable: Tree, tick: Tick) -> tuple[Tree, Aux]:
        return slope.at(trainable, None)
