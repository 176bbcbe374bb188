"""The dense layer and the adapters beside its kernel. Shapes: I inputs, O outputs, R rank.

The structure of a sub-dict is the switch: a layer computes with `lora`, `vera` or `ia3` if its sub-dict holds that
entry. There is no wrapper, and no list of the layers that support it.

| entry | leaves | source |
| --- | --- | --- |
| `lora` | `a` [I, R], `b` [R, O], `scale` []; optionally `dropout` [] | Hu et al., 2022 |
| | and optionally `magnitude` [O]: DoRA | Liu et al., 2024 |
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
    """Compute `x @ kernel + bias` with the adapters of the layer: [..., I] -> [..., O], in the dtype of `x`.

    Args:
        params: `kernel` [I, O], optionally `bias` [O] and adapters (see the table of this module).
        x: The input.
        context: The context of the dropout before LoRA.
        salt: The number of this layer's noise, different for each dense layer of a stage.
    """
    ia3 = params.get("ia3", {})
    if "input" in ia3:
        x = x * ia3["input"].astype(x.dtype)
    y = product(x, params["kernel"].astype(x.dtype))
    if "lora" in params:
        y = low_rank(params["lora"], params["kernel"], x, y, context, salt)
    if "vera" in params:
        vera = {name: leaf.astype(x.dtype) for name, leaf in params["vera"].items()}
        y = y + product(product(x, vera["a"]) * vera["inner"], vera["b"]) * vera["outer"]
    if "bias" in params:
        y = y + params["bias"].astype(x.dtype)
    return y * ia3["output"].astype(x.dtype) if "output" in ia3 else y


def product(x: Array, kernel: Array) -> Array:
    """Compute `x @ kernel`: [..., I] times [I, O] -> [..., O].

    All axes but the last one are merged first. A kernel's gradient is then a sum over one axis. Over several axes, XLA
    transposes an input on a CPU, together with the work that made it, which took as long as all products of a ViT.
    """
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[1])


def low_rank(lora: Tree, kernel: Array, x: Array, y: Array, context: Context, salt: int) -> Array:
    """Add LoRA to `y = x @ kernel`, and DoRA if there is a `magnitude`.

    Two thin products cost less than adding `a @ b` to the kernel in the step: the gradient of that sum has the size of
    the kernel.
    """
    # A rate is not a weight: it must not learn, even if everything else does.
    dropped = dropout(x, jax.lax.stop_gradient(lora["dropout"]), context, salt) if "dropout" in lora else x
    a, b, scale = (lora[name].astype(x.dtype) for name in ("a", "b", "scale"))
    y = y + product(product(dropped, a), b) * scale
    if "magnitude" not in lora:
        return y
    return y * (lora["magnitude"] / column_norms(lora, kernel)).astype(x.dtype)


def column_norms(lora: Tree, kernel: Array) -> Array:
    """Compute |kernel + scale a b| of each output [O], a constant to the gradient (Liu et al., 2024, section 4.3).

    For a convolution, the norm is over its places and inputs. A column of zeros gets the smallest positive norm, so
    that it has a direction too.
    """
    adapted = kernel + lora["scale"] * (lora["a"] @ lora["b"])
    square = (adapted * adapted).sum(tuple(range(adapted.ndim - 1)))
    return jax.lax.stop_gradient(jnp.maximum(jnp.sqrt(square), jnp.finfo(jnp.float32).tiny))


def bottleneck(params: Tree, x: Array, context: Context = STILL, salt: int = 0) -> Array:
    """Compute the output of an adapter, up(gelu(down(x))): [..., W] -> [..., W] (Houlsby et al., 2019)."""
    inner = ACTIVATIONS["gelu"](dense(params["down"], x, context, salt))
    return dense(params["up"], inner, context, salt + 1)
