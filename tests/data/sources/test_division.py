"""A division of the rows keeps groups and times apart, or an error names the rows that it would mix."""

import pytest

from tlx.data import Arrays, Concat, Data, Where, load

COUNT = 60
ROWS = {
    "text": [f"the review of number {n}, or so" for n in range(COUNT)],
    "label": ["pos", "neg"] * (COUNT // 2),
    "who": [f"p{n // 4}" for n in range(COUNT)],
}
PARTS = ["train", "test", "train", "train"] * (COUNT // 4)


def message(source, **settings):
    with pytest.raises(ValueError) as error:
        load(Data(target=source, **settings), 0)
    return str(error.value)


def test_a_column_of_splits_must_not_divide_a_group():
    found = message(Arrays(ROWS | {"part": PARTS}, group="who", split="part"))
    assert all(part in found for part in ("row 1", "row 0", "'p0' of 'who'", "'train' and 'test'"))
    whole = ["test" if n >= 40 else "train" for n in range(COUNT)]
    splits = load(Data(target=Arrays(ROWS | {"part": whole}, group="who", split="part")), 0)
    assert not set(splits.train.groups) & set(splits.test.groups)


MIXED = [f"2010-01-{1 + n % 28:02d}" if n % 3 else "2009" for n in range(COUNT)]
COMPACT = [f"2010-01-{1 + n % 28:02d}" if n != 7 else "20100131" for n in range(COUNT)]


@pytest.mark.parametrize(
    ("times", "parts"),
    [
        (MIXED, ("row 1", "2010-01-02", "dates", "row 0", "2009", "numbers")),
        (COMPACT, ("row 7", "20100131", "numbers", "row 0", "2010-01-01", "dates")),
    ],
)
def test_times_are_all_numbers_or_all_dates(times, parts):
    found = message(Arrays(ROWS | {"day": times}, text="text", label="label", time="day"))
    assert all(part in found for part in ("'day'", *parts)), found


def test_a_note_says_how_times_are_read():
    for form, times in (("numbers", list(range(COUNT))), ("dates", [f"2{n:03d}-01-01" for n in range(COUNT)])):
        dataset = Arrays(ROWS | {"day": times}, text="text", label="label", time="day").open()
        assert f"'day', a column of {form}" in dataset.notes[-1]
    dates = [f"2{n:03d}-01-01" for n in range(COUNT)]
    rows = ROWS | {"day": dates}
    found = message(Arrays(rows, test=rows | {"day": range(COUNT)}, text="text", label="label", time="day"))
    assert all(part in found for part in ("row 0", "2000-01-01", "dates", "numbers"))


def test_a_row_without_a_label_needs_no_time():
    rows = ROWS | {"label": [*ROWS["label"][:-2], None, None], "day": [*range(COUNT - 2), None, "unknown"]}
    rows["day"] = [None if day is None else str(day) for day in rows["day"]]
    splits = load(Data(target=Arrays(rows, text="text", label="label", time="day", missing="drop")), 0)
    assert splits.test.times.max() == COUNT - 3


def who(examples):
    return {examples.source.raw("who")[row] for row in examples.rows}


def test_joined_data_sets_number_their_groups_by_value():
    first, second = ROWS, ROWS | {"text": ROWS["text"][::-1], "who": [f"p{n * 7 % 15}" for n in range(COUNT)]}
    both = Concat(tuple(Arrays(rows, text="text", label="label", group="who") for rows in (first, second)))
    found = message(both)
    assert all(part in found for part in ("group 'p", "'train'", "'test'", "row ", "data.folds"))
    for fold in range(3):
        splits = load(Data(target=both, folds=3, fold=fold), 0)
        sets = [who(part) for part in (splits.train, splits.validation, splits.test)]
        assert all(sets) and sum(map(len, sets)) == len(set.union(*sets)) == 15
    chosen = Where(both.whole(), column="label", values=("pos",))
    splits = load(Data(target=chosen, folds=3), 0)
    assert not who(splits.train) & who(splits.test)


def test_joined_data_sets_all_have_groups_or_none_has():
    plain, grouped = Arrays(ROWS, text="text", label="label"), Arrays(ROWS, text="text", label="label", group="who")
    assert all(part in message(Concat((plain, grouped))) for part in ("has groups", "has none", "group='...'"))
    days = [f"2{n:03d}-01-01" for n in range(COUNT)]
    timed = [Arrays(ROWS | {"t": times}, text="text", label="label", time="t") for times in (days, list(range(COUNT)))]
    assert all(part in message(Concat(tuple(timed))) for part in ("are dates", "are numbers"))
