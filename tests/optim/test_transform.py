"""The optimiser compared with optax, parameter by parameter."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tlx import Learn, Optim
from tlx import optim as optimisers
from tlx.optim.hyperparameters import hyperparameters, with_hyperparameters
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


def walk(optim, rules=ALL, params=PARAMS):
    """Return the trainable parameters after the four gradients, and the final state."""
    parts = partition(params, rules)
    trainable = split(params, parts)[0]
    rates = jax.tree.map(jnp.float32, optimisers.leaf_rates(optim, params, parts))
    state = optimisers.transform(optim, jnp.int32(0), jnp.float32(STEPS), rates).init(trainable)
    for step, gradients in enumerate(GRADIENTS):
        inputs = nest({path: leaf for path, leaf in flatten(gradients).items() if path in flatten(trainable)})
        transform = optimisers.transform(optim, jnp.float32(step), jnp.float32(STEPS), rates)
        updates, state = transform.update(inputs, state, trainable)
        trainable = optax.apply_updates(trainable, updates)
    return trainable, state


def independent(transform, params=PARAMS, gradients=GRADIENTS):
    state = transform.init(params)
    for inputs in gradients:
        with jax.numpy_dtype_promotion("standard"):
            updates, state = transform.update(inputs, state, params)
        params = optax.apply_updates(params, updates)
    return params


def close(actual, expected, rtol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=2e-7), actual, expected)


def test_sgd_agrees_with_optax():
    close(walk(Optim("sgd", lr=0.1, schedule="constant"))[0], independent(optax.sgd(0.1, momentum=0.9)))
    plain, state = walk(Optim("sgd", lr=0.1, schedule="constant", momentum=None))
    close(plain, independent(optax.sgd(0.1)))
    assert jax.tree.leaves(state) == []


def test_nesterov_and_coupled_decay_agree_with_optax():
    """Decay before the momentum is another method than decay after it, also for Adam."""
    options = {"lr": 0.1, "schedule": "constant", "weight_decay": 0.3}
    decay = optax.add_decayed_weights(0.3, MATRICES)
    nesterov = Optim("sgd", nesterov=True, **options)
    close(walk(dataclasses.replace(nesterov, weight_decay=0.0))[0], independent(optax.sgd(0.1, 0.9, nesterov=True)))
    coupled = walk(dataclasses.replace(nesterov, coupled=True))[0]
    close(coupled, independent(optax.chain(decay, optax.sgd(0.1, 0.9, nesterov=True))))
    assert np.abs(coupled["stem"]["kernel"] - walk(nesterov)[0]["stem"]["kernel"]).max() > 1e-3
    close(walk(Optim("adam", coupled=True, **options))[0], independent(optax.chain(decay, optax.adam(0.1))))
    clipped = Optim("sgd", coupled=True, clip=0.5, **options)
    close(walk(clipped)[0], independent(optax.chain(optax.clip_by_global_norm(0.5), decay, optax.sgd(0.1, 0.9))))


@pytest.mark.parity
def test_nesterov_and_coupled_decay_agree_with_torch():
    import torch

    names = {path: np.array(leaf) for path, leaf in flatten(PARAMS).items()}
    theirs = {path: torch.nn.Parameter(torch.tensor(leaf)) for path, leaf in names.items()}
    optimiser = torch.optim.SGD(theirs.values(), 0.1, momentum=0.9, weight_decay=0.3, nesterov=True)
    for gradients in GRADIENTS:
        for path, leaf in flatten(gradients).items():
            theirs[path].grad = torch.tensor(np.array(leaf))
        optimiser.step()
    optim = Optim("sgd", lr=0.1, schedule="constant", weight_decay=0.3, nesterov=True, coupled=True)
    actual = flatten(walk(optim, ((r".*", Learn(weight_decay=0.3)),))[0])
    for path, leaf in theirs.items():
        np.testing.assert_allclose(actual[path], leaf.detach().numpy(), rtol=1e-6, atol=2e-7)


def test_decay_skips_biases_and_norms_unless_a_rule_says_otherwise():
    optim = Optim(weight_decay=0.3)
    parts = partition(PARAMS, ((r"head/bias", Learn(weight_decay=0.7)), (r"head/.*", Learn(weight_decay=0.0)), *ALL))
    decays = {path: actual["weight_decay"] for path, actual in optimisers.leaf_rates(optim, PARAMS, parts).items()}
    assert decays == {
        "head/bias": 0.7, "head/kernel": 0.0, "norm/scale": 0.0, "stem/bias": 0.0, "stem/kernel": 0.3
    }  # fmt: skip


def test_learning_rates_of_rules_multiply_the_schedule():
    optim = Optim("sgd", lr=0.1, momentum=None, schedule="linear")
    slow, _ = walk(optim, ((r"stem/.*", Learn(lr=0.25)), *ALL))
    full, _ = walk(optim)
    for path, leaf in flatten(PARAMS).items():
        share = 0.25 if path.startswith("stem") else 1.0
        moved = flatten(slow)[path] - leaf
        np.testing.assert_allclose(moved, share * (flatten(full)[path] - leaf), rtol=1e-4, atol=1e-6)


def test_clipping_bounds_the_norm_of_the_trainable_gradient_only():
    rules = ((r"head/.*", Learn()), (r".*", None))
    optim = Optim("sgd", lr=1.0, momentum=None, clip=0.5, schedule="constant")
    actual, _ = walk(optim, rules)
    head, gradients = {"head": PARAMS["head"]}, [{"head": inputs["head"]} for inputs in GRADIENTS]
    close(actual, independent(optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(1.0)), head, gradients))
    # Counting the frozen parameters would have made each of the four steps shorter than the bound.
    lengths = [float(optax.global_norm(inputs)) for inputs in gradients]
    assert min(lengths) > 0.5


STATE = {"sgd": 1, "lion": 1, "adafactor": 1, "schedule-free-sgd": 1}


@pytest.mark.parametrize("name", optimisers.OPTIMISERS)
def test_frozen_parameters_have_no_state(name):
    rules = ((r"head/.*", Learn()), (r".*", None))
    optim = Optim(name, schedule="constant")
    _, state = walk(optim, rules)
    numbers, moments = 3 * 2 + 2, STATE.get(name, 2)
    stored = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.shape in ((3, 2), (2,)))
    assert stored == moments * numbers
    # The rest is counters, and the placeholders of Adafactor for parameters that it does not factor.
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) - stored <= 5
    shapes = {"head": jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), PARAMS["head"])}
    assert optimisers.state_bytes(optim, shapes) == sum(leaf.nbytes for leaf in jax.tree.leaves(state))


WIDE = """
import importlib.util, json, sys
import jax, jax.numpy as jnp, numpy as np
spec = importlib.util.spec_from_file_location("test_transform", {file!r})
own = importlib.util.module_from_spec(spec)
spec.loader.exec_module(own)
widen = lambda tree: jax.tree.map(lambda leaf: jnp.asarray(np.float64(leaf)), tree)
own.PARAMS, own.GRADIENTS[:] = widen(own.PARAMS), [widen(given) for given in own.GRADIENTS]
told = {{}}
for name, (optim, theirs) in own.AGAINST.items():
    ours, found = own.flatten(own.walk(optim, params=own.PARAMS)[0]), own.flatten(own.independent(theirs(), own.PARAMS))
    assert all(leaf.dtype == "float64" for leaf in found.values())
    told[name] = [max(float(abs(ours[path] / leaf - 1).max()) for path, leaf in found.items())]
    told[name].append({{path: np.asarray(leaf).tolist() for path, leaf in found.items()}})
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def wide():
    """For each optimiser, in float64: the relative difference between tlx and optax, and the result of optax."""
    program = WIDE.format(file=__file__)
    environment = os.environ | {"JAX_ENABLE_X64": "1"}
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    return json.loads(process.stdout)


