"""The dense layer and what may be inserted beside its kernel. Shapes: I inputs, O outputs, R rank.

The structure of a sub-dict is the switch: a layer whose sub-dict holds `lora`, `vera` or `ia3` computes with it, one
without does not. No wrapper, and no list of the layers that support it.

| entry | leaves | source |
| --- | --- | --- |
| `lora` | `a` [I, R], `b` [R, O], `scale` []; maybe `dropout` [] | Hu et al., 2022 |
| | and maybe `magnitude` [O]: DoRA | Liu et al., 2024 |
| `vera` | `a` [I, R], `b` [R, O] (both random, fixed), `inner` [R], `outer` [O] | Kopiczko et al., 2024 |
| `ia3` | `input` [I] or `output` [O] | Liu et al., 2022 |
"""

import jax
import jax.numpy as jnp

from tlx.layers.basic import ACTIVATIONS
from tlx.layers.noise import dropout
from tlx.trees import Tree
from tlx.types import Array, Context

STILL = Context()


def dense(params: Tree, x: Array, context: Context = STILL, salt: int = 0) -> Array:
    """`x @ kernel + bias`, and what is inserted: [..., I] -> [..., O], in the type of `x`.

    `context` and `salt` (which tells the dense layers of one stage apart) feed the dropout before LoRA.
    """
    ia3 = params.get("ia3", {})
    if "input" in ia3:
        x = x * ia3["input"].astype(x.dtype)
    y = x @ params["kernel"].astype(x.dtype)
    if "lora" in params:
        y = low_rank(params["lora"], params["kernel"], x, y, context, salt)
    if "vera" in params:
        own = {name: leaf.astype(x.dtype) for name, leaf in params["vera"].items()}
        y = y + ((x @ own["a"]) * own["inner"]) @ own["b"] * own["outer"]
    if "bias" in params:
        y = y + params["bias"].astype(x.dtype)
    return y * ia3["output"].astype(x.dtype) if "output" in ia3 else y


def low_rank(lora: Tree, kernel: Array, x: Array, y: Array, context: Context, salt: int) -> Array:
    """`y = x @ kernel` moved by LoRA, and by DoRA where there is a `magnitude`.

    Two thin products cost less than adding `a @ b` to the kernel in the step, whose gradient would be a full one.
    """
    # A rate is no weight, even where everything learns.
    given = dropout(x, jax.lax.stop_gradient(lora["dropout"]), context, salt) if "dropout" in lora else x
    a, b, scale = (lora[name].astype(x.dtype) for name in ("a", "b", "scale"))
    y = y + (given @ a) @ b * scale
    if "magnitude" not in lora:
        return y
    return y * (lora["magnitude"] / column_norms(lora, kernel)).astype(x.dtype)


def column_norms(lora: Tree, kernel: Array) -> Array:
    """|kernel + scale a b| of each output [O], a constant to the gradient (Liu et al., 2024, section 4.3). A column of
    zeros has the least norm there is, so that it has a direction too."""
    moved = kernel + lora["scale"] * (lora["a"] @ lora["b"])
    return jax.lax.stop_gradient(jnp.maximum(jnp.sqrt((moved * moved).sum(0)), jnp.finfo(jnp.float32).tiny))


def bottleneck(params: Tree, x: Array, context: Context = STILL, salt: int = 0) -> Array:
    """What an adapter adds to `x`: up(gelu(down(x))), [..., W] -> [..., W] (Houlsby et al., 2019)."""
    inner = ACTIVATIONS["gelu"](dense(params["down"], x, context, salt))
    return dense(params["up"], inner, context, salt + 1)
