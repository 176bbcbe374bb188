"""Updates: the gradient of a step, on devices and in pieces."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx import Optim, models, partition, sharding, tasks, tuning
from tlx.objectives import Supervised
from tlx.training.step import Parts, compile_step, initial_state
from tlx.trees import flatten
from tlx.updates import Alternating, Sam, Slope, Sum, Update

LINEAR = models.build(models.Mlp(inputs=(4,), widths=(3,), activation="linear", input="x"), 3)
RANDOM = np.random.default_rng(0)
BATCH = {
    "x": RANDOM.normal(size=(8, 4)).astype(np.float32),
    "label": RANDOM.integers(0, 3, 8).astype(np.int32),
    "index": np.arange(8, dtype=np.int32),
}
PLAIN = Optim("sgd", lr=0.5, momentum=None, schedule="constant")


def parts_of(update, terms=(Supervised(),), **more):
    claimed = partition.partition(LINEAR.params, tuning.Full().phases(LINEAR)[0].rules)
    return Parts(LINEAR, tasks.Classification(classes=3), terms, PLAIN, claimed, update=update, **more)


def initial_variables():
    return models.initialise(LINEAR, jax.random.key(0))


def gradient_of_step(parts, how="jit", devices=1):
    """Return the gradient: the change by one step of plain descent, divided by the learning rate."""
    compiled = compile_step(parts, sharding.make_mesh(jax.devices()[:devices]), how)
    state = compiled.place(initial_state(parts, initial_variables(), 1, jax.random.key(0)))
    state, metrics = compiled.train(state, {"labelled": compiled.put(dict(BATCH))})
    before, after = flatten(initial_variables().params), flatten(compiled.fetch(state).variables.params)
    return {path: (np.asarray(before[path]) - np.asarray(after[path])) / 0.5 for path in before}, metrics


def loss(params):
    logits = (BATCH["x"] @ params["stem/kernel"] + params["stem/bias"]) @ params["head/kernel"] + params["head/bias"]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), BATCH["label"][:, None], 1).mean()


def close(actual, expected):
    for path, leaf in actual.items():
        np.testing.assert_allclose(leaf, expected[path], rtol=1e-5, atol=1e-6, err_msg=path)


@pytest.mark.parametrize(("how", "devices", "pieces"), [("jit", 1, 1), ("jit", 8, 1), ("pmap", 4, 2)])
def test_sam_takes_the_gradient_uphill(how, devices, pieces):
    actual, metrics = gradient_of_step(parts_of(Sam(rho=0.5), accumulate=pieces), how, devices)
    params = flatten(initial_variables().params)
    first = jax.grad(loss)(params)
    norm = np.sqrt(sum(float((leaf**2).sum()) for leaf in first.values()))
    uphill = {path: params[path] + 0.5 * first[path] / norm for path in params}
    close(actual, jax.grad(loss)(uphill))
    assert not np.allclose(actual["head/kernel"], first["head/kernel"], rtol=1e-3)
    # The logged loss is that at the parameters.
    np.testing.assert_allclose(metrics["loss"], loss(params), rtol=1e-5)


def test_sam_with_radius_zero_is_the_sum_and_its_radius_is_a_number_of_the_state():
    plain, _ = gradient_of_step(parts_of(Sum()))
    flat, _ = gradient_of_step(parts_of(Sam(rho=0.0)))
    close(flat, plain)
    stored = initial_state(parts_of(Sam(rho=0.25)), initial_variables(), 1, jax.random.key(0)).numbers
    assert stored["update"] == {"rho": 0.25}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Second(Update):
    """The gradient of the second term alone."""

    def gradient(self, slope: Slope, trainable, tick):
        assert slope.terms == ("supervised.0", "supervised.1")
        return slope.at(trainable, (0.0, 1.0))


def test_an_update_may_weight_the_terms():
    terms = (Supervised(weight=3.0), Supervised(weight=2.0))
    actual, metrics = gradient_of_step(parts_of(Second(), terms))
    plain, _ = gradient_of_step(parts_of(Sum()))
    close(actual, {path: 2 * leaf for path, leaf in plain.items()})
    np.testing.assert_allclose(metrics["loss"], 5 * loss(flatten(initial_variables().params)), rtol=1e-5)


def test_a_gradient_of_zero_stays_zero():
    def at(trainable, weights):
        return jax.tree.map(jnp.zeros_like, trainable), {}

    actual, _ = Sam().gradient(Slope(("a",), at), {"x": jnp.ones(3)}, None)
    np.testing.assert_array_equal(actual["x"], np.zeros(3))


def test_invalid_settings_are_refused():
    with pytest.raises(ValueError, match=r"^rho is -1.0; expected "):
        Sam(rho=-1.0)
    with pytest.raises(TypeError, match="Update does not define its gradient"):
        Update().gradient(None, {}, None)


def test_an_update_declares_what_vectorised_runs_need_to_know():
    assert [kind.elementwise for kind in (Update, Sum, Sam, Alternating)] == [False, True, False, False]
    assert [kind.alternates for kind in (Update, Sum, Sam, Alternating)] == [False, False, False, True]
