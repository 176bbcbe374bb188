"""The old head keeps its predictions."""

import numpy as np
import pytest

from tlx import terms
from tlx.trees import flatten


def expected(mlp, old, now, head, temperature):
    """-sum q log p: q of the old model, p of `head` on the present features."""
    x = mlp.labelled()["x"]
    q = mlp.softmax(mlp.by_hand(old, x)[2] / temperature)
    features = mlp.by_hand(now, x)[1]
    p = mlp.softmax((features @ np.float64(head["kernel"]) + np.float64(head["bias"])) / temperature)
    return -(q * np.log(p)).sum(-1).mean()


def test_a_copy_of_the_head_keeps_the_predictions_of_the_initial_model(mlp):
    one, other = mlp.drawn(mlp.model, 0), mlp.drawn(mlp.model, 3)
    actual = mlp.look(terms.Lwf(weight=3.0, temperature=2.0), now=other, initial=one)
    # The copy starts as the old head. The head of the model has moved, which does not matter.
    assert actual.value == pytest.approx(3 * expected(mlp, one, other, one.params["head"], 2.0), rel=1e-5)
    assert np.abs(actual.gradient["lwf/head/kernel"]).max() > 0
    assert np.abs(actual.gradient["stem/kernel"]).max() > 0
    assert np.abs(actual.gradient["head/kernel"]).max() == 0


def test_frozen_parameters_are_not_stored_twice(mlp):
    one = mlp.drawn(mlp.model, 0)
    actual = mlp.look(terms.Lwf(), initial=one, trainable=frozenset(("head/kernel", "lwf/head/kernel")))
    assert flatten(actual.memory["params"]).keys() == {"head/kernel"}
    assert actual.value == pytest.approx(4 * expected(mlp, one, one, one.params["head"], 2.0), rel=1e-5)


def test_the_old_head_may_come_from_another_checkpoint(mlp, tmp_path):
    old = mlp.save(tmp_path / "old", mlp.config, 5, seed=8)
    now = mlp.drawn(mlp.model, 3)
    actual = mlp.look(terms.Lwf(source=str(tmp_path / "old"), temperature=1.5), now=now)
    assert actual.params["lwf"]["head"]["kernel"].shape == (4, 5)
    assert actual.value == pytest.approx(4 * expected(mlp, old, now, old.params["head"], 1.5), rel=1e-5)


def test_a_random_head_is_refused(mlp):
    with pytest.raises(ValueError, match=r"^Lwf .* 'head/kernel' .* is drawn at random: .*Lwf\(source=\.\.\.\)$"):
        mlp.look(terms.Lwf(), new=frozenset(("head/kernel",)))
    with pytest.raises(ValueError, match=r"Lwf: temperature is 0\.0; expected "):
        terms.Lwf(temperature=0.0)
