"""Balanced sampling: every class equally often, as a function of seed and step."""

import numpy as np
import pytest

from tlx.data import Data, load, train_batches
from tlx.data.examples import Examples
from tlx.data.pipeline import Order
from tlx.processors.columns import LABEL
from tlx.types import Column


class Nothing:
    """A processor without inputs."""

    ragged, fields, longest, reads, augments = False, {}, 0, (), False

    def __call__(self, example):
        return {}


def made(labels, classes=3, kind="class"):
    records = [{LABEL: label} for label in labels]
    names = tuple(str(n) for n in range(classes)) if kind != "number" else ()
    return Examples("made up", "train", records, {LABEL: Column(kind, names)})


LABELS = [0] * 40 + [1] * 7 + [2] * 3


def order(batch=8, seed=0, labels=LABELS, group=1):
    return Order(made(labels, max(3, *labels) + 1), Nothing(), batch=batch, seed=seed, group=group, sampling="balanced")


def drawn(count, **options):
    batches = order(**options)
    steps = [batches(step) for step in range(count)]
    return np.concatenate([positions for positions, _ in steps]), np.concatenate([epochs for _, epochs in steps])


@pytest.mark.parametrize("batch", [1, 3, 8, 600])
def test_every_round_has_every_class_once(batch):
    positions, _ = drawn(-(-1800 // batch), batch=batch)
    rounds = np.array(LABELS)[positions[:1800]].reshape(-1, 3)
    assert (np.sort(rounds, 1) == [0, 1, 2]).all()
    # The classes take turns in a random order, which does not depend on the batch.
    assert 100 < (rounds[:, 0] == 0).sum() < 300
    np.testing.assert_array_equal(positions[:1800], drawn(600, batch=3)[0])


def test_a_class_takes_its_examples_in_turn():
    positions, epochs = drawn(90, batch=10)
    for label, count in ((0, 40), (1, 7), (2, 3)):
        of_class = np.array(LABELS)[positions] == label
        assert of_class.sum() == 300
        for epoch in range(300 // count):
            members = positions[of_class][epoch * count : (epoch + 1) * count]
            assert sorted(members) == np.flatnonzero(np.array(LABELS) == label).tolist()
            assert (epochs[of_class][epoch * count : (epoch + 1) * count] == epoch).all()
    orders = {tuple(positions[np.array(LABELS)[positions] == 1][n : n + 7]) for n in range(0, 70, 7)}
    assert len(orders) > 5


def test_the_order_is_a_function_of_seed_and_step():
    assert not np.array_equal(drawn(20)[0], drawn(20, seed=1)[0])
    for step in (0, 7, 1000):
        np.testing.assert_array_equal(order()(step)[0], order()(step)[0])


def test_one_class_and_absent_classes():
    positions, _ = drawn(5, labels=[1] * 4, batch=4)
    assert [sorted(positions[n : n + 4]) for n in range(0, 20, 4)] == [[0, 1, 2, 3]] * 5
    positions, _ = drawn(6, labels=[0, 2, 2], batch=2)
    assert (np.sort(np.array([0, 2, 2])[positions].reshape(-1, 2), 1) == [0, 2]).all()


def test_two_hundred_classes_cost_little():
    labels = np.arange(20_000) % 200
    positions, _ = drawn(50, labels=labels.tolist(), batch=64)
    assert (np.bincount(labels[positions][:3200], minlength=200) == 16).all()


def test_labels_that_are_no_classes_are_refused():
    for kind in ("number", "classes"):
        with pytest.raises(ValueError) as error:
            Order(made([0, 1], kind=kind), Nothing(), batch=2, seed=0, sampling="balanced")
        for part in ("'balanced'", "made up", kind):
            assert part in str(error.value)
    with pytest.raises(ValueError, match="sampling='even'"):
        Data(target="digits", sampling="even")


def test_batches_of_processes_and_restored_batches_are_the_same():
    from tlx import processors

    splits = load(Data(target="digits", shots=6, sampling="balanced"), 0)
    processor = processors.fit(Data(target="digits"), splits.columns, None, (8, 8, 1), lambda: splits.train[0])
    imbalanced = splits.train.view(np.flatnonzero(splits.train.labels() > 3)[:20])
    options = {"batch": 6, "seed": 3, "sampling": "balanced"}
    batches = train_batches(imbalanced, processor, **options)
    whole = [next(batches)["index"] for _ in range(8)]
    begun = train_batches(imbalanced, processor, **options, first=5)
    np.testing.assert_array_equal(next(begun)["index"], whole[5])
    shares = [train_batches(imbalanced, processor, **options, process_index=n, process_count=2) for n in range(2)]
    for expected in whole:
        np.testing.assert_array_equal(np.concatenate([next(share)["index"] for share in shares]), expected)
    # Examples without labels keep the usual order.
    free = splits.train.unlabelled()
    np.testing.assert_array_equal(
        next(train_batches(free, processor, **options))["index"],
        next(train_batches(free, processor, batch=6, seed=3))["index"],
    )
