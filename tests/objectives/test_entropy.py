"""Confident predictions."""

import numpy as np
import pytest

from tlx import terms


def test_it_is_its_definition(mlp):
    batch = mlp.labelled()
    p = mlp.softmax(mlp.by_hand(mlp.drawn(mlp.model, 0), batch["x"])[2])
    actual = mlp.look(terms.Entropy(weight=0.5))
    assert actual.value == pytest.approx(-0.5 * (p * np.log(p)).sum(-1).mean(), rel=1e-5)


def test_it_needs_no_labels(mlp):
    batch = {name: array for name, array in mlp.labelled().items() if name != "label"}
    assert mlp.look(terms.Entropy(), batch=batch).value == mlp.look(terms.Entropy()).value
