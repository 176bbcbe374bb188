"""A stage whose backward pass computes again what it does not keep (Chen et al., 2016)."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from tlx.trees import Tree
from tlx.types import Apply, Array, Carry, Context, Key

# A product is thin where it sums over so many times fewer terms than it has columns: LoRA's second, say.
THIN = 8


def large(primitive: Any, *shapes: Any, **how: Any) -> bool:
    """Whether a product is worth keeping. Those of the attention, whose numbers grow with the square of the tokens, and
    thin ones take more to keep than to compute again."""
    if not jax.checkpoint_policies.dots_with_no_batch_dims_saveable(primitive, *shapes, **how):
        return False
    if primitive is not jax.lax.dot_general_p:
        return True
    (_, summed), _ = how["dimension_numbers"]
    kernel = shapes[1].shape
    terms = math.prod(kernel[axis] for axis in summed)
    return THIN * terms >= math.prod(kernel) // terms


KEPT: dict[str, Callable[..., bool] | None] = {"stage": None, "dots": large}


def again(apply: Apply, how: str) -> Apply:
    """The stage whose backward pass computes again what `how` does not keep: "stage" keeps what the stage was given,
    "dots" its large products too."""

    def applied(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        def pure(params: Tree, stats: Tree, carry: Carry, key: Key | None, offset: Any) -> tuple[Carry, Tree]:
            return apply(params, stats, carry, context._replace(key=key, offset=offset))

        kept = jax.checkpoint(pure, policy=KEPT[how], prevent_cse=False)
        return waiting(kept)(params, stats, carry, context.key, context.offset)

    return applied


@jax.tree_util.register_static
class Static(tuple[Any, ...]):
    """What goes from a forward pass to its backward pass and is no array."""


def waiting(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(params, ...)` whose backward pass has to wait for its cotangent before it computes anything again.

    `jax.checkpoint` has a barrier for that. On processors XLA takes barriers away before it orders the operations, and
    then finds that it may compute early again, or need not compute twice: little is saved
    (docs/results/performance.md). Here zero is added to what was kept, made of the cotangent in a way that no compiler
    sees through (NaN where it is NaN).
    """

    @jax.custom_vjp
    def called(*args: Any) -> Any:
        return function(*args)

    def forward(*args: Any) -> tuple[Any, Any]:
        given, tree = jax.tree.flatten(args)
        moves = tuple(own.perturbed and is_float(own.value) for own in given)

        def of(moving: list[Array]) -> tuple[list[Array], Any]:
            left = iter(moving)
            whole = [next(left) if own else leaf.value for own, leaf in zip(moves, given, strict=True)]
            found, shape = jax.tree.flatten(function(*jax.tree.unflatten(tree, whole)))
            return [leaf for leaf in found if is_float(leaf)], (shape, found)

        moving = [leaf.value for own, leaf in zip(moves, given, strict=True) if own]
        _, backward, (shape, found) = jax.vjp(of, moving, has_aux=True)
        # Weights are there anyway, and a copy of each with zero added would be one more.
        weights = {id(leaf.value) for leaf in jax.tree.leaves(args[0])}
        held = tuple(is_float(leaf) and id(leaf) not in weights for leaf in jax.tree.leaves(backward))
        return jax.tree.unflatten(shape, found), (backward, Static((tree, moves, held)))

    def backward(kept: Any, cotangent: Any) -> Any:
        function, (tree, moves, held) = kept
        given = [own for own in jax.tree.leaves(cotangent) if is_float(own)]
        sign = max((own for own in given if not isinstance(own, SymbolicZero)), key=jnp.size).ravel()[0]
        zero = jnp.where(jnp.isnan(sign), sign, 0)
        leaves, shape = jax.tree.flatten(function)
        waits = [leaf + zero.astype(leaf.dtype) if own else leaf for own, leaf in zip(held, leaves, strict=True)]
        cotangents = [jnp.zeros(own.shape, own.dtype) if isinstance(own, SymbolicZero) else own for own in given]
        (moved,) = jax.tree.unflatten(shape, waits)(cotangents)
        left = iter(moved)
        return jax.tree.unflatten(tree, [next(left) if own else None for own in moves])

    called.defvjp(forward, backward, symbolic_zeros=True)
    return called


def is_float(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf), jnp.floating)
