"""Search spaces, checked against the recipe before anything runs."""

import math

import pytest

from tlx import Data, Optim, Recipe, Train, models, tasks, tuning
from tlx.tune import integer, log_uniform, one_of, uniform
from tlx.tune.space import cell, check, drawn, grid, shown

RECIPE = Recipe(
    data=Data(target="digits"),
    task=tasks.Classification(),
    model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
    tuning=tuning.Freeze(through="stem"),
    optim=Optim(lr=0.01),
    train=Train(batch=16),
)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: uniform(1, 1), ValueError, "uniform(1, 1): nothing lies between; the lower bound comes first"),
        (lambda: uniform(2, 1), ValueError, "uniform(2, 1): nothing lies between; the lower bound comes first"),
        (lambda: uniform("1", 2), TypeError, "uniform: a bound is '1', which is no finite number"),
        (lambda: uniform(0, math.inf), TypeError, "uniform: a bound is inf, which is no finite number"),
        (
            lambda: log_uniform(0, 1),
            ValueError,
            "log_uniform(0, 1): both bounds lie above 0, for 0 has no logarithm",
        ),
        (lambda: integer(1, 1), ValueError, "integer(1, 1, step=1): high lies one or more steps above low"),
        (lambda: integer(1, 4, step=2), ValueError, "integer(1, 4, step=2): high lies one or more steps above low"),
        (lambda: integer(1, 4.0), TypeError, "integer: high is 4.0, which is no whole number"),
        (one_of, ValueError, "one_of(): give two or more values to choose from"),
        (
            lambda: one_of(tuning.Full()),
            ValueError,
            "one_of(Full()): give two or more values to choose from",
        ),
        (lambda: one_of([1, 2]), TypeError, "one_of takes its values one by one: one_of(*[1, 2])"),
        (lambda: one_of(1, 2, 1), ValueError, "one_of: 1 is there twice"),
    ],
)
def test_empty_bounds_are_refused(make, kind, message):
    with pytest.raises(kind) as error:
        make()
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("space", "kind", "message"),
    [
        ({}, TypeError, "a space is {path: uniform(...) or log_uniform, integer, one_of}, got {}"),
        (
            {"optim.lr": (0, 1)},
            TypeError,
            "'optim.lr' is to be searched over (0, 1); give uniform, log_uniform, integer or one_of",
        ),
        (
            {"optim.rate": uniform(0, 1)},
            ValueError,
            "no field 'optim.rate' in the recipe; close: 'optim.name', 'optim.lr', 'optim.slant_peak'",
        ),
        # The field must exist for every value that its record may take.
        (
            {"tuning": one_of(tuning.Lora(rank=4), tuning.Probe()), "tuning.rank": integer(2, 8)},
            ValueError,
            "no field 'tuning.rank' in the recipe; close: 'tuning', 'train.remat', 'train.ema'",
        ),
        ({"train.batch": uniform(8, 32)}, TypeError, "train.batch wants int, got 8.0"),
        (
            {"tuning.decay": uniform(0.5, 1), "tuning": one_of(tuning.Full(), tuning.Probe())},
            ValueError,
            "'tuning' would overwrite 'tuning.decay', which was set before it; set 'tuning' first",
        ),
    ],
)
def test_a_space_that_does_not_fit_the_recipe_is_refused(space, kind, message):
    with pytest.raises(kind) as error:
        check(space, RECIPE)
    assert str(error.value) == message


def test_a_field_of_a_searched_value_may_be_searched_too():
    space = {
        "tuning": one_of(tuning.Lora(rank=4, on=r"stem/.*"), tuning.Dora(rank=4, on=r"stem/.*")),
        "tuning.rank": integer(2, 8),
    }
    check(space, RECIPE)
    assert cell(RECIPE, {"tuning": tuning.Dora(rank=4), "tuning.rank": 2}).recipe.tuning == tuning.Dora(rank=2)


def test_a_random_point_depends_on_its_number_only_and_is_within_the_bounds():
    space = {"a": uniform(-1, 1), "b": log_uniform(1e-5, 1.0), "c": integer(2, 8, step=2), "d": one_of("x", None)}
    points = [drawn(space, 3, number) for number in range(200)]
    assert points == [drawn(space, 3, number) for number in range(200)]
    assert points[0] != drawn(space, 4, 0)
    assert all(-1 <= point["a"] <= 1 and 1e-5 <= point["b"] <= 1 for point in points)
    assert {point["c"] for point in points} == {2, 4, 6, 8} and {point["d"] for point in points} == {"x", None}
    # Half of them are below the middle of the logarithms.
    assert 70 < sum(point["b"] < 10**-2.5 for point in points) < 130


def test_a_grid_has_every_point_once_and_no_range():
    space = {"c": integer(1, 2), "d": one_of("x", "y", None)}
    assert grid(space) == [{"c": c, "d": d} for c in (1, 2) for d in ("x", "y", None)]
    with pytest.raises(ValueError) as error:
        grid(space | {"optim.lr": log_uniform(1e-4, 1e-2)})
    assert str(error.value) == (
        "a grid has no end of points in 'optim.lr'; name those to try: one_of(0.0001, 0.001, 0.01)"
    )


def test_a_space_is_shown_as_it_was_written():
    space = {"a": uniform(0, 1), "b": one_of(tuning.Full(), tuning.Freeze(through="stem")), "c": integer(1, 2)}
    assert shown(space) == {
        "a": "uniform(0.0, 1.0)", "b": "one_of(Full(), Freeze(through='stem'))", "c": "integer(1, 2)",
    }  # fmt: skip
