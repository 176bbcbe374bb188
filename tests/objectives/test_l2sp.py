"""The starting point as an anchor."""

import jax
import numpy as np
import pytest

from tlx import terms, tuning
from tlx.trees import flatten, nest


def by_hand(now, brought, paths, heads):
    near = sum(((np.float64(now[p]) - brought[p]) ** 2).sum() for p in paths)
    return near, sum((np.float64(now[p]) ** 2).sum() for p in heads)


def test_the_backbone_is_held_to_where_it_began_and_the_head_to_zero(mlp):
    one, other = mlp.drawn(mlp.model, 0), mlp.drawn(mlp.model, 3)
    found = mlp.look(terms.L2SP(weight=0.5, head=0.2), now=other, brought=one)
    before, now = flatten(one.params), flatten(other.params)
    near, head = by_hand(
        now, before, [p for p in now if not p.startswith("head")], [p for p in now if p.startswith("head")]
    )
    assert found.value == pytest.approx(0.25 * near + 0.1 * head, rel=1e-5)
    np.testing.assert_allclose(found.gradient["stem/kernel"], 0.5 * (now["stem/kernel"] - before["stem/kernel"]), 1e-5)
    np.testing.assert_allclose(found.gradient["head/kernel"], 0.2 * now["head/kernel"], 1e-5)


def test_what_was_drawn_afresh_counts_as_the_head_and_what_is_frozen_not_at_all(mlp):
    one, other = mlp.drawn(mlp.model, 0), mlp.drawn(mlp.model, 3)
    fresh = frozenset(("blocks/00/kernel",))
    moving = frozenset(("blocks/00/kernel", "blocks/00/bias", "head/bias"))
    found = mlp.look(terms.L2SP(weight=0.5, head=0.2), now=other, brought=one, fresh=fresh, moving=moving)
    near, head = by_hand(
        flatten(other.params), flatten(one.params), ["blocks/00/bias"], ["blocks/00/kernel", "head/bias"]
    )
    assert found.value == pytest.approx(0.25 * near + 0.1 * head, rel=1e-5)
    assert flatten(found.memory["start"]).keys() == {"blocks/00/bias"}
    # A zero a leaf is all that the head costs.
    assert {leaf.shape for leaf in jax.tree.leaves(found.memory["head"])} == {()}


def test_what_a_tuning_adds_is_held_to_where_it_began_and_what_terms_add_is_left_alone(mlp):
    brought = mlp.drawn(mlp.model, 0)
    lora = tuning.Lora(rank=2, on="stem").insert(mlp.model, brought.params, jax.random.key(0))
    lora = nest(flatten(lora) | {"lwf/head/bias": np.ones(3, np.float32)})
    found = mlp.look(terms.L2SP(weight=2.0, head=0.0), brought=brought._replace(params=lora))
    assert found.value == 0.0
    assert "stem/lora/a" in flatten(found.memory["start"])
    assert not [path for path in flatten(found.memory) if "lwf" in path]
