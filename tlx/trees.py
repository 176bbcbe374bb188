"""Trees of named arrays: paths, flattening, near misses, sizes. Types of nested values that need no JAX.

A tree is nested dicts of leaves. The path of a leaf joins its keys with `/`: `"blocks/00/attention/query/kernel"`.
"""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Tree = dict[str, Any]
# A JSON object: its values are null, booleans, numbers, texts, lists and further objects.
Json = dict[str, Any]
# A raw example: the values of its columns, before a processor or a task turns them into arrays. It is not in types.py,
# because processing data needs no JAX.
Example = Mapping[str, Any]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return every leaf of `tree` by its path, in sorted order of the keys at each level (the order JAX uses).

    >>> flatten({"b": {"x": 1}, "a": 2})
    {'a': 2, 'b/x': 1}
    """
    leaves: dict[str, Any] = {}
    for name in sorted(tree):
        value, path = tree[name], f"{prefix}{name}"
        if isinstance(value, Mapping):
            leaves |= flatten(value, f"{path}/")
        else:
            leaves[path] = value
    return leaves


def nest(leaves: Mapping[str, Any]) -> Tree:
    """Return nested dicts from leaves by path; the inverse of `flatten`.

    Raises:
        ValueError: One path is both a leaf and the parent of another.

    >>> nest({"b/x": 1, "a": 2})
    {'b': {'x': 1}, 'a': 2}
    """
    tree: Tree = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(f"{path!r} lies below {parent!r}, which is a leaf")
        if name in node:
            raise ValueError(f"{path!r} is both a leaf and a parent of leaves")
        node[name] = leaf
    return tree


def subtree(tree: Mapping[str, Any], path: str) -> Tree:
    """Return the sub-tree at `path`, or an empty one: a stage without parameters has an empty sub-tree."""
    node: Any = tree
    for name in path.split("/"):
        node = node.get(name)
        if node is None:
            return {}
    return node


def merge(*trees: Mapping[str, Any]) -> Tree:
    """Return the union of trees with disjoint leaves.

    >>> merge({"a": {"x": 1}}, {"a": {"y": 2}})
    {'a': {'x': 1, 'y': 2}}
    """
    leaves: dict[str, Any] = {}
    for tree in trees:
        flat = flatten(tree)
        if shared := leaves.keys() & flat.keys():
            raise ValueError(f"both trees contain the leaf {min(shared)!r}")
        leaves |= flat
    return nest(dict(sorted(leaves.items())))


def added(tree: Mapping[str, Any], leaves: Mapping[str, Any], who: str) -> Tree:
    """Return `tree` with more `leaves`, by path; raise ValueError, naming `who` adds them, where a path exists already.

    >>> added({"a": {"x": 1}}, {"a/y": 2}, "Lora")
    {'a': {'x': 1, 'y': 2}}
    """
    flat = flatten(tree)
    if shared := sorted(flat.keys() & leaves.keys()):
        raise ValueError(f"{who} adds {shared[0]!r}, but the model already has this leaf: add it only once")
    return nest(dict(sorted((flat | dict(leaves)).items())))


def map_named(function: Callable[[str, Any], Any], tree: Mapping[str, Any]) -> Tree:
    """Return the tree of `function(path, leaf)` for every leaf."""
    return nest({path: function(path, leaf) for path, leaf in flatten(tree).items()})


def size(leaf: Any) -> int:
    """Return the number of elements of a leaf (an array or a `Param`)."""
    return math.prod(leaf.shape)


def closest(name: str, names: Iterable[str], n: int = 3) -> list[str]:
    """Return the `n` names nearest to `name`, best first, ties in alphabetical order, for error messages.

    >>> closest("best", ["last", "best-validation"], n=1)
    ['best-validation']
    """
    scored = [(nearness(name, candidate), candidate) for candidate in set(names)]
    return [candidate for score, candidate in sorted(scored, key=lambda pair: (-pair[0], pair[1])) if score >= 0.4][:n]


def nearness(name: str, candidate: str) -> float:
    """Return how close two names are, in [0, 1], whatever their case. The begin of a longer name is close to it."""
    name, candidate = name.lower(), candidate.lower()
    begins = len(name) > 2 and candidate.startswith(name)
    return max(difflib.SequenceMatcher(None, name, candidate).ratio(), 0.9 * begins)


def finite(value: Any) -> Any:
    """Return a JSON value with None in the place of every number that is not finite, which JSON cannot hold.

    >>> finite({"a": [1.5, float("nan")], "b": {"c": float("inf")}})
    {'a': [1.5, None], 'b': {'c': None}}
    """
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def near_miss(name: str, names: Iterable[str], n: int = 3, *, listed: bool = False) -> str:
    """Return the tail of an error message: `; close: 'a', 'b'`, or every name where none is near and there are few.

    Args:
        name: The name that was not found.
        names: The names that there are.
        n: The number of names at most.
        listed: Whether the message lists all names in another place.
    """
    names = sorted(set(names))
    if near := closest(name, names, n):
        return f"; close: {', '.join(map(repr, near))}"
    if listed or not 0 < len(names) <= 12:
        return ""
    return f"; there {'are' if len(names) > 1 else 'is'} {', '.join(map(repr, names))}"
