"""Entities in the tags of words: their counts and metrics equal those of seqeval."""

import numpy as np
import pytest
from seqeval import metrics as independent
from seqeval.metrics import sequence_labeling
from seqeval.scheme import IOB2, IOBES

from tests.tasks.test_tagging import BIO, BIOES, scores_of
from tlx import tasks
from tlx.tasks.tagging import entities_of, tagging_of
from tlx.types import Column

# By hand: nothing predicted, nothing true, adjacent and overlapping entities, illegal beginnings, another type inside.
HARD = [
    ("B-PER I-PER O", "O O O"),
    ("O O O", "B-PER I-PER O"),
    ("B-PER B-PER", "B-PER I-PER"),
    ("B-PER I-PER I-PER O", "O B-PER I-PER I-PER"),
    ("I-PER I-PER O I-ГЕО", "B-PER I-PER O B-ГЕО"),
    ("B-PER I-ГЕО I-ГЕО", "B-PER I-PER B-ГЕО"),
    ("B-B-LOC I-B-LOC B-ГЕО I-ГЕО", "B-B-LOC I-B-LOC I-ГЕО I-ГЕО"),
    ("O", "O"),
]


def random_tags(names, seed):
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 12, 60)
    true = [[names[n] for n in random.integers(0, len(names), length)] for length in lengths]
    # Half of the tags are right.
    return true, [[tag if random.random() < 0.5 else names[random.integers(len(names))] for tag in row] for row in true]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@pytest.mark.parity
@pytest.mark.parametrize(("names", "strict"), [(BIO, False), (BIO, True), (BIOES, False), (BIOES, True)])
def test_counts_and_metrics_equal_those_of_seqeval(names, strict):
    hard = [tuple(side.split() for side in pair) for pair in HARD]
    task = tasks.TokenClassification(strict=strict).resolve({"label": Column("tags", names)})
    how = {"mode": "strict", "scheme": IOB2 if names == BIO else IOBES} if strict else {}
    samples = [*(([true], [guess]) for true, guess in hard), random_tags(names, 0), random_tags(names, 1)]
    # One sample has one shape, so that few programs are compiled.
    true, guess = ([row for sample in samples for row in sample[side]] for side in (0, 1))
    scores = scores_of(task, true, guess)
    begin = 0
    for sample in [*samples, (true, guess)]:
        rows = slice(begin, begin + len(sample[0])) if sample[0] is not true else slice(None)
        begin += len(sample[0])
        metrics = task.summarise({name: array[rows] for name, array in scores.items()})
        if np.isnan(metrics["entity_f1"]):
            assert not any(tag != "O" for side in sample for row in side for tag in row) or strict
            continue
        for name in ("f1", "precision", "recall"):
            expected = getattr(independent, f"{name}_score")(*sample, **how)
            assert metrics[f"entity_{name}"] == pytest.approx(expected, abs=1e-12), (name, sample)
        expected = independent.f1_score(*sample, average="macro", **how)
        assert metrics["entity_macro_f1"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parity
@pytest.mark.parametrize(("names", "scheme"), [(BIO, "BIO"), (BIO, "IOB1"), (BIOES, "BIOES")])
def test_entities_of_a_list_are_those_of_seqeval(names, scheme):
    tagging = tagging_of(names, "O", scheme)
    for row in random_tags(names, 2)[0]:
        expected = sequence_labeling.get_entities(row)
        assert [tuple(entity) for entity in entities_of(tagging, [names.index(tag) for tag in row])] == expected
