"""The whole transform of a step: the gradient is clipped once, then every wave of leaves has a separate state.

Leaves that learn in the same phases, and move in the same turns of a step that has turns, form a wave. A leaf that
joined a running Adam would inherit a wrong step count, and take steps that are several times too large; in a separate
wave it starts as a new Adam does. An update with the gradients and parameters of some waves moves only these waves.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from tlx.optim.directions import Rates, Wave, direction_of
from tlx.optim.leaves import Layout
from tlx.optim.schedules import rate, with_cycled_momentum
from tlx.optim.settings import Optim
from tlx.trees import Tree, flatten, nest
from tlx.types import Array


def by_wave(tree: Mapping[str, Any], layout: Layout) -> dict[str, Tree]:
    """Return the leaves of `tree` by the name of their wave."""
    waves: dict[str, dict[str, Any]] = {}
    for path, leaf in flatten(tree).items():
        waves.setdefault(layout.wave(path), {})[path] = leaf
    return {name: nest(waves[name]) for name in sorted(waves)}


def together(trees: Mapping[str, Tree]) -> Tree:
    """Merge the trees of all waves into one tree: the inverse of `by_wave`."""
    leaves: dict[str, Any] = {}
    for tree in trees.values():
        leaves |= flatten(tree)
    return nest(dict(sorted(leaves.items())))


def transform(optim: Optim, step: Array, steps: Array, rates: Rates, layout: Layout = Layout()) -> Any:
    """Return the optax transform of one step, with a state by wave.

    Args:
        optim: the optimiser.
        step: the number of the step.
        steps: the number of steps of the run.
        rates: the result of `leaf_rates`, as arrays.
        layout: the layout of the phase.
    """
    shared = layout.schedule(rates)
    shared_rate = rate(optim, step, steps, shared)
    # A schedule-free optimiser's beta1 is not a momentum: its average assumes that this mixing number is constant.
    if (shared or optim.schedule) == "one-cycle" and not optim.averages:
        optim = with_cycled_momentum(optim, step, steps)
    default = rate(optim, step, steps)
    rates_by_schedule = {name: rate(optim, step, steps, name) for name in sorted(set(layout.schedules.values()))}
    nows = {path: rates_by_schedule[layout.schedules[path]] if path in layout.schedules else default for path in rates}
    inner = direction_of(optim, Wave(shared_rate, rates, nows, layout.hidden))

    def update(updates: Tree, state: Any, params: Tree) -> tuple[Any, Any]:
        if optim.clip is not None:
            updates = optax.clip_by_global_norm(optim.clip).update(updates, optax.EmptyState())[0]
        gradients, values = by_wave(updates, layout), by_wave(params, layout)
        moved, new_state = {}, {}
        for name in values:
            moved[name], new_state[name] = inner.update(gradients[name], state[name], values[name])
        return together(moved), new_state

    return optax.GradientTransformation(partial(initial, optim, layout=layout), update)


def initial(optim: Optim, params: Tree, layout: Layout = Layout()) -> dict[str, Any]:
    """Return the state of `transform` before its first step, by wave; it contains no rate."""
    inner = direction_of(optim, Wave(jnp.zeros(()), {}, {}, layout.hidden))
    return {name: inner.init(leaves) for name, leaves in by_wave(params, layout).items()}


def averaged(optim: Optim, state: Any, params: Tree, layout: Layout = Layout()) -> Tree:
    """Return the parameters to evaluate.

    These are `params`, or the average that a schedule-free optimiser keeps (Defazio et al., 2024).
    """
    if not optim.averages:
        return params
    waves = by_wave(params, layout)
    return together({name: contrib.schedule_free_eval_params(state[name], tree) for name, tree in waves.items()})


def state_bytes(optim: Optim, trainable: Any, layout: Layout = Layout()) -> int:
    """Compute the bytes of optimiser state for the tree `trainable`, from its shapes."""
    state = jax.eval_shape(partial(initial, optim, layout=layout), trainable)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
