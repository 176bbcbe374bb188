"""Weights of classes: check those that a user gives, and compute balanced ones from the training labels.

Shapes: N examples, C classes.
"""

from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np

from tlx.types import Array

ClassWeights = tuple[float, ...] | Literal["balanced"]


def check_weights(weights: ClassWeights, classes: int | None) -> None:
    """Raise ValueError for weights that are negative, not finite or all 0, or that are not one for each class;
    TypeError for weights that are no tuple of numbers."""
    if isinstance(weights, str):
        if weights != "balanced":
            raise ValueError(f"class_weights is {weights!r}; expected 'balanced', or a number for each class")
        return
    if not isinstance(weights, tuple) or any(isinstance(weight, str) for weight in weights):
        raise TypeError(
            f"class_weights is {weights!r} ({type(weights).__name__}); expected a tuple with a number for each class, "
            "in the order of the classes, such as (1.0, 2.5), or 'balanced'"
        )
    if weights and not (all(0 <= weight < float("inf") for weight in weights) and any(weights)):
        raise ValueError(f"class_weights is {weights}; expected a number of 0 or more for each class, and one above 0")
    if weights and classes is not None and len(weights) != classes:
        raise ValueError(f"{len(weights)} class_weights for {classes} classes; expected one weight for each class")


def balanced(counts: np.ndarray) -> tuple[float, ...]:
    """Return N / (classes that occur * count) for each class, as scikit-learn's `compute_class_weight` does.

    Every class that occurs then has the same total weight, and the mean weight of an example is 1. A class without
    examples gets this weight, 1.

    Args:
        counts: The number of examples of each class, [C].
    """
    total, present = counts.sum(), (counts > 0).sum()
    return tuple(float(total / (present * count)) if count else 1.0 for count in counts)


def balanced_positives(counts: np.ndarray, examples: int) -> tuple[float, ...]:
    """Return the number of examples without a class over the number with it, for each class, so that both sides have
    the same total weight; 1 for a class that no example or every example has.

    Args:
        counts: The number of examples with each class, [C].
        examples: The number of examples, N.
    """
    return tuple(float((examples - count) / count) if 0 < count < examples else 1.0 for count in counts)


def array_of(weights: ClassWeights) -> Array:
    """Return the weights as an array [C]. Raises ValueError for balanced weights that were not computed yet."""
    if isinstance(weights, str):
        raise ValueError(f"class_weights={weights!r} follow from the training labels; prepare the task with the data")
    return jnp.stack([jnp.float32(weight) for weight in weights])


def count_classes(labels: Sequence[int] | np.ndarray, classes: int) -> np.ndarray:
    """Return how often each class occurs, int64[C]."""
    return np.bincount(np.asarray(labels, np.int64), minlength=classes)
