"""The scores of the members of a mixture: metrics by member, their average, and intervals of both."""

import numpy as np
import pytest

from tlx.data.members import Members
from tlx.functional.metrics import document
from tlx.records.listing import ListedRun
from tlx.records.members import by_member, measured_on, member_metrics, member_of, read_measured, with_members
from tlx.records.run_directory import Predictions, write_predictions
from tlx.report import intervals, listing
from tlx.tasks import TextToText

TASK = TextToText()
NAMES = ("movies", "tweets", "empty")


@pytest.fixture(scope="module")
def predictions():
    """Twelve examples of movies, of which nine are right, and four of tweets, of which one is right."""
    correct = np.array([True] * 9 + [False] * 3 + [True] + [False] * 3)
    ones = np.ones(16, int)
    scores = {"correct": correct, "loss": np.where(correct, 1.0, 2.0), "tokens": ones, "right": correct * ones}
    members = Members(NAMES, np.repeat([0, 1], [12, 4]), np.r_[20:32, 5:9])
    shuffled = np.random.default_rng(0).permutation(16)
    return Predictions(with_members(scores, members), np.arange(16)).rows(shuffled)


def test_each_member_is_measured_on_its_examples(predictions):
    members = Members(NAMES, np.zeros(0, int), np.zeros(0, int))
    metrics = member_metrics(predictions, TASK, members)
    assert metrics["movies/exact_match"] == 0.75 and metrics["tweets/exact_match"] == 0.25
    # Unweighted, and over the members that have examples.
    assert metrics["average/exact_match"] == 0.5 and metrics["average/loss"] == pytest.approx((1.25 + 1.75) / 2)
    assert not any(name.startswith("empty/") for name in metrics)
    assert member_metrics(predictions, TASK, members, ["loss"]).keys() == {"movies/loss", "tweets/loss", "average/loss"}
    # The indices of a member are places in its split, which no other member changes.
    parts = by_member(predictions, NAMES)
    assert sorted(parts["tweets"].indices) == [5, 6, 7, 8] and len(parts["movies"]) == 12
    assert by_member(Predictions({"loss": np.ones(2)}, np.arange(2)), NAMES) == {}
    assert member_metrics(predictions, TASK, None) == {} and member_of("accuracy") == ""


def test_a_metric_of_a_run_names_the_predictions_that_it_is_computed_from(predictions, tmp_path):
    result = {"members": {name: {} for name in NAMES}}
    assert [len(part) for part in measured_on(predictions, "test/exact_match", result)] == [16]
    assert [len(part) for part in measured_on(predictions, "test/tweets/loss", result)] == [4]
    assert [len(part) for part in measured_on(predictions, "test/average/loss", result)] == [12, 4]
    write_predictions(tmp_path, "test", predictions)
    assert len(read_measured(tmp_path, "test/movies/loss", result)) == 12
    assert read_measured(tmp_path, "test/average/loss", result) is None
    assert read_measured(tmp_path, "validation/movies/loss", result) is None


def test_intervals_are_those_of_the_member(predictions, tmp_path):
    write_predictions(tmp_path, "test", predictions)
    members = Members(NAMES, np.zeros(0, int), np.zeros(0, int))
    metrics = predictions.metrics(TASK) | member_metrics(predictions, TASK, members)
    result = {
        "metrics": {f"test/{name}": value for name, value in metrics.items()}, "examples": {"test": 16},
        "members": {name: {} for name in NAMES}, "measures": {"exact_match": document(TASK.metric("exact_match"))},
    }  # fmt: skip
    run = ListedRun("run", tmp_path, "done", 0.0, result=result)
    assert listing.interval(run, "test/exact_match") == intervals.wilson(10, 16)
    assert listing.interval(run, "test/movies/exact_match") == intervals.wilson(9, 12)
    average = listing.interval(run, "test/average/exact_match")
    # Each member is resampled, and counts one half.
    error = np.sqrt(0.75 * 0.25 / 12 + 0.25 * 0.75 / 4) / 2
    assert 0.5 - average.low == pytest.approx(1.96 * error, rel=0.15)
    assert average.high - 0.5 == pytest.approx(1.96 * error, rel=0.15)


def test_an_average_without_uncertainty_has_no_interval():
    parts = [Predictions({"correct": np.ones(4, bool)}, np.arange(4)) for _ in range(2)]
    assert intervals.average("exact_match", parts, TASK) is None
    assert intervals.average("accuracy", parts, TASK) is None
