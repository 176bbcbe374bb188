"""The direction of a step for one wave: optax's transforms without the rate, which each leaf has for itself."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import optax
from optax import contrib

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


class Wave(NamedTuple):
    """What a step of one wave of leaves may use: the optimiser's rate `now`, the rate of each leaf in `nows`, its
    multiplier and decay in `rates`, and which leaves are `hidden` kernels (see `leaves.hidden_kernels`)."""

    now: Array
    rates: Rates
    nows: Mapping[str, Array]
    hidden: frozenset[str]

    def move(self, *, decays: bool = True) -> optax.GradientTransformation:
        """The last transform: a direction becomes -rate x (direction + decay x parameter), leaf by leaf."""
        return move(self.nows, self.rates, decays)


class Optimiser(NamedTuple):
    """How gradients become steps.

    Attributes:
        transform: `transform(optim, wave)` is the optax transform from gradients to updates.
        elementwise: The step of a number depends on the history of this number alone, and is zero where its gradients,
            its rate and its decay are zero. Runs in which other parameters learn may then share a program.
        averages: The parameters that are evaluated and saved are an average that the state of optax's `schedule_free`
            keeps.
        needs_momentum: `Optim.momentum` may not be None.
    """

    transform: Callable[[Any, Wave], optax.GradientTransformation]
    elementwise: bool = False
    averages: bool = False
    needs_momentum: bool = False


def directed(direction: Callable[[Any, Wave], Sequence[optax.GradientTransformation]]) -> Callable[[Any, Wave], Any]:
    """Return the transform that follows a direction, some transforms one after another, at each leaf's rate and
    decay."""
    return lambda optim, wave: optax.chain(*direction(optim, wave), wave.move())


def lamb(optim: Any, wave: Wave) -> optax.GradientTransformation:
    """LAMB (You et al., 2020). The decay lies inside the ratio, so nothing is left of it for the step."""
    inside = optax.chain(adam(optim), decay(wave.rates), optax.scale_by_trust_ratio())
    return optax.chain(inside, wave.move(decays=False))


def schedule_free_adamw(optim: Any, wave: Wave) -> optax.GradientTransformation:
    """Schedule-free AdamW (Defazio et al., 2024): its mixing takes the place of the first moment."""
    inner = optax.scale_by_rms(optim.beta2, optim.epsilon, eps_in_sqrt=False, bias_correction=True)
    return contrib.schedule_free(optax.chain(inner, wave.move()), wave.now, optim.beta1)


def schedule_free_sgd(optim: Any, wave: Wave) -> optax.GradientTransformation:
    """Schedule-free SGD (Defazio et al., 2024)."""
    return contrib.schedule_free(wave.move(), wave.now, optim.beta1)


def adafactor(optim: Any, wave: Wave) -> list[optax.GradientTransformation]:
    """Shazeer and Stern (2018) with their defaults, as optax has them: steps relative to the parameter's size."""
    return [optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0), optax.scale_by_param_block_rms()]


def momentum(optim: Any, wave: Wave) -> list[optax.GradientTransformation]:
    """The gradient, or with `Optim.momentum` its trace."""
    return [optax.trace(optim.momentum)] if optim.momentum is not None else []


def adam(optim: Any) -> optax.GradientTransformation:
    return optax.scale_by_adam(optim.beta1, optim.beta2, optim.epsilon)


def muon(optim: Any, hidden: frozenset[str]) -> optax.GradientTransformation:
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


# The optimisers that a recipe names; another is a subclass of `Optim` with its own `optimiser`.
BY_NAME: Mapping[str, Optimiser] = {
    "adamw": Optimiser(directed(lambda optim, wave: [adam(optim)]), elementwise=True),
    "adam": Optimiser(directed(lambda optim, wave: [adam(optim)]), elementwise=True),
    "sgd": Optimiser(directed(momentum), elementwise=True),
    "adafactor": Optimiser(directed(adafactor)),
    "lamb": Optimiser(lamb),
    "lion": Optimiser(directed(lambda optim, wave: [optax.scale_by_lion(optim.beta1, optim.beta2)]), elementwise=True),
    "muon": Optimiser(directed(lambda optim, wave: [muon(optim, wave.hidden)]), needs_momentum=True),
    "schedule-free-adamw": Optimiser(schedule_free_adamw, averages=True),
    "schedule-free-sgd": Optimiser(schedule_free_sgd, averages=True),
}
