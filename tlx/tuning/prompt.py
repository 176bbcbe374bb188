"""Learned tokens: before the input (prompt tuning), or before the keys and values of every block (prefix tuning)."""

from dataclasses import dataclass

import jax

from tlx.trees import Tree, added, flatten, subtree
from tlx.tuning.base import Tuning, blocks, check_inserts, key_of, with_head
from tlx.types import Array, Key, Learn, Model, Phase


def small(key: Key, shape: tuple[int, int]) -> jax.Array:
    return 0.02 * jax.random.normal(key, shape)


@dataclass(frozen=True, kw_only=True)
class Prompt(Tuning):
    """Train `tokens` inserted rows among the embeddings, and the head.

    In a text the rows come before its tokens, and the positions of these increase by `tokens` (Lester et al., 2021). In
    an image they come between the extra tokens and the patches (Jia et al., 2022).

    A text head that reads the first token then reads the first token of the prompt, as in peft.
    """

    unmergeable = (("prompt", "a prompt"),)

    tokens: int = 8

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError(f"tokens is {self.tokens}; expected 1 or more")

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        """Return `params` with the prompt; raise ValueError for a model that reads no tokens."""
        check_inserts(model, "Prompt")
        stem = subtree(model.params, "stem")
        embeddings = stem.get("words", stem)
        leaf = next((embeddings[name] for name in ("embedding", "class", "positions") if name in embeddings), None)
        if leaf is None:
            raise ValueError(
                f"Prompt requires a model that reads tokens; {type(model.config).__name__} does not read tokens"
            )
        path = "stem/prompt/tokens"
        return added(params, {path: small(key_of(key, path), (self.tokens, leaf.shape[-1]))}, "Prompt")

    def phases(self, model: Model) -> tuple[Phase, ...]:
        return with_head(model, "Prompt", (r"stem/prompt/tokens", Learn(weight_decay=0.0)))


@dataclass(frozen=True, kw_only=True)
class Prefix(Tuning):
    """Train `tokens` keys and values before those of every block's attention (Li and Liang, 2021), and the head."""

    unmergeable = (("prefix", "a prefix"),)

    tokens: int = 8

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError(f"tokens is {self.tokens}; expected 1 or more")

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        """Return `params` with the prefixes; raise ValueError for a model without transformer blocks."""
        leaves: dict[str, Array] = {}
        for block in blocks(model, "Prefix"):
            for name in ("key", "value"):
                width = flatten(subtree(model.params, f"{block}/attention/{name}"))["kernel"].shape[1]
                path = f"{block}/attention/prefix/{name}"
                leaves[path] = small(key_of(key, path), (self.tokens, width))
        return added(params, leaves, "Prefix")

    def phases(self, model: Model) -> tuple[Phase, ...]:
        return with_head(model, "Prefix", (r".*/prefix/(key|value)", Learn(weight_decay=0.0)))
