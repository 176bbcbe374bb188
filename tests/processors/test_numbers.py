"""Rows of numbers are standardised, saved and read again; bad numbers are refused with their place."""

import numpy as np
import pytest

from tlx import processors
from tlx.processors import NumberProcessor


def test_columns_get_mean_0_and_deviation_1_and_constant_columns_stay_0():
    rows = np.random.default_rng(0).normal((5.0, -3.0, 7.0), (2.0, 1e-3, 0.0), (500, 3))
    processor = NumberProcessor.of(rows)
    standardised = np.stack([processor({"numbers": row})["numbers"] for row in rows])
    np.testing.assert_allclose(standardised[:, :2].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(standardised[:, :2].std(0), 1, atol=1e-5)
    assert not standardised[:, 2].any()


def test_a_saved_processor_makes_the_same_arrays(tmp_path):
    processor = NumberProcessor.of(np.random.default_rng(0).normal(3, 2, (20, 4)))
    processor.save(tmp_path)
    again = processors.load(tmp_path)
    assert again == processor
    assert again.read("1, 2,3,4e1")["numbers"] == [1, 2, 3, 40]
    for argument, part in (("a film", "'a film'"), ("1,,2", "4 numbers")):
        with pytest.raises(ValueError, match=part):
            again.read(argument)


def test_numbers_that_do_not_fit_are_refused():
    for fields, part in (
        ({"width": 0}, "width=0"),
        ({"width": 2, "mean": (1.0, 2.0, 3.0)}, "mean has 3 numbers"),
        ({"width": 1, "deviation": (0.0,)}, "deviation=0"),
    ):
        with pytest.raises(ValueError, match=part):
            NumberProcessor(**fields)
    with pytest.raises(ValueError, match=r"\[3\].*\[2\]"):
        NumberProcessor(width=2)({"numbers": [1.0, 2.0, 3.0]})
