"""Search spaces, checked against the recipe before anything runs."""

import math

import pytest

from tlx import Data, Optim, Recipe, Train, models, tasks, tuning
from tlx.tune import integer, log_uniform, one_of, uniform
from tlx.tune.space import cell, check, draw_point, format_space, grid

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
        (lambda: uniform(1, 1), ValueError, "uniform(1, 1): "),
        (lambda: uniform(2, 1), ValueError, "uniform(2, 1): "),
        (lambda: uniform("1", 2), TypeError, "uniform: a bound is '1'; expected a finite number"),
        (lambda: uniform(0, math.inf), TypeError, "uniform: a bound is inf; expected a finite number"),
        (
            lambda: log_uniform(0, 1),
            ValueError,
            "log_uniform(0, 1): both bounds must be above 0",
        ),
        (lambda: integer(1, 1), ValueError, "integer(1, 1, step=1): high must be low plus "),
        (lambda: integer(1, 4, step=2), ValueError, "integer(1, 4, step=2): high must be low plus "),
        (lambda: integer(1, 4.0), TypeError, "integer: high is 4.0; expected a whole number"),
        (one_of, ValueError, "one_of(): give two or more values to choose from"),
        (
            lambda: one_of(tuning.Full()),
            ValueError,
            "one_of(Full()): give two or more values to choose from",
        ),
        (lambda: one_of([1, 2]), TypeError, "one_of(*[1, 2])"),
        (lambda: one_of(1, 2, 1), ValueError, "one_of: 1 appears twice"),
    ],
)
def test_empty_bounds_are_refused(make, kind, message):
    with pytest.raises(kind) as error:
        make()
    for part in message.split(" ... "):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("space", "kind", "message"),
    [
        ({}, TypeError, ", got {}"),
        (
            {"optim.lr": (0, 1)},
            TypeError,
            "the range of 'optim.lr' is (0, 1); expected uniform, log_uniform, integer or one_of",
        ),
        (
            {"optim.rate": uniform(0, 1)},
            ValueError,
            "recipe ... field 'optim.rate'; close: 'optim.name', 'optim.lr', 'optim.slant_peak'",
        ),
        # The field must exist for every value that its record may take.
        (
            {"tuning": one_of(tuning.Lora(rank=4), tuning.Probe()), "tuning.rank": integer(2, 8)},
            ValueError,
            "recipe ... field 'tuning.rank'; close: 'tuning'",
        ),
        ({"train.batch": uniform(8, 32)}, TypeError, "train.batch ... 8.0 ... int"),
        (
            {"tuning.decay": uniform(0.5, 1), "tuning": one_of(tuning.Full(), tuning.Probe())},
            ValueError,
            "'tuning' would overwrite 'tuning.decay', which is set before it; set 'tuning' first",
        ),
    ],
)
def test_a_space_that_does_not_fit_the_recipe_is_refused(space, kind, message):
    with pytest.raises(kind) as error:
        check(space, RECIPE)
    for part in message.split(" ... "):
        assert part in str(error.value)


def test_a_field_of_a_searched_value_may_be_searched_too():
    space = {
        "tuning": one_of(tuning.Lora(rank=4, on=r"stem/.*"), tuning.Dora(rank=4, on=r"stem/.*")),
        "tuning.rank": integer(2, 8),
    }
    check(space, RECIPE)
    assert cell(RECIPE, {"tuning": tuning.Dora(rank=4), "tuning.rank": 2}).recipe.tuning == tuning.Dora(rank=2)


def test_a_random_point_depends_on_its_number_only_and_is_within_the_bounds():
    space = {"a": uniform(-1, 1), "b": log_uniform(1e-5, 1.0), "c": integer(2, 8, step=2), "d": one_of("x", None)}
    points = [draw_point(space, 3, number) for number in range(200)]
    assert points == [draw_point(space, 3, number) for number in range(200)]
    assert points[0] != draw_point(space, 4, 0)
    assert all(-1 <= point["a"] <= 1 and 1e-5 <= point["b"] <= 1 for point in points)
    assert {point["c"] for point in points} == {2, 4, 6, 8} and {point["d"] for point in points} == {"x", None}
    # Half of them are below the middle of the logarithms.
    assert 70 < sum(point["b"] < 10**-2.5 for point in points) < 130


def test_a_grid_has_every_point_once_and_no_range():
    space = {"c": integer(1, 2), "d": one_of("x", "y", None)}
    assert grid(space) == [{"c": c, "d": d} for c in (1, 2) for d in ("x", "y", None)]
    with pytest.raises(ValueError) as error:
        grid(space | {"optim.lr": log_uniform(1e-4, 1e-2)})
    assert "'optim.lr'" in str(error.value) and "one_of(0.0001, 0.001, 0.01)" in str(error.value)


def test_a_space_is_shown_as_it_was_written():
    space = {"a": uniform(0, 1), "b": one_of(tuning.Full(), tuning.Freeze(through="stem")), "c": integer(1, 2)}
    assert format_space(space) == {
        "a": "uniform(0.0, 1.0)", "b": "one_of(Full(), Freeze(through='stem'))", "c": "integer(1, 2)",
    }  # fmt: skip
