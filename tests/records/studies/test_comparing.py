"""Comparisons between arms: real runs against scipy, hand-written records against results by hand."""

import json
import shutil

import numpy as np
import pytest
from scipy import stats as scipy_stats

from tlx.functional import significance
from tlx.records import studies
from tlx.records.studies import comparing


def by_names(table, **names):
    return next(one for one in table.comparisons if one.arm.names == names)


def accuracy(study, method, shots):
    """Return the accuracies of an arm, from its files only."""
    results = []
    for item in json.loads((study / "study.json").read_text())["cells"]:
        names, file = item["names"], study / "cells" / item["fingerprint"] / "predictions" / "test.npz"
        if (names["method"], names["shots"]) == (method, shots) and file.is_file():
            with np.load(file) as arrays:
                results.append(float((arrays["logits"].argmax(-1) == arrays["label"]).mean()))
    return np.array(results)


@pytest.mark.slow
def test_a_real_study_gives_the_results_of_scipy_on_its_files(small_study):
    table = studies.compare(studies.read(small_study))
    assert (table.metric, table.higher, table.smallest, table.alone, table.warnings) == (
        "test/accuracy", True, 0.005, (), (),
    )  # fmt: skip
    assert len(table.summaries) == 4
    ps = []
    for shots in (4, 16):
        actual, expected = accuracy(small_study, "probe", shots), accuracy(small_study, "full", shots)
        result, test = by_names(table, method="probe", shots=shots), scipy_stats.ttest_rel(actual, expected)
        assert result.seeds == (0, 1, 2)
        assert result.baseline.names == {"method": "full", "shots": shots}
        assert result.difference.mean == pytest.approx((actual - expected).mean())
        assert result.difference[1:3] == pytest.approx(tuple(test.confidence_interval(0.95)))
        assert significance.t_test(result.difference) == pytest.approx(test.pvalue)
        assert result.difference.sign == 0.25
        low, high = result.boot
        assert low < result.difference.mean < high
        assert result.detectable > 0.005
        assert result.mcnemar is None
        ps.append(result.p)
        summary = next(one for one in table.summaries if one.arm.names == {"method": "probe", "shots": shots})
        assert summary.mean == pytest.approx(actual.mean())
    assert [one.holm for one in table.comparisons] == significance.holm(ps)


@pytest.mark.slow
def test_any_metric_of_the_runs_can_be_compared(small_study):
    study = studies.read(small_study)
    for metric in study.metrics:
        table = studies.compare(study, metric)
        assert table.warnings == ()
        for summary in table.summaries:
            for score in summary.scores.values():
                assert score.source == "predictions"
                assert (score.examples is None) == (not score.cell.declared(metric).mean_of)
                if score.examples is not None:
                    assert score.examples.mean() == pytest.approx(score.value)
    assert studies.compare(study, "test/loss").higher is False
    assert studies.compare(study, "test/loss").smallest == 0.0
    assert {"test/auroc", "test/average_precision", "test/mcc", "test/brier", "test/top5"} < set(study.metrics)
    assert studies.compare(study, "test/macro_f1").comparisons[0].lacking == "test/macro_f1 is not a mean over examples"


def right(count, of=100):
    return np.arange(of) < count


def test_by_hand(written):
    for seed, (a, b) in enumerate([(50, 53), (60, 64), (70, 75)]):
        written.add(right(a), method="a", seed=seed).add(right(b), method="b", seed=seed)
    [actual] = written.compare().comparisons
    # Differences 3, 4, 5: mean 4, deviation 1; t with two degrees of freedom is 4.302653.
    half = 4.302653 / 3**0.5
    assert actual.difference[:4] == pytest.approx((0.04, 0.04 - half / 100, 0.04 + half / 100, 0.01))
    assert actual.holm == actual.p == pytest.approx(2 * scipy_stats.t.sf(4 * 3**0.5, 2))
    assert actual.verdict == "better"
    assert actual.detectable == actual.detectable_alone == pytest.approx(significance.detectable(0.01, 3))
    [actual] = written.compare(smallest=0.03).comparisons
    assert actual.verdict == "no difference shown"
    assert actual.detectable == pytest.approx(0.03 + significance.detectable(0.01, 3))
    [actual] = written.compare(baseline={"method": "b"}).comparisons
    assert (actual.verdict, actual.difference.mean) == ("worse", pytest.approx(-0.04))


