"""Define a search space: a range or a list of values for each searched field of a recipe."""

import math
from collections.abc import Mapping
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from tlx import config
from tlx.recipe import Recipe
from tlx.study.sweeps import Cell, sweep


class Range(NamedTuple):
    """Any number from `low` to `high`, uniformly distributed, or with `log` uniformly in its logarithm."""

    low: float
    high: float
    log: bool = False


class Integers(NamedTuple):
    """The numbers `low`, `low + step`, ..., `high`."""

    low: int
    high: int
    step: int = 1

    @property
    def values(self) -> tuple[int, ...]:
        return tuple(range(self.low, self.high + 1, self.step))


class Categorical(NamedTuple):
    """One of the `values`, without an assumed order."""

    values: tuple[Any, ...]

    @property
    def by_text(self) -> dict[str, Any]:
        """The values by the text that a user would write for them."""
        return {config.source(value): value for value in self.values}


Spec = Range | Integers | Categorical
Space = Mapping[str, Spec]
Point = dict[str, Any]


def uniform(low: float, high: float) -> Range:
    """Return a range over any number from `low` to `high`."""
    return Range(*bounds("uniform", low, high))


def log_uniform(low: float, high: float) -> Range:
    """Return a range over any number from `low` to `high`, both above 0, uniform in the logarithm: for rates and
    decays."""
    low, high = bounds("log_uniform", low, high)
    if low <= 0:
        raise ValueError(
            f"log_uniform({low:g}, {high:g}): both bounds must be above 0, because the range is logarithmic"
        )
    return Range(low, high, log=True)


def integer(low: int, high: int, step: int = 1) -> Integers:
    """Return a range over whole numbers from `low` to `high`, both included, in steps of `step`."""
    for name, value in (("low", low), ("high", high), ("step", step)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"integer: {name} is {value!r}; expected a whole number")
    if low >= high or step < 1 or (high - low) % step:
        raise ValueError(f"integer({low}, {high}, step={step}): high must be low plus one or more whole steps")
    return Integers(low, high, step)


def one_of(*values: Any) -> Categorical:
    """Return a choice of one of these values: numbers, strings, None, records such as `Lora(rank=8)`."""
    if len(values) == 1 and isinstance(values[0], list | range | set | dict):
        raise TypeError(f"one_of takes its values as separate arguments: one_of(*{values[0]!r})")
    choices = Categorical(tuple(values))
    if len(values) < 2:
        raise ValueError(
            f"one_of({config.source(values[0]) if values else ''}): give two or more values to choose from"
        )
    if len(choices.by_text) < len(values):
        texts = [config.source(value) for value in values]
        raise ValueError(f"one_of: {next(text for text in texts if texts.count(text) > 1)} appears twice")
    return choices


def bounds(name: str, low: float, high: float) -> tuple[float, float]:
    """Check and return the two bounds."""
    for value in (low, high):
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise TypeError(f"{name}: a bound is {value!r}; expected a finite number")
    if low >= high:
        raise ValueError(f"{name}({low:g}, {high:g}): the first bound must be lower than the second")
    return float(low), float(high)


def check(space: Any, recipe: Recipe) -> None:
    """Raise TypeError or ValueError, with the path and the nearest names, if some point of the space is not a valid
    recipe.

    The check runs before any trial.
    """
    if not isinstance(space, Mapping) or not space:
        raise TypeError(
            f"a space is {{path: uniform(...), log_uniform(...), integer(...) or one_of(...)}}, got {space!r}"
        )
    for path, spec in space.items():
        if not isinstance(spec, Range | Integers | Categorical):
            raise TypeError(f"the range of {path!r} is {spec!r}; expected uniform, log_uniform, integer or one_of")
    for path in space:
        # A field may exist only for some values of the record that contains it.
        names = [outer for outer in space if outer == path or path.startswith(f"{outer}.")]
        for values in product(*(ends(space[name]) for name in names)):
            cell(recipe, dict(zip(names, values, strict=True)))


def ends(spec: Spec) -> tuple[Any, ...]:
    """Return the values of a spec that a check tries in place of all others."""
    return spec.values if isinstance(spec, Categorical) else (spec.low, spec.high)


def cell(recipe: Recipe, point: Point) -> Cell:
    """Return the recipe at a point of the space, with its names."""
    return sweep(recipe, [point])[0]


def format_space(space: Space) -> dict[str, str]:
    """Return the space as a user would write it, by path."""
    return {path: written(spec) for path, spec in space.items()}


def written(spec: Spec) -> str:
    """Return a spec as a user would write it.

    >>> written(log_uniform(1e-4, 0.1)), written(integer(8, 32, step=8)), written(one_of("adam", None))
    ('log_uniform(0.0001, 0.1)', 'integer(8, 32, step=8)', "one_of('adam', None)")
    """
    if isinstance(spec, Categorical):
        return f"one_of({', '.join(spec.by_text)})"
    if isinstance(spec, Integers):
        return f"integer({spec.low}, {spec.high}{f', step={spec.step}' if spec.step != 1 else ''})"
    return f"{'log_uniform' if spec.log else 'uniform'}({spec.low}, {spec.high})"


def draw_point(space: Space, seed: int, number: int) -> Point:
    """Return the random point of that number, which does not depend on how many points are drawn."""
    random = np.random.default_rng([seed, number])
    point: Point = {}
    for path, spec in space.items():
        if not isinstance(spec, Range):
            point[path] = spec.values[int(random.integers(len(spec.values)))]
        elif spec.log:
            inside = math.exp(random.uniform(math.log(spec.low), math.log(spec.high)))
            point[path] = min(max(inside, spec.low), spec.high)
        else:
            point[path] = float(random.uniform(spec.low, spec.high))
    return point


def grid(space: Space) -> list[Point]:
    """Return every point, the last path varying fastest.

    Raises:
        ValueError: The space contains a range, which has infinitely many points.
    """
    for path, spec in space.items():
        if isinstance(spec, Range):
            raise ValueError(
                f"a grid needs a list of values, but {path!r} has a continuous range; name the values: "
                f"one_of({spec.low:g}, {middle(spec):.3g}, {spec.high:g})"
            )
    values = [spec.values for spec in space.values() if not isinstance(spec, Range)]
    return [dict(zip(space, point, strict=True)) for point in product(*values)]


def middle(spec: Range) -> float:
    return math.sqrt(spec.low * spec.high) if spec.log else (spec.low + spec.high) / 2
