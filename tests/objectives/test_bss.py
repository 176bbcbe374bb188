"""Penalise small singular values of the features."""

import numpy as np
import pytest

from tlx import terms


@pytest.mark.parametrize(("k", "rows"), [(1, 6), (2, 6), (2, 3)])
def test_it_is_the_sum_of_the_smallest_squared_singular_values(mlp, k, rows):
    batch = mlp.labelled(rows=rows)
    values = np.linalg.svd(mlp.by_hand(mlp.drawn(mlp.model, 0), batch["x"])[1], compute_uv=False)
    actual = mlp.look(terms.Bss(k=k, weight=2.0), batch=batch)
    assert actual.value == pytest.approx(2 * (np.sort(values)[:k] ** 2).sum(), rel=1e-4)


def test_more_singular_values_than_exist_are_refused(mlp):
    with pytest.raises(ValueError) as error:
        mlp.preview(terms.Bss(k=5), mlp.model)
    assert str(error.value).startswith("Bss: k is 5, but 4 features ")
    with pytest.raises(ValueError) as error:
        mlp.look(terms.Bss(k=4), batch=mlp.labelled(rows=3))
    assert str(error.value).startswith("a matrix of 3x4 does not have 4 singular values")
    with pytest.raises(ValueError, match="Bss: k is 0; expected "):
        terms.Bss(k=0)