def test_a_difference_must_be_significant_after_holm(written):
    for seed, gain in enumerate((2, 4, 6, 8)):
        written.add(right(50), method="a", seed=seed).add(right(50 + gain), method="b", seed=seed)
    [alone] = written.compare().comparisons
    assert alone.verdict == "better"
    assert 0.025 < alone.p < 0.05
    for seed in range(4):
        written.add(right(50 + seed % 2), method="c", seed=seed)
    among, _ = written.compare().comparisons
    assert among.holm == 2 * alone.p
    assert among.verdict == "no difference shown"
    assert among.detectable == pytest.approx(significance.detectable(among.difference.deviation, 4, level=0.975))
    assert among.detectable_alone == alone.detectable < among.detectable


def test_less_is_better_for_a_loss(written):
    assert comparing.judged([], 0.0, True) == ()
    for seed in range(3):
        written.add(right(50), method="a", seed=seed).add(right(60 + seed), method="b", seed=seed)
    [actual] = written.compare().comparisons
    assert [one.verdict for higher in (True, False) for one in comparing.judged([actual], 0.0, higher)] == [
        "better", "worse",
    ]  # fmt: skip


def test_pairs_are_compared_by_pairs(written):
    for seed in (0, 1, 2, 3):
        written.add(right(50 + seed), method="a", seed=seed)
    for seed in (5, 3, 1):
        written.add(right(60 + 2 * seed), method="b", seed=seed)
    [actual] = written.compare().comparisons
    assert actual.seeds == (3, 1)
    assert actual.difference.mean == pytest.approx(0.12)
    assert [len(summary.scores) for summary in written.compare().summaries] == [4, 3]


def test_one_seed_shows_only_differences_between_the_models(written):
    actual, expected = np.array([1] * 8 + [0] * 8, bool), np.array([1] * 2 + [0] * 13 + [1], bool)
    # Shuffled in one file: examples are matched by index in any order.
    order = np.random.default_rng(0).permutation(16)
    written.add(expected, method="a", seed=0)
    written.add(actual[order], indices=order, method="b", seed=0)
    table = written.compare()
    [result] = table.comparisons
    assert result.verdict == "not compared"
    assert (result.p, result.holm, result.detectable, result.boot) == (None, None, None, None)
    assert result.mcnemar == scipy_stats.binomtest(6, 7).pvalue
    [warning] = table.warnings
    assert "one seed" in warning and "not compared" in warning


def test_different_examples_are_not_resampled_and_are_named(written):
    for seed in range(2):
        written.add(right(50), method="a", seed=seed)
        written.add(right(55 + seed), indices=np.arange(100) + 1, method="b", seed=seed)
    table = written.compare()
    [actual] = table.comparisons
    assert (actual.boot, actual.lacking) == (None, "the examples differ between runs")
    assert actual.difference.mean == pytest.approx(0.055)
    assert any("not all measured on the same examples" in recorded for recorded in table.warnings)


def test_settings_may_have_separate_examples(written):
    for place, first in (("here", 0), ("there", 1)):
        for seed in range(2):
            for method, share in (("a", 50), ("b", 60 + seed)):
                written.add(right(share), indices=np.arange(100) + first, place=place, method=method, seed=seed)
    table = written.compare(baseline={"method": "a"})
    assert len(table.comparisons) == 2 and all(one.boot for one in table.comparisons)
    assert not any("same examples" in recorded for recorded in table.warnings)


