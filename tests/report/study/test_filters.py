"""The filters of arms, from hand-written recipes: everything that differs between arms, and nothing twice."""

from tlx.records.log import write_json
from tlx.report.study import filters, names


def further_fields(written, *recipes, **more):
    """The further fields of one arm per recipe, with two seeds; None is an arm in which no cell has begun."""
    for n, recipe in enumerate(recipes):
        for seed in range(2):
            written.add([True, False], method=f"m{n}", **more, seed=seed)
            file = written.folder / "cells" / written.cells[-1]["fingerprint"] / "recipe.json"
            if recipe is None:
                (file.parent / "result.json").unlink()
                file.unlink()
            else:
                inputs = {"kind": "Recipe", "seed": seed, "task": {"kind": "Classification"}} | recipe
                write_json(file, {"recipe": inputs})
    table = written.compare(baseline={})
    return filters.further(table, names.columns(table))


def test_every_field_that_differs_between_arms_is_offered(written):
    one = {"optim": {"kind": "Optim", "lr": 0.1, "name": "sgd"}, "terms": [{"kind": "Mmd", "weight": 1.0}], "at": [1]}
    other = {"optim": {"kind": "Optim", "lr": 1e-3, "name": "sgd"}, "terms": [{"kind": "Coral", "weight": 1}], "at": []}
    assert further_fields(written, one, other) == [
        {"optim.lr": "0.1", "terms.0.kind": "Mmd", "at": "(1,)"},
        {"optim.lr": "0.001", "terms.0.kind": "Coral", "at": "()"},
    ]


def test_a_missing_field_is_a_dash_and_so_are_all_fields_of_an_arm_that_has_not_begun(written):
    full, lora = {"tuning": {"kind": "Full"}}, {"tuning": {"kind": "Lora", "rank": 8}}
    assert further_fields(written, full, lora, None) == [
        {"tuning.kind": "Full", "tuning.rank": "–"},
        {"tuning.kind": "Lora", "tuning.rank": "8"},
        {"tuning.kind": "–", "tuning.rank": "–"},
    ]


def test_a_column_with_the_same_name_is_not_offered_again(written):
    recipes = [{"data": {"kind": "Data", "shots": n, "views": n}} for n in (4, 16)]
    assert [one.keys() for one in further_fields(written, *recipes, **{"data.shots": 0})] == [{"data.views"}] * 2


def test_fields_that_differ_within_an_arm_are_no_filter(written):
    table = further_fields(written, {"batch": 4}, {"batch": 8})
    assert "seed" not in table[0]
    last = written.folder / "cells" / written.cells[-1]["fingerprint"] / "recipe.json"
    write_json(last, {"recipe": {"kind": "Recipe", "task": {"kind": "Classification"}, "batch": 9}})
    second = written.compare(baseline={})
    assert filters.further(second, names.columns(second)) == [{}, {}]


def test_the_groups_have_every_value_once():
    stored = [{"a": "2", "b": "–"}, {"a": "1", "b": "x"}, {"a": "2", "b": "y"}]
    assert [group["values"] for group in filters.of_fields(stored)] == [["2", "1"], ["x", "y", "–"]]
    assert filters.of_fields([]) == filters.of_fields([{}]) == []
