"""Parameters in fewer bits: bfloat16 beside float32 masters, and a frozen base in int8.

The references are written with NumPy alone. Shapes: B batch, I inputs, W width, C classes.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

import tlx
from tlx import Data, Optim, Recipe, Train, config, models, partition, sharding, tasks, tuning
from tlx.layers import Quantised, dequantised, embed
from tlx.models import initialise
from tlx.objectives import MeanTeacher, Supervised
from tlx.training import describe
from tlx.training.evaluate import feature_reader
from tlx.training.precision import Precision, fixed_kernels, looked_up, quantised, unrounded
from tlx.training.prepare import prepare
from tlx.training.reopen import reopen
from tlx.training.step import Parts, compile_step, initial_state
from tlx.trees import flatten
from tlx.types import Setting, Variables

CLASSES, ROWS, WIDTH = 3, 16, 8
MLP = models.Mlp(inputs=(4, 4, 1), widths=(WIDTH,))
LORA = tuning.Lora(rank=2, alpha=4.0, on="stem")
HIDDEN, HEAD = "stem", "head"


def parts_of(how, parameters="float32", frozen=None, terms=(Supervised(),), **more):
    """Return a step whose plain gradient descent at rate 1 shows the gradient, with its variables."""
    model = models.build(MLP, CLASSES)
    params = jax.jit(lambda key: initialise(model, key))(jax.random.key(0)).params
    params = how.insert(model, params, jax.random.key(1))
    leaves = flatten(params)
    if f"{HIDDEN}/lora/b" in leaves:
        leaves[f"{HIDDEN}/lora/b"] = jax.random.normal(jax.random.key(3), leaves[f"{HIDDEN}/lora/b"].shape)
    params = tlx.trees.nest(leaves)
    claimed = partition.partition(params, how.phases(model)[0].rules)
    fixed = fixed_kernels(model, {path for path, learn in claimed.items() if learn is not None})
    precision = Precision(parameters, frozen, fixed)
    optim = Optim("sgd", lr=1.0, momentum=None, schedule="constant")
    task = tasks.Classification(classes=CLASSES)
    gather = None if precision.is_plain else precision.gather
    parts = Parts(model, task, terms, optim, claimed, precision=precision, gather=gather, **more)
    return parts, Variables(params, {})


def batch_of(seed=0):
    random = np.random.default_rng(seed)
    return {
        "image": random.normal(size=(ROWS, 4, 4, 1)).astype(np.float32),
        "label": random.integers(0, CLASSES, ROWS).astype(np.int32),
        "index": np.arange(ROWS, dtype=np.int32),
    }


def moved(parts, variables, mesh=None):
    """Return the gradients by path, the loss, and the scores after the step."""
    compiled = compile_step(parts, mesh or sharding.make_mesh(jax.devices()[:1]))
    memory = {
        str(n): term.memory(Setting(parts.model, variables, parts.task, lambda stream: ()))
        for n, term in enumerate(parts.terms)
    }
    state = compiled.place(initial_state(parts, variables, 1, jax.random.key(2), memory))
    before = {path: np.array(leaf) for path, leaf in flatten(state.trainable).items()}
    state, metrics = compiled.train(state, {"labelled": compiled.put(batch_of())})
    inputs = {name: array for name, array in batch_of(1).items() if name != "index"}
    scores = jax.device_get(compiled.evaluate(compiled.answer(state), compiled.put(inputs)))
    after = flatten(state.trainable)
    assert all(leaf.dtype == np.float32 for leaf in after.values())
    return {path: before[path] - np.asarray(leaf) for path, leaf in after.items()}, float(metrics["loss"]), scores


def grid_of(kernel):
    """The values of a kernel in 8 bits: whole multiples of a 127th of the largest number of its column."""
    scale = np.abs(kernel).max(0).astype(np.float64) / 127
    _, exponent = np.frexp(scale)
    unit = 2.0 ** (exponent - 17)
    scale = np.round(scale / unit) * unit
    return np.round(kernel / scale) * scale


def half(array):
    return array.astype(ml_dtypes.bfloat16).astype(np.float64)


def reference(leaves):
    """The loss of an MLP with an adapter in its hidden layer, and its gradients, worked out by hand in float64.

    h = relu(x W + b + s x A B), logits = h V + c, and the mean cross-entropy.
    """
    batch, leaves = batch_of(), {path: np.asarray(leaf, np.float64) for path, leaf in leaves.items()}
    x, labels = batch["image"].reshape(ROWS, -1).astype(np.float64), batch["label"]
    kernel, bias = leaves[f"{HIDDEN}/kernel"], leaves[f"{HIDDEN}/bias"]
    before = x @ kernel + bias
    lora = f"{HIDDEN}/lora/b" in leaves
    if lora:
        a, b, scale = (leaves[f"{HIDDEN}/lora/{name}"] for name in ("a", "b", "scale"))
        before = before + scale * (x @ a) @ b
    hidden = np.maximum(before, 0)
    logits = hidden @ leaves[f"{HEAD}/kernel"] + leaves[f"{HEAD}/bias"]
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    loss = -np.log(shares[np.arange(ROWS), labels]).mean()
    slope = (shares - np.eye(CLASSES)[labels]) / ROWS
    inner = slope @ leaves[f"{HEAD}/kernel"].T * (before > 0)
    gradients = {
        f"{HEAD}/kernel": hidden.T @ slope, f"{HEAD}/bias": slope.sum(0), f"{HIDDEN}/kernel": x.T @ inner,
        f"{HIDDEN}/bias": inner.sum(0),
    }  # fmt: skip
    if lora:
        gradients |= {f"{HIDDEN}/lora/a": scale * x.T @ (inner @ b.T), f"{HIDDEN}/lora/b": scale * (x @ a).T @ inner}
    return loss, gradients


def assert_gradients(parts, variables, seen):
    gradients, loss, _ = moved(parts, variables)
    expected_loss, expected = reference(seen)
    assert loss == pytest.approx(expected_loss, abs=1e-6)
    assert gradients
    for path, gradient in gradients.items():
        np.testing.assert_allclose(gradient, expected[path], rtol=1e-5, atol=1e-5, err_msg=path)


def test_gradients_of_an_adapter_are_those_at_the_values_of_8_bits():
    parts, variables = parts_of(LORA, frozen="int8")
    leaves = flatten(variables.params)
    kernel = np.asarray(leaves[f"{HIDDEN}/kernel"])
    assert np.abs(grid_of(kernel) - kernel).max() > 1e-4
    assert_gradients(parts, variables, leaves | {f"{HIDDEN}/kernel": grid_of(kernel)})


def test_gradients_of_float32_masters_are_those_at_their_rounded_values():
    """They are not rounded themselves."""
    for how in (tuning.Full(), LORA):
        parts, variables = parts_of(how, parameters="bfloat16")
        leaves = flatten(variables.params)
        seen = {path: half(np.asarray(leaf)) if leaf.ndim > 1 else leaf for path, leaf in leaves.items()}
        assert_gradients(parts, variables, seen)


def test_eight_bits_keep_what_they_mean():
    """Each number is moved by half a step at most, and what 8 bits mean is quantised to the same bits again, on the
    host and on a device."""
    random = np.random.default_rng(0)
    for path, shape, others in (
        ("kernel", (40, 30), 0),
        ("conv/kernel", (3, 3, 5, 7), (0, 1, 2)),
        ("embedding", (9, 33), 1),
    ):
        leaf = (random.normal(size=shape) * 10.0 ** random.integers(-6, 6, shape[-1])).astype(np.float32)
        leaf[..., 0] = 0
        numbers = quantised(path, leaf)
        assert numbers.values.dtype == np.int8 and numbers.values.shape == numbers.shape == shape
        meant = dequantised(numbers)
        largest = np.abs(leaf).max(others, keepdims=True)
        assert (np.abs(meant - leaf) <= largest / 254 * (1 + 1e-4)).all()
        for again in (quantised(path, meant), jax.jit(quantised, static_argnums=0)(path, jnp.asarray(meant))):
            np.testing.assert_array_equal(again.values, numbers.values)
            np.testing.assert_array_equal(again.scale, numbers.scale)
        np.testing.assert_array_equal(jax.jit(dequantised)(numbers), meant)


def test_rows_of_an_embedding_in_fewer_bits_are_those_of_the_whole_table():
    table = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    ids = np.array([[0, 6, 3], [2, 7, 2]])
    numbers = quantised("words/embedding", table)
    expected = embed({"embedding": dequantised(numbers)}, ids)
    assert np.isnan(expected[1, 1]).all() and np.isfinite(expected[0]).all()
    np.testing.assert_array_equal(embed({"embedding": numbers}, ids), expected)
    halves = table.astype(ml_dtypes.bfloat16)
    rows = embed({"embedding": halves}, ids)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows[0], halves.astype(np.float32)[ids[0]])


@pytest.mark.parametrize("settings", [{"frozen": "int8"}, {"parameters": "bfloat16"}], ids=str)
def test_a_frozen_table_of_words_is_converted_row_by_row(settings):
    """The stage gets the table as the state holds it; a term gets it in float32."""
    model = models.build(models.Bert(vocabulary=30, width=8, depth=1, heads=2, mlp=8, positions=8), CLASSES)
    params = initialise(model, jax.random.key(0)).params
    precision = Precision(**settings, fixed=fixed_kernels(model, ()), looked_up=looked_up(model))
    held = precision.stored(params)
    seen, everything = precision.gather("stem", held["stem"]), precision.all_seen(held)
    widths = {leaf.dtype.itemsize for leaf in jax.tree.leaves(seen["words"])}
    assert min(widths) == (1 if "frozen" in settings else 2)
    assert flatten(everything)["stem/words/embedding"].dtype == flatten(seen)["types/embedding"].dtype == np.float32


MODES = {"masters": (tuning.Full(), {"parameters": "bfloat16"}), "base": (LORA, {"frozen": "int8"})}


@pytest.mark.parametrize("mode", MODES)
def test_pieces_devices_and_the_state_agree(mode, monkeypatch):
    """A batch in pieces, and a mesh that cuts every parameter, give the same step; a base in 8 bits takes a quarter."""
    monkeypatch.setattr(sharding, "SMALLEST", 0)
    how, settings = MODES[mode]
    parts, variables = parts_of(how, **settings)
    gradients, loss, scores = moved(parts, variables)
    mesh = sharding.make_mesh(mesh=sharding.Mesh(data=2, fsdp=2, tensor=2))
    for other, devices in ((parts._replace(accumulate=2), None), (parts, mesh)):
        actual, actual_loss, actual_scores = moved(other, variables, devices)
        assert actual_loss == pytest.approx(loss, abs=1e-6)
        for name, array in scores.items():
            np.testing.assert_allclose(actual_scores[name], array, rtol=1e-5, atol=1e-5)
        for path, gradient in gradients.items():
            np.testing.assert_allclose(actual[path], gradient, rtol=1e-5, atol=1e-5, err_msg=path)
    if mode == "base":
        placed = compile_step(parts, mesh).place(initial_state(parts, variables, 1, jax.random.key(2), {"0": {}}))
        numbers = flatten(placed.frozen)[f"{HIDDEN}/kernel"]
        assert isinstance(numbers, Quantised) and numbers.values.nbytes == 4 * 4 * WIDTH
        assert tuple(numbers.values.sharding.spec) == ("fsdp", "tensor")


def test_a_term_sees_the_parameters_of_the_layers():
    """A teacher that equals the student has no distance from it."""
    for how, settings in MODES.values():
        parts, variables = parts_of(how, terms=(MeanTeacher(on="labelled", weight=1.0),), ema=0.5, **settings)
        assert moved(parts, variables)[1] == pytest.approx(0, abs=1e-12)


def recipe_of(how=LORA, **train):
    train = {"steps": 6, "batch": 16, "eval_every": 3, "select": "best-validation"} | train
    data = Data(target="digits", fraction=0.2)
    model = models.Mlp(inputs=(8, 8, 1), widths=(32, 32))
    task = tasks.Classification(classes=10)
    return Recipe(data=data, task=task, model=model, tuning=how, optim=Optim(lr=0.02), train=Train(**train))


def test_a_run_saves_float32_weights_that_answer_as_it_did(tmp_path, no_page):
    """The base of the saved model has the values of its 8 bits, so its answers are those that were measured."""
    recipe = recipe_of(dataclasses.replace(LORA, on="blocks/00"), frozen_dtype="int8")
    run = tlx.run(recipe, tmp_path / "run", quiet=True)
    ready = prepare(recipe)
    kernel, saved = (
        flatten(ready.pretrained.params)["stem/kernel"],
        load_file(run.folder / "model" / "model.safetensors"),
    )
    assert {leaf.dtype.name for leaf in saved.values()} == {"float32"}
    np.testing.assert_allclose(saved["stem/kernel"], grid_of(np.asarray(kernel)), rtol=1e-6)
    assert np.abs(saved["stem/kernel"] - kernel).max() > 1e-4
    stored = dict(np.load(run.folder / "predictions" / "test.npz"))
    opened = reopen(run.folder)
    features = feature_reader(opened.ready)(opened.after, opened.splits.test)["features"]
    logits = features @ saved["head/kernel"] + saved["head/bias"]
    np.testing.assert_allclose(logits, stored["logits"], rtol=1e-5, atol=1e-5)
    assert any("held in int8" in note for note in run.result["notes"])
    # The adapter fits the model that it was trained on, before its base was rounded.
    assert unrounded(opened.after.params, ready.pretrained.params, ready.precision)["stem"]["kernel"] is kernel
    arrays = json.loads(next((run.folder / "checkpoints").glob("*/notes.json")).read_text())["arrays"]
    assert {dtype for dtype, _, _ in arrays.values()} <= {"float32", "int32", "uint32"}


@pytest.mark.parametrize(
    "settings",
    [{"frozen_dtype": "int8"}, pytest.param({"parameter_dtype": "bfloat16"}, marks=pytest.mark.slow)],
    ids=str,
)
def test_a_run_resumes_with_the_same_bits(settings, no_page, goes_on):
    goes_on(recipe_of(**settings), [4])


def test_the_settings_are_part_of_the_experiment_and_of_its_table():
    plain, base = recipe_of(), recipe_of(frozen_dtype="int8")
    masters = recipe_of(parameter_dtype="bfloat16")
    assert len({config.fingerprint(recipe) for recipe in (plain, base, masters)}) == 3
    totals = [describe.totals(prepare(recipe))["bytes"] for recipe in (plain, masters, base)]
    frozen = 32 * 64 + 32 * 32
    assert totals[0] - totals[1] == 2 * frozen and totals[0] - totals[2] == 3 * frozen


@pytest.mark.parametrize("how", [tuning.Full(), tuning.Gradual()], ids=lambda how: type(how).__name__)
def test_a_base_that_is_trained_is_not_held_in_8_bits(how):
    with pytest.raises(
        ValueError, match=rf"train.frozen_dtype is 'int8', but {type(how).__name__} trains every matrix"
    ):
        prepare(recipe_of(how, frozen_dtype="int8"))
    with pytest.raises(ValueError, match="frozen_dtype is 'int4'; expected one of 'int8'"):
        recipe_of(frozen_dtype="int4")
