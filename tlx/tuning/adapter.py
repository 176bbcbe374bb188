"""Bottleneck adapters in transformer blocks (Houlsby et al., 2019; Pfeiffer et al., 2021)."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from tlx.config import check_choice
from tlx.trees import Tree, added, subtree
from tlx.tuning.base import Tuning, blocks, either, key_of, norm_leaves, with_head
from tlx.types import Array, Key, Learn, Model, Phase, Rule

PLACEMENTS = ("houlsby", "pfeiffer")


@dataclass(frozen=True, kw_only=True)
class Adapter(Tuning):
    """Add bottleneck adapters of `width` units to the blocks (Houlsby et al., 2019; Pfeiffer et al., 2021).

    An adapter computes x + up(gelu(down(x))); adapters and head learn. `placement` "houlsby" puts one adapter after the
    attention and one after the feed-forward layer of every block, each before the residual sum, and trains the block's
    norms too. "pfeiffer" puts one adapter after the feed-forward layer's residual sum (in a post-norm block it reads
    the norm of that sum). `up` starts at zero, so the initial model computes the pretrained function. `norms` None
    follows the paper of the placement.
    """

    unmergeable = (("adapter", "an adapter"),)

    width: int = 64
    placement: Literal["houlsby", "pfeiffer"] = "pfeiffer"
    norms: bool | None = None

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width is {self.width}; expected 1 or more")
        check_choice("placement", self.placement, PLACEMENTS)

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        """Return `params` with the adapters; raise ValueError for a model without transformer blocks."""
        leaves: dict[str, Array] = {}
        for block in blocks(model, "Adapter"):
            features = subtree(model.params, f"{block}/attention/query")["kernel"].shape[0]
            paths = [f"{block}/attention", f"{block}/mlp"] if self.placement == "houlsby" else [block]
            for path in paths:
                down = 0.02 * jax.random.truncated_normal(key_of(key, path), -2.0, 2.0, (features, self.width))
                adapter = {"down/kernel": down, "down/bias": jnp.zeros(self.width)}
                adapter |= {"up/kernel": jnp.zeros((self.width, features)), "up/bias": jnp.zeros(features)}
                leaves |= {f"{path}/adapter/{name}": leaf for name, leaf in adapter.items()}
        return added(params, leaves, "Adapter")

    def phases(self, model: Model) -> tuple[Phase, ...]:
        learn = Learn(weight_decay=0.0)
        rules: list[Rule] = [(r".*/adapter/.*", learn)]
        if self.norms if self.norms is not None else self.placement == "houlsby":
            prefixes = tuple(f"{block}/" for block in blocks(model, "Adapter"))
            leaves = [leaf for path, norm in norm_leaves(model).items() if path.startswith(prefixes) for leaf in norm]
            rules.append(either(leaves, learn))
        return with_head(model, "Adapter", *rules)
