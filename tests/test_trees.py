"""Trees and paths."""

import pytest

from tlx import trees

TREE = {"stem": {"kernel": 1, "bias": 2}, "blocks": {"00": {"kernel": 3}, "01": {"kernel": 4}}, "head": 5}


def test_flatten_gives_every_leaf_by_its_path_in_the_order_of_jax():
    import jax

    flat = trees.flatten(TREE)
    assert flat == {"blocks/00/kernel": 3, "blocks/01/kernel": 4, "head": 5, "stem/bias": 2, "stem/kernel": 1}
    awkward = {"a-b": 1, "a": {"x": 2}, "a/": {"y": 3}}
    for tree in (TREE, awkward):
        assert list(trees.flatten(tree).values()) == jax.tree.leaves(tree)


def test_nest_is_the_inverse_of_flatten_and_an_empty_subtree_has_nothing():
    assert trees.nest(trees.flatten(TREE)) == TREE
    assert trees.flatten({"pool": {}}) == {}
    assert trees.nest({}) == {}


@pytest.mark.parametrize(
    ("leaves", "message"),
    [
        ({"a": 1, "a/b": 2}, "'a/b' lies below 'a', which is a leaf"),
        ({"a/b": 2, "a": 1}, "'a' is both a leaf and a parent of leaves"),
    ],
)
def test_a_path_cannot_be_both_a_leaf_and_a_parent(leaves, message):
    with pytest.raises(ValueError) as error:
        trees.nest(leaves)
    assert str(error.value) == message


def test_a_missing_subtree_is_empty():
    assert trees.subtree(TREE, "blocks/00") == {"kernel": 3}
    assert trees.subtree(TREE, "blocks/02") == trees.subtree(TREE, "nowhere/at/all") == {}


def test_merge_is_the_union_of_disjoint_trees_in_any_order():
    left, right = {"stem": TREE["stem"], "head": 5}, {"blocks": TREE["blocks"]}
    assert trees.merge(left, right) == trees.merge(right, left) == trees.merge(TREE) == TREE
    with pytest.raises(ValueError, match=r"^both trees contain the leaf 'blocks/00/kernel'$"):
        trees.merge(TREE, right)


def test_map_named_visits_every_path_once_and_keeps_the_structure():
    calls = []
    mapped = trees.map_named(lambda path, leaf: calls.append(path) or leaf * 2, TREE)
    assert trees.flatten(mapped) == {path: 2 * leaf for path, leaf in trees.flatten(TREE).items()}
    assert calls == list(trees.flatten(TREE))


def test_the_nearest_names_come_first_and_equal_ones_in_alphabetical_order():
    names = ["blocks/05", "blocks/01", "blocks/00", "pool", "stem"]
    assert trees.closest("blocks/0", names) == ["blocks/00", "blocks/01", "blocks/05"]
    assert trees.closest("stemm", names, n=1) == ["stem"]
    assert trees.closest("zzz", names) == []


def test_near_miss_offers_all_names_if_none_is_near_and_there_are_few():
    assert trees.near_miss("zzz", ["b", "a"]) == "; there are 'a', 'b'"
    assert trees.near_miss("zzz", ["b", "a"], listed=True) == ""
    assert trees.near_miss("zzz", map(str, range(100))) == ""
    assert trees.near_miss("zzz", []) == ""