FREE = {"lr": 0.1, "weight_decay": 0.3, "schedule": "constant"}
MATRICES = jax.tree.map(lambda leaf: leaf.ndim > 1, PARAMS)
AGAINST = {
    "adam": (Optim("adam", lr=0.1, schedule="constant", beta1=0.8), lambda: optax.adam(0.1, b1=0.8)),
    "adamw": (Optim("adamw", **FREE), lambda: optax.adamw(0.1, weight_decay=0.3, mask=MATRICES)),
    "lamb": (Optim("lamb", **FREE), lambda: optax.lamb(0.1, eps=1e-8, weight_decay=0.3, mask=MATRICES)),
    "lion": (Optim("lion", **FREE, beta2=0.99), lambda: optax.lion(0.1, weight_decay=0.3, mask=MATRICES)),
    # optax does not multiply the decay of Adafactor by the learning rate.
    "adafactor": (
        Optim("adafactor", **FREE),
        lambda: optax.adafactor(0.1, weight_decay_rate=0.03, weight_decay_mask=MATRICES),
    ),
    "schedule-free-sgd": (
        Optim("schedule-free-sgd", lr=0.1, weight_decay=0.3, schedule="constant"),
        lambda: optax.contrib.schedule_free(
            optax.chain(optax.add_decayed_weights(0.3, MATRICES), optax.sgd(0.1)), 0.1, b1=0.9
        ),
    ),
    "schedule-free-adamw": (
        Optim("schedule-free-adamw", lr=0.1, schedule="constant"),
        lambda: optax.contrib.schedule_free_adamw(0.1),
    ),
}


