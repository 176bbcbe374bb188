"""Predictions of the model as labels, by hand in float64; strong views of inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from tlx import models, terms
from tlx.objectives import strong
from tlx.types import Tick

IMAGES = models.Mlp(inputs=(5, 3, 2), widths=(5, 4), activation="tanh")


def unlabelled(mlp, config=None, rows=7, seed=3):
    batch = mlp.labelled(config or mlp.config, rows=rows, seed=seed)
    return {name: array for name, array in batch.items() if name != "label"}


def answers(mlp, x, config=None):
    variables = mlp.drawn(models.build(config or mlp.config, 3), 0)
    _, hidden, logits = mlp.by_hand(variables, np.asarray(x).reshape(len(x), -1))
    return hidden, mlp.softmax(logits)


@pytest.mark.parametrize("threshold", [0.0, 0.6, 1.0])
def test_a_pseudo_label_is_a_confident_prediction(mlp, threshold):
    batch = unlabelled(mlp)
    actual = mlp.look(terms.PseudoLabel(threshold=threshold, weight=2.0), others={"unlabelled": batch})
    hidden, p = answers(mlp, batch["x"])
    remaining = p.max(-1) >= threshold
    assert threshold != 0.6 or 0 < remaining.sum() < 7
    assert actual.value == pytest.approx(2 * -(remaining * np.log(p.max(-1))).mean(), rel=1e-5)
    assert float(actual.metrics["kept"]) == pytest.approx(remaining.mean())
    # The label is a constant: the slope of the cross-entropy in the logits is p - one-hot.
    slope = 2 * remaining[:, None] * (p - np.eye(3)[p.argmax(-1)]) / 7
    np.testing.assert_allclose(actual.gradient["head/kernel"], hidden.T @ slope, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [0.0, 0.6])
def test_fixmatch_trains_the_strong_view_on_the_prediction_of_the_weak_view(mlp, threshold):
    batch = unlabelled(mlp, IMAGES)
    term = terms.FixMatch(threshold=threshold, weight=2.0)
    actual = mlp.look(term, config=IMAGES, batch=mlp.labelled(IMAGES), others={"unlabelled": batch})
    streams = term.streams({"unlabelled": batch}, Tick(jnp.float32(0.0), jax.random.key(7)))
    assert streams["unlabelled"] is batch
    _, weak = answers(mlp, batch["image"], IMAGES)
    hidden, p = answers(mlp, streams["fixmatch"]["image"], IMAGES)
    remaining, label = weak.max(-1) >= threshold, weak.argmax(-1)
    assert (p.argmax(-1) != label).any()
    expected = -(remaining * np.log(p[np.arange(7), label])).mean()
    assert actual.value == pytest.approx(2 * expected, rel=1e-5)
    slope = 2 * remaining[:, None] * (p - np.eye(3)[label]) / 7
    np.testing.assert_allclose(actual.gradient["head/kernel"], hidden.T @ slope, rtol=1e-4, atol=1e-6)


def test_a_strong_view_of_strength_zero_is_the_weak_view(mlp):
    batch = unlabelled(mlp, IMAGES)
    ask = {"config": IMAGES, "batch": mlp.labelled(IMAGES), "others": {"unlabelled": batch}}
    actual, plain = (mlp.look(term, **ask) for term in (terms.FixMatch(strength=0.0), terms.PseudoLabel()))
    assert actual.value == pytest.approx(plain.value, rel=1e-6)
    for path, leaf in plain.gradient.items():
        np.testing.assert_allclose(actual.gradient[path], leaf, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", [pytest.param("image", marks=pytest.mark.slow), "text"])
def test_a_strong_view_depends_on_the_step_and_the_example_only(kind):
    random = np.random.default_rng(0)
    stream = {"index": np.array([4, 9, 2, 7, 30], np.int32)}
    if kind == "image":
        stream["image"], changes = random.normal(size=(5, 6, 7, 3)).astype(np.float32), "image"
    else:
        stream["input_ids"], changes = random.integers(1, 9, (5, 40)).astype(np.int32), "attention_mask"
    order = np.array([3, 0, 4, 1, 2])

    def strong_view(stream, key):
        tick = Tick(jnp.float32(0), jax.random.key(key))
        return np.asarray(terms.FixMatch().streams({"unlabelled": stream}, tick)["fixmatch"][changes])

    view, second = strong_view(stream, 0), strong_view({name: leaf[order] for name, leaf in stream.items()}, 0)
    np.testing.assert_array_equal(second, view[order])
    assert all((a != b).any() for a, b in zip(view, strong_view(stream, 1), strict=True))


@pytest.mark.slow
def test_images_are_moved_about_their_centre():
    image = np.random.default_rng(0).normal(size=(6, 9, 2)).astype(np.float32)
    angle, shears, shifts = 0.4, (0.2, -0.1), (0.25, -0.3)
    actual = strong.moved(jnp.asarray(image), jnp.float32(angle), shears, shifts)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[1, shears[0]], [shears[1], 1]])
    centre = np.array([2.5, 4.0])
    places = np.stack(np.meshgrid(np.arange(6), np.arange(9), indexing="ij")).reshape(2, -1) - centre[:, None]
    requested = (matrix @ places + (centre + np.array(shifts) * (6, 9))[:, None]).reshape(2, 6, 9)
    for channel in range(2):
        expected = map_coordinates(image[..., channel].astype(np.float64), requested, order=1, mode="nearest")
        np.testing.assert_allclose(actual[..., channel], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_every_kind_of_change_occurs_within_its_limit():
    """Many draws of one flat image: only brightness and the square can show."""
    keys = jax.random.split(jax.random.key(0), 2000)
    flat = jnp.full((2000, 8, 8, 1), 0.25)
    view = np.asarray(strong.strong_image(flat, keys))
    cut = (view == 0).mean((1, 2, 3))
    assert cut.max() <= 0.25 and 0.03 < cut.mean() < 0.12
    # Two of seven kinds, with replacement: a kind occurs with probability 1 - (6 / 7)^2.
    lightened = np.array([np.abs(value[value != 0] - 0.25).max() > 1e-6 for value in view])
    assert lightened.mean() == pytest.approx(1 - (6 / 7) ** 2, abs=0.03)
    assert np.abs(view[view != 0] - 0.25).max() <= 0.95
    # A ramp from top to bottom: a rotation, a shear by columns, a shift down and contrast change it.
    ramp = jnp.broadcast_to(jnp.linspace(-1.0, 1.0, 8)[:, None, None], (2000, 8, 8, 1))
    changed = np.asarray(jax.vmap(lambda value, key: strong.changed(value, key, 1.0))(ramp, keys))
    assert np.mean([np.abs(a - b).max() > 1e-6 for a, b in zip(changed, ramp, strict=True)]) > 0.8


def test_a_share_of_the_tokens_is_masked_and_padding_stays_masked():
    ids = np.ones((300, 50), np.int32)
    mask = (np.arange(50) < 40).astype(np.int32) * np.ones_like(ids)
    keys = jax.random.split(jax.random.key(0), 300)
    actual = np.asarray(strong.strong_text({"input_ids": ids, "attention_mask": mask}, keys, 0.25))
    assert actual.dtype == mask.dtype
    assert (actual[:, 0] == 1).all() and (actual[:, 40:] == 0).all()
    assert actual[:, 1:40].mean() == pytest.approx(0.75, abs=0.01)
    np.testing.assert_array_equal(strong.strong_text({"input_ids": ids}, keys, 0.25)[:, :40], actual[:, :40])


def test_inputs_without_a_strong_view_are_refused(mlp):
    with pytest.raises(ValueError) as error:
        mlp.preview(terms.FixMatch(), mlp.model)
    assert str(error.value) == "FixMatch needs a model that reads 'image' or 'input_ids'; this model reads 'x'"
    with pytest.raises(ValueError) as error:
        terms.FixMatch().streams({"unlabelled": unlabelled(mlp)}, Tick(jnp.float32(0), jax.random.key(0)))
    assert str(error.value) == "FixMatch needs images or text, but the stream 'unlabelled' contains only index, x"
    mlp.preview(terms.FixMatch(), models.build(IMAGES, 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: terms.PseudoLabel(threshold=1.5), "PseudoLabel: threshold is 1.5; expected "),
        (lambda: terms.FixMatch(threshold=-0.5), "FixMatch: threshold is -0.5; expected "),
        (lambda: terms.FixMatch(strength=2.0), "FixMatch: strength is 2.0; expected "),
        (lambda: terms.FixMatch(masked=1.1), "FixMatch: masked is 1.1; expected "),
    ],
)
def test_invalid_terms_are_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)
