"""Compute the rate at a step, and the momentum of the one-cycle.

All numbers may be traced arrays; the schedule's name is static.
"""

import jax.numpy as jnp

from tlx.optim.hyperparameters import with_hyperparameters
from tlx.optim.settings import Optim
from tlx.types import Array


def rate(optim: Optim, step: Array, steps: Array, schedule: str | None = None) -> Array:
    """Return the rate at `step` of `steps`: a linear rise over the share `warmup`, then the schedule.

    `schedule` None is the optimiser's. For step t of T after the warm-up of W steps, the schedules are, as shares of
    lr:

    * cosine, linear: down to 0; constant: 1; plateau: 1, where lr is lowered between the steps;
    * rsqrt: sqrt(max(W, 1) / (step + 1)), at most 1 (Vaswani et al., 2017);
    * inverse: (1 + scale t / T) ** -power (Ganin and Lempitsky, 2015: scale 10, power 0.75);
    * steps: divisor ** -n after n of the boundaries, the shares `boundaries` of all steps, rounded to whole steps;
    * one-cycle: half a cosine up to `cycle_peak`, half a cosine down (Smith, 2018, with fastai's cosines);
    * slanted-triangular: (1 + p (ratio - 1)) / ratio with p = t / cut up to cut = floor(T peak), then 1 - (t - cut) /
      (T - cut). (Howard and Ruder, 2018, write cut (1 / peak - 1) for T - cut. Both are equal where T peak is whole;
      otherwise theirs can fall below zero.)
    """
    schedule = optim.schedule if schedule is None else schedule
    step, steps = jnp.asarray(step, jnp.float32), jnp.asarray(steps, jnp.float32)
    warm, elapsed, length = course(optim, step, steps)
    rise = jnp.minimum((step + 1) / jnp.maximum(warm, 1.0), 1.0)
    progress = elapsed / length
    if schedule == "cosine":
        fall = 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
    elif schedule == "linear":
        fall = 1.0 - progress
    elif schedule == "rsqrt":
        fall = jnp.minimum(jnp.sqrt(jnp.maximum(warm, 1.0) / (step + 1)), 1.0)
    elif schedule == "inverse":
        fall = (1.0 + optim.inverse_scale * progress) ** -optim.inverse_power
    elif schedule == "steps":
        passed = sum((step >= jnp.round(share * steps)).astype(jnp.float32) for share in optim.boundaries)
        fall = jnp.asarray(optim.boundary_divisor, jnp.float32) ** -jnp.asarray(passed, jnp.float32)
    elif schedule == "one-cycle":
        fall = cycle(optim, progress, 1.0 / optim.cycle_start, 1.0, 1.0 / optim.cycle_end)
    elif schedule == "slanted-triangular":
        # The small number prevents floor from losing a step where rounding puts the product just below a whole number.
        cut = jnp.maximum(jnp.floor(length * optim.slant_peak + 1e-4), 1.0)
        p = jnp.where(elapsed < cut, elapsed / cut, 1.0 - (elapsed - cut) / jnp.maximum(length - cut, 1.0))
        fall = (1.0 + p * (optim.slant_ratio - 1.0)) / optim.slant_ratio
    else:
        fall = jnp.ones_like(progress)
    return optim.lr * rise * fall


def course(optim: Optim, step: Array, steps: Array) -> tuple[Array, Array, Array]:
    """Return the number of warm-up steps, the steps taken since, and the number of steps after the warm-up."""
    warm = optim.warmup * steps
    length = jnp.maximum(steps - warm, 1.0)
    return warm, jnp.clip(step - warm, 0.0, length), length


def with_cycled_momentum(optim: Optim, step: Array, steps: Array) -> Optim:
    """Return the optimiser with the momentum of the one-cycle at `step` of `steps`, where `cycle_momentum` is set.

    The momentum is high where the rate is low (Smith, 2018).
    """
    step, steps = jnp.asarray(step, jnp.float32), jnp.asarray(steps, jnp.float32)
    ends, peak = optim.cycle_momentum
    _, elapsed, length = course(optim, step, steps)
    momentum = cycle(optim, elapsed / length, ends, peak, ends)
    cycled = jnp.maximum(ends, peak) > 0
    changes = {"beta1": jnp.where(cycled, momentum, optim.beta1)}
    if optim.momentum is not None:
        changes["momentum"] = jnp.where(cycled, momentum, optim.momentum)
    return with_hyperparameters(optim, changes)


def cycle(optim: Optim, share: Array, start: Array | float, peak: Array | float, end: Array | float) -> Array:
    """Return half a cosine from `start` to `peak` in the share `cycle_peak`, then half a cosine to `end`."""
    up = between(start, peak, share / optim.cycle_peak)
    down = between(peak, end, (share - optim.cycle_peak) / (1.0 - optim.cycle_peak))
    return jnp.where(share < optim.cycle_peak, up, down)


def between(start: Array | float, end: Array | float, share: Array) -> Array:
    """Return half a cosine from `start` to `end` as `share` goes from 0 to 1."""
    return end + (start - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(share, 0.0, 1.0)))
