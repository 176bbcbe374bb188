"""Merge adapters into the kernels beside them. Shapes: I inputs, O outputs of a dense layer or a convolution.

LoRA: Hu et al., 2022; DoRA: Liu et al., 2024; VeRA: Kopiczko et al., 2024; IA3: Liu et al., 2022.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from tlx.layers.dense import column_norms
from tlx.trees import Tree

# The entries that `layers.dense` reads beside a kernel.
BESIDE_KERNELS = ("lora", "vera", "ia3")


def merged(tree: Mapping[str, Any]) -> Tree:
    """Return the tree with every dense layer and every convolution in it merged."""
    plain = {name: merged(branch) if isinstance(branch, Mapping) else branch for name, branch in tree.items()}
    if "kernel" not in tree or not any(name in tree for name in BESIDE_KERNELS):
        return plain
    for name in BESIDE_KERNELS:
        plain.pop(name, None)
    return plain | merged_dense(dict(tree))


def merged_dense(params: Tree) -> Tree:
    """Return the merged `kernel` [..., I, O], and `bias` [O] if any, of one layer, in the order of `layers.dense`."""
    kernel = jnp.asarray(params["kernel"])
    if "lora" in params:
        lora = {name: jnp.asarray(leaf) for name, leaf in params["lora"].items()}
        adapted = kernel + lora["scale"] * (lora["a"] @ lora["b"])
        kernel = adapted * (lora["magnitude"] / column_norms(lora, kernel)) if "magnitude" in lora else adapted
    if "vera" in params:
        vera = {name: jnp.asarray(leaf) for name, leaf in params["vera"].items()}
        kernel = kernel + (vera["a"] * vera["inner"]) @ vera["b"] * vera["outer"]
    ia3 = params.get("ia3", {})
    layer = {"kernel": kernel} | ({"bias": jnp.asarray(params["bias"])} if "bias" in params else {})
    if "input" in ia3:
        layer["kernel"] = layer["kernel"] * jnp.asarray(ia3["input"])[:, None]
    if "output" in ia3:
        layer = {name: leaf * jnp.asarray(ia3["output"]) for name, leaf in layer.items()}
    return layer
