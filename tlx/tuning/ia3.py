"""(IA)^3 (Liu et al., 2022): one learned factor per unit of keys, values and inner activations."""

from collections.abc import Iterable
from dataclasses import dataclass

import jax.numpy as jnp

from tlx.trees import Tree, added, flatten
from tlx.tuning.base import Tuning, places, with_head
from tlx.types import Array, Key, Learn, Model, Phase


@dataclass(frozen=True, kw_only=True)
class Ia3(Tuning):
    """Scale the outputs of the layers that `on` matches, and the inputs of those of `inputs` (Liu et al., 2022).

    The layers are dense layers and convolutions, and there is one factor per unit or channel. The factors start at one
    and learn, and so does the head.
    None for either regex leaves it out.
    """

    on: str | None = r".*/attention/(key|value)"
    inputs: str | None = r".*/mlp/down"

    def __post_init__(self) -> None:
        if self.on is None and self.inputs is None:
            raise ValueError("Ia3(on=None, inputs=None) scales no layer; set one of the two")

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        """Return `params` with the factors; raise ValueError for a rule that matches nothing or another layer."""
        leaves: dict[str, Array] = {}
        for field, name, side in (("on", "output", -1), ("inputs", "input", -2)):
            rule = getattr(self, field)
            layers = places(model, rule, "Ia3", field, convolutions=True) if rule is not None else {}
            if name == "input":
                check_undivided(model, layers)
            leaves |= {f"{path}/ia3/{name}": jnp.ones(shape[side]) for path, shape in layers.items()}
        return added(params, leaves, "Ia3")

    def phases(self, model: Model) -> tuple[Phase, ...]:
        return with_head(model, "Ia3", (r".*/ia3/(input|output)", Learn(weight_decay=0.0)))


def check_undivided(model: Model, layers: Iterable[str]) -> None:
    """Raise ValueError for a convolution with groups, whose kernel has the inputs of one group only."""
    params = flatten(model.params)
    for path in layers:
        kernel = params[f"{path}/kernel"]
        if len(kernel.shape) > 2 and kernel.axes[-2] is None:
            raise ValueError(
                f"Ia3(inputs=...) matches {path!r}, a convolution with groups of channels; scale its outputs: on=..."
            )
