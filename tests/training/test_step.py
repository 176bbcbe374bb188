"""The compiled step."""

import dataclasses
import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx import Learn, Optim, models, partition, sharding, tasks, tuning
from tlx import optim as optimisers
from tlx.objectives import Supervised, Term
from tlx.optim.hyperparameters import hyperparameters
from tlx.partition import split
from tlx.training.gradients import rematerialised
from tlx.training.step import Parts, compile_step, eval_step, initial_state, memories, train_step
from tlx.trees import flatten, map_named
from tlx.types import Setting

CLASSES, BATCH, STEPS = 3, 16, 3
MLP = models.Mlp(inputs=(4,), widths=(8, 8), dropout=0.5, input="x")
CNN = models.Cnn(size=8, widths=(2, 3), dense=4, dropout=0.5)
SMOOTH = tasks.Classification(classes=CLASSES, smoothing=0.1)
FROZEN = tuning.Rules((r"stem/.*", None), (r"blocks/.*/bias", Learn(lr=0.5)), (r".*", Learn()))


def parts_of(
    model=MLP, how=FROZEN, terms=(Supervised(),), optim=Optim(lr=0.05, weight_decay=0.1, clip=1.0), task=SMOOTH, **more
):
    built = models.build(model, CLASSES)
    (phase,) = how.phases(built)
    return Parts(built, task, terms, optim, partition.partition(built.params, phase.rules), **more)


@functools.cache
def initial(model, seed):
    return jax.jit(lambda key: models.initialise(models.build(model, CLASSES), key))(jax.random.key(seed))


def variables_of(parts, seed=0):
    return initial(parts.model.config, seed)


def batches(model=MLP, count=STEPS):
    random = np.random.default_rng(0)
    shape = {"x": (4,)} if isinstance(model, models.Mlp) else {"image": (8, 8, 1)}
    for step in range(count):
        yield {name: random.normal(size=(BATCH, *value)).astype(np.float32) for name, value in shape.items()} | {
            "label": random.integers(0, CLASSES, BATCH).astype(np.int32),
            "index": np.arange(BATCH, dtype=np.int32) + step * BATCH,
        }


def walk(parts, how="jit", devices=8, seed=0, count=STEPS):
    """Return the state after some steps, and the last metrics."""
    compiled = compile_step(parts, sharding.make_mesh(jax.devices()[:devices]), how)
    state = compiled.place(initial_state(parts, variables_of(parts), STEPS, jax.random.key(seed)))
    for batch in batches(parts.model.config, count):
        state, metrics = compiled.train(state, {"labelled": compiled.put(batch)})
    return compiled.fetch(state), jax.device_get(metrics)


def close(actual, expected, tolerance=1e-6):
    actual, expected = flatten(actual), flatten(expected)
    assert actual.keys() == expected.keys()
    for path, leaf in actual.items():
        np.testing.assert_allclose(leaf, expected[path], rtol=tolerance, atol=tolerance, err_msg=path)


def identical(actual, expected):
    actual, expected = flatten(actual), flatten(expected)
    assert actual.keys() == expected.keys()
    for path, leaf in actual.items():
        np.testing.assert_array_equal(leaf, expected[path], err_msg=path)


@pytest.fixture(scope="module")
def walked():
    return walk(parts_of())


def test_frozen_parameters_are_bit_identical_after_training_and_the_others_move(walked):
    parts = parts_of()
    before, after = flatten(variables_of(parts).params), flatten(walked[0].variables.params)
    assert before.keys() == after.keys()
    for path, learn in parts.partition.items():
        same = np.array_equal(before[path], after[path])
        assert same is (learn is None), path


def test_the_optimiser_has_no_state_for_frozen_parameters(walked):
    state, _ = walked
    learning = [leaf.shape for leaf in jax.tree.leaves(state.trainable)]
    stored = [leaf.shape for leaf in jax.tree.leaves(state.optimiser) if leaf.ndim]
    assert sorted(stored) == sorted(learning * 2)
    shapes = jax.eval_shape(lambda: split(variables_of(parts_of()).params, parts_of().partition)[0])
    measured = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.optimiser))
    assert measured == optimisers.state_bytes(Optim(clip=1.0), shapes)


def flops(how):
    wide = models.Mlp(inputs=(64,), widths=(64,) * 6, input="x")
    parts = parts_of(wide, how)
    batch = {
        "x": np.zeros((BATCH, 64), np.float32),
        "label": np.zeros(BATCH, np.int32),
        "index": np.zeros(BATCH, np.int32),
    }
    state = initial_state(parts, variables_of(parts), STEPS, jax.random.key(0))
    return jax.jit(partial(train_step, parts)).lower(state, {"labelled": batch}).compile().cost_analysis()["flops"]


