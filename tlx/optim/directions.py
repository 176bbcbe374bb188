"""The direction of a step for one wave: optax's transforms without the rate, which differs from leaf to leaf."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import optax
from optax import contrib

from tlx.trees import Tree, flatten, nest
from tlx.types import Array

if TYPE_CHECKING:
    from tlx.optim.settings import Optim

Rates = Mapping[str, Mapping[str, Array]]
# The root mean square of Muon's steps. It matches Adam's, so that one rate suits both (Liu et al., 2025).
MUON_SIZE = 0.2


def promoting(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Return `inner` with standard promotion of types, because optax counts in integers and tlx is strict."""

    def update(updates: Tree, state: Any, params: Tree) -> tuple[Tree, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return inner.update(updates, state, params)

    return optax.GradientTransformation(inner.init, update)


class Wave(NamedTuple):
    """The values that a step of one wave of leaves may use.

    Attributes:
        now: the optimiser's rate.
        rates: the multiplier and the decay of each leaf.
        nows: the rate of each leaf.
        hidden: the hidden kernels (see `leaves.hidden_kernels`).
    """

    now: Array
    rates: Rates
    nows: Mapping[str, Array]
    hidden: frozenset[str]

    def move(self, *, decays: bool = True) -> optax.GradientTransformation:
        """Return the last transform: a direction becomes -rate x (direction + decay x parameter), leaf by leaf."""
        return move(self.nows, self.rates, decays)


class Optimiser(NamedTuple):
    """The way gradients become steps.

    Attributes:
        transform: `transform(optim, wave)` returns the optax transform from gradients to updates.
        elementwise: The step of a number depends on the history of this number alone, and is zero where its gradients,
            its rate and its decay are zero. Runs that train different parameters may then share a program.
        averages: The parameters that are evaluated and saved are an average in the state of optax's `schedule_free`.
        needs_momentum: `Optim.momentum` may not be None.
        about: What it is, and its paper, for lists.
    """

    transform: Callable[[Optim, Wave], optax.GradientTransformation]
    elementwise: bool = False
    averages: bool = False
    needs_momentum: bool = False
    about: str = ""


def directed(
    direction: Callable[[Optim, Wave], Sequence[optax.GradientTransformation]],
) -> Callable[[Optim, Wave], optax.GradientTransformation]:
    """Return the transform that chains the transforms of `direction`, then applies each leaf's rate and decay."""
    return lambda optim, wave: optax.chain(*direction(optim, wave), wave.move())


def lamb(optim: Optim, wave: Wave) -> optax.GradientTransformation:
    """Return LAMB (You et al., 2020). The decay is part of the ratio, so the last transform adds none."""
    ratio = optax.chain(adam(optim), decay(wave.rates), optax.scale_by_trust_ratio())
    return optax.chain(ratio, wave.move(decays=False))


def schedule_free_adamw(optim: Optim, wave: Wave) -> optax.GradientTransformation:
    """Return schedule-free AdamW (Defazio et al., 2024); its mixing replaces the first moment."""
    inner = optax.scale_by_rms(optim.beta2, optim.epsilon, eps_in_sqrt=False, bias_correction=True)
    return contrib.schedule_free(optax.chain(inner, wave.move()), wave.now, optim.beta1)


def schedule_free_sgd(optim: Optim, wave: Wave) -> optax.GradientTransformation:
    """Return schedule-free SGD (Defazio et al., 2024)."""
    return contrib.schedule_free(wave.move(), wave.now, optim.beta1)


def adafactor(optim: Optim, wave: Wave) -> list[optax.GradientTransformation]:
    """Return Adafactor (Shazeer and Stern, 2018) with optax's defaults: steps relative to the parameter's size."""
    return [optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0), optax.scale_by_param_block_rms()]


def momentum(optim: Optim, wave: Wave) -> list[optax.GradientTransformation]:
    """Return the trace of the gradient with `Optim.momentum`; nothing without it."""
    return [optax.trace(optim.momentum, nesterov=optim.nesterov)] if optim.momentum is not None else []


def adam(optim: Optim) -> optax.GradientTransformation:
    return optax.scale_by_adam(optim.beta1, optim.beta2, optim.epsilon)


