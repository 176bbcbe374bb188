"""Images that are mixed in pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tlx import models, terms
from tlx.objectives import with_created
from tlx.objectives.mixing import neighbours, symmetric_beta
from tlx.types import Tick

IMAGES = models.Mlp(inputs=(6, 5, 1), widths=(4,), activation="tanh")


def test_neighbours_are_swapped():
    np.testing.assert_array_equal(neighbours(jnp.arange(6)), [1, 0, 3, 2, 5, 4])
    assert neighbours(jnp.zeros((4, 2, 3))).shape == (4, 2, 3)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_the_share_is_drawn_from_a_symmetric_beta(alpha):
    keys = jax.random.split(jax.random.key(3), 4000)
    drawn = np.asarray(jax.jit(jax.vmap(symmetric_beta, (0, None)))(keys, jnp.float32(alpha)))
    assert ((drawn >= 0) & (drawn <= 1)).all()
    assert stats.kstest(drawn.astype(np.float64), stats.beta(alpha, alpha).cdf).pvalue > 0.01


@pytest.mark.parametrize("kind", [terms.Mixup, terms.CutMix])
def test_images_and_labels_are_mixed_in_the_same_way(mlp, kind):
    batch, term = mlp.labelled(IMAGES), kind(alpha=1.0, weight=2.0)
    actual = mlp.look(term, config=IMAGES, batch=batch)
    tick = Tick(jnp.float32(0.0), jax.random.key(7))
    stream = term.streams({"labelled": batch}, tick)[term.adds[0]]
    share, partner = np.float64(stream["share"][0]), np.asarray(batch["image"])[[1, 0, 3, 2, 5, 4]]
    assert 0.05 < share < 0.95
    mixed = np.float64(stream["image"])
    if kind is terms.Mixup:
        np.testing.assert_allclose(mixed, share * batch["image"] + (1 - share) * partner, atol=1e-6)
    else:
        value = mixed == batch["image"]
        assert (value | (mixed == partner)).all()
        # All images have the same box, and the labels are mixed by the share of its pixels.
        assert value.mean() == pytest.approx(share)
        assert (value == value[:1]).all()
        rows, columns = np.nonzero(~value[0, :, :, 0])
        assert (~value[0, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]).all()
    p = mlp.softmax(logits(mlp, mixed))
    log = -np.log(p)
    risk = share * log[range(6), batch["label"]] + (1 - share) * log[range(6), batch["label"][[1, 0, 3, 2, 5, 4]]]
    assert actual.value == pytest.approx(2 * risk.mean(), rel=1e-4)
    assert actual.metrics["share"] == pytest.approx(share)


def logits(mlp, images):
    variables = mlp.drawn(models.build(IMAGES, 3), 0)
    value = {name: {n: np.float64(leaf) for n, leaf in variables.params[name].items()} for name in ("stem", "head")}
    hidden = np.tanh(images.reshape(6, -1) @ value["stem"]["kernel"] + value["stem"]["bias"])
    return hidden @ value["head"]["kernel"] + value["head"]["bias"]


def test_the_draw_depends_on_the_tick_only(mlp):
    batch = mlp.labelled(IMAGES)
    shares = {
        float(terms.Mixup().streams({"labelled": batch}, Tick(None, jax.random.key(key)))["mixup"]["share"][0])
        for key in (1, 1, 2)
    }
    assert len(shares) == 2


def test_inputs_that_cannot_be_mixed_are_refused(mlp):
    tick = Tick(None, jax.random.key(0))
    for kind, name in ((terms.Mixup, "Mixup"), (terms.CutMix, "CutMix")):
        with pytest.raises(ValueError) as error:
            mlp.preview(kind(), models.build(models.Bert(depth=1), 2))
        assert str(error.value) == f"{name} needs a model that reads 'image'; this model reads 'input_ids'"
        with pytest.raises(ValueError) as error:
            kind().streams({"labelled": mlp.labelled()}, tick)
        assert str(error.value) == f"{name} mixes images, but the stream 'labelled' contains only index, label, x"
        with pytest.raises(ValueError) as error:
            kind().streams({"labelled": mlp.labelled(IMAGES, rows=5)}, tick)
        assert str(error.value).endswith("an even number of examples on each device, not 5")
        with pytest.raises(ValueError) as error:
            kind(alpha=0.0)
        assert str(error.value).startswith(f"{name}: alpha is 0.0; ")
        both = kind().streams({"labelled": mlp.labelled(IMAGES)}, tick)
        with pytest.raises(ValueError, match=f"{name} adds the stream '{name.lower()}', which already exists"):
            with_created((kind(),), both, tick)
