"""The optimiser: an optax transform over the trainable leaves alone, built inside the step.

Every number of it (rate, decay, moments' memories, clip) may be a traced array, so recipes that differ only in numbers
share one compiled program.
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from tlx.partition import Partition
from tlx.trees import flatten, near_miss, nest
from tlx.types import Array

SCHEDULES = ("cosine", "linear", "constant")
OPTIMISERS = ("adamw", "adam", "sgd")


@dataclass(frozen=True)
class Optim:
    """`lr` is the peak rate; `warmup` the share of all steps in which it rises; `schedule` its fall to zero after.

    `weight_decay` is decoupled (times the rate), and skips biases, norms and other one-dimensional leaves unless a
    rule's `Learn(weight_decay=...)` says otherwise. `clip` bounds the global norm of the trainable gradient, None
    leaves it. `momentum` is that of `sgd`, None for none; `beta1`, `beta2`, `epsilon` those of Adam.
    """

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    _: KW_ONLY
    lr: float = 1e-3
    weight_decay: float = 0.0
    warmup: float = 0.0
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    clip: float | None = None
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    momentum: float | None = 0.9

    def __post_init__(self) -> None:
        if self.name not in OPTIMISERS:
            raise ValueError(f"no optimiser {self.name!r}{near_miss(str(self.name), OPTIMISERS)}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"no schedule {self.schedule!r}{near_miss(str(self.schedule), SCHEDULES)}")
        if self.lr < 0 or self.weight_decay < 0:
            raise ValueError(f"lr {self.lr} and weight_decay {self.weight_decay} must not be negative")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is {self.warmup}; it is a share of the run in [0, 1)")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip is {self.clip}; a bound of the norm is positive, None is off")


def rate(optim: Optim, step: Array, steps: Array) -> Array:
    """The rate at `step` of `steps`: a linear rise over the share `warmup`, then the schedule down to zero."""
    step, steps = jnp.asarray(step, jnp.float32), jnp.asarray(steps, jnp.float32)
    warm = optim.warmup * steps
    rise = jnp.minimum((step + 1) / jnp.maximum(warm, 1.0), 1.0)
    left = jnp.clip((step - warm) / jnp.maximum(steps - warm, 1.0), 0.0, 1.0)
    if optim.schedule == "cosine":
        fall = 0.5 * (1.0 + jnp.cos(jnp.pi * left))
    elif optim.schedule == "linear":
        fall = 1.0 - left
    else:
        fall = jnp.ones_like(left)
    return optim.lr * rise * fall


def leaf_rates(optim: Optim, params: Mapping[str, Any], parts: Partition) -> dict[str, dict[str, float]]:
    """`{path: {"lr": multiplier, "weight_decay": decay}}` of the leaves that learn."""
    found = {}
    for path, leaf in flatten(params).items():
        learn = parts[path]
        if learn is None:
            continue
        decays = len(leaf.shape) > 1
        own = (optim.weight_decay if decays else 0.0) if learn.weight_decay is None else learn.weight_decay
        found[path] = {"lr": learn.lr, "weight_decay": own}
    return found


def transform(optim: Optim, step: Array, steps: Array, rates: Mapping[str, Mapping[str, Array]]) -> Any:
    """The optax transform of one step; `rates` is what `leaf_rates` gives, as arrays."""
    chain = []
    if optim.clip is not None:
        chain.append(optax.clip_by_global_norm(optim.clip))
    if optim.name in ("adam", "adamw"):
        chain.append(adam(optim))
    elif optim.momentum is not None:
        chain.append(optax.trace(optim.momentum))
    chain.append(move(rate(optim, step, steps), rates))
    return optax.chain(*chain)


def adam(optim: Optim) -> optax.GradientTransformation:
    """optax's Adam, which counts in integers and therefore needs promotion of types wherever it is strict."""
    inner = optax.scale_by_adam(optim.beta1, optim.beta2, optim.epsilon)

    def update(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return inner.update(updates, state, params)

    return optax.GradientTransformation(inner.init, update)


def move(now: Array, rates: Mapping[str, Mapping[str, Array]]) -> optax.GradientTransformation:
    """-rate x multiplier x (direction + decay x parameter), leaf by leaf (Loshchilov and Hutter, 2019)."""

    def update(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
        values = flatten(params)
        moved = {
            path: -now * rates[path]["lr"] * (update + rates[path]["weight_decay"] * values[path])
            for path, update in flatten(updates).items()
        }
        return nest(moved), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def state_bytes(optim: Optim, trainable: Any) -> int:
    """Bytes of optimiser state for the tree `trainable`, counted from its shapes."""
    zero = jnp.zeros(())
    state = jax.eval_shape(transform(optim, zero, zero, {}).init, trainable)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
