"""The algebra of sweeps: laws, names, and invalid sweeps."""

import numpy as np
import pytest

from tlx import Data, Optim, Recipe, models, tasks
from tlx.study import chain, choice, param, prod, sweep, zip_
from tlx.study.sweeps import Override, listed, table_value
from tlx.tuning import Freeze, Full, Lora, Probe

BASE = Recipe(
    data=Data(target="digits"), task=tasks.Classification(classes=10), model=models.Mlp(inputs=(8, 8, 1), widths=(8,))
)
RATES, SEEDS, DECAYS = param("optim.lr", 1e-3, 1e-2), param("seed", range(3)), param("optim.weight_decay", 0.0, 0.1)
ONE = [Override({}, {})]


def test_prod_multiplies_and_the_last_part_varies_fastest():
    actual = prod(RATES, SEEDS)
    assert len(actual) == len(RATES) * len(SEEDS)
    assert [one.changes["seed"] for one in actual] == [0, 1, 2, 0, 1, 2]
    assert prod(prod(RATES, SEEDS), DECAYS) == prod(RATES, prod(SEEDS, DECAYS)) == prod(RATES, SEEDS, DECAYS)
    assert prod() == ONE
    assert prod(RATES, ONE) == prod(ONE, RATES) == prod(RATES) == RATES
    assert prod(RATES, []) == []


def test_chain_concatenates():
    assert chain(RATES, SEEDS) == RATES + SEEDS
    assert chain(chain(RATES, SEEDS), DECAYS) == chain(RATES, chain(SEEDS, DECAYS))
    assert chain() == []
    assert chain([], RATES) == RATES
    assert prod(chain(RATES, DECAYS), SEEDS) == chain(prod(RATES, SEEDS), prod(DECAYS, SEEDS))


def test_zip_combines_in_parallel_and_needs_equal_lengths():
    assert [one.changes for one in zip_(RATES, DECAYS)] == [
        {"optim.lr": 1e-3, "optim.weight_decay": 0.0},
        {"optim.lr": 1e-2, "optim.weight_decay": 0.1},
    ]
    assert zip_(RATES) == RATES
    with pytest.raises(ValueError, match=r"^zip_ wants parts of equal length, got 2, 3$"):
        zip_(RATES, SEEDS)


def test_a_sweep_has_one_cell_for_each_override_and_recipe():
    cells = sweep(BASE, prod(RATES, SEEDS))
    assert [(cell.recipe.optim.lr, cell.recipe.seed) for cell in cells] == [
        (rate, seed) for rate in (1e-3, 1e-2) for seed in range(3)
    ]
    assert cells[4].names == {"optim.lr": 1e-2, "seed": 1}
    assert cells[0].recipe == BASE
    assert len({cell.fingerprint for cell in cells}) == 6


def test_plain_dicts_a_sweep_and_the_algebra_give_the_same_cells():
    plain = [{"optim.lr": rate, "seed": seed} for rate in (1e-3, 1e-2) for seed in range(3)]
    assert sweep(BASE, plain) == sweep(BASE, prod(RATES, SEEDS)) == sweep(BASE, sweep(BASE, plain))
    assert sweep(BASE, (one for one in plain)) == sweep(BASE, plain)


def test_values_are_python_values_and_lists_of_them():
    assert [one.changes["tuning"] for one in param("tuning", Full(), Freeze(through="stem"))] == [
        Full(), Freeze(through="stem"),
    ]  # fmt: skip
    for values in ((range(3),), ([0, 1, 2],), (iter((0, 1, 2)),), (np.arange(3),), (0, [1, 2])):
        assert param("seed", *values) == SEEDS
    # A tuple is a value of a recipe.
    assert [one.changes["data.buckets"] for one in param("data.buckets", (8, 16))] == [(8, 16)]
    rates = sweep(BASE, param("optim.lr", np.logspace(-3, -2, 2)))
    assert [type(cell.recipe.optim.lr) for cell in rates] == [float, float]


def test_a_choice_sets_several_fields_under_one_label():
    methods = choice("method", {"full": {}, "probe": {"tuning": Probe(), "optim.lr": 1e-2}})
    cells = sweep(BASE, prod(methods, SEEDS))
    assert cells[3].names == {"method": "probe", "seed": 0}
    assert (cells[3].recipe.tuning, cells[3].recipe.optim) == (Probe(), Optim(lr=1e-2))
    # A label stays unchanged even if a field has its name.
    tunings = choice("tuning", {"LoRA": {"tuning": Lora()}, "none": {"tuning": Probe()}})
    assert [cell.names for cell in sweep(BASE, tunings)] == [{"tuning": "LoRA"}, {"tuning": "none"}]


