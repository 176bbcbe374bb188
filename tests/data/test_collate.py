"""Examples become a batch in one function, which pads as the fields declare."""

import numpy as np
import pytest

from tlx.data.collate import collate, padded
from tlx.types import Field

FIELDS = {"ids": Field((None,), "int32", 7), "tags": Field((None,), "int32", -100), "row": Field((2,), "float32")}


def row(length):
    return {"ids": np.arange(length), "tags": np.ones(length, int), "row": np.array([length, 1.0])}


@pytest.mark.parametrize(("lengths", "longest", "width"), [((), None, 3), ((2, 4, 8), None, 4), ((2, 4, 8), 5, 8)])
def test_ragged_arrays_are_padded_with_the_value_of_their_field(lengths, longest, width):
    batch = collate([row(1), row(3)], FIELDS, lengths, longest)
    assert batch["ids"].tolist() == [[0] + [7] * (width - 1), [0, 1, 2] + [7] * (width - 3)]
    assert batch["tags"][0].tolist() == [1] + [-100] * (width - 1)
    assert batch["row"].tolist() == [[1, 1], [3, 1]]
    assert {name: str(array.dtype) for name, array in batch.items()} == {
        name: field.dtype for name, field in FIELDS.items()
    }


def test_two_ragged_axes_have_the_same_length():
    fields = {"distance": Field((None, None, 2), "float32", -1)}
    batch = collate([{"distance": np.zeros((2, 2, 2))}, {"distance": np.zeros((3, 3, 2))}], fields, (4,))
    assert batch["distance"].shape == (2, 4, 4, 2)
    assert (batch["distance"][0, 2:] == -1).all() and (batch["distance"][0, :2, :2] == 0).all()


def test_zero_rows_give_an_empty_batch():
    assert {name: array.shape for name, array in collate([], FIELDS, (4,)).items()} == {
        "ids": (0, 4), "tags": (0, 4), "row": (0, 2),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"row": np.zeros(3)}, ("'row'", "[3]", "[2]")),
        ({"row": np.zeros((2, 1))}, ("'row'", "[2, 1]")),
        ({"ids": np.zeros((2, 2), int)}, ("'ids'", "[2, 2]", "[None]")),
        ({"ids": np.array([0.5])}, ("'ids'", "float64", "int32")),
        ({"ids": np.arange(9)}, ("9 entries", "at most 4")),
    ],
)
def test_an_array_without_a_declared_field_is_refused(change, parts):
    with pytest.raises(ValueError) as error:
        collate([row(2), row(2) | change], FIELDS, (4,))
    assert all(part in str(error.value) for part in parts)


def test_a_missing_array_is_named():
    with pytest.raises(ValueError, match=r"no array 'tags'.*it has ids, row"):
        collate([{"ids": np.arange(2), "row": np.zeros(2)}], {name: FIELDS[name] for name in ("row", "tags")}, (4,), 2)


def test_the_shortest_sufficient_length_is_chosen():
    assert [padded(n, (4, 8)) for n in (0, 4, 5, 8)] == [4, 4, 8, 8] and padded(5, ()) == 5
