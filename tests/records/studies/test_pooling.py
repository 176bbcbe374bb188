"""Studies over folds: metrics over all examples, corrected intervals, against results by hand."""

import json

import numpy as np
import pytest
from scipy import stats as scipy_stats

from tlx import report
from tlx.functional import agreement, significance
from tlx.records.studies.comparing import score, summarise
from tlx.records.studies.pooling import over_examples
from tlx.records.studies.reading import read
from tlx.study import choice, folds, prod, sweep

FOLD = "data.fold"


def right(count, of):
    return np.arange(of) < count


def add(written, method, fold, correct, seed=0, first=None):
    """Add a run of a fold; its examples are the 20 places of the fold."""
    indices = 20 * fold + np.arange(len(correct)) if first is None else first + np.arange(len(correct))
    return written.add(correct, indices=indices, method=method, seed=seed, **{FOLD: fold})


def test_by_hand(written):
    for fold, (a, b) in enumerate([(10, 13), (12, 16), (14, 19)]):
        add(written, "a", fold, right(a, 20))
        add(written, "b", fold, right(b, 20))
    table = written.compare()
    [base, arm] = table.summaries
    [actual] = table.comparisons
    assert (table.repeat, base.arm.names, arm.arm.folds) == ("fold", {"method": "a"}, 3)
    assert (base.mean, arm.mean) == pytest.approx((36 / 60, 48 / 60))
    # Differences 0.15, 0.2, 0.25: deviation 0.05; with 3 of 3 folds the factor is 1 / 3 + 1 / 2.
    half = scipy_stats.t.ppf(0.975, 2) * 0.05 * (1 / 3 + 1 / 2) ** 0.5
    assert actual.difference[:3] == pytest.approx((0.2, 0.2 - half, 0.2 + half))
    assert (actual.difference.pairs, actual.difference.sign, actual.boot) == (3, None, None)
    assert actual.p == pytest.approx(2 * scipy_stats.t.sf(0.2 / (0.05 * (5 / 6) ** 0.5), 2))
    assert actual.detectable == pytest.approx(significance.detectable(0.05 * (1 + 3 / 2) ** 0.5, 3))
    # Over all 60 examples: 12 are right in b alone, none in a alone.
    assert actual.mcnemar == pytest.approx(2 * 0.5**12)
    assert not table.warnings


def test_the_pooled_metric_counts_every_example_once(written):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 50)
    parts = np.split(np.arange(50), [10, 22])
    correct = generator.random(50) < 0.8
    for method in "ab":
        for fold, part in enumerate(parts):
            written.add(correct[part], indices=part, labelled=labels[part], method=method, seed=0, **{FOLD: fold})
    table = written.compare()
    assert table.summaries[0].mean == pytest.approx(correct.mean())
    # F1 over all examples, not the mean of the folds' F1.
    scores = [score(cell, "test/accuracy") for cell in read(written.folder).arms[0].cells]
    prediction = np.where(correct, labels, 1 - labels)
    whole = agreement.macro_f1({"label": labels, "prediction": prediction})
    f1 = [item._replace(examples=None) for item in scores]
    assert over_examples(f1, "test/f1") == pytest.approx(whole)
    assert summarise(read(written.folder).arms[0], "test/accuracy", (0.0, 1.0)).mean == pytest.approx(correct.mean())


def test_seeds_are_averaged_within_a_fold(written):
    for fold, counts in enumerate([(10, 14), (12, 12), (16, 18)]):
        for seed, count in enumerate(counts):
            add(written, "a", fold, right(10, 20), seed)
            add(written, "b", fold, right(count, 20), seed)
    [actual] = written.compare().comparisons
    gains = np.array([2, 2, 7]) / 20
    assert actual.difference.pairs == 3
    assert actual.difference.mean == pytest.approx(gains.mean())
    assert actual.difference.deviation == pytest.approx(gains.std(ddof=1) * (1 + 3 / 2) ** 0.5)
    assert actual.mcnemar is None


