"""Arithmetic on weights: invariants for all numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx.trees import flatten
from tlx.types import Variables
from tlx.weights import blend

RANDOM = np.random.default_rng(0)


def tree(scale=1.0):
    leaf = lambda *shape: (scale * RANDOM.normal(size=shape)).astype(np.float32)  # noqa: E731
    return {"stem": {"kernel": leaf(5, 3), "bias": leaf(3)}, "head": {"kernel": leaf(3, 2)}}


def variables():
    stats = {"stem": {"norm": {"variance": RANDOM.uniform(1, 2, 3).astype(np.float32)}}}
    return Variables(tree(), stats)


def same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def near(left, right, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=atol), left, right)


@pytest.mark.parametrize("make", [tree, variables])
def test_the_ends_of_the_line_are_exact(make):
    before, after = make(), make()
    # Far apart, so that low + (high - low) would not give high exactly.
    after = jax.tree.map(lambda leaf: leaf * 1e6, after)
    same(blend.interpolate(before, after, 0), before)
    same(blend.interpolate(before, after, 1), after)
    for share in (0.1, 0.3, 0.5, 0.9):
        same(blend.interpolate(before, before, share), before)
        mean = jax.tree.map(lambda a, b, s=share: (1 - s) * a + s * b, before, after)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), blend.interpolate(before, after, share), mean
        )


def test_a_share_is_not_a_constant_of_the_program():
    traces = []

    @jax.jit
    def point(before, after, share):
        traces.append(share)
        return blend.interpolate(before, after, share)

    before, after = variables(), variables()
    for share in (0.0, 0.25, 1.0):
        same(point(before, after, jnp.float32(share)).stats, blend.interpolate(before, after, share).stats)
    assert len(traces) == 1


def test_a_soup_of_equal_models_is_that_model():
    one = variables()
    for count in (1, 3, 7):
        same(blend.soup([one] * count), one)
    same(blend.soup([one, one], [0.3, 0.7]), one)


def test_a_soup_is_the_mean_of_params_and_statistics_in_any_order():
    some = [variables() for _ in range(3)]
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, 0), *some)
    near(blend.soup(some), mean)
    near(blend.soup(some[::-1]), mean)
    near(blend.soup(some, [0, 0, 1]), some[2])
    near(blend.soup(some[:2], [0.75, 0.25]), blend.interpolate(some[0], some[1], 0.25))


def test_greedy_never_scores_below_its_best_ingredient():
    target = flatten(tree())

    def score(one):
        return -sum(float(np.abs(np.asarray(leaf) - target[path]).sum()) for path, leaf in flatten(one).items())

    for _ in range(10):
        candidates = [tree() for _ in range(5)]
        built = blend.greedy_soup(candidates, score)
        assert built.scores == tuple(score(one) for one in candidates)
        assert built.score == score(built.variables) >= max(built.scores)
        assert built.chosen[0] == int(np.argmax(built.scores))
        same(built.variables, blend.soup([candidates[n] for n in built.chosen]))


def test_greedy_keeps_ingredients_that_do_not_lower_the_score():
    value = lambda one: float(one["w"])  # noqa: E731
    good, poor = {"w": jnp.float32(4)}, {"w": jnp.float32(1)}
    built = blend.greedy_soup([poor, good, good], value)
    assert (built.chosen, built.scores, built.score) == ((1, 2), (1.0, 4.0, 4.0), 4.0)
    with pytest.raises(ValueError, match=r"candidate 1 .*NaN"):
        blend.greedy_soup([good, poor], lambda one: float("nan") if one is poor else 1.0)


def test_a_vector_leads_from_one_end_to_the_other_and_back():
    before, after = tree(), tree()
    vector = blend.task_vector(before, after)
    near(blend.apply_vector(before, vector), after)
    near(blend.apply_vector(after, vector, -1), before)
    same(blend.apply_vector(before, vector, 0), before)
    near(blend.apply_vector(before, vector, 0.25), blend.interpolate(before, after, 0.25))


def test_negating_a_vector_twice_changes_nothing():
    vector = blend.task_vector(variables(), variables())
    single = blend.combine([vector], [-1])
    same(single, jax.tree.map(lambda leaf: -leaf, vector))
    same(blend.combine([single], [-1]), vector)


def test_vectors_of_disjoint_tasks_add():
    before, after = tree(), tree()
    stem = {**before, "stem": after["stem"]}
    head = {**before, "head": after["head"]}
    both = blend.combine([blend.task_vector(before, stem), blend.task_vector(before, head)])
    moved = blend.apply_vector(before, both)
    same(moved["stem"], blend.apply_vector(before, blend.task_vector(before, stem))["stem"])
    near(moved, after)
    less = blend.combine([both, blend.task_vector(before, head)], [1, -1])
    near(blend.apply_vector(before, less), stem)


def test_trees_that_differ_are_refused_before_computation():
    one = tree()
    other = {**one, "heads": one["head"]}
    del other["head"]
    shapes = jax.eval_shape(lambda: one)
    full = {"stem": {"bias": np.ones(3, np.int32)}}
    calls = (
        lambda a, b: blend.interpolate(a, b, 0.5),
        lambda a, b: blend.soup([a, b]),
        lambda a, b: blend.greedy_soup([a, b], lambda one: pytest.fail("scored")),
        blend.task_vector,
        blend.apply_vector,
        lambda a, b: blend.combine([a, b]),
    )
    for call in calls:
        # Shapes without values: nothing can have been computed.
        with pytest.raises(ValueError) as error:
            call(shapes, jax.eval_shape(lambda: other))
        assert "only the first has 'head/kernel'; close: 'heads/kernel', 'stem/kernel'" in str(error.value)
        with pytest.raises(
            ValueError, match=r"'head/kernel' has the shape \(3, 2\) in the first tree and \(2, 3\) in the second"
        ):
            call(one, {**one, "head": {"kernel": one["head"]["kernel"].T}})
        with pytest.raises(TypeError, match="Variables and dict cannot be combined"):
            call(Variables(one, {}), one)
        with pytest.raises(TypeError, match="'stem/bias' has the type int32"):
            call(full, full)


def test_statistics_follow_the_same_rule():
    one, other = variables(), variables()
    with pytest.raises(ValueError, match="only the first has 'stats:stem/norm/variance'"):
        blend.soup([one, other._replace(stats={})])


def test_wrong_numbers_of_weights():
    one = tree()
    for call in (blend.soup, blend.combine, lambda given: blend.greedy_soup(given, float)):
        with pytest.raises(ValueError, match="pass at least one"):
            call([])
    with pytest.raises(ValueError, match=r"weights \[0.5\] for 2 ingredients"):
        blend.soup([one, one], [0.5])
    with pytest.raises(ValueError, match="with the sum 1"):
        blend.soup([one, one], [0.5, 0.6])
    with pytest.raises(ValueError, match="1 scales for 2 vectors"):
        blend.combine([one, one], [1.0])
