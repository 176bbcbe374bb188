"""Folds: every example is tested once, the same for every seed, by class, by group, in time, and never where a data set
makes a test split."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from tlx.data import Concat, Csv, Data, Frame, Test, Where, has_test, load, open_dataset

COUNT = 62
ROWS = pd.DataFrame(
    {
        "text": [f"text number {n}" for n in range(COUNT)],
        "label": ["a" if n % 3 else "b" if n % 6 else "c" for n in range(COUNT)],
        "patient": [n // 4 for n in range(COUNT)],
        "day": pd.Timestamp("2026-01-01") + pd.to_timedelta(range(COUNT), "D"),
    }
)


def parts(data, folds, seed=0):
    """Return the splits of each fold."""
    return [load(replace(data, folds=folds, fold=fold), seed) for fold in range(folds)]


def test_every_example_is_tested_once_and_the_rest_is_trained_on():
    data = Data(target=Frame(ROWS, text="text", label="label"), validation=0.2)
    folds = parts(data, 5)
    tested = np.concatenate([splits.test.rows for splits in folds])
    assert sorted(tested.tolist()) == list(range(COUNT))
    for splits in folds:
        used = [splits.train.rows, splits.validation.rows, splits.test.rows]
        assert sorted(np.concatenate(used).tolist()) == list(range(COUNT))
        counts = np.bincount(splits.test.labels(), minlength=3)
        assert len(splits.test) in (12, 13) and counts[1] in (2, 3) and counts[2] in (2, 3)
    again = parts(data, 5, seed=3)
    assert [splits.fingerprint for splits in again] == [splits.fingerprint for splits in folds]
    assert len({splits.fingerprint for splits in folds}) == 5
    assert "fold 2 of 0 to 4" in " ".join(folds[2].notes) and f"of {COUNT} examples" in " ".join(folds[2].notes)


def test_the_groups_of_a_source_stay_together():
    folds = parts(Data(target=Frame(ROWS, text="text", label="label", group="patient"), validation=0.2), 4)
    groups = [set(splits.test.groups.tolist()) for splits in folds]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 16
    assert sorted(np.concatenate([splits.test.rows for splits in folds]).tolist()) == list(range(COUNT))
    for splits in folds:
        sets = [set(part.groups.tolist()) for part in (splits.train, splits.validation, splits.test)]
        assert all(sets) and sum(map(len, sets)) == 16
    with pytest.raises(ValueError, match=r"16 groups for fold 0, .*fold 16"):
        load(Data(target=Frame(ROWS, text="text", label="label", group="patient"), folds=17), 0)


def test_in_time_a_fold_is_tested_by_what_came_before():
    rows = ROWS.sample(frac=1.0, random_state=1)
    folds = parts(Data(target=Frame(rows, text="text", label="label", time="day")), 3)
    for before, after in pairwise(folds):
        assert before.test.times.max() < after.test.times.min()
        assert set(after.train.rows) | set(after.validation.rows) == {
            *before.train.rows,
            *before.validation.rows,
            *before.test.rows,
        }
    for splits in folds:
        assert splits.train.times.max() < splits.validation.times.min()
        assert splits.validation.times.max() < splits.test.times.min()
    # The first block is never tested.
    assert sum(len(splits.test) for splits in folds) == COUNT - len(folds[0].train) - len(folds[0].validation)


def test_a_source_holds_out_no_test_share_where_folds_divide_it(tmp_path):
    for half, rows in (("first", ROWS[:30]), ("second", ROWS[30:])):
        rows.to_csv(tmp_path / f"{half}.csv", index=False)
    files = [Csv(str(tmp_path / f"{name}.csv"), text="text", label="label") for name in ("first", "second")]
    assert list(open_dataset(str(tmp_path / "first.csv"), whole=True).splits) == ["train"]
    folds = parts(Data(target=Concat(tuple(files))), 3)
    assert sum(len(splits.test) for splits in folds) == COUNT
    chosen = parts(Data(target=Where(Concat(tuple(files)), column="label", values=("a", "c"))), 3)
    assert sum(len(splits.test) for splits in chosen) == (ROWS["label"] != "b").sum()


def test_the_own_test_split_of_a_data_set_is_named_and_can_be_measured_too():
    rows = ROWS.assign(part=["test" if n % 5 == 0 else "train" for n in range(COUNT)])
    source = Frame(rows, text="text", label="label", split="part")
    own = source.open().splits["test"]
    splits = load(Data(target=source, folds=4, fold=1, tests=(Test(name="held-out"),)), 0)
    assert len(splits.tests["held-out"]) == len(own) == 13 and len(splits.test) in (12, 13)
    [note] = [note for note in splits.notes if "neither trained nor tested on" in note]
    assert "13 examples" in note and "Test(name='held-out')" in note
    assert has_test(Data(target="digits", folds=2))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"folds": 1}, "folds=1; expected 2"),
        ({"fold": 2}, "fold=2 with folds=None; set folds"),
        ({"folds": 5, "fold": 5}, "fold=5 with folds=5; expected 0 to 4"),
        ({"folds": 5, "test_on": "validation"}, "folds=5 and test_on='validation'"),
    ],
)
def test_invalid_folds_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Data(target="digits", **fields)


def test_more_folds_than_examples_are_refused():
    with pytest.raises(ValueError, match=r"data.folds=99, but .* has 62 training examples"):
        load(Data(target=Frame(ROWS, text="text", label="label"), folds=99), 0)


def test_the_same_data_as_source_and_target_are_refused(tmp_path):
    ROWS.to_csv(tmp_path / "a.csv", index=False)
    first, second = (Csv(f"{tmp_path}/{place}a.csv", text="text", label="label") for place in ("", "./"))
    with pytest.raises(ValueError, match="are the same data set"):
        load(Data(target=first, source=second, folds=3), 0)
