"""Terms for a target with fewer classes than the source, worked out by hand in float64."""

import numpy as np
import pytest

from tlx import terms
from tlx.objectives.discriminator import effective_share, relative_to_mean

C = 3


@pytest.mark.slow
def test_iwan_weights_the_source_by_a_second_discriminator(mlp, seen):
    streams, answers, _ = seen
    actual = mlp.across(streams, terms.Iwan(width=3, reversal=1.0, weight=2.0))
    message, known = ({stream: mlp.network(actual.params["iwan"], name, answers[stream][0]) for stream in streams}
                   for name in ("apart", "weigher"))  # fmt: skip
    weight = 1 - 1 / (1 + np.exp(-known["source"]))
    weight /= weight.mean()
    risk = 0.5 * (weight * mlp.softplus(-message["source"])).mean() + 0.5 * mlp.softplus(message["unlabelled"]).mean()
    weigher = 0.5 * mlp.softplus(-known["source"]).mean() + 0.5 * mlp.softplus(known["unlabelled"]).mean()
    assert actual.value == pytest.approx(2 * (risk + weigher), rel=1e-5)
    assert float(actual.metrics["weigher"]) == pytest.approx(weigher, rel=1e-5)
    assert float(actual.metrics["effective"]) == pytest.approx(6**2 / (6 * (weight**2).sum()), rel=1e-5)
    # The features have the reversed gradient of the discriminator only; the weights give no gradient.
    where, step = (0, 1), 1e-5

    def apart(change):
        variables = mlp.drawn(mlp.model, 0)
        moved = np.asarray(variables.params["blocks"]["00"]["kernel"], np.float64).copy()
        moved[where] += change
        variables.params["blocks"]["00"]["kernel"] = moved
        value = {
            s: mlp.network(actual.params["iwan"], "apart", mlp.by_hand(variables, streams[s]["x"])[1]) for s in streams
        }
        return (weight * mlp.softplus(-value["source"])).mean() + mlp.softplus(value["unlabelled"]).mean()

    slope = (apart(step) - apart(-step)) / (2 * step)
    assert actual.gradient["blocks/00/kernel"][where] == pytest.approx(-slope, rel=1e-3, abs=1e-6)
    # The second discriminator learns by its loss only.
    bias = (0.5 * -1 / (1 + np.exp(known["source"]))).mean() + (0.5 / (1 + np.exp(-known["unlabelled"]))).mean()
    assert actual.gradient["iwan/weigher/2/bias"][0] == pytest.approx(2 * bias, rel=1e-4, abs=1e-7)


def test_pada_weights_classes_by_their_predicted_share_in_the_target(mlp, seen):
    streams, answers, (source, _) = seen
    actual = mlp.across(streams, terms.Pada(width=3, reversal=1.0, weight=2.0))
    recorded = {stream: mlp.network(actual.params, "pada", answers[stream][0]) for stream in streams}
    classes = mlp.softmax(answers["unlabelled"][1]).mean(0)
    weight = (classes / classes.max())[source]
    p = mlp.softmax(answers["source"][1])
    risk = (weight * -np.log(p[np.arange(6), source])).mean()
    apart = (
        0.5 * (weight * mlp.softplus(-recorded["source"])).mean() + 0.5 * mlp.softplus(recorded["unlabelled"]).mean()
    )
    assert weight.std() > 0.05
    assert float(actual.metrics["risk"]) == pytest.approx(risk, rel=1e-5)
    assert float(actual.metrics["discriminator"]) == pytest.approx(apart, rel=1e-5)
    assert actual.value == pytest.approx(2 * (risk + apart), rel=1e-5)
    effective = weight.sum() ** 2 / (6 * (weight**2).sum())
    assert float(actual.metrics["effective"]) == pytest.approx(effective, rel=1e-5)
    # The class weights are constants: the head has the gradient of the weighted loss of the source only.
    slope = 2 * (weight[:, None] * (p - np.eye(C)[source])).mean(0)
    np.testing.assert_allclose(actual.gradient["head/bias"], slope, rtol=1e-4, atol=1e-6)
    # The features have the reversed gradient of the discriminator, and no gradient through the class weights.
    plain = mlp.across(streams, terms.Pada(width=3, reversal=0.0, weight=2.0))
    path, where, step = "blocks/00/kernel", (0, 1), 1e-5

    def discriminator_loss_at(change):
        variables = mlp.drawn(mlp.model, 0)
        kernel = np.asarray(variables.params["blocks"]["00"]["kernel"], np.float64).copy()
        kernel[where] += change
        variables.params["blocks"]["00"]["kernel"] = kernel
        value = {s: mlp.network(actual.params, "pada", mlp.by_hand(variables, streams[s]["x"])[1]) for s in streams}
        return (weight * mlp.softplus(-value["source"])).mean() + mlp.softplus(value["unlabelled"]).mean()

    slope = (discriminator_loss_at(step) - discriminator_loss_at(-step)) / (2 * step)
    heard = (actual.gradient[path] - plain.gradient[path])[where]
    assert heard == pytest.approx(-slope, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e-30])
def test_small_weights_are_normalised_like_any_others(scale):
    """A confident discriminator gives them tiny weights; the ratios must still count."""
    weights = np.float32(scale) * np.array([1.0, 2.0, 3.0, 6.0], np.float32)
    assert float(effective_share(weights)) == pytest.approx(144 / (4 * 50), rel=1e-5)
    np.testing.assert_allclose(relative_to_mean(weights, weights), np.array([1, 2, 3, 6]) / 3, rtol=1e-5)
