"""Cross-entropy with smoothed labels."""

import numpy as np
import pytest

from tlx import terms


def test_it_is_its_definition(mlp):
    batch = mlp.labelled()
    p = mlp.softmax(mlp.by_hand(mlp.drawn(mlp.model, 0), batch["x"])[2])
    q = 0.7 * np.eye(3)[batch["label"]] + 0.1
    actual = mlp.look(terms.LabelSmoothing(smoothing=0.3))
    assert actual.value == pytest.approx(-(q * np.log(p)).sum(-1).mean(), rel=1e-5)
    assert mlp.look(terms.LabelSmoothing(smoothing=0.0)).value == pytest.approx(mlp.look(terms.Supervised()).value)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_an_invalid_smoothing_is_refused(smoothing):
    with pytest.raises(ValueError) as error:
        terms.LabelSmoothing(smoothing=smoothing)
    assert str(error.value) == f"LabelSmoothing: smoothing is {smoothing}; expected a number in [0, 1)"