def test_the_gradient_of_frozen_parameters_is_never_computed():
    # Forward pass 1, gradient of activations 1, gradient of kernels 1: a probe needs only the first.
    assert flops(tuning.Probe()) < 0.45 * flops(tuning.Full())


def test_a_frozen_stage_runs_as_in_evaluation():
    # Only the head of a batch-norm network is trainable: its statistics stay, and dropout does not change its features.
    frozen = parts_of(CNN, tuning.Probe())
    before = variables_of(frozen)
    after, _ = walk(frozen)
    identical(before.stats, after.stats)
    moved, _ = walk(parts_of(CNN, tuning.Full()))
    assert not np.array_equal(flatten(before.stats)["stem/norm/mean"], flatten(moved.stats)["stem/norm/mean"])


# Adam divides a gradient by its size. Where batch norm leaves a gradient of nearly zero, rounding decides the step. So
# plain momentum tests whether the gradients agree.
@pytest.mark.parametrize(
    ("model", "optim"),
    [
        pytest.param(MLP, Optim(lr=0.05, weight_decay=0.1, clip=1.0), id="dropout"),
        pytest.param(CNN, Optim("sgd", lr=0.05, weight_decay=0.1, clip=1.0), id="batch norm", marks=pytest.mark.slow),
    ],
)
def test_eight_devices_one_device_and_pmap_agree(model, optim):
    parts = parts_of(model, tuning.Full(), optim=optim)
    full, recorded = walk(parts)
    for how, devices in (("jit", 1), ("pmap", 8)):
        state, metrics = walk(parts, how, devices)
        close(state.variables.params, full.variables.params)
        close(state.stats, full.stats)
        assert metrics.keys() == recorded.keys()
        for name, value in metrics.items():
            np.testing.assert_allclose(value, recorded[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_evaluation_agrees_and_uses_no_random_numbers():
    parts = parts_of()
    variables = variables_of(parts)
    batch = next(batches())
    inputs = {"x": batch["x"]}
    expected = models.forward(parts.model, variables, inputs)[0]["logits"]
    for how, devices in (("jit", 8), ("jit", 1), ("pmap", 8)):
        compiled = compile_step(parts, sharding.make_mesh(jax.devices()[:devices]), how)
        state = compiled.place(initial_state(parts, variables, STEPS, jax.random.key(0)))
        logits = np.asarray(compiled.evaluate(state, compiled.put(inputs))["logits"])
        np.testing.assert_allclose(logits, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_noise_depends_on_the_seed_and_the_step():
    one, two, other = walk(parts_of())[0], walk(parts_of())[0], walk(parts_of(), seed=1)[0]
    identical(one.variables.params, two.variables.params)
    assert not np.array_equal(flatten(one.trainable)["head/kernel"], flatten(other.trainable)["head/kernel"])
    # At learning rate 0 the loss of one batch differs between steps only by its noise.
    parts = parts_of(optim=Optim(lr=0.0))
    compiled = compile_step(parts, sharding.make_mesh())
    state = compiled.place(initial_state(parts, variables_of(parts), STEPS, jax.random.key(0)))
    batch, losses = {"labelled": compiled.put(next(batches()))}, []
    for _ in range(2):
        state, metrics = compiled.train(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[0] != losses[1]


VARIED = {
    "rate": parts_of(optim=Optim(lr=0.2, weight_decay=0.0, clip=3.0, warmup=0.5, beta1=0.8, epsilon=1e-6)),
    "rates of leaves": parts_of(how=tuning.Rules((r"stem/.*", None), (r".*", Learn(lr=0.2, weight_decay=0.3)))),
    "weight": parts_of(terms=(Supervised(weight=0.25),)),
    "smoothing": parts_of(task=tasks.Classification(classes=CLASSES, smoothing=0.3)),
    "momentum": parts_of(optim=Optim("sgd", momentum=0.5)),
}


@pytest.mark.parametrize("name", VARIED)
def test_hyperparameters_are_not_constants_of_the_program(name):
    base = parts_of(optim=Optim("sgd")) if name == "momentum" else parts_of()
    batch = {"labelled": next(batches())}

    def program(parts, seed, steps):
        state = initial_state(parts, variables_of(parts, seed), steps, jax.random.key(seed))
        return jax.jit(partial(train_step, parts)).lower(state, batch).as_text()

    assert program(VARIED[name], 1, 7) == program(base, 0, 3)


def test_one_compiled_step_serves_all_hyperparameters_and_seeds():
    traces = []

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Traced(Supervised):
        def loss(self, view):
            traces.append(self.weight)
            return super().loss(view)

    base, other = parts_of(terms=(Traced(),)), parts_of(terms=(Traced(weight=0.5),), optim=Optim(lr=0.3, clip=0.5))
    compiled = compile_step(base, sharding.make_mesh())
    (batch,) = batches(count=1)
    after = {}
    for parts, seed, steps in ((base, 0, 3), (other, 1, 9)):
        state = compiled.place(initial_state(parts, variables_of(parts, seed), steps, jax.random.key(seed)))
        after[seed] = compiled.train(state, {"labelled": compiled.put(batch)})[0]
    assert len(traces) == 1
    # The step uses them: a program compiled for `other` gives the same numbers.
    value = compile_step(other, sharding.make_mesh())
    state = value.place(initial_state(other, variables_of(other, 1), 9, jax.random.key(1)))
    identical(value.train(state, {"labelled": value.put(batch)})[0].trainable, after[1].trainable)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Anchor(Term):
    """The squared distance from the initial weights, which the term shares with the state on purpose."""

    weight: float = 1.0

    def memory(self, setting):
        return {"params": setting.variables.params}

    def loss(self, view):
        custom, expected = flatten(view.params), flatten(view.memory["params"])
        distance = sum(jnp.vdot(custom[path] - expected[path], custom[path] - expected[path]) for path in custom)
        return self.weight * distance, {"distance": distance}


def test_a_term_of_weight_0_equals_leaving_it_out(walked):
    # Equal up to the last bit: the compiler fuses the operations of two programs differently.
    state, metrics = walk(parts_of(terms=(Supervised(), Anchor(weight=0.0), Supervised(weight=0.0))))
    close(state.variables.params, walked[0].variables.params)
    assert metrics["anchor/distance"] > 0


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 8])
def test_values_that_a_term_remembers_survive_the_donation_of_the_state(devices):
    parts = parts_of(terms=(Supervised(), Anchor(weight=0.1)))
    variables, key = variables_of(parts), jax.random.key(0)
    pretrained = map_named(lambda path, leaf: np.array(leaf), variables.params)
    for how in ("jit", "pmap"):
        compiled = compile_step(parts, sharding.make_mesh(jax.devices()[:devices]), how)
        # Twice from the same variables and key, as two phases start: no buffer was donated.
        for _ in range(2):
            state = compiled.place(initial_state(parts, variables, STEPS, key))
            for batch in batches(count=2):
                state, metrics = compiled.train(state, {"labelled": compiled.put(batch)})
            identical(compiled.fetch(state).memory["1"]["params"], pretrained)
            identical(variables.params, pretrained)
            assert metrics["anchor/distance"] > 0


def test_a_later_phase_remembers_the_initial_weights():
    parts = parts_of(terms=(Supervised(), Anchor()))
    pretrained, moved = variables_of(parts), variables_of(parts, seed=1)
    memory = memories(parts.terms, Setting(parts.model, pretrained, parts.task, lambda stream: ()))
    state = initial_state(parts, moved, STEPS, jax.random.key(0), memory)
    identical(state.memory["1"]["params"], pretrained.params)
    identical(state.variables.params, moved.params)


def test_two_terms_of_one_class_log_under_two_names():
    _, metrics = walk(parts_of(terms=(Supervised(weight=2.0), Anchor(), Supervised(weight=3.0))), count=1)
    assert {"supervised.0/risk", "anchor/distance", "supervised.2/risk"} < metrics.keys()
    assert metrics["supervised.0/risk"] == metrics["supervised.2/risk"]
    np.testing.assert_allclose(metrics["loss"], 5 * metrics["supervised.0/risk"], rtol=1e-6)


def test_the_error_for_a_missing_stream_names_the_available_streams():
    with pytest.raises(ValueError) as error:
        walk(parts_of(terms=(Supervised(on="source"),)), count=1)
    assert str(error.value) == "Supervised reads the stream 'source', which does not exist; the streams are: labelled"


def test_metrics_are_those_of_the_step(walked):
    _, metrics = walked
    parts = parts_of()
    assert metrics.keys() == {"loss", "rate", "gradient_norm", "leaf_norms", "supervised/risk"}
    learning = [path for path, learn in parts.partition.items() if learn is not None]
    assert metrics["leaf_norms"].shape == (len(learning),)
    np.testing.assert_allclose(np.linalg.norm(metrics["leaf_norms"]), metrics["gradient_norm"], rtol=1e-6)
    assert metrics["rate"] == pytest.approx(float(optimisers.rate(parts.optim, 2, 3)))


def test_the_gradient_is_that_of_the_mean_loss_by_hand():
    # One step of plain descent on a linear softmax layer: kernel -= lr x^T (p - q) / B.
    linear = models.Mlp(inputs=(4,), widths=(4,), activation="linear", input="x")
    parts = parts_of(linear, tuning.Probe(), optim=Optim("sgd", lr=0.5, momentum=None, schedule="constant"))
    before = variables_of(parts)
    (batch,) = batches(count=1)
    state, _ = walk(parts, count=1)
    x = batch["x"] @ np.asarray(before.params["stem"]["kernel"], np.float64)
    logits = x @ np.asarray(before.params["head"]["kernel"], np.float64)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    q = 0.9 * np.eye(CLASSES)[batch["label"]] + 0.1 / CLASSES
    expected = before.params["head"]["kernel"] - 0.5 * x.T @ (p - q) / BATCH
    np.testing.assert_allclose(state.trainable["head"]["kernel"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_half_precision_applies_to_activations_only():
    parts = parts_of(CNN, tuning.Full(), dtype="bfloat16")
    state, metrics = walk(parts)
    assert {leaf.dtype for leaf in jax.tree.leaves((state.variables, metrics))} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(state.optimiser) if leaf.ndim} == {jnp.dtype("float32")}
    inputs = {"image": next(batches(CNN))["image"]}
    actual = eval_step(parts._replace(features=True), state, inputs)
    assert {name: leaf.dtype for name, leaf in actual.items()} == {"logits": jnp.float32, "features": jnp.float32}
    taps, _ = models.forward(parts.model, state.variables, inputs, dtype="bfloat16")
    assert taps["stem"].dtype == jnp.bfloat16
    full, _ = walk(parts_of(CNN, tuning.Full()))
    close(state.variables.params, full.variables.params, tolerance=0.1)


def test_every_hyperparameter_is_in_the_state():
    parts = parts_of(terms=(Supervised(weight=0.25), Anchor(weight=0.5)))
    stored = initial_state(parts, variables_of(parts), STEPS, jax.random.key(0)).numbers
    assert stored["optim"].keys() == hyperparameters(parts.optim).keys()
    assert stored["terms"]["1"] == {"weight": 0.5}
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(stored))


@pytest.mark.parametrize(("how", "devices"), [("jit", 1), ("jit", 8), pytest.param("pmap", 4, marks=pytest.mark.slow)])
def test_micro_batches_give_the_undivided_step(walked, how, devices):
    # This includes dropout: noise depends on the example, not on its place.
    state, metrics = walk(parts_of(accumulate=2), how, devices)
    close(state.variables.params, walked[0].variables.params)
    for name in ("loss", "gradient_norm", "supervised/risk"):
        np.testing.assert_allclose(metrics[name], walked[1][name], rtol=1e-5)


def test_a_stream_that_cannot_be_divided_into_the_pieces_is_named():
    with pytest.raises(ValueError) as error:
        walk(parts_of(accumulate=3), devices=1, count=1)
    assert "'labelled' has 16 rows" in str(error.value) and "into 3 equal pieces" in str(error.value)


def test_batch_statistics_are_updated_by_one_piece_after_another():
    parts = parts_of(CNN, tuning.Full(), accumulate=2)
    state, _ = walk(parts, devices=1, count=1)
    full, _ = walk(parts._replace(accumulate=1), devices=1, count=1)
    mean = [flatten(actual.stats)["stem/norm/mean"] for actual in (state, full)]
    assert not np.allclose(mean[0], mean[1], rtol=1e-3)


@pytest.mark.parametrize("how", ["jit", pytest.param("pmap", marks=pytest.mark.slow)])
@pytest.mark.parametrize("remat", ["none", "dots", "stages"])
def test_rematerialisation_gives_the_same_values(remat, how, walked):
    """This includes dropout: the noise of a stage follows from its key, in both passes."""
    close(walk(parts_of(remat=remat), how)[0].variables.params, walked[0].variables.params)


def test_rematerialisation_follows_from_the_trainable_parameters():
    params = models.build(MLP, CLASSES).params
    stages = [stage.name for stage in parts_of().model.stages]
    few = tuning.Rules((r".*/bias", Learn()), (r"head/.*", Learn()), (r".*", None))
    assert rematerialised(parts_of(), stages, params) == {"stem": "dots"}
    assert rematerialised(parts_of(how=few), stages, params) == dict.fromkeys(stages[:-1], "dots")
    assert rematerialised(parts_of(how=tuning.Full()), stages, params) == {}
    assert rematerialised(parts_of(remat="stages"), stages, params) == dict.fromkeys(stages, "stage")