def test_a_result_that_differs_from_its_records_is_named_and_not_used(written):
    for seed in range(2):
        written.add(right(50), method="a", seed=seed).add(right(60), reported=0.6 + 0.3 * seed, method="b", seed=seed)
    table = written.compare()
    assert table.comparisons[0].difference.mean == pytest.approx(0.1)
    for part in (f"result.json of cell {3:016x}", "test/accuracy 0.9", "predictions give 0.6"):
        assert part in table.warnings[0]


def test_without_predictions_the_metrics_file_counts_and_else_the_result(written):
    for seed in range(2):
        written.add(right(50), method="a", seed=seed).add(right(60), keep=False, method="b", seed=seed)
    line = {"step": 1, "name": "test/accuracy", "value": 0.6, "time": 0.0}
    (written.folder / "cells" / f"{1:016x}" / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    table = written.compare()
    assert [score.source for score in table.summaries[1].scores.values()] == ["metrics.jsonl", "result.json"]
    assert table.comparisons[0].lacking == "predictions were not kept"
    assert table.warnings[0].startswith("1 of 4 values cannot be recomputed")


def test_a_run_without_a_defined_value_is_left_out_and_named(written):
    for seed in range(3):
        written.add(right(60), method="a", seed=seed)
        undefined = {"reported": float("nan"), "keep": False} if seed == 1 else {}
        written.add(right(70), method="b", seed=seed, **undefined)
    table = written.compare()
    assert "test/accuracy is not defined in 1 of 6 runs, which are left out" in table.warnings
    (comparison,) = table.comparisons
    assert comparison.seeds == (0, 2) and comparison.difference.mean == pytest.approx(0.1)


def test_rules_that_select_differently_are_named(written):
    for seed in range(2):
        written.add(right(50), method="a", seed=seed)
        written.add(right(60), selection="best-validation", method="b", seed=seed)
    assert "different rules chose the checkpoints: last, best-validation" in written.compare().warnings


def test_the_baseline_of_an_arm_is_equal_in_all_other_fields(written):
    for labels in (8, 16):
        for seed in range(2):
            written.add(right(50), method="a", labels=labels, seed=seed)
            written.add(right(60), method="b", labels=labels, rank=4, seed=seed)
    written.add(right(60), method="b", labels=32, rank=4, seed=0)
    table = written.compare()
    # A column that the baseline lacks does not separate them.
    assert [(one.arm.names["labels"], one.baseline.names["labels"]) for one in table.comparisons] == [(8, 8), (16, 16)]
    [(arm, why)] = table.alone
    assert (arm.names["labels"], why) == (32, "no arm of the baseline equals it in all other columns")
    assert written.compare(baseline={}).comparisons == ()


def test_an_unfinished_baseline_is_not_replaced_by_another(written):
    for rank in ({}, {"rank": 4}):
        for seed in range(2):
            written.add(right(50), method="a", **rank, seed=seed)
    for seed in range(2):
        written.add(right(60), method="b", rank=4, seed=seed)
    for n in (2, 3):
        shutil.rmtree(written.folder / "cells" / f"{n:016x}")
    table = written.compare()
    assert table.comparisons == ()
    assert [why for _, why in table.alone] == ["its baseline has no finished cell"]


def test_inputs_that_cannot_be_compared_are_refused(written):
    written.add(right(50), method="a", seed=0).add(right(60), method="b", seed=0)
    for baseline, recorded in (
        ({"methd": "a"}, r"names the column 'methd', .*; close: 'method'"),
        ({"method": "aa"}, r"no arm of .* has the baseline method='aa'; close: 'a'"),
    ):
        with pytest.raises(ValueError, match=recorded):
            written.compare(baseline=baseline)
    with pytest.raises(ValueError, match=r"no cell of .* has the metric 'test/acuracy'; close: 'test/accuracy'"):
        written.compare(metric="test/acuracy")
    for n in range(2):
        shutil.rmtree(written.folder / "cells" / f"{n:016x}")
    with pytest.raises(ValueError, match=r"no cell of .* has finished yet: 2 waiting"):
        written.compare()
