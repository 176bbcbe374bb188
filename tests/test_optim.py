"""The optimiser: schedules at their corners, and against optax leaf by leaf."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tlx import Learn, Optim
from tlx import optim as optimisers
from tlx.partition import partition, split
from tlx.trees import flatten, nest

RANDOM = np.random.default_rng(0)
PARAMS = {
    "stem": {"kernel": jnp.asarray(RANDOM.normal(size=(4, 3)), jnp.float32), "bias": jnp.zeros(3) + 0.5},
    "norm": {"scale": jnp.ones(3)},
    "head": {"kernel": jnp.asarray(RANDOM.normal(size=(3, 2)), jnp.float32), "bias": jnp.zeros(2) - 0.5},
}
GRADIENTS = [
    jax.tree.map(lambda leaf: jnp.asarray(RANDOM.normal(size=leaf.shape) * 3, jnp.float32), PARAMS) for _ in range(4)
]
ALL = ((r".*", Learn()),)
STEPS = 4


def rate(optim, step, steps=100):
    return float(optimisers.rate(optim, jnp.float32(step), jnp.float32(steps)))


def walk(optim, rules=ALL, params=PARAMS):
    """The parameters that learn after the four gradients, and the state that went along."""
    parts = partition(params, rules)
    trainable = split(params, parts)[0]
    rates = jax.tree.map(jnp.float32, optimisers.leaf_rates(optim, params, parts))
    state = optimisers.transform(optim, jnp.int32(0), jnp.float32(STEPS), rates).init(trainable)
    for step, gradients in enumerate(GRADIENTS):
        given = nest({path: leaf for path, leaf in flatten(gradients).items() if path in flatten(trainable)})
        transform = optimisers.transform(optim, jnp.float32(step), jnp.float32(STEPS), rates)
        updates, state = transform.update(given, state, trainable)
        trainable = optax.apply_updates(trainable, updates)
    return trainable, state


def independent(transform, params=PARAMS, gradients=GRADIENTS):
    state = transform.init(params)
    for given in gradients:
        with jax.numpy_dtype_promotion("standard"):
            updates, state = transform.update(given, state, params)
        params = optax.apply_updates(params, updates)
    return params


def close(ours, theirs, rtol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-7), ours, theirs)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_rate_rises_to_its_peak_and_falls_to_zero(schedule):
    optim = Optim(lr=0.5, warmup=0.1, schedule=schedule)
    rates = [rate(optim, step) for step in range(101)]
    # The first step moves, the last of the warm-up is at the peak, the middle of the fall at a half, the end at zero.
    np.testing.assert_allclose(rates[:10], 0.05 * np.arange(1, 11), rtol=1e-5)
    assert rates[9] == rates[10] == max(rates) == 0.5
    assert rates[55] == pytest.approx(0.25, rel=1e-5)
    assert rates[100] == pytest.approx(0, abs=1e-8)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_without_warm_up_the_first_step_is_at_the_peak():
    for schedule in optimisers.SCHEDULES:
        assert rate(Optim(lr=0.5, schedule=schedule), 0) == 0.5
        assert rate(Optim(lr=0.5, schedule=schedule), 0, steps=1) == 0.5
    assert rate(Optim(lr=0.5, schedule="constant"), 99) == 0.5
    assert rate(Optim(lr=0.5, schedule="constant", warmup=0.5), 24) == 0.25


def test_cosine_agrees_with_optax():
    theirs = optax.warmup_cosine_decay_schedule(0.0, 0.5, 10, 100)
    for step in range(10, 100, 7):
        assert rate(Optim(lr=0.5, warmup=0.1), step) == pytest.approx(float(theirs(step)), rel=1e-5)


def test_adamw_agrees_with_optax_leaf_by_leaf():
    optim = Optim(lr=0.1, weight_decay=0.3, schedule="constant")
    masked = jax.tree.map(lambda leaf: leaf.ndim > 1, PARAMS)
    close(walk(optim)[0], independent(optax.adamw(0.1, weight_decay=0.3, mask=masked)), rtol=2e-5)


def test_adam_and_sgd_agree_with_optax():
    close(
        walk(Optim("adam", lr=0.1, schedule="constant", beta1=0.8))[0], independent(optax.adam(0.1, b1=0.8)), rtol=2e-5
    )
    close(walk(Optim("sgd", lr=0.1, schedule="constant"))[0], independent(optax.sgd(0.1, momentum=0.9)))
    plain, state = walk(Optim("sgd", lr=0.1, schedule="constant", momentum=None))
    close(plain, independent(optax.sgd(0.1)))
    assert jax.tree.leaves(state) == []


def test_decay_skips_biases_and_norms_unless_a_rule_says_otherwise():
    optim = Optim(weight_decay=0.3)
    parts = partition(PARAMS, ((r"head/bias", Learn(weight_decay=0.7)), (r"head/.*", Learn(weight_decay=0.0)), *ALL))
    decays = {path: found["weight_decay"] for path, found in optimisers.leaf_rates(optim, PARAMS, parts).items()}
    assert decays == {
        "head/bias": 0.7, "head/kernel": 0.0, "norm/scale": 0.0, "stem/bias": 0.0, "stem/kernel": 0.3
    }  # fmt: skip


def test_rates_of_leaves_multiply_the_schedule():
    optim = Optim("sgd", lr=0.1, momentum=None, schedule="linear")
    slow, _ = walk(optim, ((r"stem/.*", Learn(lr=0.25)), *ALL))
    full, _ = walk(optim)
    for path, leaf in flatten(PARAMS).items():
        share = 0.25 if path.startswith("stem") else 1.0
        moved = flatten(slow)[path] - leaf
        np.testing.assert_allclose(moved, share * (flatten(full)[path] - leaf), rtol=1e-4, atol=1e-6)


def test_clip_bounds_the_norm_of_the_gradient_that_learns_alone():
    rules = ((r"head/.*", Learn()), (r".*", None))
    optim = Optim("sgd", lr=1.0, momentum=None, clip=0.5, schedule="constant")
    ours, _ = walk(optim, rules)
    head, gradients = {"head": PARAMS["head"]}, [{"head": given["head"]} for given in GRADIENTS]
    close(ours, independent(optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(1.0)), head, gradients))
    # Counting the frozen leaves in would have made each of the four steps shorter than the bound.
    lengths = [float(optax.global_norm(given)) for given in gradients]
    assert min(lengths) > 0.5


@pytest.mark.parametrize("name", optimisers.OPTIMISERS)
def test_frozen_leaves_have_no_state(name):
    rules = ((r"head/.*", Learn()), (r".*", None))
    numbers = 3 * 2 + 2
    _, state = walk(Optim(name), rules)
    held = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim]
    moments = 1 if name == "sgd" else 2
    assert sum(leaf.size for leaf in held) == moments * numbers
    shapes = {"head": jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), PARAMS["head"])}
    counter = 0 if name == "sgd" else 4
    assert optimisers.state_bytes(Optim(name), shapes) == 4 * moments * numbers + counter


@pytest.mark.parametrize("optim", [Optim(), Optim("sgd", clip=1.0), Optim("adam", schedule="linear", warmup=0.5)])
def test_every_number_may_be_traced(optim):
    from tlx.config import numbers, with_numbers

    rates = jax.tree.map(jnp.float32, optimisers.leaf_rates(optim, PARAMS, partition(PARAMS, ALL)))

    @jax.jit
    def once(values, step, steps):
        transform = optimisers.transform(with_numbers(optim, values), step, steps, rates)
        return transform.update(GRADIENTS[0], transform.init(PARAMS), PARAMS)[0]

    traced = once(jax.tree.map(jnp.float32, numbers(optim)), jnp.int32(1), jnp.float32(STEPS))
    transform = optimisers.transform(optim, jnp.int32(1), jnp.float32(STEPS), rates)
    close(traced, transform.update(GRADIENTS[0], transform.init(PARAMS), PARAMS)[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "adamww"}, "no optimiser 'adamww'; close: 'adamw', 'adam'"),
        ({"schedule": "cosin"}, "no schedule 'cosin'; close: 'cosine', 'constant'"),
        ({"lr": -1.0}, "lr -1.0 and weight_decay 0.0 must not be negative"),
        ({"warmup": 1.0}, "warmup is 1.0; it is a share of the run in [0, 1)"),
        ({"clip": 0.0}, "clip is 0.0; a bound of the norm is positive, None is off"),
    ],
)
def test_an_impossible_optimiser_is_refused(fields, message):
    with pytest.raises(ValueError) as error:
        Optim(**fields)
    assert str(error.value) == message
