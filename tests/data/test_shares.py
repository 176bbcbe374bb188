"""Each process makes only its share of a batch; all shares together equal the batch of one process."""

import itertools
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from tlx.data import Examples, evaluation_batches, train_batches
from tlx.processors import Processor
from tlx.types import Column, Field

COLUMNS = {"text": Column("text"), "label": Column("class", ("even", "odd"))}
CALLS, MEASURES = Counter(), Counter()


@dataclass(frozen=True)
class Letters(Processor):
    """A processor that numbers the letters of a text.

    It counts how often an example is processed, and how often its length is only measured.
    """

    process: int = 0
    reads: ClassVar = ("text",)

    @property
    def fields(self):
        return {"ids": Field((None,), "int32", -1)}

    def __call__(self, example):
        CALLS[self.process] += 1
        return {"ids": np.array([ord(letter) for letter in example["text"]], np.int32)}

    def measure(self, examples):
        MEASURES[self.process] += len(examples)
        return [len(example["text"]) for example in examples]


def split(key=""):
    records = [{"text": "ab" * (n % 7 + 1), "label": n % 2} for n in range(40)]
    return Examples("letters", "train", records, COLUMNS, key=key)


@pytest.fixture(autouse=True)
def counted(tmp_path, monkeypatch):
    monkeypatch.setenv("TLX_CACHE", str(tmp_path))
    CALLS.clear()
    MEASURES.clear()


OPTIONS = {"batch": 8, "buckets": (4, 8, 16)}


def joined(shares):
    return [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*shares, strict=True)
    ]


def assert_same(shares, full):
    for one, other in zip(joined(shares), full, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def take(batches, count=5):
    return list(itertools.islice(batches, count))


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("count", [2, 4])
def test_a_process_processes_only_its_rows(count, group):
    options = {**OPTIONS, "seed": 3, "group": group}
    full = take(train_batches(split(), Letters(), **options))
    shares = []
    for n in range(count):
        batches = train_batches(split(), Letters(process=n + 1), **options, process_index=n, process_count=count)
        # One epoch exactly: each example once, over all processes.
        shares.append(take(batches))
        del batches
    assert_same(shares, full)
    # Batches are prefetched, but only the rows of the process: never all examples.
    assert all(CALLS[n + 1] < 40 for n in range(count)), CALLS


def test_evaluation_is_shared_in_the_same_way():
    batches = list(evaluation_batches(split(), Letters(), **OPTIONS))
    shares = [
        list(evaluation_batches(split(), Letters(process=n + 1), **OPTIONS, process_index=n, process_count=2))
        for n in range(2)
    ]
    assert_same(shares, batches)
    assert CALLS[1] == CALLS[2] == 20


def test_processes_exchange_the_measured_lengths():
    tables = []

    def first(array):
        if len(array) == 1:
            # Whether each process has the lengths on its disk.
            return np.stack([array, np.zeros_like(array)])
        tables.append(array)
        other = np.array([len(example["text"]) for example in split()], np.int32)
        other[::2] = 0
        return np.stack([array, other])

    options = {**OPTIONS, "seed": 3}
    share = take(train_batches(split(), Letters(process=1), **options, process_count=2, gather=first))
    assert MEASURES[1] == 20 and np.count_nonzero(tables[0]) == 20
    batches = take(train_batches(split(), Letters(), **options))
    assert [batch["ids"].shape[1] for batch in share] == [batch["ids"].shape[1] for batch in batches]


def test_lengths_are_stored_by_content():
    options = {**OPTIONS, "seed": 3, "process_count": 2}
    for key, expected in (("content", 40), ("content", 40), ("another", 80)):
        take(train_batches(split(key), Letters(process=1), **options), 1)
        assert MEASURES[1] == expected
    # Another processor may give other lengths.
    take(train_batches(split("content"), Letters(process=2), **options), 1)
    assert MEASURES[2] == 40
