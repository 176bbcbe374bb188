"""Metrics of bootstrap resamples: the weighted form equals the metric of the repeated examples."""

import numpy as np
import pytest

from tlx.functional import agreement, ranking, regression, resampling, texts
from tlx.functional.metrics import STANDARD, VALUES
from tlx.functional.scores import scores_of

RANDOM = np.random.default_rng(0)
N = 40


def classified(classes):
    # Rounded logits are tied.
    logits = np.round(RANDOM.normal(size=(N, classes)), 1).astype(np.float32)
    labels = RANDOM.integers(0, classes, N)
    logits[np.arange(N), labels] += 1
    return scores_of(logits, labels)


def several_labels():
    label, guess = (RANDOM.random((N, 3)) < 0.4 for _ in range(2))
    logits = np.round(RANDOM.normal(size=(N, 3)), 1)
    return {"label": label, "logits": logits, "tp": label & guess, "fp": ~label & guess, "fn": label & ~guess}


def numbers(outputs):
    label = np.round(RANDOM.normal(size=(N, outputs)) + 5, 1)
    return scores_of(label + np.round(RANDOM.normal(size=(N, outputs)), 1), label)


WORDS = {"tokens": RANDOM.integers(1, 9, N), "right": RANDOM.integers(0, 2, N), "loss": RANDOM.random(N)}
LENGTHS = RANDOM.integers(0, 9, (N, 2))
ORDERS = np.maximum(LENGTHS[:, :1] - np.arange(4), 0)
TEXTS = {"bleu_matches": RANDOM.integers(0, ORDERS + 1), "bleu_totals": ORDERS, "bleu_lengths": LENGTHS}
OF_CLASSES = (
    agreement.macro_f1, agreement.weighted_f1, agreement.balanced_accuracy, agreement.matthews, agreement.kappa,
    agreement.quadratic_kappa, ranking.auroc, ranking.average_precision,
)  # fmt: skip
OF_NUMBERS = (regression.rmse, regression.r_squared, regression.pearson, regression.spearman)
CASES = [
    *((value, classified(classes)) for value in OF_CLASSES for classes in (2, 3, 200)),
    *((value, several_labels()) for value in (ranking.auroc, ranking.average_precision)),
    *((value, several_labels()) for value in (agreement.micro_f1, agreement.class_f1)),
    *((value, WORDS) for value in (agreement.token_accuracy, agreement.token_loss, agreement.perplexity)),
    (texts.bleu, TEXTS),
    *((value, numbers(outputs)) for value in OF_NUMBERS for outputs in (1, 3)),
]


@pytest.mark.parametrize(("value", "scores"), CASES, ids=lambda case: getattr(case, "__name__", ""))
def test_a_resample_has_the_value_of_its_examples(value, scores):
    plan, rows = resampling.PLANS[value](scores), RANDOM.integers(0, N, (5, N))
    # One resample has few classes or values, so that some are absent.
    rows[0] = rows[0] % 4
    cell = np.arange(N) if plan.cell is None else plan.cell
    weights = resampling.weights_of(cell[rows], cell.max() + 1)
    expected = [value({name: array[row] for name, array in scores.items()}) for row in rows]
    np.testing.assert_allclose(plan.values(weights), expected, rtol=1e-6, atol=1e-9)


def test_every_metric_with_an_interval_is_resampled_at_once():
    without = {metric.value for metric in STANDARD.values() if not metric.interval}
    assert {function for function in VALUES.values() if function not in without} == resampling.PLANS.keys()


@pytest.mark.parametrize(
    ("value", "scores"),
    [
        (agreement.matthews, {"label": np.zeros(N, int), "prediction": np.arange(N) % 2}),
        (agreement.kappa, {"label": np.zeros(N, int), "prediction": np.zeros(N, int)}),
        (ranking.auroc, {"label": np.ones(N, int), "logits": RANDOM.normal(size=(N, 2))}),
        (ranking.average_precision, {"label": np.zeros(N, int), "logits": RANDOM.normal(size=(N, 2))}),
        (regression.r_squared, {"label": np.full(N, 0.1), "prediction": np.arange(N)}),
        (regression.pearson, {"label": np.arange(N), "prediction": np.full(N, 0.1)}),
        (regression.spearman, {"label": np.arange(N), "prediction": np.full(N, 0.1)}),
    ],
)
def test_what_is_not_defined_is_not_defined_for_any_resample(value, scores):
    assert np.isnan(value(scores))
    assert np.isnan(resampling.replicates(value, scores, N, 20)).all()


def needs_both_classes(scores):
    if len(np.unique(scores["label"])) < 2:
        raise ValueError("only one class")
    # A plain dict has all that a user may expect of the scores.
    return float(scores.copy()["correct"].mean())


def test_a_function_that_fails_on_a_resample_is_nan_there():
    scores = {"label": np.arange(8) == 0, "correct": np.arange(8) % 2 == 0}
    values = resampling.replicates(needs_both_classes, scores, 8, 50)
    lacking = [not (rows == 0).any() or (rows == 0).all() for batch in resampling.draws(8, 50) for rows in batch]
    np.testing.assert_array_equal(np.isnan(values), lacking)
    assert 0 < sum(lacking) < 50
    # Scores that take too long to copy have no interval.
    wide = {"logits": np.broadcast_to(np.float32(0), (10**6, 1000))}
    assert resampling.replicates(lambda scores: 0.0, wide, 10**6) is None


def test_cells_and_examples_have_the_same_distribution():
    """Few cells are drawn from their multinomial distribution, many are counted from drawn examples."""
    few = np.repeat(np.arange(4), 50)
    drawn, counted = (
        np.concatenate(list(weights))
        for weights in (
            resampling.cell_weights(few, 4000),
            (resampling.weights_of(few[rows], 4) for rows in resampling.draws(200, 4000)),
        )
    )
    assert (drawn.sum(1) == 200).all() and (counted.sum(1) == 200).all()
    np.testing.assert_allclose(drawn.mean(0), 50, atol=1)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(counted.T), atol=4)


def test_resamples_are_fewer_where_there_is_much_to_rank():
    scores = {"label": np.arange(8000) % 10, "logits": RANDOM.normal(size=(8000, 10)).astype(np.float32)}
    assert len(resampling.replicates(ranking.auroc, scores, 8000, 20)) == 20
    work = resampling.PLANS[ranking.auroc](scores).columns * 8000
    assert resampling.FEWEST < resampling.WORK // work < 2000
    many = {"label": np.arange(4000) % 300, "logits": np.zeros((4000, 300), np.float32)}
    assert resampling.replicates(ranking.auroc, many, 4000) is None


def test_a_users_function_reads_the_rows_of_a_resample():
    def share(scores):
        assert set(scores) == {"correct", "logits"} and "nothing" not in scores
        return scores["correct"].mean()

    scores = {"correct": np.arange(N) % 2 == 0, "logits": np.zeros((N, 3))}
    values = resampling.replicates(share, scores, N, 50)
    assert values.shape == (50,) and 0.3 < values.mean() < 0.7
    np.testing.assert_array_equal(values, resampling.replicates(share, scores, N, 50))
