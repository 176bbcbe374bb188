"""Streams of a step in one forward pass, with batch statistics over all of them."""

from functools import partial

import jax
import numpy as np
import pytest

from tlx import Optim, models, partition, sharding, tasks, terms, tuning
from tlx.objectives import inserted
from tlx.training.step import Parts, compile_step, initial_state, train_step
from tlx.trees import flatten

CNN = models.Cnn(size=4, channels=2, widths=(3, 2), dense=None, dropout=0.0)
MLP = models.Mlp(inputs=(4, 4, 2), widths=(5, 4), activation="tanh")
TERMS = (terms.Supervised(), terms.Supervised(on="source"), terms.Dann(width=3, reversal=0.5), terms.Coral(weight=9.0))
ROWS = {"labelled": 8, "source": 24, "unlabelled": 16}


def streams(rows=ROWS):
    random = np.random.default_rng(0)
    results = {}
    for number, (name, count) in enumerate(rows.items()):
        image = (1 + number) * random.normal(size=(count, 4, 4, 2)) + number
        results[name] = {"image": image.astype(np.float32), "index": np.arange(count, dtype=np.int32)}
        if name != "unlabelled":
            results[name]["label"] = random.integers(0, 3, count).astype(np.int32)
    return results


def begun(config, objective=TERMS, **more):
    model = models.build(config, 3)
    variables = jax.jit(partial(models.initialise, model))(jax.random.key(0))
    params, learn = inserted(objective, model, variables.params, jax.random.key(1))
    claimed = partition.partition(params, (*learn, *tuning.Full().phases(model)[0].rules))
    parts = Parts(model, tasks.Classification(classes=3), objective, Optim("sgd", lr=0.1), claimed, **more)
    return parts, initial_state(parts, variables._replace(params=params), 4, jax.random.key(3))


def walked(parts, state, batch, steps=2):
    train = jax.jit(partial(train_step, parts))
    for _ in range(steps):
        state, recorded = train(state, batch)
    return state, recorded


def alike(one, other, **near):
    (state, recorded), (full, output) = one, other
    assert recorded.keys() == output.keys()
    for name, value in output.items():
        np.testing.assert_allclose(recorded[name], value, **near, err_msg=name)
    actual = flatten(state.variables.params) | flatten(state.stats)
    for path, leaf in (flatten(full.variables.params) | flatten(full.stats)).items():
        np.testing.assert_allclose(actual[path], leaf, **near, err_msg=path)


@pytest.mark.parametrize("accumulate", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_without_batch_norm_and_dropout_it_equals_separate_passes(accumulate):
    batch = streams()
    actual = [walked(*begun(MLP, joint=joint, accumulate=accumulate), batch) for joint in (True, False)]
    alike(*actual, rtol=1e-6, atol=1e-6)


def moments(kernel, images):
    """Means and variances by channel of a convolution of 3x3, in float64."""
    x, kernel = np.pad(np.float64(images), ((0, 0), (1, 1), (1, 1), (0, 0))), np.float64(kernel)
    y = sum(x[:, i : i + 4, j : j + 4] @ kernel[i, j] for i in range(3) for j in range(3))
    return y.mean((0, 1, 2)), y.var((0, 1, 2))


def expected(state, pieces):
    """The running statistics of the first norm after one pass of each of these sets of images."""
    kernel = np.asarray(state.variables.params["stem"]["kernel"])
    mean, variance = np.zeros(3), np.ones(3)
    for images in pieces:
        recorded = moments(kernel, images)
        mean, variance = 0.9 * mean + 0.1 * recorded[0], 0.9 * variance + 0.1 * recorded[1]
    return mean, variance


def check(state, pieces, start):
    norm = state.stats["stem"]["norm"]
    for actual, reference in zip((norm["mean"], norm["variance"]), expected(start, pieces), strict=True):
        np.testing.assert_allclose(actual, reference, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_running_statistics_cover_all_streams_together_or_the_targets_one_after_another():
    batch = streams()
    images = {name: value["image"] for name, value in batch.items()}
    targets = [images[name] for name in batch if name != "source"]
    for joint, pieces in ((True, [np.concatenate(list(images.values()))]), (False, targets)):
        parts, start = begun(CNN, joint=joint)
        check(walked(parts, start, batch, 1)[0], pieces, start)


@pytest.mark.slow
def test_features_are_normalised_by_the_moments_of_all_streams():
    """The loss of a stream depends on another stream only in this way."""
    risk = (terms.Supervised(), terms.Mcc(weight=0.0))
    batch = streams()
    other = batch | {"unlabelled": batch["unlabelled"] | {"image": 3 - 2 * batch["unlabelled"]["image"]}}
    for joint in (True, False):
        parts, start = begun(CNN, risk, joint=joint)
        actual = [float(walked(parts, start, inputs, 1)[1]["supervised/risk"]) for inputs in (batch, other)]
        assert (abs(actual[0] - actual[1]) > 1e-3) == joint


@pytest.mark.slow
def test_every_piece_has_its_part_of_all_streams():
    batch = streams()
    parts, start = begun(CNN, joint=True, accumulate=4)
    pieces = [np.concatenate([value["image"][m::4] for value in batch.values()]) for m in range(4)]
    check(walked(parts, start, batch, 1)[0], pieces, start)


@pytest.mark.slow
def test_with_pmap_the_statistics_cover_all_devices():
    batch = streams()
    results, begins = {}, {}
    for how in ("jit", "pmap"):
        parts, begins[how] = begun(CNN, joint=True)
        compiled = compile_step(parts, sharding.make_mesh(), how)
        state = compiled.place(begins[how])
        state, recorded = compiled.train(state, {name: compiled.put(value) for name, value in batch.items()})
        results[how] = compiled.fetch(state), jax.device_get(recorded)
        check(results[how][0], [np.concatenate([value["image"] for value in batch.values()])], begins[how])
    alike(results["pmap"], results["jit"], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 4])
def test_noise_belongs_to_the_example_on_every_device(accumulate):
    """With dropout: one device, devices with `pmap`, and pieces; no stream has the noise of another."""
    noisy = models.Mlp(inputs=(4, 4, 2), widths=(5, 4), activation="tanh", dropout=0.5)
    objective = (terms.Supervised(), terms.Supervised(on="source"))
    batch = streams({"labelled": 32, "source": 32})
    full = walked(*begun(noisy, objective, joint=True), batch, 1)
    parts, start = begun(noisy, objective, joint=True, accumulate=accumulate)
    compiled = compile_step(parts, sharding.make_mesh(), "pmap")
    state, recorded = compiled.train(
        compiled.place(start), {name: compiled.put(value) for name, value in batch.items()}
    )
    recorded = jax.device_get(recorded)
    alike((compiled.fetch(state), recorded), full, rtol=1e-5, atol=1e-6)
    same = batch | {"source": batch["labelled"]}
    _, recorded = walked(*begun(noisy, objective, joint=True), same, 1)
    assert abs(recorded["supervised.0/risk"] - recorded["supervised.1/risk"]) > 1e-3


@pytest.mark.slow
def test_a_stream_that_a_term_adds_has_a_separate_pass():
    batch = streams()
    plain, more = (
        walked(*begun(CNN, objective, joint=True), batch) for objective in (TERMS, (*TERMS, terms.Mixup(weight=0.0)))
    )
    for path, leaf in (flatten(plain[0].stats) | flatten(plain[0].variables.params)).items():
        actual = flatten(more[0].stats) | flatten(more[0].variables.params)
        np.testing.assert_allclose(actual[path], leaf, rtol=1e-6, atol=1e-6, err_msg=path)