def test_records_are_shown_as_a_user_would_write_them():
    cells = sweep(BASE, param("tuning", Full(), Freeze(through="stem", decay=0.5)))
    assert [cell.names["tuning"] for cell in cells] == ["Full()", "Freeze(through='stem', decay=0.5)"]
    assert [table_value(value) for value in (1, 0.5, "a", None, True, (1, 2))] == [1, 0.5, "a", None, True, "(1, 2)"]


def test_a_column_that_is_a_path_is_filled_from_the_recipe():
    """One factor at a time: every row of the table has all factors."""
    cells = sweep(BASE, chain([{}], param("optim.lr", 1), param("tuning.decay", 0.5)))
    assert [cell.names for cell in cells] == [
        {"optim.lr": 1e-3, "tuning.decay": 1.0},
        {"optim.lr": 1.0, "tuning.decay": 1.0},
        {"optim.lr": 1e-3, "tuning.decay": 0.5},
    ]
    assert sweep(BASE, chain(param("tuning.decay", 0.5), param("tuning", Probe())))[1].names == {
        "tuning.decay": None, "tuning": "Probe()",
    }  # fmt: skip


def test_a_sweep_over_another_base_is_filled_from_that_base():
    cells = sweep(BASE, chain(RATES, param("seed", 5)))
    other = sweep(Recipe(data=BASE.data, task=BASE.task, model=BASE.model, seed=9), cells)
    assert [cell.names["seed"] for cell in other] == [9, 9, 5]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: param("seed"), ValueError, "param('seed') has no values"),
        (lambda: param("seed", range(0)), ValueError, "param('seed') has no values"),
        (lambda: choice("method", {}), ValueError, "choice('method') has no labels"),
        (
            lambda: choice("method", {"probe": Probe()}),
            TypeError,
            "choice('method') wants {label: {path: value, ...}, ...} with a string or a number as label, "
            "got 'probe': Probe()",
        ),
        (lambda: prod(SEEDS, SEEDS), ValueError, "prod: two parts have the column 'seed'"),
        (lambda: zip_(RATES, RATES), ValueError, "zip_: two parts have the column 'optim.lr'"),
        (
            lambda: prod(choice("how", {"a": {"optim.lr": 0.1}}), RATES),
            ValueError,
            "prod: two parts set 'optim.lr'",
        ),
        (
            lambda: sweep(BASE, prod(param("tuning.decay", 0.5), param("tuning", Full()))),
            ValueError,
            "'tuning' would overwrite 'tuning.decay', which is set before it; set 'tuning' first",
        ),
        (lambda: sweep(BASE, []), ValueError, "a sweep needs at least one cell; [{}] runs the recipe"),
        (lambda: sweep(BASE, {"seed": 1}), TypeError, "a sweep is made of a list of {path: value}, got {'seed': 1}"),
        (
            lambda: sweep(BASE, [{"seed": 1}, 3]),
            TypeError,
            "cell 2 of the sweep is 3; expected {path: value}",
        ),
        (
            lambda: sweep(BASE, param("optim.lrr", 1)),
            ValueError,
            "recipe ... field 'optim.lrr'; close: 'optim.lr', 'optim.clip', 'optim'",
        ),
        (lambda: sweep(BASE, param("train.batch", "many")), TypeError, "train.batch ... 'many' ... int"),
        (lambda: sweep(BASE, param("train.steps", 0)), ValueError, "steps is 0; expected 1 or more"),
        (
            lambda: sweep(BASE, chain(SEEDS, param("seed", 1))),
            ValueError,
            "cells 2 and 4 are the same: seed=1; ",
        ),
        (
            lambda: sweep(BASE, choice("method", {"a": {}, "b": {"seed": 0}})),
            ValueError,
            "cells 1 and 2 have the same recipe under two names, method=a and method=b; ",
        ),
        (
            lambda: sweep(BASE, chain(choice("method", {"a": {}}), choice("method", {"a": {"optim.lr": 1.0}}))),
            ValueError,
            "cells 1 and 2 have the same name, method=a, but differ in optim.lr; ",
        ),
    ],
)
def test_invalid_sweeps_are_refused(make, error, message):
    with pytest.raises(error) as raised:
        make()
    for part in message.split(" ... "):
        assert part in str(raised.value)


def test_listed_is_the_identity_on_overrides():
    assert listed(RATES) == RATES
