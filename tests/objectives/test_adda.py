"""A target encoder and a source encoder before one discriminator, worked out by hand in float64."""

import numpy as np
import pytest

from tlx import terms
from tlx.objectives import batch_streams, check_needs, passes
from tlx.trees import flatten
from tlx.types import Turn


@pytest.fixture
def three_streams(mlp):
    streams = {"source": mlp.labelled(rows=7, seed=2), "unlabelled": mlp.labelled(rows=5, seed=3)}
    del streams["unlabelled"]["label"]
    return streams


def network(params, x):
    p = {path: np.asarray(leaf, np.float64) for path, leaf in flatten(params["adda"]).items()}
    for layer in "01":
        x = np.maximum(x @ p[f"{layer}/kernel"] + p[f"{layer}/bias"], 0)
    return (x @ p["2/kernel"] + p["2/bias"])[:, 0]


def softplus(x):
    return np.log1p(np.exp(x))


def test_the_loss_of_each_turn(mlp, three_streams):
    """The source encoder has the initial weights, however far the target encoder has moved."""
    pretrained, now = mlp.drawn(mlp.model, 0), mlp.drawn(mlp.model, 4)
    term = terms.Adda(width=3, weight=2.0)
    actual = [mlp.look(term, initial=pretrained, now=now, others=three_streams, turn=turn) for turn in (0, 1)]
    _, before, _ = mlp.by_hand(pretrained, three_streams["source"]["x"])
    _, after, _ = mlp.by_hand(now, three_streams["unlabelled"]["x"])
    source, target = (network(actual[0].params, rows) for rows in (before, after))
    risk = 0.5 * softplus(-source).mean() + 0.5 * softplus(target).mean()
    fooled = softplus(-target).mean()
    right = 0.5 * (source > 0).mean() + 0.5 * (target < 0).mean()
    for item, value in zip(actual, (risk, fooled), strict=True):
        assert item.value == pytest.approx(2 * value, rel=1e-5)
        assert float(item.metrics["risk"]) == pytest.approx(risk, rel=1e-5)
        assert float(item.metrics["fooled"]) == pytest.approx(fooled, rel=1e-5)
        assert float(item.metrics["accuracy"]) == pytest.approx(right)
    # One entry of the gradient of the target encoder, by finite differences; the source gives no gradient.
    step, where, values = 1e-5, (0, 1), []
    for sign in (1, -1):
        moved = mlp.drawn(mlp.model, 4)
        kernel = np.asarray(moved.params["blocks"]["00"]["kernel"], np.float64).copy()
        kernel[where] += sign * step
        moved.params["blocks"]["00"]["kernel"] = kernel
        values.append(
            softplus(-network(actual[0].params, mlp.by_hand(moved, three_streams["unlabelled"]["x"])[1])).mean()
        )
    slope = 2.0 * (values[0] - values[1]) / (2 * step)
    assert actual[1].gradient["blocks/00/kernel"][where] == pytest.approx(slope, rel=1e-3, abs=1e-6)
    # The head has no gradient.
    assert np.abs(actual[1].gradient["head/kernel"]).max() == 0


def test_the_trainable_encoder_has_no_pass_of_the_source():
    term, inputs = terms.Adda(), ["source", "unlabelled"]
    check_needs((term,), inputs)
    assert batch_streams((term,), inputs) == inputs
    assert [value.stream for value in passes((term,), inputs, {name: {} for name in inputs})] == ["unlabelled"]
    with pytest.raises(
        ValueError, match=r"^Adda reads the stream 'source', which does not exist; the streams are: unlabelled$"
    ):
        check_needs((term,), ["unlabelled"])


def test_the_parameters_that_move_in_each_turn(mlp):
    assert terms.Adda().turns(mlp.model) == (Turn(("adda/",)), Turn(("stem/", "blocks/00/")))


def test_randomly_initialised_weights_are_refused_as_source_encoder(mlp):
    with pytest.raises(ValueError, match=r"^Adda .* 'head/kernel' .* is drawn at random: .* weights=Weights"):
        mlp.preview(terms.Adda(), mlp.model, new=frozenset({"head/kernel"}))
    with pytest.raises(ValueError, match=r"^Adda: width is 0; expected "):
        terms.Adda(width=0)
