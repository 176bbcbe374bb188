"""Arithmetic on weights: interpolation, soups, task vectors. Pure functions on `Variables` and on trees of parameters.

These trees have no class names: put the heads in one order first (`tlx.weights.reorder`); `tlx soup` does so.

All trees of one call must have the same paths and shapes. This is checked before anything is computed. A scale or a
share may be an array, so that its value is not a constant of a compiled program.

Running statistics of batch norm, the `stats` of `Variables`, are treated like parameters: interpolated, and averaged in
a soup. This only approximates the statistics of the blended network; to compute them, run a few batches through
`forward(train=True)`. A negated or enlarged vector can make a variance negative: pass `params` only.
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
    """A greedy soup.

    Attributes:
        variables: The averaged variables.
        chosen: The numbers of the candidates in the soup, in the order in which they were added.
        scores: The score of each single candidate.
        score: The score of the soup.
    """

    variables: Any
    chosen: tuple[int, ...]
    scores: tuple[float, ...]
    score: float


def interpolate(before: Weights, after: Weights, share: Scale) -> Weights:
    """Compute (1 - share) before + share after: WiSE-FT (Wortsman et al., 2022a).

    The result is exact at 0, at 1, and where both are equal. `share` outside [0, 1] extrapolates.

    Args:
        before: The initial (pretrained) weights.
        after: The fine-tuned weights.
        share: Interpolation weight: 0 = initial weights, 1 = fine-tuned weights.

    Raises:
        ValueError: The trees differ.
    """
    check_alike([before, after])

    def mixed(low: Any, high: Any) -> Any:
        low, high = jnp.asarray(low), jnp.asarray(high)
        part, difference = jnp.asarray(share, low.dtype), high - low
        # Starting from the nearer end makes both ends exact.
        return jnp.where(part < 0.5, low + part * difference, high - (1 - part) * difference)

    return jax.tree.map(mixed, before, after)


def soup(ingredients: Sequence[Weights], weights: Sequence[float] | None = None) -> Weights:
    """Average fine-tuned models (Wortsman et al., 2022b), uniformly or with `weights` that sum to 1.

    The result is exact where all models are equal.

    Raises:
        ValueError: There are no ingredients, the weights do not sum to 1 or have another number, or the trees differ.
    """
    if not ingredients:
        raise ValueError("soup received no variables; pass at least one set of variables")
    shares = [1 / len(ingredients)] * len(ingredients) if weights is None else list(weights)
    if len(shares) != len(ingredients) or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise ValueError(
            f"weights {shares} for {len(ingredients)} ingredients; pass one weight for each ingredient, with the sum 1"
        )
    check_alike(ingredients)

    def mean(first: Any, *others: Any) -> Any:
        first = jnp.asarray(first)
        # As differences from the first: the average of equal ingredients is then exact, whatever 1/3 rounds to.
        terms = (share * (jnp.asarray(other) - first) for share, other in zip(shares[1:], others, strict=True))
        return sum(terms, start=first)

    return jax.tree.map(mean, *ingredients)


def greedy_soup(candidates: Sequence[Weights], score: Callable[[Weights], float]) -> Greedy:
    """Make a greedy soup (Wortsman et al., 2022b, recipe 1).

    Candidates are added in the order of their scores. Each stays if the soup scores no lower with it than without it.
    The soup scores no lower than the best candidate.

    Args:
        candidates: The fine-tuned models.
        score: Returns the score of a model, higher for better. It must use held-out validation examples, never test
            examples.

    Raises:
        ValueError: There are no candidates, the trees differ, or a score is not a number.
    """
    if not candidates:
        raise ValueError("the list of candidates is empty; pass at least one candidate")
    check_alike(candidates)
    scores = tuple(float(score(candidate)) for candidate in candidates)
    if unscored := [n for n, value in enumerate(scores) if math.isnan(value)]:
        raise ValueError(
            f"candidate {unscored[0]} has the score NaN, so the candidates cannot be ordered; pass a number"
        )
    first, *others = sorted(range(len(candidates)), key=lambda n: -scores[n])
    chosen: list[int] = [first]
    best_soup, best = candidates[first], scores[first]
    for number in others:
        trial = soup([candidates[n] for n in (*chosen, number)])
        if (value := float(score(trial))) >= best:
            chosen, best_soup, best = [*chosen, number], trial, value
    return Greedy(best_soup, tuple(chosen), scores, best)


def task_vector(before: Weights, after: Weights) -> Weights:
    """Compute after - before, the task vector (Ilharco et al., 2023). Raises ValueError for trees that differ."""
    check_alike([before, after])
    return jax.tree.map(lambda old, new: jnp.asarray(new) - jnp.asarray(old), before, after)


def apply_vector(before: Weights, vector: Weights, scale: Scale = 1.0) -> Weights:
    """Compute before + scale * vector; a scale of -1 forgets the task (Ilharco et al., 2023, section 3).

    Raises ValueError for trees that differ.
    """
    check_alike([before, vector])

    def moved(old: Any, change: Any) -> Any:
        old = jnp.asarray(old)
        return old + jnp.asarray(scale, old.dtype) * jnp.asarray(change)

    return jax.tree.map(moved, before, vector)


def combine(vectors: Sequence[Weights], scales: Sequence[Scale] | None = None) -> Weights:
    """Sum scaled task vectors, to combine several tasks (Ilharco et al., 2023, section 4). Scales are 1 by default.

    `combine([a, b], [1, -1])` adds one task and forgets another. Raises ValueError for no vectors, another number of
    scales, or trees that differ.
    """
    if not vectors:
        raise ValueError("the list of vectors is empty; pass at least one vector")
    scales = [1.0] * len(vectors) if scales is None else list(scales)
    if len(scales) != len(vectors):
        raise ValueError(f"{len(scales)} scales for {len(vectors)} vectors; pass one scale for each vector")
    check_alike(vectors)

    def total(*changes: Any) -> Any:
        arrays = [jnp.asarray(change) for change in changes]
        first, *others = (
            jnp.asarray(factor, array.dtype) * array for factor, array in zip(scales, arrays, strict=True)
        )
        return sum(others, start=first)

    return jax.tree.map(total, *vectors)


def check_alike(trees: Sequence[Any]) -> None:
    """Raise an error unless all trees have one kind, the same paths and shapes, and floats only. Values are not read.

    Raises:
        TypeError: The trees are of different kinds, or hold other leaves than floats.
        ValueError: Paths or shapes differ. The error names the first such path and the nearest ones in the other tree.
    """
    first, *others = (leaves(tree) for tree in trees)
    for number, other in enumerate(others, 1):
        if type(trees[number]) is not type(trees[0]):
            kinds = f"{type(trees[0]).__name__} and {type(trees[number]).__name__}"
            raise TypeError(f"{kinds} cannot be combined; pass only Variables, or only trees of parameters")
        for place, here, there in (("first", first, other), (ordinal(number), other, first)):
            if lone := [path for path in here if path not in there]:
                more = f" and {len(lone) - 1} more" if len(lone) > 1 else ""
                raise ValueError(
                    f"the first tree and the {ordinal(number)} tree differ: only the {place} has {lone[0]!r}{more}"
                    f"{near_miss(lone[0], there, n=2)}"
                )
        for path, leaf in first.items():
            shapes = tuple(jnp.shape(leaf)), tuple(jnp.shape(other[path]))
            if shapes[0] != shapes[1]:
                raise ValueError(
                    f"{path!r} has the shape {shapes[0]} in the first tree and {shapes[1]} in the {ordinal(number)} "
                    "tree"
                )
    for path, leaf in first.items():
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(f"{path!r} has the type {jnp.result_type(leaf)}; expected floating point numbers")


def leaves(tree: object) -> dict[str, Any]:
    """Return every leaf by path; statistics are under `stats:`, because a parameter may have the same path."""
    if isinstance(tree, Variables):
        return flatten(tree.params) | flatten(tree.stats, "stats:")
    if not isinstance(tree, Mapping):
        raise TypeError(f"received a {type(tree).__name__}; expected Variables or nested dicts of arrays")
    return flatten(tree)


def ordinal(number: int) -> str:
    """Return the place of an item in words, counted from 0.

    >>> ordinal(1), ordinal(11)
    ('second', '12th')
    """
    words = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
    return words[number] if number < len(words) else f"{number + 1}th"
