"""The old head goes on answering as it did."""

import numpy as np
import pytest

from tlx import terms
from tlx.trees import flatten


def expected(mlp, old, now, head, temperature):
    """-sum q log p, q of the old model, p of `head` on the features of now."""
    x = mlp.labelled()["x"]
    q = mlp.softmax(mlp.by_hand(old, x)[2] / temperature)
    features = mlp.by_hand(now, x)[1]
    p = mlp.softmax((features @ np.float64(head["kernel"]) + np.float64(head["bias"])) / temperature)
    return -(q * np.log(p)).sum(-1).mean()


def test_a_copy_of_the_head_keeps_the_answers_of_the_model_that_was_brought(mlp):
    one, other = mlp.drawn(mlp.model, 0), mlp.drawn(mlp.model, 3)
    found = mlp.look(terms.Lwf(weight=3.0, temperature=2.0), now=other, brought=one)
    # The copy begins as the old head; the model's own head has moved, which plays no part.
    assert found.value == pytest.approx(3 * expected(mlp, one, other, one.params["head"], 2.0), rel=1e-5)
    assert np.abs(found.gradient["lwf/head/kernel"]).max() > 0
    assert np.abs(found.gradient["stem/kernel"]).max() > 0
    assert np.abs(found.gradient["head/kernel"]).max() == 0


def test_frozen_leaves_are_not_remembered_twice(mlp):
    one = mlp.drawn(mlp.model, 0)
    found = mlp.look(terms.Lwf(), brought=one, moving=frozenset(("head/kernel", "lwf/head/kernel")))
    assert flatten(found.memory["params"]).keys() == {"head/kernel"}
    assert found.value == pytest.approx(4 * expected(mlp, one, one, one.params["head"], 2.0), rel=1e-5)


def test_the_old_head_may_come_from_its_own_checkpoint(mlp, tmp_path):
    old = mlp.save(tmp_path / "old", mlp.config, 5, seed=8)
    now = mlp.drawn(mlp.model, 3)
    found = mlp.look(terms.Lwf(source=str(tmp_path / "old"), temperature=1.5), now=now)
    assert found.params["lwf"]["head"]["kernel"].shape == (4, 5)
    assert found.value == pytest.approx(4 * expected(mlp, old, now, old.params["head"], 1.5), rel=1e-5)


def test_a_head_that_was_drawn_afresh_has_no_answers_to_keep(mlp):
    with pytest.raises(ValueError, match=r"^Lwf .* 'head/kernel' .* is drawn at random: .*Lwf\(source=\.\.\.\)$"):
        mlp.look(terms.Lwf(), fresh=frozenset(("head/kernel",)))
    with pytest.raises(ValueError, match=r"Lwf: temperature is 0\.0; expected "):
        terms.Lwf(temperature=0.0)
