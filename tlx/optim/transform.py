"""The whole transform of a step: the gradient is bounded once, then every wave of leaves has a state of its own.

Leaves that learn in the same phases, and move in the same turns of a step that has some, form a wave. A leaf that joins
a running Adam would inherit a count that is not its own, and take steps that are several times too large; in a wave of
its own it begins as a fresh Adam does. What is given gradients and parameters of some waves moves these alone.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from tlx.optim.directions import Rates, Wave, promoting
from tlx.optim.leaves import Layout
from tlx.optim.schedules import rate, with_cycled_momentum
from tlx.optim.settings import Optim
from tlx.trees import Tree, flatten, nest
from tlx.types import Array


def by_wave(tree: Mapping[str, Any], layout: Layout) -> dict[str, Tree]:
    """The leaves of `tree` by the name of their wave."""
    found: dict[str, dict[str, Any]] = {}
    for path, leaf in flatten(tree).items():
        found.setdefault(layout.wave(path), {})[path] = leaf
    return {name: nest(found[name]) for name in sorted(found)}


def together(trees: Mapping[str, Tree]) -> Tree:
    """The inverse of `by_wave`."""
    leaves: dict[str, Any] = {}
    for tree in trees.values():
        leaves |= flatten(tree)
    return nest(dict(sorted(leaves.items())))


def transform(optim: Optim, step: Array, steps: Array, rates: Rates, layout: Layout = Layout()) -> Any:
    """The optax transform of one step; `rates` is what `leaf_rates` gives, as arrays. Its state is by wave."""
    shared = layout.schedule(rates)
    now = rate(optim, step, steps, shared)
    # A schedule-free optimiser's beta1 is no momentum: its average is of what one number of it mixes.
    if (shared or optim.schedule) == "one-cycle" and not optim.averages:
        optim = with_cycled_momentum(optim, step, steps)
    whole = rate(optim, step, steps)
    named = {name: rate(optim, step, steps, name) for name in sorted(set(layout.schedules.values()))}
    nows = {path: named[layout.schedules[path]] if path in layout.schedules else whole for path in rates}
    inner = promoting(optim.optimiser().transform(optim, Wave(now, rates, nows, layout.hidden)))

    def update(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
        if optim.clip is not None:
            updates = optax.clip_by_global_norm(optim.clip).update(updates, optax.EmptyState())[0]
        gradients, values = by_wave(updates, layout), by_wave(params, layout)
        moved, after = {}, {}
        for name in values:
            moved[name], after[name] = inner.update(gradients[name], state[name], values[name])
        return together(moved), after

    return optax.GradientTransformation(partial(initial, optim, layout=layout), update)


def initial(optim: Optim, params: Any, layout: Layout = Layout()) -> dict[str, Any]:
    """The state of `transform` before its first step, by wave; no rate is in it."""
    inner = promoting(optim.optimiser().transform(optim, Wave(jnp.zeros(()), {}, {}, layout.hidden)))
    return {name: inner.init(leaves) for name, leaves in by_wave(params, layout).items()}


def averaged(optim: Optim, state: Any, params: Tree, layout: Layout = Layout()) -> Tree:
    """The parameters that answer: `params`, or the average that a schedule-free optimiser keeps (Defazio et al.,
    2024)."""
    if not optim.averages:
        return params
    found = by_wave(params, layout)
    return together({name: contrib.schedule_free_eval_params(state[name], tree) for name, tree in found.items()})


def state_bytes(optim: Optim, trainable: Any, layout: Layout = Layout()) -> int:
    """Bytes of optimiser state for the tree `trainable`, counted from its shapes."""
    state = jax.eval_shape(partial(initial, optim, layout=layout), trainable)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
