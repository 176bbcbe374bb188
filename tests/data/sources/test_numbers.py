"""Rows of numbers in memory are a source: a value that is printed, compared, saved and opened again."""

import numpy as np
import pytest

from tlx import config
from tlx.data import Numbers
from tlx.recipe import OWN
from tlx.types import Column

FEATURES = np.random.default_rng(0).normal(size=(30, 3))


def test_numbers_are_a_value_that_can_be_saved_and_opened_again():
    source = Numbers((FEATURES, np.arange(30) % 2), classes=("no", "yes"))
    assert source == Numbers((FEATURES.copy(), np.arange(30) % 2), classes=("no", "yes")) and hash(source)
    assert source != Numbers((FEATURES, 1 - np.arange(30) % 2), classes=("no", "yes"))
    dataset = config.load(config.dump(source), OWN).open()
    assert dataset.columns == {"numbers": Column("numbers"), "label": Column("class", ("no", "yes"))}
    np.testing.assert_allclose(dataset.splits["train"][7]["numbers"], FEATURES[7], rtol=1e-6)
    assert dataset.splits["train"].labels().tolist() == [0, 1] * 15


def test_targets_may_be_one_number_or_several():
    assert Numbers((FEATURES, FEATURES[:, 0])).open().columns["label"] == Column("number")
    several = Numbers((FEATURES, FEATURES[:, :2])).open()
    assert several.columns["label"] == Column("numbers")
    np.testing.assert_allclose(several.splits["train"][3]["label"], FEATURES[3, :2], rtol=1e-6)


def test_invalid_arrays_are_refused():
    with pytest.raises(ValueError, match=r"test: .*\[30, 3\].*\[29\]"):
        Numbers((FEATURES, np.zeros(30)), test=(FEATURES, np.zeros(29)))
    with pytest.raises(ValueError, match=r"\[30\]"):
        Numbers((FEATURES[:, 0], np.zeros(30)))
    with pytest.raises(FileNotFoundError, match="no longer in the cache"):
        Numbers("0" * 32).open()
    bad = FEATURES.copy()
    bad[4, 1] = np.nan
    with pytest.raises(ValueError, match=r"\[4\].*'numbers' is nan"):
        Numbers((bad, FEATURES[:, 0])).open().splits["train"][4]


def test_a_recipe_finds_every_source_by_its_name():
    from tlx import data
    from tlx.data import sources

    for name in set(sources.__all__) - {"Dataset", "Source"}:
        assert OWN[name] is getattr(data, name)