@pytest.mark.parametrize("name", AGAINST)
def test_each_optimiser_agrees_with_optax(name):
    optim, expected = AGAINST[name]
    close(walk(optim)[0], independent(expected()))


@pytest.mark.parametrize("name", AGAINST)
def test_the_difference_between_tlx_and_optax_is_rounding(name, wide):
    """In float64 the only difference is that learning rates of tlx are float32.

    In float32 a run, whose hyperparameters are arrays, is nearer to the float64 result than optax with Python numbers:
    there the second moment uses 1 - 0.999 rounded once, and its bias correction a difference of two rounded numbers,
    which is off by 1.3e-5. As arrays they are the same number and cancel. So the two may differ by 3e-6 for a step of
    0.1, and by more, relatively, where a parameter passes zero.
    """
    optim, expected = AGAINST[name]
    apart, exact = wide[name]
    assert apart < 2e-7
    actual = flatten(walk(with_hyperparameters(optim, jax.tree.map(jnp.float32, hyperparameters(optim))))[0])
    for path, leaf in actual.items():
        np.testing.assert_allclose(leaf, exact[path], rtol=0, atol=1e-6)
    plain = max(np.abs(leaf - np.array(exact[path])).max() for path, leaf in flatten(independent(expected())).items())
    assert plain < 5e-6


def test_adafactor_factors_large_matrices():
    params = {"kernel": jnp.asarray(RANDOM.normal(size=(128, 130)), jnp.float32)}
    gradients = [{"kernel": params["kernel"] * 0.1 + n} for n in range(3)]
    optim = Optim("adafactor", lr=0.1, schedule="constant")
    transform = optimisers.transform(optim, jnp.int32(0), jnp.float32(3), {"kernel": {"lr": 1.0, "weight_decay": 0.0}})
    close(independent(transform, params, gradients), independent(optax.adafactor(0.1), params, gradients))
    assert optimisers.state_bytes(optim, params) < 4 * 300


