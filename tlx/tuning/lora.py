"""Low-rank adaptation: LoRA (Hu et al., 2022) with its variants rsLoRA, LoRA+ and DoRA.

Shapes: I inputs, O outputs of a dense layer, R rank. For a convolution, the places of its kernel precede I.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from tlx.layers import column_norms
from tlx.trees import Tree, added, subtree
from tlx.tuning.base import Tuning, key_of, places, with_head
from tlx.types import Array, Key, Learn, Model, Phase, Rule


@dataclass(frozen=True, kw_only=True)
class Lora(Tuning):
    """Add low-rank matrices to the dense layers and convolutions that `on` matches in full (LoRA; Hu et al., 2022).

    Such a layer computes x @ kernel + scale (x @ a) @ b; in a convolution, `a` is a kernel of R outputs and `b` follows
    it. `a`, `b` and the head learn. `b` starts at zero, so the
    initial model computes the pretrained function. `scale` is alpha / rank, or alpha / sqrt(rank) with
    `rank_stabilised` (Kalajdzievski, 2023). `dropout` applies to the input of `a`. `plus` is the learning rate of `b`
    divided by that of `a` (LoRA+, Hayou et al., 2024). `weight_decay` applies to `a` and `b`.
    """

    # The gradient of each matrix is a product with the other, so the zeros that pad a smaller rank stay zeros.
    padded = ("lora/a", "lora/b")
    sizes = ("rank",)

    rank: int = 8
    alpha: float = 16.0
    on: str = r".*/attention/(query|value)"
    dropout: float = 0.0
    rank_stabilised: bool = False
    plus: float = 1.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank is {self.rank}; expected 1 or more")
        if self.alpha <= 0:
            raise ValueError(f"alpha is {self.alpha}; expected a scale above 0")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout is {self.dropout}; expected a share in [0, 1)")
        if self.plus <= 0:
            raise ValueError(f"plus is {self.plus}; expected a ratio of learning rates above 0")

    @property
    def scale(self) -> float:
        return self.alpha / (self.rank**0.5 if self.rank_stabilised else self.rank)

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        """Return `params` with `lora/a` [..., I, R] (uniform in +-1/sqrt(I)), `lora/b` [R, O] (zeros) and `lora/scale`.

        For a convolution, the I of that bound counts the inputs at all places of the kernel.

        Raises:
            ValueError: the rule matches nothing or another layer, or the rank exceeds a side of a kernel.
        """
        leaves: dict[str, Array] = {}
        for path, shape in places(model, self.on, type(self).__name__, convolutions=True).items():
            inputs, outputs = math.prod(shape[:-1]), shape[-1]
            if self.rank > min(inputs, outputs):
                raise ValueError(
                    f"rank {self.rank} is too large for the matrix {path + '/kernel'!r}, {inputs}x{outputs}; use "
                    f"{min(inputs, outputs)} or less"
                )
            leaves |= {f"{path}/lora/{name}": leaf for name, leaf in self.fresh(path, shape, key).items()}
            leaves |= {f"{path}/lora/{name}": leaf for name, leaf in self.more(subtree(params, path)).items()}
        return added(params, leaves, type(self).__name__)

    def fresh(self, path: str, shape: tuple[int, ...], key: Key) -> dict[str, Any]:
        """Return the leaves beside a kernel of a `shape`."""
        bound = math.prod(shape[:-1]) ** -0.5
        a = jax.random.uniform(key_of(key, path), (*shape[:-1], self.rank), jnp.float32, -bound, bound)
        leaves = {"a": a, "b": jnp.zeros((self.rank, shape[-1])), "scale": jnp.float32(self.scale)}
        return leaves | ({"dropout": jnp.float32(self.dropout)} if self.dropout else {})

    def more(self, layer: Tree) -> dict[str, Any]:
        """Return further leaves, which depend on the layer's parameters."""
        return {}

    def rules(self) -> tuple[Rule, ...]:
        learn = Learn(weight_decay=self.weight_decay)
        return ((r".*/lora/a", learn), (r".*/lora/b", learn._replace(lr=self.plus)))

    def phases(self, model: Model) -> tuple[Phase, ...]:
        return with_head(model, type(self).__name__, *self.rules())


@dataclass(frozen=True, kw_only=True)
class Dora(Lora):
    """LoRA on the direction of each column of the kernel, with a separate `magnitude` [O] (Liu et al., 2024)."""

    def more(self, layer: Tree) -> dict[str, Any]:
        shape = layer["kernel"].shape
        zero = {"a": jnp.zeros((*shape[:-1], 1)), "b": jnp.zeros((1, shape[-1]))}
        return {"magnitude": column_norms(zero | {"scale": jnp.float32(0)}, jnp.asarray(layer["kernel"]))}

    def rules(self) -> tuple[Rule, ...]:
        return (*super().rules(), (r".*/lora/magnitude", Learn(weight_decay=0.0)))
