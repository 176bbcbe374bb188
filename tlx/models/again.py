"""Rematerialisation: a stage whose backward pass recomputes values instead of keeping them (Chen et al., 2016)."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero

from tlx.layers import Quantised
from tlx.trees import Tree
from tlx.types import Apply, Array, Carry, Context, Key

# A product is thin if it has more than THIN times as many columns as summed terms, for example the second of LoRA.
THIN = 8


def large(primitive: Any, *shapes: Any, **how: Any) -> bool:
    """Return whether a product is worth keeping.

    The products of the attention, which grow with the square of the number of tokens, and thin products cost more to
    keep than to recompute.
    """
    if not jax.checkpoint_policies.dots_with_no_batch_dims_saveable(primitive, *shapes, **how):
        return False
    if primitive is not jax.lax.dot_general_p:
        return True
    (_, summed), _ = how["dimension_numbers"]
    kernel = shapes[1].shape
    terms = math.prod(kernel[axis] for axis in summed)
    return THIN * terms >= math.prod(kernel) // terms


GATHERED = "gathered"
KEPT: dict[str, Callable[..., bool] | None] = {
    "stage": None,
    "dots": large,
    "all but gathered": jax.checkpoint_policies.save_anything_except_these_names(GATHERED),
}


def gathering(apply: Apply, gather: Callable[[Tree], Tree]) -> Apply:
    """Return the stage on the whole parameters, which `gather` returns. Under `again` they are not kept."""

    def applied(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        whole = jax.tree.map(lambda leaf: checkpoint_name(leaf, GATHERED), gather(params))
        return apply(whole, stats, carry, context)

    return applied


def again(apply: Apply, how: str, in_loop: bool = False) -> Apply:
    """Return the stage with a backward pass that recomputes the values that `how` does not keep.

    "stage" keeps the inputs of the stage, "dots" its large products too; "all but gathered" keeps everything except
    parameters that were gathered from the devices of a mesh. The rounds of a loop (`in_loop`) recompute in the rounds
    of the backward pass, so they need not wait for it.
    """

    def applied(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        def pure(params: Tree, stats: Tree, carry: Carry, key: Key | None, offset: Any) -> tuple[Carry, Tree]:
            return apply(params, stats, carry, context._replace(key=key, offset=offset))

        # To gather again is cheap to order: the barrier of JAX is enough, and the other one costs memory.
        if how == "all but gathered":
            return jax.checkpoint(pure, policy=KEPT[how])(params, stats, carry, context.key, context.offset)
        rematerialised = jax.checkpoint(pure, policy=KEPT[how], prevent_cse=False)
        return (rematerialised if in_loop else waiting(rematerialised))(
            params, stats, carry, context.key, context.offset
        )

    return applied


@jax.tree_util.register_static
class Static(tuple[Any, ...]):
    """The values other than arrays that a forward pass hands to its backward pass."""


def waiting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function(params, ...)` with a backward pass that recomputes nothing before it has its cotangent.

    `jax.checkpoint` has a barrier for that. On CPUs XLA removes barriers before it orders the operations. Then it
    recomputes early, or not at all, and little memory is saved (docs/results/performance.md). Here a zero is added to
    the kept values. It is computed from the cotangent in a way that no compiler simplifies (NaN if the cotangent is
    NaN).
    """

    @jax.custom_vjp
    def called(*args: Any) -> Any:
        return function(*args)

    def forward(*args: Any) -> tuple[Any, Any]:
        primals, tree = jax.tree.flatten(args)
        differentiable = tuple(primal.perturbed and is_float(primal.value) for primal in primals)

        def of(moving: list[Array]) -> tuple[list[Array], Any]:
            remaining = iter(moving)
            values = [
                next(remaining) if moves else primal.value
                for moves, primal in zip(differentiable, primals, strict=True)
            ]
            outputs, shape = jax.tree.flatten(function(*jax.tree.unflatten(tree, values)))
            return [leaf for leaf in outputs if is_float(leaf)], (shape, outputs)

        moving = [primal.value for moves, primal in zip(differentiable, primals, strict=True) if moves]
        _, backward, (shape, outputs) = jax.vjp(of, moving, has_aux=True)
        # Weights stay in memory anyway; adding zero would make a copy of each. The float32 copies of weights in fewer
        # bits must not stay, so these are converted again.
        weights = {id(leaf.value) for leaf in jax.tree.leaves(args[0])} - converted(args[0])
        delayed = tuple(is_float(leaf) and id(leaf) not in weights for leaf in jax.tree.leaves(backward))
        return jax.tree.unflatten(shape, outputs), (backward, Static((tree, differentiable, delayed)))

    def backward(residuals: Any, cotangent: Any) -> Any:
        function, (tree, differentiable, delayed) = residuals
        floats = [leaf for leaf in jax.tree.leaves(cotangent) if is_float(leaf)]
        number = max((leaf for leaf in floats if not isinstance(leaf, SymbolicZero)), key=jnp.size).ravel()[0]
        zero = jnp.where(jnp.isnan(number), number, 0)
        leaves, shape = jax.tree.flatten(function)
        delayed_leaves = [
            leaf + zero.astype(leaf.dtype) if waits else leaf for waits, leaf in zip(delayed, leaves, strict=True)
        ]
        cotangents = [jnp.zeros(leaf.shape, leaf.dtype) if isinstance(leaf, SymbolicZero) else leaf for leaf in floats]
        (gradients,) = jax.tree.unflatten(shape, delayed_leaves)(cotangents)
        remaining = iter(gradients)
        return jax.tree.unflatten(tree, [next(remaining) if moves else None for moves in differentiable])

    called.defvjp(forward, backward, symbolic_zeros=True)
    return called


def converted(params: Tree) -> set[int]:
    """Return the identities of the arrays of a stage from which its layers compute weights in float32: the scales of
    whole numbers, and numbers in bfloat16."""
    leaves = jax.tree.leaves(params, is_leaf=lambda leaf: isinstance(leaf, Quantised))
    arrays = [leaf.scale if isinstance(leaf, Quantised) else leaf for leaf in leaves]
    return {
        id(array.value)
        for leaf, array in zip(leaves, arrays, strict=True)
        if isinstance(leaf, Quantised) or array.value.dtype == jnp.bfloat16
    }


def is_float(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf), jnp.floating)
