"""A division of the rows keeps groups and times apart, or an error names the rows that it would mix."""

import pytest

from tlx.data import Arrays, Data, load

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
