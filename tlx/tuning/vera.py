"""VeRA (Kopiczko et al., 2024): two learned vectors per layer between frozen random matrices."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from tlx.trees import Tree, added
from tlx.tuning.base import Tuning, key_of, places, with_head
from tlx.types import Array, Key, Learn, Model, Phase


@dataclass(frozen=True, kw_only=True)
class Vera(Tuning):
    """Learn two vectors per dense layer, between frozen random matrices (VeRA; Kopiczko et al., 2024).

    A layer computes x @ kernel + (((x @ a) * inner) @ b) * outer; `inner` [R], `outer` [O] and the head learn. `outer`
    starts at zero, so the initial model computes the pretrained function; `inner` starts at `start`. `a` and `b` are
    one pair of random matrices for all layers. Each layer uses the corner of the size that it needs and stores a copy
    of it. The rank may exceed a kernel's sides (the authors use 1,024 for kernels of 768): the matrices cost memory and
    do not learn.
    """

    rank: int = 64
    on: str = r".*/attention/(query|value)"
    start: float = 0.1

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank is {self.rank}; expected 1 or more")
        if self.start <= 0:
            # The gradient of each vector is a product with the other.
            raise ValueError(f"start is {self.start}; expected a number above 0, because with 0 all gradients are 0")

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        """Return `params` with the vectors and matrices; raise ValueError for a rule that matches no dense layer."""
        layers = places(model, self.on, "Vera")
        widest, tallest = (max(shape[n] for shape in layers.values()) for n in (0, 1))
        # Kaiming uniform (He et al., 2015) with the bound sqrt(6 / fan in), as in the authors' code in peft.
        a = uniform(key_of(key, "vera/a"), (widest, self.rank), widest)
        b = uniform(key_of(key, "vera/b"), (self.rank, tallest), self.rank)
        leaves: dict[str, Array] = {}
        for path, (inputs, outputs) in layers.items():
            vectors = {"a": a[:inputs], "b": b[:, :outputs], "outer": jnp.zeros(outputs)}
            vectors["inner"] = jnp.full(self.rank, self.start, jnp.float32)
            leaves |= {f"{path}/vera/{name}": leaf for name, leaf in vectors.items()}
        return added(params, leaves, "Vera")

    def phases(self, model: Model) -> tuple[Phase, ...]:
        return with_head(model, "Vera", (r".*/vera/(inner|outer)", Learn(weight_decay=0.0)))


def uniform(key: Key, shape: tuple[int, int], fan: int) -> jax.Array:
    bound = (6.0 / fan) ** 0.5
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)
