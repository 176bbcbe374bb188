"""A head on spans with a window: the model reads each window of a text separately."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from tlx import models
from tlx.models import Span, build, forward

WINDOW = 5
CONFIG = models.Bert(vocabulary=19, positions=WINDOW, width=12, depth=2, heads=3, mlp=10)
IDS = np.random.default_rng(0).integers(2, 19, (2, 3 * WINDOW))
MASK = np.ones_like(IDS)
# The first text has two windows, the last token of which is padding, and a window of padding.
MASK[0, 2 * WINDOW - 1 :] = 0
INPUTS = {"input_ids": IDS, "attention_mask": MASK, "token_type_ids": IDS % 2}


@pytest.fixture(scope="module")
def variables():
    return models.initialise(build(CONFIG, Span()), jax.random.key(0))


def test_windows_are_read_separately(variables):
    folded = jax.jit(lambda inputs: forward(build(CONFIG, Span(window=WINDOW)), variables, inputs)[0])(INPUTS)
    alone = jax.jit(lambda inputs: forward(build(CONFIG, Span()), variables, inputs)[0])
    assert folded["logits"].shape == (2, 3 * WINDOW, 2) and folded["blocks/01"].shape == (2, 3 * WINDOW, 12)
    for start in range(0, 3 * WINDOW, WINDOW):
        part = alone({name: array[:, start : start + WINDOW] for name, array in INPUTS.items()})
        real = MASK[:, start : start + WINDOW] > 0
        for name in ("logits", "hidden", "stem"):
            rows = np.asarray(folded[name])[:, start : start + WINDOW]
            np.testing.assert_allclose(rows[real], np.asarray(part[name])[real], atol=1e-6, err_msg=name)
    assert np.isfinite(folded["logits"]).all()


def test_a_short_text_is_one_window(variables):
    short = {name: array[:, : WINDOW - 1] for name, array in INPUTS.items()}
    windowed, plain = (forward(build(CONFIG, head), variables, short)[0] for head in (Span(window=WINDOW), Span()))
    np.testing.assert_array_equal(windowed["logits"], plain["logits"])


def test_gradients_are_finite_where_a_window_is_padding(variables):
    def loss(params):
        logits = forward(build(CONFIG, Span(window=WINDOW)), variables._replace(params=params), INPUTS)[0]["logits"]
        return (logits * MASK[..., None].astype(np.float32)).sum()

    gradient = jax.jit(jax.grad(loss))(variables.params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_the_noise_of_a_window_follows_from_the_place_of_its_text():
    model = build(replace(CONFIG, dropout=0.5), Span(window=WINDOW))
    variables = models.initialise(model, jax.random.key(0))

    @jax.jit
    def logits(inputs, offset):
        return forward(model, variables, inputs, key=jax.random.key(1), train=True, offset=offset)[0]["logits"]

    swapped = {name: array[::-1] for name, array in INPUTS.items()}
    both = logits(INPUTS, 0)
    # Rows in another order have the noise of their places, and without the places another noise.
    np.testing.assert_allclose(logits(swapped, np.array([1, -1])), both[::-1], atol=1e-6)
    assert not np.allclose(logits(swapped, 0), both[::-1], atol=1e-3)


def test_a_text_that_does_not_end_with_a_window_is_refused(variables):
    with pytest.raises(ValueError, match=r"7 tokens.*at most 5"):
        forward(build(CONFIG, Span(window=WINDOW)), variables, {"input_ids": IDS[:, :7]})
