"""Features for a frozen head, by hand in float64."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from tlx import terms
from tlx.objectives import check_frozen_head
from tlx.objectives.shot import centroid_labels


def by_hand(f, p):
    """The labels of equations 4 to 6, class by class."""
    likeliest = p.argmax(-1)
    classes = [k for k in range(p.shape[1]) if (likeliest == k).any()]
    centroids = np.stack([(p[:, k, None] * f).sum(0) / p[:, k].sum() for k in classes])
    first = np.array(classes)[cdist(f, centroids, "cosine").argmin(-1)]
    classes = [k for k in classes if (first == k).any()]
    centroids = np.stack([f[first == k].mean(0) for k in classes])
    return np.array(classes)[cdist(f, centroids, "cosine").argmin(-1)]


@pytest.mark.parametrize("seed", range(5))
def test_labels_are_those_of_the_nearest_centroid(seed):
    random = np.random.default_rng(seed)
    f, scores = random.normal(size=(23, 5)), 2 * random.normal(size=(23, 7))
    # No example has the last class as its most likely class, but for all examples it is nearly the most likely.
    scores[np.arange(23), random.integers(0, 6, 23)] += 5
    scores[:, 6] = scores[:, :6].max(-1) - 0.1
    p = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    expected = by_hand(f, p)
    np.testing.assert_array_equal(centroid_labels(jnp.float32(f), jnp.float32(p)), expected)
    assert 6 not in expected and (expected != p.argmax(-1)).any()


def test_it_is_the_loss_of_the_paper(mlp):
    batch = {name: array for name, array in mlp.labelled(rows=11, seed=3).items() if name != "label"}
    actual = mlp.look(terms.Shot(pseudo=0.7, weight=2.0), others={"unlabelled": batch})
    variables = mlp.drawn(mlp.model, 0)
    _, f, logits = mlp.by_hand(variables, batch["x"])
    labels = by_hand(f, mlp.softmax(logits))
    assert (labels != logits.argmax(-1)).any()

    def parts(logits):
        p = mlp.softmax(logits)
        sure, mean = -(p * np.log(p)).sum(-1).mean(), p.mean(0)
        return sure, -(mean * np.log(mean)).sum(), -np.log(p[np.arange(11), labels]).mean()

    sure, diversity, risk = parts(logits)
    assert actual.value == pytest.approx(2 * (sure - diversity + 0.7 * risk), rel=1e-4, abs=1e-5)
    for name, value in (("entropy", sure), ("diversity", diversity), ("pseudo", risk)):
        assert float(actual.metrics[name]) == pytest.approx(value, rel=1e-5), name
    # One entry of the gradient by finite differences, with fixed labels.
    values, step, where = [], 1e-5, (2, 1)
    for sign in (1, -1):
        moved = mlp.drawn(mlp.model, 0)
        kernel = np.asarray(moved.params["blocks"]["00"]["kernel"], np.float64).copy()
        kernel[where] += sign * step
        moved.params["blocks"]["00"]["kernel"] = kernel
        sure, diversity, risk = parts(mlp.by_hand(moved, batch["x"])[2])
        values.append(2 * (sure - diversity + 0.7 * risk))
    slope = (values[0] - values[1]) / (2 * step)
    assert actual.gradient["blocks/00/kernel"][where] == pytest.approx(slope, rel=1e-3, abs=1e-6)


def test_the_head_has_its_initial_weights_and_is_frozen(mlp):
    mlp.preview(terms.Shot(), mlp.model)
    with pytest.raises(ValueError, match=r"^Shot .* 'head/kernel' .* is drawn at random: .* weights=Weights"):
        mlp.preview(terms.Shot(), mlp.model, new=frozenset({"head/kernel"}))
    objective = (terms.Entropy(on="unlabelled"), terms.Shot())
    check_frozen_head(objective, mlp.model, {"stem/kernel", "blocks/00/bias"})
    check_frozen_head(objective[:1], mlp.model, {"stem/kernel", "head/bias"})
    with pytest.raises(ValueError) as error:
        check_frozen_head(objective, mlp.model, {"stem/kernel", "head/bias", "head/kernel"})
    assert str(error.value).startswith("Shot needs a frozen head, but the tuning trains 'head/bias'")
    assert str(error.value).endswith("Rules(('head/.*', None), ('.*', Learn()))")
