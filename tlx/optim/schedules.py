"""The rate at a step, and the momentum of the one-cycle. Every number may be a traced array; the schedule's name is
static."""

import jax.numpy as jnp

from tlx.config import with_hyperparameters
from tlx.optim.settings import Optim
from tlx.types import Array


def rate(optim: Optim, step: Array, steps: Array, schedule: str | None = None) -> Array:
    """The rate at `step` of `steps`: a linear rise over the share `warmup`, then the schedule.

    `schedule` None is the optimiser's own. With t steps of T after the warm-up of W steps, as shares of lr:

    * cosine, linear: down to 0; constant: 1;
    * rsqrt: sqrt(max(W, 1) / (step + 1)), at most 1 (Vaswani et al., 2017);
    * one-cycle: half a cosine up to `cycle_peak`, half a cosine down (Smith, 2018, with fastai's cosines);
    * slanted-triangular: (1 + p (ratio - 1)) / ratio with p = t / cut up to cut = floor(T peak), then 1 - (t - cut) /
      (T - cut) (Howard and Ruder, 2018, who write cut (1 / peak - 1) for T - cut: the same where T peak is whole, but
      else it can fall below zero).
    """
    schedule = optim.schedule if schedule is None else schedule
    step, steps = jnp.asarray(step, jnp.float32), jnp.asarray(steps, jnp.float32)
    warm, now, whole = course(optim, step, steps)
    rise = jnp.minimum((step + 1) / jnp.maximum(warm, 1.0), 1.0)
    left = now / whole
    if schedule == "cosine":
        fall = 0.5 * (1.0 + jnp.cos(jnp.pi * left))
    elif schedule == "linear":
        fall = 1.0 - left
    elif schedule == "rsqrt":
        fall = jnp.minimum(jnp.sqrt(jnp.maximum(warm, 1.0) / (step + 1)), 1.0)
    elif schedule == "one-cycle":
        fall = cycle(optim, left, 1.0 / optim.cycle_start, 1.0, 1.0 / optim.cycle_end)
    elif schedule == "slanted-triangular":
        # The small number keeps the floor from losing a step where the product is a whole number but for rounding.
        cut = jnp.maximum(jnp.floor(whole * optim.slant_peak + 1e-4), 1.0)
        p = jnp.where(now < cut, now / cut, 1.0 - (now - cut) / jnp.maximum(whole - cut, 1.0))
        fall = (1.0 + p * (optim.slant_ratio - 1.0)) / optim.slant_ratio
    else:
        fall = jnp.ones_like(left)
    return optim.lr * rise * fall


def course(optim: Optim, step: Array, steps: Array) -> tuple[Array, Array, Array]:
    """The steps of the warm-up, how many are gone since, of how many."""
    warm = optim.warmup * steps
    whole = jnp.maximum(steps - warm, 1.0)
    return warm, jnp.clip(step - warm, 0.0, whole), whole


def with_cycled_momentum(optim: Optim, step: Array, steps: Array) -> Optim:
    """The optimiser with the momentum that the one-cycle has at `step` of `steps` (Smith, 2018: high where the rate is
    low), if any."""
    step, steps = jnp.asarray(step, jnp.float32), jnp.asarray(steps, jnp.float32)
    ends, peak = optim.cycle_momentum
    _, now, whole = course(optim, step, steps)
    found = cycle(optim, now / whole, ends, peak, ends)
    asked = jnp.maximum(ends, peak) > 0
    moved = {"beta1": jnp.where(asked, found, optim.beta1)}
    if optim.momentum is not None:
        moved["momentum"] = jnp.where(asked, found, optim.momentum)
    return with_hyperparameters(optim, moved)


def cycle(optim: Optim, share: Array, start: Array | float, peak: Array | float, end: Array | float) -> Array:
    """Half a cosine from `start` to `peak` in the share `cycle_peak`, and half a cosine to `end`."""
    up = between(start, peak, share / optim.cycle_peak)
    down = between(peak, end, (share - optim.cycle_peak) / (1.0 - optim.cycle_peak))
    return jnp.where(share < optim.cycle_peak, up, down)


def between(start: Array | float, end: Array | float, share: Array) -> Array:
    """Half a cosine from `start` to `end` as `share` goes from 0 to 1."""
    return end + (start - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(share, 0.0, 1.0)))
