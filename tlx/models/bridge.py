"""Use any Flax module, Linen or NNX, as a model of one stage named `module`. Only this file imports Flax modules.

A parameter keeps its name in the module: `module/Dense_0/kernel`. The module gets the noise of `context.key`, and its
signature says whether it takes `train` or `deterministic`; an NNX module is also put in `train()` or `eval()` mode. It
returns the logits [B, outputs], or a dict with `logits` and optionally `hidden` and `pooled`. Its inputs have the
`dtype` of its config, whatever the dtype of the pass.
"""

import inspect
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from tlx.layers import example
from tlx.models.base import Architecture
from tlx.models.heads import Head
from tlx.trees import Tree, flatten, map_named, nest
from tlx.types import Array, Carry, Context, Field, Key, Model, Param, Stage

Leaves = dict[str, Array]


@dataclass(frozen=True, kw_only=True)
class Linen(Architecture):
    """A `flax.linen.Module`; `shape` is the shape of `input` for one example, without the batch."""

    module: Any
    shape: tuple[int, ...]
    input: str = "image"
    dtype: str = "float32"

    def build(self, head: Head | None) -> Model:
        """Return the one-stage model.

        Raises:
            ValueError: The last axis of the logits is not that of the head, or the module keeps other state than
                parameters and batch statistics.
        """
        return bridged(self, head, *from_linen(self))

    def input_fields(self) -> Mapping[str, Field]:
        return {self.input: Field(self.shape, self.dtype)}


@dataclass(frozen=True, kw_only=True)
class Nnx(Architecture):
    """A function of `nnx.Rngs` that makes an `nnx.Module`; `shape` is the shape of `input` for one example."""

    make: Callable[[Any], Any]
    shape: tuple[int, ...]
    input: str = "image"
    dtype: str = "float32"

    def build(self, head: Head | None) -> Model:
        """Return the one-stage model, as `Linen.build`."""
        return bridged(self, head, *from_nnx(self))

    def input_fields(self) -> Mapping[str, Field]:
        return {self.input: Field(self.shape, self.dtype)}


def bridged(config: Linen | Nnx, head: Head | None, fresh: Callable[..., Any], run: Callable[..., Any]) -> Model:
    """Build the one-stage model of a module from two functions as `from_linen` returns them."""
    dummy = jax.ShapeDtypeStruct((2, *config.shape), config.dtype)
    params, stats = jax.eval_shape(fresh, jax.random.key(0))

    def apply(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        x = example(carry, config.input, config.shape).astype(config.dtype)
        outputs, new_stats = run(flatten(params), flatten(stats), x, context)
        outputs = dict(outputs) if isinstance(outputs, Mapping) else {"logits": outputs}
        outputs |= {"logits": outputs["logits"].astype(jnp.float32)}
        return carry | outputs, nest(new_stats) if context.train else stats

    evaluation = Context()
    outputs, _ = jax.eval_shape(
        lambda p, s, x: apply(nest(p), nest(s), {config.input: x}, evaluation), params, stats, dummy
    )
    shape = outputs["logits"].shape
    if head is not None and shape != (2, head.outputs):
        raise ValueError(
            f"the module computes logits of shape {('batch', *shape[1:])}, but the task expects ('batch', "
            f"{head.outputs})"
        )
    other_outputs = tuple(sorted(outputs.keys() - {"logits", config.input}))
    declared = (declare(lambda key: fresh(key)[0], params), declare(lambda key: fresh(key)[1], stats))
    return Model((Stage("module", apply, "logits", others=other_outputs),), *declared, config, head, inserts=False)


def declare(fresh: Callable[[Key], Leaves], leaves: Mapping[str, Any]) -> Tree:
    """Declare a `Param` for each leaf under `module`. Its `init` runs `fresh` and keeps that leaf."""

    def param(path: str, leaf: Array) -> Param:
        # Compiled, so that the computation of the other leaves is dropped.
        pick = jax.jit(lambda key: fresh(key)[path])
        return Param(leaf.shape, (None,) * len(leaf.shape), lambda key, shape: pick(key))

    return {"module": map_named(param, nest(leaves))} if leaves else {}


def mode(call: Callable[..., Any], train: bool) -> dict[str, bool]:
    """Return the keyword arguments among `train` and `deterministic` that `call` takes."""
    parameters = inspect.signature(call).parameters
    return {name: value for name, value in (("train", train), ("deterministic", not train)) if name in parameters}


def from_linen(config: Linen) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return `fresh(key) -> (params, stats)` and `run(params, stats, x, context) -> (output, stats)`, by path."""
    from flax import linen as nn

    call = type(config.module).__call__

    def fresh(key: Key) -> tuple[Leaves, Leaves]:
        x = jnp.zeros((2, *config.shape), config.dtype)
        collections = nn.unbox(config.module.init({"params": key, "dropout": key}, x, **mode(call, False)))
        if unknown := collections.keys() - {"params", "batch_stats"}:
            raise ValueError(
                f"the module has the collections {sorted(unknown)}; the bridge supports only params and batch_stats"
            )
        return flatten(collections.get("params", {})), flatten(collections.get("batch_stats", {}))

    def run(params: Leaves, stats: Leaves, x: Array, context: Context) -> tuple[Any, Leaves]:
        variables = {"params": nest(params), "batch_stats": nest(stats)}
        rngs = None if context.key is None else {"dropout": context.key}
        outputs, updates = config.module.apply(
            variables, x, rngs=rngs, mutable=["batch_stats"], **mode(call, context.train)
        )
        return outputs, flatten(updates.get("batch_stats", {}))

    return fresh, run


def from_nnx(config: Nnx) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the functions of `from_linen` for a module that `config.make` makes."""
    from flax import nnx

    def parts(key: Key) -> tuple[Any, ...]:
        definition, params, stats, noise, other_state = nnx.split(
            config.make(nnx.Rngs(key)), nnx.Param, nnx.BatchStat, nnx.RngState, ...
        )
        if kinds := {type(leaf).__name__ for _, leaf in nnx.to_flat_state(other_state)}:
            raise ValueError(
                f"the module has variables of type {sorted(kinds)}; the bridge supports only Param and BatchStat"
            )
        return definition, params, stats, noise

    def leaves(state: Any) -> Leaves:
        return {"/".join(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(state)}

    def fill(state: Any, value: Callable[[str, Any], Array]) -> Any:
        pairs = [(path, leaf.replace(value("/".join(map(str, path)), leaf))) for path, leaf in nnx.to_flat_state(state)]
        return nnx.from_flat_state(pairs)

    def fresh(key: Key) -> tuple[Leaves, Leaves]:
        _, params, stats, _ = parts(key)
        return leaves(params), leaves(stats)

    template = jax.eval_shape(parts, jax.random.key(0))

    def run(params: Leaves, stats: Leaves, x: Array, context: Context) -> tuple[Any, Leaves]:
        definition, *states = template
        key = jax.random.key(0) if context.key is None else context.key

        def noise(path: str, leaf: Array) -> Array:
            return jax.random.fold_in(key, zlib.crc32(path.encode())) if isinstance(leaf, nnx.RngKey) else jnp.uint32(0)

        values = (lambda path, leaf: params[path], lambda path, leaf: stats[path], noise)
        module = nnx.merge(definition, *(fill(state, value) for state, value in zip(states, values, strict=True)))
        module.train() if context.train else module.eval()
        outputs = module(x, **mode(type(module).__call__, context.train))
        return outputs, leaves(nnx.state(module, nnx.BatchStat))

    return fresh, run
