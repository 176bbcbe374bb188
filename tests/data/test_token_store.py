"""Tokens on disk: the same arrays as those made one by one, in every batch, and made only once."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from tlx.assets import cache_dir
from tlx.data import Arrays, open_dataset, token_store
from tlx.data.pipeline import evaluation_batches, train_batches
from tlx.data.readers import reader
from tlx.processors.texts import TextProcessor

COUNT = 40
WORDS = ("red", "green", "blue", "grey")


@pytest.fixture
def examples(monkeypatch, tmp_path):
    monkeypatch.setenv("TLX_CACHE", str(tmp_path))
    monkeypatch.setattr(token_store, "FEWEST", 8)
    monkeypatch.setattr(token_store, "CHUNK", 16)
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(WORDS, 1 + n % 9)) for n in range(COUNT)]
    rows = {"text": texts, "label": [n % 3 for n in range(COUNT)]}
    return lambda: open_dataset(Arrays(rows, test_share=0.0)).splits["train"]


@pytest.fixture
def processor():
    raw = Tokenizer(models.WordLevel({"[UNK]": 0, **{word: n + 1 for n, word in enumerate(WORDS)}}, "[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return TextProcessor(raw, 6, token_types=False)


def batches(examples, processor):
    evaluated = list(evaluation_batches(examples, processor, batch=8, buckets=(4, 6)))
    drawn = train_batches(examples, processor, batch=8, seed=3, buckets=(4, 6), group=2, draws=COUNT)
    return [*evaluated, *(next(drawn) for _ in range(7))]


def equal(first, second):
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name, array in one.items():
            np.testing.assert_array_equal(array, other[name])
            assert array.dtype == other[name].dtype


def test_batches_are_equal_with_and_without_the_store(examples, processor, monkeypatch):
    stored = batches(examples(), processor)
    assert any((cache_dir() / "tokens").iterdir())
    monkeypatch.setattr(token_store, "FEWEST", COUNT + 1)
    equal(stored, batches(examples(), processor))
    subset = examples().view(np.arange(1, COUNT, 3))
    monkeypatch.setattr(token_store, "FEWEST", 8)
    equal(batches(subset, processor), batches(examples().view(np.arange(1, COUNT, 3)), processor))


def test_a_second_start_tokenises_nothing(examples, processor, monkeypatch):
    first = batches(examples(), processor)

    def fail(*_):
        raise AssertionError("tokenised again")

    monkeypatch.setattr(TextProcessor, "many", fail)
    monkeypatch.setattr(TextProcessor, "__call__", fail)
    equal(first, batches(examples(), processor))


def test_few_draws_of_many_examples_prepare_nothing(examples, processor):
    view = examples()
    next(train_batches(view, processor, batch=4, seed=0, draws=12))
    assert reader(view, processor).store is None
    next(train_batches(view, processor, batch=4, seed=0, draws=COUNT // 2))
    assert reader(view, processor).store is not None


def test_a_full_disk_stops_no_run(examples, processor, monkeypatch):
    expected = batches(examples(), processor)

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(token_store, "write_store", full)
    monkeypatch.setenv("TLX_CACHE", str(cache_dir() / "other"))
    warnings = []
    monkeypatch.setattr(token_store.log, "warning", lambda text, *parts: warnings.append(text % parts))
    equal(expected, batches(examples(), processor))
    assert "no space left" in warnings[0]