def test_muon_updates_hidden_kernels_and_adam_the_rest():
    optim = Optim("muon", lr=0.1, weight_decay=0.3, schedule="constant", momentum=0.95)
    tree = PARAMS | {"conv": {"kernel": jnp.asarray(RANDOM.normal(size=(2, 2, 3, 5)), jnp.float32)}}
    gradients = [
        inputs | {"conv": {"kernel": jnp.cos(n + tree["conv"]["kernel"])}} for n, inputs in enumerate(GRADIENTS)
    ]
    layout = optimisers.Layout(hidden=frozenset({"stem/kernel", "conv/kernel"}))
    rates = optimisers.leaf_rates(optim, tree, partition(tree, ALL))
    actual = flatten(
        independent(optimisers.transform(optim, jnp.int32(0), jnp.float32(9), rates, layout), tree, gradients)
    )
    options = {"weight_decay": 0.3, "consistent_rms": 0.2}
    for path, axes in (("stem/kernel", (0, 1)), ("conv/kernel", ((0, 1, 2), 3))):
        name = path.split("/")[0]
        reference = optax.contrib.muon(
            0.1, **options, muon_weight_dimension_numbers={"kernel": optax.contrib.MuonDimensionNumbers(*axes)}
        )
        kernel = [{"kernel": inputs[name]["kernel"]} for inputs in gradients]
        expected = independent(reference, {"kernel": tree[name]["kernel"]}, kernel)
        np.testing.assert_allclose(actual[path], expected["kernel"], rtol=1e-6, atol=2e-7)
    adam = flatten(walk(Optim(lr=0.1, weight_decay=0.3, schedule="constant"))[0])
    for path in ("head/kernel", "head/bias", "norm/scale", "stem/bias"):
        np.testing.assert_allclose(actual[path], adam[path], rtol=1e-6, atol=1e-7)


def test_a_schedule_free_optimiser_evaluates_its_average():
    optim = Optim("schedule-free-sgd", lr=0.1, schedule="constant")
    values, state = walk(optim)
    actual = optimisers.averaged(optim, state, values)
    # z descends from the start; x is the mean of its values, because all weights are equal.
    z, places = PARAMS, []
    for inputs in GRADIENTS:
        z = jax.tree.map(lambda leaf, gradient: leaf - 0.1 * gradient, z, inputs)
        places.append(z)
    close(actual, jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *places), rtol=1e-5)
    assert not np.allclose(flatten(actual)["stem/kernel"], flatten(values)["stem/kernel"])
    plain, state = walk(Optim())
    assert optimisers.averaged(Optim(), state, plain) is plain


def test_a_group_may_have_a_separate_schedule():
    optim = Optim("sgd", lr=0.1, momentum=None, schedule="linear")
    parts = partition(PARAMS, ((r"stem/.*", Learn(schedule="constant")), *ALL))
    rates = optimisers.leaf_rates(optim, PARAMS, parts)
    layout = optimisers.Layout(schedules={path: "constant" for path in parts if path.startswith("stem")})
    transform = optimisers.transform(optim, jnp.float32(3), jnp.float32(4), rates, layout)
    updates = flatten(transform.update(GRADIENTS[0], transform.init(PARAMS), PARAMS)[0])
    for path, gradient in flatten(GRADIENTS[0]).items():
        share = 1.0 if path.startswith("stem") else 0.25
        np.testing.assert_allclose(updates[path], -0.1 * share * gradient, rtol=1e-5)


CYCLE = {"lr": 0.1, "schedule": "one-cycle", "cycle_peak": 0.5, "momentum": 0.6, "cycle_momentum": (0.95, 0.85)}
# At steps 0 to 3 of 4.
MOMENTA = np.array([0.95, 0.9, 0.85, 0.9])
FACTORS = np.array([0.1 / 25, 0.1 * (1 + 1 / 25) / 2, 0.1, 0.1 * (1 + 1e-5) / 2])