def muon(optim: Optim, hidden: frozenset[str]) -> optax.GradientTransformation:
    """Return Muon on the `hidden` kernels and Adam on the rest.

    A convolution counts as a matrix of inputs by outputs.
    """
    rest = adam(optim)

    def turn(shapes: Tree) -> optax.GradientTransformation:
        dimensions = {
            path: contrib.MuonDimensionNumbers(tuple(range(len(leaf.shape) - 1)), len(leaf.shape) - 1)
            for path, leaf in shapes.items()
        }
        return optax.chain(
            contrib.scale_by_muon(beta=optim.momentum, eps=optim.epsilon, weight_dimension_numbers=dimensions),
            optax.stateless(lambda updates, _: {path: leaf * size(leaf.shape) for path, leaf in updates.items()}),
        )

    def cut(tree: Tree) -> tuple[Tree, Tree]:
        leaves = flatten(tree)
        kernels = {path: leaf for path, leaf in leaves.items() if path in hidden and math.prod(leaf.shape) > 1}
        return kernels, {path: leaf for path, leaf in leaves.items() if path not in kernels}

    def init(params: Tree) -> Any:
        kernels, others = cut(params)
        return {"muon": turn(kernels).init(kernels) if kernels else (), "adam": rest.init(others) if others else ()}

    def update(updates: Tree, state: Any, params: Tree) -> tuple[Tree, Any]:
        moved_leaves: Tree = {}
        new_state = dict(state)
        for name, leaves in zip(("muon", "adam"), cut(updates), strict=True):
            if leaves:
                inner = turn(leaves) if name == "muon" else rest
                directions, new_state[name] = inner.update(leaves, state[name], None)
                moved_leaves |= directions
        return nest(dict(sorted(moved_leaves.items()))), new_state

    return optax.GradientTransformation(init, update)


def size(shape: tuple[int, ...]) -> float:
    """Return the factor that scales an orthogonal matrix to the root mean square of Adam's steps.

    The formula is equation 4 of Liu et al. (2025).
    """
    return MUON_SIZE * math.sqrt(max(math.prod(shape[:-1]), shape[-1]))


def decay(rates: Rates) -> optax.GradientTransformation:
    """Return the transform to direction + decay x parameter, leaf by leaf."""

    def update(updates: Tree, state: Any, params: Tree) -> tuple[Tree, Any]:
        values = flatten(params)
        moved = {path: leaf + rates[path]["weight_decay"] * values[path] for path, leaf in flatten(updates).items()}
        return nest(moved), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def direction_of(optim: Optim, wave: Wave) -> optax.GradientTransformation:
    """Return the transform from the clipped gradients of a wave to its updates."""
    if not optim.coupled:
        return promoting(optim.optimiser().transform(optim, wave))
    # The optimiser then has no decay left to apply.
    zero = {path: {**rates, "weight_decay": 0.0 * rates["weight_decay"]} for path, rates in wave.rates.items()}
    inner = optim.optimiser().transform(optim, wave._replace(rates=zero))
    return promoting(optax.chain(decay(wave.rates), inner))


def move(nows: Mapping[str, Array], rates: Rates, decays: bool = True) -> optax.GradientTransformation:
    """Return the transform to -rate x multiplier x (direction + decay x parameter) (Loshchilov and Hutter, 2019)."""

    def update(updates: Tree, state: Any, params: Tree) -> tuple[Tree, Any]:
        values = flatten(params)
        moved = {}
        for path, leaf in flatten(updates).items():
            direction = leaf + rates[path]["weight_decay"] * values[path] if decays else leaf
            moved[path] = -nows[path] * rates[path]["lr"] * direction
        return nest(moved), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


# The optimisers that a recipe can name. For any other, subclass `Optim` and override `optimiser`.
BY_NAME: Mapping[str, Optimiser] = {
    "adamw": Optimiser(
        directed(lambda optim, wave: [adam(optim)]), elementwise=True,
        about="Adam with decoupled weight decay (Loshchilov and Hutter, 2019)",
    ),
    "adam": Optimiser(
        directed(lambda optim, wave: [adam(optim)]), elementwise=True,
        about="Adam (Kingma and Ba, 2015); its weight decay is decoupled too, so it equals adamw",
    ),
    "sgd": Optimiser(directed(momentum), elementwise=True, about="The gradient, with momentum"),
    "adafactor": Optimiser(
        directed(adafactor), about="Factored second moments, steps relative to the parameter (Shazeer and Stern, 2018)"
    ),
    "lamb": Optimiser(lamb, about="Adam with a trust ratio for each layer, for large batches (You et al., 2020)"),
    "lion": Optimiser(
        directed(lambda optim, wave: [optax.scale_by_lion(optim.beta1, optim.beta2)]), elementwise=True,
        about="The sign of a momentum (Chen et al., 2023)",
    ),
    "muon": Optimiser(
        directed(lambda optim, wave: [muon(optim, wave.hidden)]), needs_momentum=True,
        about="Orthogonal momentum on hidden kernels, Adam on the rest (Jordan et al., 2024; Liu et al., 2025)",
    ),
    "schedule-free-adamw": Optimiser(
        schedule_free_adamw, averages=True, about="AdamW whose averaged parameters are evaluated (Defazio et al., 2024)"
    ),
    "schedule-free-sgd": Optimiser(
        schedule_free_sgd, averages=True, about="SGD whose averaged parameters are evaluated (Defazio et al., 2024)"
    ),
}  # fmt: skip
