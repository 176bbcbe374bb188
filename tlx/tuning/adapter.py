"""Bottleneck adapters in transformer blocks (Houlsby et al., 2019; Pfeiffer et al., 2021)."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from tlx.trees import Tree, added, near_miss, subtree
from tlx.tuning.base import Tuning, blocks, either, groups, key_of, with_head
from tlx.types import Key, Learn, Model, Phase, Rule

PLACEMENTS = ("houlsby", "pfeiffer")


@dataclass(frozen=True, kw_only=True)
class Adapter(Tuning):
    """x + up(gelu(down(x))) with `width` units in the middle; adapters and head learn.

    `placement` "houlsby" puts one after the attention and one after the feed-forward layer of every block, each before
    the residual sum, and lets the block's norms learn too; "pfeiffer" puts one after the feed-forward layer's residual
    sum (in a post-norm block it reads that sum's norm). `up` begins at zero, so the model begins as it came.
    `norms` None is as the placement's paper has it.
    """

    unmergeable = (("adapter", "an adapter"),)

    width: int = 64
    placement: Literal["houlsby", "pfeiffer"] = "pfeiffer"
    norms: bool | None = None

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width is {self.width}; it is 1 or more")
        if self.placement not in PLACEMENTS:
            raise ValueError(f"no placement {self.placement!r}{near_miss(str(self.placement), PLACEMENTS)}")

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        """Raises ValueError for a model without transformer blocks."""
        leaves: dict[str, Any] = {}
        for block in blocks(model, "Adapter"):
            inside = subtree(model.params, f"{block}/attention/query")["kernel"].shape[0]
            where = [f"{block}/attention", f"{block}/mlp"] if self.placement == "houlsby" else [block]
            for path in where:
                down = 0.02 * jax.random.truncated_normal(key_of(key, path), -2.0, 2.0, (inside, self.width))
                own = {"down/kernel": down, "down/bias": jnp.zeros(self.width)}
                own |= {"up/kernel": jnp.zeros((self.width, inside)), "up/bias": jnp.zeros(inside)}
                leaves |= {f"{path}/adapter/{name}": leaf for name, leaf in own.items()}
        return added(params, leaves, "Adapter")

    def phases(self, model: Model) -> tuple[Phase, ...]:
        still = Learn(weight_decay=0.0)
        rules: list[Rule] = [(r".*/adapter/.*", still)]
        if self.norms if self.norms is not None else self.placement == "houlsby":
            inside = tuple(f"{block}/" for block in blocks(model, "Adapter"))
            norms = [path for path, group in groups(model.params) if group.keys() == {"scale", "bias"}]
            found = [f"{path}/{name}" for path in norms if path.startswith(inside) for name in ("scale", "bias")]
            rules.append(either(found, still))
        return with_head(model, "Adapter", *rules)