def rewrite(written, name, **entries):
    for cell in written.cells:
        path = written.folder / "cells" / cell["fingerprint"] / name
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_folds_in_time_have_the_ratio_of_their_examples(written):
    """Blocks of 20 examples: fold n trains on n + 1 blocks and tests the next one."""
    for fold, count in enumerate((10, 12, 14)):
        add(written, "a", fold, right(count, 20))
        path = written.folder / "cells" / written.cells[-1]["fingerprint"] / "result.json"
        examples = {"train": 20 * (fold + 1), "validation": 0, "test": 20}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"examples": examples}))
    [arm] = written.compare().summaries
    half = scipy_stats.t.ppf(0.975, 2) * 0.1 * (1 / 3 + (1 + 1 / 2 + 1 / 3) / 3) ** 0.5
    assert arm[2:] == pytest.approx((0.6, 0.6 - half, min(1.0, 0.6 + half)), abs=1e-9)
    # Of a drawn subset the ratio is that of the folds.
    data = {"data": {"folds": 3, "shots": 4}, "task": {"kind": "Classification"}}
    rewrite(written, "recipe.json", recipe=data)
    assert written.compare().summaries[0].low == pytest.approx(0.6 - scipy_stats.t.ppf(0.975, 2) * 0.1 * (5 / 6) ** 0.5)


def test_folds_that_the_study_does_not_test_count(written):
    for fold, count in enumerate((10, 12, 14)):
        add(written, "a", fold, right(count, 20))
    rewrite(written, "recipe.json", recipe={"data": {"folds": 10}, "task": {"kind": "Classification"}})
    table = written.compare()
    assert table.summaries[0].arm.folds == 10
    assert "1 of 1 arms have not tested every fold (3 of 10)" in " ".join(table.warnings)
    half = scipy_stats.t.ppf(0.975, 2) * 0.1 * (1 / 3 + 1 / 9) ** 0.5
    assert table.summaries[0].low == pytest.approx(0.6 - half)


def test_unfinished_and_overlapping_folds_are_named(written):
    for fold in range(3):
        add(written, "a", fold, right(10, 20))
        add(written, "b", fold, right(12, 20), first=20 * min(fold, 1))
    document = {"fingerprint": "f" * 16, "names": {"method": "a", "seed": 0, FOLD: 3}, "changes": []}
    warnings = " ".join(written.compare(cells=[*written.cells, document]).warnings)
    assert "2 of 2 arms have not tested every fold (3 of 4)" in warnings
    assert "20 examples were tested in two folds" in warnings
    assert "not all measured on the same examples" in warnings


def test_one_line_makes_a_study_over_folds_and_its_page_says_so(written):
    import tlx
    from tlx import Data, Recipe, models, tasks

    base = Recipe(data=Data(target="digits"), task=tasks.Classification(), model=models.Mlp(inputs=(8, 8, 1)))
    cells = sweep(base, prod(choice("method", {"a": {}, "b": {"optim.lr": 1e-2}}), folds(3)))
    assert [(cell.recipe.data.folds, cell.recipe.data.fold) for cell in cells] == [(3, 0), (3, 1), (3, 2)] * 2
    assert set(cells[0].names) == {"method", FOLD}
    with pytest.raises(ValueError, match=r"folds\(1\)"):
        folds(1)
    assert tlx.study.folds is folds
    for fold, (a, b) in enumerate([(10, 13), (12, 16), (14, 19)]):
        add(written, "a", fold, right(a, 20))
        add(written, "b", fold, right(b, 20))
    page = report.write_study(written.write()).read_text()
    assert "paired over 3 folds and corrected for their common training examples (Nadeau and Bengio, 2003)" in page
    assert "Every fold" in page and "over seeds" not in page and "one seed" not in page
    assert "60.0" in report.table(written.folder, "markdown") and "| 3 |" in report.table(written.folder, "markdown")
