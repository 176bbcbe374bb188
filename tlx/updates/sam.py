"""Sharpness-aware minimisation."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from tlx.trees import Tree
from tlx.types import Tick
from tlx.updates.base import Aux, Slope, Update


@dataclass(frozen=True, kw_only=True)
class Sam(Update):
    """Take the gradient at w + rho g / |g|, where g is the gradient at w (Foret et al., 2021, equation 2 with p = 2).

    g is the gradient of the whole batch. The update needs two passes; the logged numbers and the running statistics are
    those of the first pass, at w.
    """

    rho: float = 0.05

    def __post_init__(self) -> None:
        if self.rho < 0:
            raise ValueError(f"rho is {self.rho}; expected a radius of 0 or more")

    def gradient(self, slope: Slope, trainable: Tree, tick: Tick) -> tuple[Tree, Aux]:
        first, aux = slope.at(trainable, None)
        norm = jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(first)))
        # The small number keeps a gradient of zero at zero.
        scale = self.rho / (norm + 1e-12)
        return slope.at(jax.tree.map(lambda w, g: w + scale * g, trainable, first), None)[0], aux
