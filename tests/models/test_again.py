"""Values that a backward pass recomputes are not stored and are equal."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx import Optim, models, partition, sharding, tasks, tuning
from tlx.models.again import again, large
from tlx.objectives import Supervised
from tlx.training.precision import Precision, fixed_kernels
from tlx.training.step import Parts, compile_step, initial_state
from tlx.types import Context

# The shape of MiniLM, except its depth and its vocabulary.
SHAPE = {"vocabulary": 64, "width": 384, "depth": 3, "heads": 12, "mlp": 1536, "positions": 64}
TEXT = models.Bert(**SHAPE, dropout=0.0, attention_dropout=0.0, head_dropout=0.0)
TUNINGS = {"lora": tuning.Lora(rank=8), "full": tuning.Full()}


@cache
def step(how, remat, frozen=None):
    """Return the bytes of temporaries and the FLOPs of a compiled step, with the `frozen` base in fewer bits."""
    model = models.build(TEXT, 2)
    variables = jax.jit(partial(models.initialise, model))(jax.random.key(0))
    variables = variables._replace(params=TUNINGS[how].insert(model, variables.params, jax.random.key(1)))
    claimed = partition.partition(variables.params, TUNINGS[how].phases(model)[0].rules)
    fixed = fixed_kernels(model, [path for path, learn in claimed.items() if learn is not None])
    precision = Precision(frozen=frozen, fixed=fixed)
    parts = Parts(
        model, tasks.Classification(classes=2), (Supervised(),), Optim(clip=1.0), claimed, remat=remat,
        precision=precision, gather=precision.gather if frozen else None,
    )  # fmt: skip
    compiled = compile_step(parts, sharding.make_mesh(jax.devices()[:1]))
    state = compiled.place(initial_state(parts, variables, 9, jax.random.key(0)))
    words = np.ones((32, 64), np.int32)
    batch = {"input_ids": words, "attention_mask": words, "label": words[:, 0], "index": np.arange(32)}
    program = compiled.train.lower(state, {"labelled": compiled.put(batch)}).compile()
    return program.memory_analysis().temp_size_in_bytes, program.cost_analysis()["flops"]


@pytest.mark.slow
def test_recomputed_values_are_not_stored():
    """On CPUs `jax.checkpoint` alone saves a hundredth of these temporaries, or nothing."""
    for how, dots, stages in (("lora", 0.75, 0.55), ("full", 0.7, 0.5)):
        full = step(how, "none")[0]
        assert step(how, "dots")[0] < dots * full
        assert step(how, "stages")[0] < stages * full


@pytest.mark.slow
def test_a_base_in_fewer_bits_is_not_stored_in_float32():
    """Its three stages have 20 MiB in float32, of which the step needs one matrix at a time."""
    assert step("lora", "dots", "int8")[0] < step("lora", "dots")[0] + 8 * 2**20


@pytest.mark.slow
def test_a_lora_step_costs_at_most_seven_tenths_of_a_full_one():
    assert step("lora", "dots")[1] <= 0.7 * step("full", "none")[1]
    assert step("full", "dots")[1] <= 1.02 * step("full", "none")[1]


def is_stored(*shapes, **numbers):
    """Return whether the product of two arrays is stored, by the names of their axes."""
    results = []

    def policy(primitive, *given, **how):
        results.append(large(primitive, *given, **how))
        return results[-1]

    left, right = (jnp.zeros(shape) for shape in shapes)
    product = jax.checkpoint(lambda x, y: jnp.sin(jnp.einsum(numbers["axes"], x, y)), policy=policy)
    jax.make_jaxpr(jax.grad(lambda x: product(x, right).sum()))(left)
    return any(results)


def test_values_that_are_cheap_to_recompute_are_not_stored():
    assert is_stored((4, 16), (16, 64), axes="BI,IO->BO")
    assert is_stored((4, 64), (64, 16), axes="BI,IO->BO")
    assert is_stored((4, 64), (64, 2), axes="BI,IR->BR")
    assert not is_stored((4, 2), (2, 64), axes="BR,RO->BO")
    assert not is_stored((4, 3, 8), (4, 5, 8), axes="BTD,BSD->BTS")


def stage(params, stats, carry, context):
    hidden = jnp.tanh(carry["hidden"] @ params["kernel"]) @ params["frozen"]
    return {"hidden": hidden, "mask": carry["mask"]}, {"mean": hidden.mean(0)}


@pytest.mark.parametrize("how", ["dots", "stage"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_and_values_equal_those_of_the_stage_itself(how, dtype):
    random = np.random.default_rng(0)
    kernel, frozen, x = (jnp.asarray(random.normal(size=(3, 3)), dtype) for _ in range(3))

    def loss(apply, kernel, x):
        params = {"kernel": kernel, "frozen": jax.lax.stop_gradient(frozen)}
        carry, stats = apply(params, {}, {"hidden": x, "mask": jnp.ones(3, int)}, Context())
        return (carry["hidden"] ** 2).sum() + stats["mean"].sum() + carry["mask"].sum().astype(x.dtype), carry

    slopes = [jax.value_and_grad(lambda k, x, a=a: loss(a, k, x)[0], (0, 1)) for a in (stage, again(stage, how))]
    plain, stored = (jax.jit(slope)(kernel, x) for slope in slopes)
    jax.tree.map(np.testing.assert_array_equal, plain, stored)
    # For several sets of weights at once, and for some with gradient zero.
    several = jnp.stack([kernel, 2 * kernel])
    actual, expected = (jax.vmap(slope, (0, None))(several, x) for slope in slopes)
    tolerance = 1e-2 if dtype == "bfloat16" else 1e-6
    jax.tree.map(partial(np.testing.assert_allclose, rtol=tolerance), actual, expected)
    nothing = jax.grad(lambda k: jax.lax.stop_gradient(loss(again(stage, how), k, x)[0]) + k.sum())(kernel)
    np.testing.assert_array_equal(nothing, np.ones((3, 3)))


def test_a_nan_gradient_stays_nan():
    apply = again(stage, "stage")

    def loss(x):
        params = {"kernel": jnp.eye(3), "frozen": jnp.eye(3)}
        return jnp.log(apply(params, {}, {"hidden": x, "mask": jnp.ones(3, int)}, Context())[0]["hidden"] - 1).sum()

    assert np.isnan(jax.grad(loss)(jnp.ones((2, 3)) * jnp.nan)).all()
