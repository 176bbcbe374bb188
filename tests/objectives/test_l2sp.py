"""The initial weights as an anchor."""

import jax
import numpy as np
import pytest

from tlx import terms, tuning
from tlx.trees import flatten, nest


def by_hand(now, pretrained, paths, heads):
    near = sum(((np.float64(now[p]) - pretrained[p]) ** 2).sum() for p in paths)
    return near, sum((np.float64(now[p]) ** 2).sum() for p in heads)


def test_the_backbone_is_pulled_to_its_initial_weights_and_the_head_to_zero(mlp):
    one, other = mlp.drawn(mlp.model, 0), mlp.drawn(mlp.model, 3)
    actual = mlp.look(terms.L2SP(weight=0.5, head=0.2), now=other, initial=one)
    before, now = flatten(one.params), flatten(other.params)
    near, head = by_hand(
        now, before, [p for p in now if not p.startswith("head")], [p for p in now if p.startswith("head")]
    )
    assert actual.value == pytest.approx(0.25 * near + 0.1 * head, rel=1e-5)
    np.testing.assert_allclose(actual.gradient["stem/kernel"], 0.5 * (now["stem/kernel"] - before["stem/kernel"]), 1e-5)
    np.testing.assert_allclose(actual.gradient["head/kernel"], 0.2 * now["head/kernel"], 1e-5)


def test_random_weights_count_as_the_head_and_frozen_ones_do_not_count(mlp):
    one, other = mlp.drawn(mlp.model, 0), mlp.drawn(mlp.model, 3)
    fresh = frozenset(("blocks/00/kernel",))
    moving = frozenset(("blocks/00/kernel", "blocks/00/bias", "head/bias"))
    actual = mlp.look(terms.L2SP(weight=0.5, head=0.2), now=other, initial=one, new=fresh, trainable=moving)
    near, head = by_hand(
        flatten(other.params), flatten(one.params), ["blocks/00/bias"], ["blocks/00/kernel", "head/bias"]
    )
    assert actual.value == pytest.approx(0.25 * near + 0.1 * head, rel=1e-5)
    assert flatten(actual.memory["start"]).keys() == {"blocks/00/bias"}
    # The head needs only one zero per parameter.
    assert {leaf.shape for leaf in jax.tree.leaves(actual.memory["head"])} == {()}


def test_inserted_parameters_are_pulled_to_their_start_and_those_of_terms_are_ignored(mlp):
    pretrained = mlp.drawn(mlp.model, 0)
    lora = tuning.Lora(rank=2, on="stem").insert(mlp.model, pretrained.params, jax.random.key(0))
    lora = nest(flatten(lora) | {"lwf/head/bias": np.ones(3, np.float32)})
    actual = mlp.look(terms.L2SP(weight=2.0, head=0.0), initial=pretrained._replace(params=lora))
    assert actual.value == 0.0
    assert "stem/lora/a" in flatten(actual.memory["start"])
    assert not [path for path in flatten(actual.memory) if "lwf" in path]