def test_the_momentum_of_a_one_cycle_by_hand():
    leaf, gradients = np.float64(PARAMS["stem"]["kernel"]), [np.float64(value["stem"]["kernel"]) for value in GRADIENTS]
    mean, square, adam, speed, sgd = 0.0, 0.0, leaf, 0.0, leaf
    for count, (g, rate, m) in enumerate(zip(gradients, FACTORS, MOMENTA, strict=True), 1):
        mean, square = m * mean + (1 - m) * g, 0.999 * square + 0.001 * g * g
        # The bias correction uses the present momentum, as in fastai.
        adam = adam - rate * mean / (1 - m**count) / (np.sqrt(square / (1 - 0.999**count)) + 1e-8)
        speed = m * speed + g
        sgd = sgd - rate * speed
    for name, expected in (("adam", adam), ("sgd", sgd)):
        np.testing.assert_allclose(walk(Optim(name, **CYCLE))[0]["stem"]["kernel"], expected, rtol=1e-5)
    # A momentum that the rules give to all parameters counts too; one that only some have does not.
    named = Optim("sgd", **(CYCLE | {"schedule": "constant"}))
    for rules, cycles in (((r".*", "one-cycle"),), True), (((r"head/.*", "one-cycle"), (r".*", None)), False):
        parts = partition(PARAMS, tuple((rule, Learn(schedule=schedule)) for rule, schedule in rules))
        layout = optimisers.Layout(schedules={path: value.schedule for path, value in parts.items() if value.schedule})
        rates = optimisers.leaf_rates(named, PARAMS, parts)
        before = optimisers.transform(named, jnp.float32(0), jnp.float32(4), rates, layout)
        _, state = before.update(GRADIENTS[0], before.init(PARAMS), PARAMS)
        after = optimisers.transform(named, jnp.float32(2), jnp.float32(4), rates, layout)
        moved = after.update(GRADIENTS[1], state, PARAMS)[0]["stem"]["kernel"]
        speed = (0.85 if cycles else 0.6) * gradients[0] + gradients[1]
        np.testing.assert_allclose(moved, -0.1 * speed, rtol=1e-5)


@pytest.mark.parametrize("name", ["adam", "lamb", "muon", "sgd"])
def test_without_a_cycle_the_momentum_is_unchanged(name):
    optim = Optim(name, **(CYCLE | {"cycle_momentum": (0.0, 0.0)}))
    cycled, _ = walk(dataclasses.replace(optim, cycle_momentum=(0.95, 0.85)))
    # Numbers as in a run: 1 - 0.9 is another number if 0.9 is not yet a float32.
    optim = with_hyperparameters(optim, jax.tree.map(jnp.float32, hyperparameters(optim)))
    plain, _ = walk(optim)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(optimisers.transform.__globals__, "with_cycled_momentum", lambda optim, *clock: optim)
        jax.tree.map(np.testing.assert_array_equal, plain, walk(optim)[0])
    assert not np.allclose(flatten(cycled)["head/kernel"], flatten(plain)["head/kernel"], rtol=1e-4)


def test_the_interpolation_of_a_schedule_free_optimiser_is_not_a_momentum():
    """It is one number per run: the evaluated average is computed from it."""
    rates = optimisers.leaf_rates(Optim(), PARAMS, partition(PARAMS, ALL))
    layout = optimisers.Layout(schedules=dict.fromkeys(rates, "one-cycle"))
    results = []
    for pair in ((0.0, 0.0), (0.95, 0.85)):
        optim = Optim("schedule-free-sgd", lr=0.1, schedule="constant", cycle_momentum=pair)
        transform = optimisers.transform(optim, jnp.float32(1), jnp.float32(4), rates, layout)
        results.append(transform.update(GRADIENTS[0], transform.init(PARAMS), PARAMS)[0])
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_a_wave_has_the_parameters_that_are_trainable_in_the_same_phases():
    one, both = {"a": None, "b": Learn(), "c": None}, {"a": Learn(), "b": Learn(), "c": None}
    assert optimisers.wave_names([one, both, one]) == {"a": "1", "b": "0_1_2"}
    tree = {"a": 1, "b": {"x": 2}}
    layout = optimisers.Layout(waves={"a": "1", "b/x": "0"})
    assert optimisers.by_wave(tree, layout) == {"0": {"b": {"x": 2}}, "1": {"a": 1}}
    assert optimisers.together(optimisers.by_wave(tree, layout)) == tree


