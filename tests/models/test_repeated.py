"""Repeated stages that run as one loop compute what they compute one by one."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx import models, tuning
from tlx.models import forward, initialise
from tlx.models.repeated import repeated_runs, same_function
from tlx.trees import map_named
from tlx.types import Variables

pytestmark = pytest.mark.usefixtures("quick")
ROWS, TOKENS, CLASSES, DEPTH = 3, 5, 3, 3
TEXT = {"vocabulary": 23, "width": 6, "depth": DEPTH, "heads": 2, "mlp": 5, "positions": 17}
IMAGE = {"size": (4, 6), "patch": 2, "channels": 1, "width": 6, "depth": DEPTH, "heads": 2, "mlp": 5}
NOISE = {"dropout": 0.2, "attention_dropout": 0.2}
CONFIGS = {
    "bert": models.Bert(**TEXT),
    "roberta": models.Bert(family="roberta", pad=1, **TEXT),
    "distilbert": models.Bert(family="distilbert", types=0, **TEXT),
    "electra": models.Bert(family="electra", embedding=4, **TEXT),
    "vit": models.Vit(**IMAGE, **NOISE),
    "deit": models.Vit(family="deit", distilled=True, **IMAGE, **NOISE),
    "dinov2": models.Vit(family="dinov2", layer_scale=0.1, gated=True, **IMAGE, **NOISE),
    "mlp": models.Mlp(inputs=(4, 6, 1), widths=(5,) * (DEPTH + 1), dropout=0.2),
    # A layer halves its image, so no two layers take arrays of one shape.
    "cnn": models.Cnn(size=8, channels=1, widths=(3, 3, 3), dense=4),
}


@cache
def made(name):
    """Return a model, its variables off their initial values, and a batch."""
    model, random = models.build(CONFIGS[name], CLASSES), np.random.default_rng(0)
    fresh = initialise(model, jax.random.key(0))
    params, stats = (
        map_named(lambda _, leaf: leaf + 0.2 * abs(random.normal(size=leaf.shape).astype(np.float32)), tree)
        for tree in fresh
    )
    if isinstance(CONFIGS[name], models.Bert):
        inputs = {"input_ids": random.integers(2, 23, (ROWS, TOKENS)), "attention_mask": np.ones((ROWS, TOKENS), int)}
        inputs["attention_mask"][1, 3:] = 0
    else:
        shape = (8, 8, 1) if name == "cnn" else (4, 6, 1)
        inputs = {"image": random.normal(size=(ROWS, *shape)).astype(np.float32)}
    return model, Variables(params, stats), inputs


def everything(model, variables, inputs, loop, **how):
    """Return the taps, the statistics, and the gradient of a function of all taps."""

    def total(params):
        settings = {"key": jax.random.key(1), "train": True} | how
        taps, stats = forward(model, Variables(params, variables.stats), inputs, loop=loop, **settings)
        floats = [leaf for leaf in jax.tree.leaves(taps) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        return sum(jnp.sin(leaf.astype(jnp.float32)).mean() for leaf in floats), (taps, stats)

    gradient, outputs = jax.jit(jax.grad(total, has_aux=True))(variables.params)
    return gradient, outputs


def loops(model, variables, inputs, **how):
    """Return the number of loops in a pass."""
    return len(rounds(model, variables, inputs, **how))


def rounds(model, variables, inputs, **how):
    """Return the number of rounds of each loop in a pass."""
    settings = {"key": jax.random.key(1), "train": True, "loop": {}} | how
    program = jax.make_jaxpr(lambda variables: forward(model, variables, inputs, **settings)[0])(variables)
    return [equation.params["length"] for equation in program.jaxpr.eqns if equation.primitive.name == "scan"]


def agree(model, variables, inputs, **how):
    actual, expected = (everything(model, variables, inputs, loop, **how) for loop in ({}, None))
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, leaf), other in zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-5, atol=1e-5, err_msg=jax.tree_util.keystr(path))


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "name", ["mlp", "cnn", *(pytest.param(name, marks=SLOW) for name in ("bert", "electra", "vit", "dinov2"))]
)
def test_a_loop_returns_the_taps_statistics_and_gradients_of_the_stages_one_by_one(name):
    agree(*made(name))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=SLOW if name in ("bert", "electra", "distilbert") else []) for name in CONFIGS]
)
def test_the_layers_of_every_family_run_in_one_loop(name):
    model, variables, inputs = made(name)
    assert loops(model, variables, inputs) == (name != "cnn")
    for train in (True, False):
        taps, separate = (
            jax.jit(partial(forward, model, train=train, loop=loop))(variables, inputs, key=jax.random.key(1))[0]
            for loop in ({}, None)
        )
        np.testing.assert_allclose(taps["logits"], separate["logits"], rtol=1e-5, atol=1e-5)


@SLOW
def test_a_loop_runs_all_that_tunings_insert():
    model, variables, inputs = made("bert")
    params = variables.params
    for how in (
        tuning.Lora(rank=2, on=r".*/query", dropout=0.5),
        tuning.Dora(rank=2, on=r".*/attention/output"),
        tuning.Vera(rank=3, on=r".*/value"),
        tuning.Ia3(),
        tuning.Adapter(width=2),
        tuning.Prefix(tokens=2),
        tuning.Prompt(tokens=2),
        tuning.SideHead(),
        tuning.Bottleneck(width=2),
    ):
        params = how.insert(model, params, jax.random.key(3))
    # Off the initial values, where many inserted leaves are zero.
    variables = variables._replace(params=jax.tree.map(lambda leaf: leaf + 0.05, params))
    agree(model, variables, inputs)
    assert loops(model, variables, inputs) == 1


@SLOW
def test_rematerialised_stages_run_in_a_loop():
    model, variables, inputs = made("bert")
    agree(model, variables, inputs, remat=dict.fromkeys((stage.name for stage in model.stages), "dots"))


def test_a_pass_from_the_middle_and_a_pass_in_evaluation_run_in_a_loop():
    model, variables, inputs = made("vit")
    carry = forward(model, variables, inputs, stop="blocks/01")[0]["carry"]
    agree(model, variables, carry, start="blocks/01")
    assert loops(model, variables, carry, start="blocks/01") == 1
    agree(model, variables, inputs, train=False)
    assert loops(model, variables, inputs, dtype="bfloat16") == 1


def test_a_loop_is_vectorised_over_runs():
    model, variables, inputs = made("bert")
    several = jax.tree.map(lambda leaf: jnp.stack([leaf, 1.1 * leaf]), variables)
    keys = jax.random.split(jax.random.key(1), 2)

    def passes(loop):
        def run(variables, key):
            return forward(model, variables, inputs, key=key, train=True, loop=loop)[0]["logits"].sum()

        return jax.jit(jax.vmap(jax.value_and_grad(run)))(several, keys)

    for leaf, other in zip(jax.tree.leaves(passes({})), jax.tree.leaves(passes(None)), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-5, atol=1e-5)


def lengths(model, variables, marks=None, barrier=None):
    marks = {stage.name: (marks or {}).get(stage.name) for stage in model.stages}
    return [len(run) for run in repeated_runs(model, variables, model.stages, marks, barrier)]


def test_stages_of_one_form_are_found_by_their_structure():
    model, variables, inputs = made("bert")
    assert lengths(model, variables) == [1, 3, 1, 1]
    assert lengths(model, variables, {"blocks/01": "other"}) == [1, 1, 1, 1, 1, 1]
    assert lengths(model, variables, barrier="blocks/01") == [1, 1, 2, 1, 1]
    # An adapter in the last two blocks alone, and in the last one.
    for on, rank, expected in (
        (r"blocks/0[12]/.*/query", 2, [1, 1, 2, 1, 1]),
        (r"blocks/02/.*/query", 1, [1, 2, 1, 1, 1]),
    ):
        params = tuning.Lora(rank=rank, on=on).insert(model, variables.params, jax.random.key(0))
        assert lengths(model, variables._replace(params=params)) == expected
    # A stage that stays as in evaluation, or recomputes, is not in the loop of the others.
    for how in ({"still": {"blocks/00"}}, {"remat": {"blocks/00": "dots"}}):
        assert rounds(model, variables, inputs, **how) == [2]
    # Blocks that drop with other probabilities compute other functions.
    dropped = models.build(replace(CONFIGS["vit"], stochastic_depth=0.3), CLASSES)
    assert lengths(dropped, made("vit")[1]) == [1] * len(dropped.stages)


def test_functions_are_the_same_by_code_and_values():
    def maker(rate, inner=None):
        def function(x):
            return (inner or abs)(x) * rate

        return function

    assert same_function(maker(0.1), maker(0.1)) and not same_function(maker(0.1), maker(0.2))
    assert same_function(maker(1, maker(2)), maker(1, maker(2))) and not same_function(maker(1, maker(2)), maker(1))
    assert not same_function(maker(1), maker(1.0))
    assert same_function(partial(maker(1), x=2), partial(maker(1), x=2))
    assert not same_function(partial(maker(1), x=2), partial(maker(1), x=3))
    array = np.ones(2)
    assert same_function(maker(array), maker(array)) and not same_function(maker(array), maker(np.ones(2)))
