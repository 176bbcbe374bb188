"""Arithmetic on weights: interpolation, soups, task vectors. Pure functions on `Variables` and on trees of parameters.

These trees carry no class names: put the heads in one order first (`tlx.weights.reorder`); `tlx soup` does so.

All trees of one call must have the same paths and shapes, which is checked before anything is computed; a scale or a
share may be an array, so that no value of it is a constant of a compiled program.

Running statistics of batch norm, the `stats` of `Variables`, are treated as parameters are: interpolated, and averaged
in a soup. That is a fair guess at the statistics of the blended network and no more; whoever wants its own runs a few
batches through `forward(train=True)`. A negated or enlarged vector can make a variance negative: give `params` alone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from tlx.trees import flatten, near_miss
from tlx.types import Variables

Weights = TypeVar("Weights", Variables, Mapping[str, Any])
Scale = float | jax.Array


class Greedy(NamedTuple):
    """A greedy soup: its `variables`, which candidates are in it (`chosen`, in the order they were added), the score of
    each candidate by itself (`scores`), and that of the soup."""

    variables: Any
    chosen: tuple[int, ...]
    scores: tuple[float, ...]
    score: float


def interpolate(before: Weights, after: Weights, share: Scale) -> Weights:
    """(1 - share) before + share after: WiSE-FT (Wortsman et al., 2022a). Exact at 0, at 1, and where both are equal.

    `share` outside [0, 1] extrapolates. Raises ValueError for trees that differ.
    """
    check_alike([before, after])

    def mixed(low: Any, high: Any) -> Any:
        low, high = jnp.asarray(low), jnp.asarray(high)
        part, difference = jnp.asarray(share, low.dtype), high - low
        # From the nearer end, which is then exact.
        return jnp.where(part < 0.5, low + part * difference, high - (1 - part) * difference)

    return jax.tree.map(mixed, before, after)


def soup(ingredients: Sequence[Weights], weights: Sequence[float] | None = None) -> Weights:
    """The average of fine-tuned models (Wortsman et al., 2022b), uniform or with `weights` that sum to 1.

    Exact where all are equal. Raises ValueError for no ingredients, other weights, or trees that differ.
    """
    if not ingredients:
        raise ValueError("a soup of nothing; give one or more sets of variables")
    shares = [1 / len(ingredients)] * len(ingredients) if weights is None else list(weights)
    if len(shares) != len(ingredients) or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise ValueError(
            f"weights {shares} for {len(ingredients)} ingredients; give one for each, and let them sum to 1"
        )
    check_alike(ingredients)

    def mean(first: Any, *others: Any) -> Any:
        first = jnp.asarray(first)
        # As differences from the first: equal ingredients then give themselves, whatever 1/3 rounds to.
        terms = (share * (jnp.asarray(other) - first) for share, other in zip(shares[1:], others, strict=True))
        return sum(terms, start=first)

    return jax.tree.map(mean, *ingredients)


def greedy_soup(candidates: Sequence[Weights], score: Callable[[Weights], float]) -> Greedy:
    """The greedy soup (Wortsman et al., 2022b, recipe 1): the candidates in order of their own score, each kept where
    the soup with it scores no lower than without.

    `score` is higher for better and must come from held-out examples that choose, never from those that test. The soup
    scores no lower than the best candidate. Raises ValueError for no candidates, for trees that differ, and for a best
    score that is not a number.
    """
    if not candidates:
        raise ValueError("a soup of nothing; give one or more candidates")
    check_alike(candidates)
    scores = tuple(float(score(candidate)) for candidate in candidates)
    if strange := [n for n, value in enumerate(scores) if math.isnan(value)]:
        raise ValueError(f"candidate {strange[0]} has no score (NaN), so it has no place in the order")
    first, *others = sorted(range(len(candidates)), key=lambda n: -scores[n])
    chosen: list[int] = [first]
    found, best = candidates[first], scores[first]
    for number in others:
        tried = soup([candidates[n] for n in (*chosen, number)])
        if (value := float(score(tried))) >= best:
            chosen, found, best = [*chosen, number], tried, value
    return Greedy(found, tuple(chosen), scores, best)


def task_vector(before: Weights, after: Weights) -> Weights:
    """after - before: what a task moved (Ilharco et al., 2023). Raises ValueError for trees that differ."""
    check_alike([before, after])
    return jax.tree.map(lambda old, new: jnp.asarray(new) - jnp.asarray(old), before, after)


def apply_vector(before: Weights, vector: Weights, scale: Scale = 1.0) -> Weights:
    """before + scale vector; a scale of -1 forgets the task (Ilharco et al., 2023, section 3).

    Raises ValueError for trees that differ.
    """
    check_alike([before, vector])

    def moved(old: Any, change: Any) -> Any:
        old = jnp.asarray(old)
        return old + jnp.asarray(scale, old.dtype) * jnp.asarray(change)

    return jax.tree.map(moved, before, vector)


def combine(vectors: Sequence[Weights], scales: Sequence[Scale] | None = None) -> Weights:
    """The sum of scale times vector, all scales 1 by default: several tasks at once (Ilharco et al., 2023, section 4).

    `combine([a, b], [1, -1])` adds one task and forgets another. Raises ValueError for no vectors, another number of
    scales, or trees that differ.
    """
    if not vectors:
        raise ValueError("no vectors to combine; give one or more")
    scales = [1.0] * len(vectors) if scales is None else list(scales)
    if len(scales) != len(vectors):
        raise ValueError(f"{len(scales)} scales for {len(vectors)} vectors; give one for each")
    check_alike(vectors)

    def total(*changes: Any) -> Any:
        arrays = [jnp.asarray(change) for change in changes]
        first, *others = (jnp.asarray(s, a.dtype) * a for s, a in zip(scales, arrays, strict=True))
        return sum(others, start=first)

    return jax.tree.map(total, *vectors)


def check_alike(trees: Sequence[Any]) -> None:
    """Raises TypeError for what is not the same kind of tree or holds other than floats, ValueError, naming the first
    path that differs and the nearest of the other tree, for other paths or shapes. Looks at no value."""
    first, *others = (leaves(tree) for tree in trees)
    for number, other in enumerate(others, 1):
        if type(trees[number]) is not type(trees[0]):
            kinds = f"{type(trees[0]).__name__} and {type(trees[number]).__name__}"
            raise TypeError(f"{kinds} do not blend; give Variables alone, or trees of parameters alone")
        for place, here, there in (("first", first, other), (ordinal(number), other, first)):
            if lone := [path for path in here if path not in there]:
                more = f" and {len(lone) - 1} more" if len(lone) > 1 else ""
                raise ValueError(
                    f"the trees differ: {lone[0]!r}{more} in the {place} alone of the first and the {ordinal(number)}"
                    f"{near_miss(lone[0], there, n=2)}"
                )
        for path, leaf in first.items():
            shapes = tuple(jnp.shape(leaf)), tuple(jnp.shape(other[path]))
            if shapes[0] != shapes[1]:
                raise ValueError(f"{path!r} is {shapes[0]} in the first tree and {shapes[1]} in the {ordinal(number)}")
    for path, leaf in first.items():
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(f"{path!r} is {jnp.result_type(leaf)}; only floats blend")


def leaves(tree: Any) -> dict[str, Any]:
    """Every leaf by path; statistics under `stats:`, for a parameter may have the same path."""
    if isinstance(tree, Variables):
        return flatten(tree.params) | flatten(tree.stats, "stats:")
    if not isinstance(tree, Mapping):
        raise TypeError(f"{type(tree).__name__} is no tree of named numbers; give Variables or nested dicts")
    return flatten(tree)


def ordinal(number: int) -> str:
    """The place of an item in words, from 0.

    >>> ordinal(1), ordinal(11)
    ('second', '12th')
    """
    words = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
    return words[number] if number < len(words) else f"{number + 1}th"