@pytest.mark.parametrize(
    "optim",
    [
        Optim(),
        Optim("sgd", clip=1.0),
        Optim("sgd", nesterov=True, coupled=True, weight_decay=0.1, schedule="steps", boundaries=(0.2, 0.6)),
        Optim("adam", schedule="linear", warmup=0.5),
        Optim("lion", schedule="one-cycle"),
        Optim("muon", schedule="slanted-triangular"),
        Optim("schedule-free-adamw", schedule="constant"),
        Optim("lamb", schedule="rsqrt"),
        Optim("adafactor"),
    ],
)
def test_every_number_may_be_traced(optim):
    rates = jax.tree.map(jnp.float32, optimisers.leaf_rates(optim, PARAMS, partition(PARAMS, ALL)))

    @jax.jit
    def once(values, step, steps):
        transform = optimisers.transform(with_hyperparameters(optim, values), step, steps, rates)
        return transform.update(GRADIENTS[0], transform.init(PARAMS), PARAMS)[0]

    traced = once(jax.tree.map(jnp.float32, hyperparameters(optim)), jnp.int32(1), jnp.float32(STEPS))
    transform = optimisers.transform(optim, jnp.int32(1), jnp.float32(STEPS), rates)
    close(traced, transform.update(GRADIENTS[0], transform.init(PARAMS), PARAMS)[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "adamww"}, "there is no optimiser 'adamww'; close: 'adamw', 'adam', 'adafactor'"),
        (
            {"name": "sam"},
            "there is no optimiser 'sam'; close: 'adam', 'lamb', 'adamw'; SAM is an update",
        ),
        ({"schedule": "cosin"}, "there is no schedule 'cosin'; close: 'cosine', 'constant'"),
        ({"lr": -1.0}, "lr is -1.0 and weight_decay is 0.0; "),
        ({"warmup": 1.0}, "warmup is 1.0; expected a share of the run in [0, 1)"),
        ({"clip": 0.0}, "clip is 0.0; expected "),
        ({"beta2": 1.0}, "beta2 is 1.0; expected a decay in [0, 1)"),
        ({"momentum": -0.1}, "momentum is -0.1; expected a decay in [0, 1)"),
        ({"name": "adam", "nesterov": True}, "nesterov=True with name='adam'"),
        ({"name": "sgd", "nesterov": True, "momentum": None}, "nesterov=True with name='sgd' and momentum=None"),
        ({"schedule": "steps", "boundaries": (0.5, 0.2)}, "boundaries is (0.5, 0.2); expected rising shares"),
        ({"schedule": "steps", "boundaries": (0.5, 1.0)}, "boundaries is (0.5, 1.0); expected rising shares"),
        ({"schedule": "steps", "boundary_divisor": 0.1}, "boundary_divisor is 0.1; expected 1 or more"),
        ({"epsilon": -1e-8}, "epsilon is -1e-08; expected 0 or more"),
        ({"cycle_peak": 1.0}, "cycle_peak is 1.0; expected a share of the schedule in (0, 1)"),
        (
            {"cycle_momentum": (0.95, 1.0)},
            "cycle_momentum is (0.95, 1.0); expected two numbers in [0, 1)",
        ),
        ({"slant_ratio": 0.5}, "slant_ratio is 0.5; expected 1 or more"),
        (
            {"name": "muon", "momentum": None},
            "muon needs a momentum",
        ),
        (
            {"name": "schedule-free-sgd", "schedule": "constant", "beta1": 0.0},
            "beta1 is 0.0; schedule-free-sgd needs beta1 in (0, 1)",
        ),
        (
            {"name": "schedule-free-adamw"},
            "schedule-free-adamw averages the parameters and needs schedule='constant', not 'cosine'",
        ),
    ],
)
def test_an_invalid_optimiser_is_refused(fields, message):
    with pytest.raises(ValueError) as error:
        Optim(**fields)
    assert message in str(error.value)
