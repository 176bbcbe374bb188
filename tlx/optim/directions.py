"""The direction of a step for one wave: optax's transforms without the rate, which each leaf has for itself."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import optax
from optax import contrib

from tlx.optim.settings import Optim
from tlx.trees import flatten, nest
from tlx.types import Array

Rates = Mapping[str, Mapping[str, Array]]
# So large are Muon's steps, in root mean square, beside Adam's: one rate then serves both (Liu et al., 2025).
MUON_SIZE = 0.2


def promoting(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """optax counts in integers and therefore needs promotion of types wherever it is strict."""

    def update(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return inner.update(updates, state, params)

    return optax.GradientTransformation(inner.init, update)


def wave(optim: Optim, now: Array, rates: Rates, nows: Mapping[str, Array], hidden: frozenset[str]) -> Any:
    """The transform of one wave: gradients to updates. `nows` is the rate of each leaf, `now` that of the optimiser."""
    step = move(nows, rates)
    if optim.name == "schedule-free-adamw":
        # Its own mixing takes the place of the first moment.
        inner = optax.scale_by_rms(optim.beta2, optim.epsilon, eps_in_sqrt=False, bias_correction=True)
        return promoting(contrib.schedule_free(optax.chain(inner, step), now, optim.beta1))
    if optim.name == "schedule-free-sgd":
        return promoting(contrib.schedule_free(step, now, optim.beta1))
    if optim.name == "lamb":
        # The decay lies inside the ratio, so nothing is left of it for the step.
        inside = optax.chain(adam(optim), decay(rates), optax.scale_by_trust_ratio())
        return promoting(optax.chain(inside, move(nows, rates, decays=False)))
    return promoting(optax.chain(*direction(optim, hidden), step))


def direction(optim: Optim, hidden: frozenset[str]) -> list[Any]:
    """The transforms before the rate and the decay, of the optimisers that need nothing else."""
    if optim.name in ("adam", "adamw"):
        return [adam(optim)]
    if optim.name == "adafactor":
        # Shazeer and Stern (2018) with their defaults, as optax has them: steps relative to the parameter's size.
        return [optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0), optax.scale_by_param_block_rms()]
    if optim.name == "lion":
        return [optax.scale_by_lion(optim.beta1, optim.beta2)]
    if optim.name == "muon":
        return [muon(optim, hidden)]
    return [optax.trace(optim.momentum)] if optim.momentum is not None else []


def adam(optim: Optim) -> optax.GradientTransformation:
    return optax.scale_by_adam(optim.beta1, optim.beta2, optim.epsilon)


def muon(optim: Optim, hidden: frozenset[str]) -> optax.GradientTransformation:
    """Muon on the `hidden` kernels, Adam on the rest. A convolution counts as the matrix of its inputs by outputs."""
    rest = adam(optim)

    def turn(shapes: Mapping[str, Any]) -> optax.GradientTransformation:
        numbers = {
            path: contrib.MuonDimensionNumbers(tuple(range(len(leaf.shape) - 1)), len(leaf.shape) - 1)
            for path, leaf in shapes.items()
        }
        return optax.chain(
            contrib.scale_by_muon(beta=optim.momentum, eps=optim.epsilon, weight_dimension_numbers=numbers),
            optax.stateless(lambda updates, _: {path: leaf * size(leaf.shape) for path, leaf in updates.items()}),
        )

    def cut(tree: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        leaves = flatten(tree)
        kernels = {path: leaf for path, leaf in leaves.items() if path in hidden and math.prod(leaf.shape) > 1}
        return kernels, {path: leaf for path, leaf in leaves.items() if path not in kernels}

    def init(params: Any) -> Any:
        kernels, others = cut(params)
        return {"muon": turn(kernels).init(kernels) if kernels else (), "adam": rest.init(others) if others else ()}

    def update(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
        found: dict[str, Any] = {}
        after = dict(state)
        for name, leaves in zip(("muon", "adam"), cut(updates), strict=True):
            if leaves:
                inner = turn(leaves) if name == "muon" else rest
                moved, after[name] = inner.update(leaves, state[name], None)
                found |= moved
        return nest(dict(sorted(found.items()))), after

    return optax.GradientTransformation(init, update)


def size(shape: tuple[int, ...]) -> float:
    """What brings an orthogonal matrix to the root mean square of Adam's steps (Liu et al., 2025, equation 4)."""
    return MUON_SIZE * math.sqrt(max(math.prod(shape[:-1]), shape[-1]))


def decay(rates: Rates) -> optax.GradientTransformation:
    """direction + decay x parameter, leaf by leaf."""

    def update(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
        values = flatten(params)
        moved = {path: leaf + rates[path]["weight_decay"] * values[path] for path, leaf in flatten(updates).items()}
        return nest(moved), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def move(nows: Mapping[str, Array], rates: Rates, decays: bool = True) -> optax.GradientTransformation:
    """-rate x multiplier x (direction + decay x parameter), leaf by leaf (Loshchilov and Hutter, 2019)."""

    def update(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
        values = flatten(params)
        moved = {}
        for path, leaf in flatten(updates).items():
            whole = leaf + rates[path]["weight_decay"] * values[path] if decays else leaf
            moved[path] = -nows[path] * rates[path]["lr"] * whole
        return nest(moved), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
