"""The report: gaps come from the records, signs and verdicts follow Wang, no verdict is without an interval."""

import numpy as np
import pytest

from tlx.analysis.negative.card import card, flips
from tlx.analysis.negative.words import advice, rows, sign_of_gap
from tlx.functional import significance
from tlx.records import studies
from tlx.records.log import write_json

CLASSES = ("negative", "positive")
RNG = np.random.default_rng(0)


def examples(share, seed):
    """Which of 200 examples are correct: the share, plus as many as the number of the seed."""
    right = np.zeros(200, bool)
    right[: round(200 * share) + seed] = True
    return np.random.default_rng(1).permutation(right)


def filled(written, arms, seeds=(0, 1, 2, 3, 4)):
    """A study of (arm, source, labels, eps) -> share of correct examples, with a little noise by seed."""
    for (arm, source, labels, eps), share in arms.items():
        for seed in seeds:
            noise = int(np.random.default_rng([seed, len(arm), len(source or "")]).integers(0, 3))
            written.add(examples(share, seed + noise), arm=arm, source=source, labels=labels, eps=eps, seed=seed)
    return studies.read(written.write())


ARMS = {
    ("A(S,T)", "good", 0, 0.0): 0.70, ("A(S,T)", "good", 5, 0.0): 0.90,
    ("source only", "good", None, 0.0): 0.60,
    ("A(S,T)", "bad", 0, 0.0): 0.50, ("A(S,T)", "bad", 5, 0.0): 0.60,
    ("source only", "bad", None, 0.0): 0.65,
    ("target only", None, 5, None): 0.81, ("A(0,T)", None, 5, None): 0.80, ("from scratch", None, 5, None): 0.5,
}  # fmt: skip


@pytest.fixture
def document(written):
    return card(filled(written, ARMS), CLASSES, "here")


def gap_of(document, source, labels, baseline):
    (actual,) = (
        gap for gap in document["gaps"] if (gap["source"], gap["labels"], gap["baseline"]) == (source, labels, baseline)
    )
    return actual


def values(document, arm, source, labels):
    (actual,) = (one for one in document["arms"] if (one["arm"], one["source"], one["labels"]) == (arm, source, labels))
    return np.array(list(actual["values"].values()))


def test_a_gap_is_the_baseline_minus_the_arm_paired_by_seed(document):
    for source in ("good", "bad"):
        for baseline, where in (("A(0,T)", None), ("target only", None), ("source only", source)):
            actual = gap_of(document, source, 5, baseline)
            reference = values(document, baseline, where, 5 if where is None else None)
            tlx_side = values(document, "A(S,T)", source, 5)
            expected = significance.paired(reference, tlx_side)
            assert actual["gap"] == pytest.approx(reference.mean() - tlx_side.mean())
            assert (actual["low"], actual["high"]) == pytest.approx((expected.low, expected.high))
            assert actual["pairs"] == 5 and len(actual["folders"]) == 10
            assert actual["boot"][0] < actual["gap"] < actual["boot"][1]


def test_verdicts_are_per_source_and_corrected_over_the_table(document):
    assert gap_of(document, "good", 5, "A(0,T)")["verdict"] == "helps"
    assert gap_of(document, "bad", 5, "A(0,T)")["verdict"] == "hurts"
    assert gap_of(document, "bad", 0, "source only")["verdict"] == "hurts"
    value = [gap for gap in document["gaps"] if gap["baseline"] == "source only"]
    assert [gap["holm"] for gap in value] == pytest.approx(significance.holm([gap["p"] for gap in value]))


def test_without_labels_the_baseline_is_chance(document):
    actual = gap_of(document, "good", 0, "chance")
    assert actual["without"] == 0.5 and actual["verdict"] == "helps"
    assert not [gap for gap in document["gaps"] if gap["labels"] == 5 and gap["baseline"] == "chance"]
    assert not [gap for gap in document["gaps"] if gap["labels"] == 0 and gap["baseline"] == "A(0,T)"]


def test_chance_is_the_share_of_the_most_frequent_class(written):
    """160 of 200 examples are negative: a constant answer has 0.8, so a source with 0.75 is useless."""
    labels = (np.arange(200) >= 160).astype(int)
    for seed in range(5):
        right = np.arange(200) < 150 + seed % 2
        written.add(right, labelled=labels, arm="A(S,T)", source="s", labels=0, eps=0.0, seed=seed)
    document = card(studies.read(written.write()), CLASSES, "here")
    actual = gap_of(document, "s", 0, "chance")
    assert actual["without"] == 0.8 and actual["verdict"] == "hurts" and document["advice"][0]["use"] is None


def test_the_sign_of_a_gap_and_its_verdict_agree(document):
    signs = {"helps": -1, "hurts": 1}
    actual = [gap for gap in document["gaps"] if gap["verdict"] in signs]
    assert len(actual) > 4
    assert all(np.sign(gap["gap"]) == signs[gap["verdict"]] for gap in actual)
    assert "above 0 the source hurts" in sign_of_gap({"higher": True})
    # Less error is better; a gap above 0 still means that the source hurts.
    assert sign_of_gap({"higher": False}).startswith("gap = metric with the source minus without it: above 0")


def test_notes_of_runs_are_reported_with_the_arms(written):
    for seed in range(2):
        for source, output in (("small", ["source has 10 examples"]), ("large", [])):
            names = {"arm": "A(S,T)", "source": source, "labels": 0, "eps": 0.0, "seed": seed}
            written.add(examples(0.7, seed), notes=output, **names)
    document = card(studies.read(written.write()), CLASSES, "here")
    assert [note for note in document["notes"] if "10" in note] == ["A(S,T) from small: source has 10 examples"]


def test_the_advice_names_a_source_that_is_shown_to_help_or_none(document, tmp_path_factory, written):
    recorded = {one["labels"]: one for one in document["advice"]}
    assert recorded[5]["use"] == "good" and recorded[5]["verdicts"] == {"good": "helps", "bad": "hurts"}
    assert recorded[5]["baseline"] == "A(0,T)" and recorded[0]["baseline"] == "chance"
    assert "with 5 labels per class: use good" in advice(document)[1]


def test_one_seed_shows_nothing(written):
    document = card(filled(written, ARMS, seeds=(0,)), CLASSES, "here")
    assert {gap["verdict"] for gap in document["gaps"]} == {"not compared"}
    assert all(gap["low"] is None and gap["holm"] is None for gap in document["gaps"])
    assert [one["use"] for one in document["advice"]] == [None, None]
    assert any("one seed" in note for note in document["notes"])


def test_a_class_may_lose_although_the_average_does_not(written):
    labels = np.arange(200) % 2
    for seed in range(5):
        swapped = np.where(labels == 0, np.arange(200) < 150 - 4 * seed, np.arange(200) < 100)
        written.add(np.arange(200) < 120 - seed, arm="A(0,T)", source=None, labels=5, eps=None, seed=seed)
        written.add(swapped, arm="A(S,T)", source="s", labels=5, eps=0.0, seed=seed)
    document = card(studies.read(written.write()), CLASSES, "here")
    by_name = {one["class"]: one for one in document["classes"]}
    assert by_name["negative"]["verdict"] == "helps" and by_name["positive"]["verdict"] == "hurts"
    assert by_name["positive"]["transfer"] == pytest.approx(0.5)


def test_the_target_alone_replaces_an_algorithm_without_a_further_term(written):
    arms = {key: share for key, share in ARMS.items() if key[0] != "A(0,T)"}
    document = card(filled(written, arms), CLASSES, "here")
    assert gap_of(document, "good", 5, "A(0,T)")["gap"] == gap_of(document, "good", 5, "target only")["gap"]


def test_opposite_verdicts_are_noted(document, written):
    message = "in 2 settings, the verdict against A(0,T) is the opposite of the verdict against from scratch"
    assert gap_of(document, "bad", 5, "from scratch")["verdict"] == "helps"
    assert message.replace("2", "1") in document["notes"]
    assert all(len(row) == 10 for row in rows(document))


def test_a_verdict_that_changes_is_noted_with_the_values_in_between():
    def gap(eps, verdict, labels=5, source="s"):
        return {"source": source, "baseline": "A(0,T)", "labels": labels, "eps": eps, "verdict": verdict}

    line = [gap(0.7, "hurts"), gap(0.0, "helps"), gap(0.3, "not shown"), gap(0.0, "helps", labels=9)]
    (actual,) = flips([*line, gap(0.7, "hurts", source="other")])
    assert actual == {
        "source": "s", "baseline": "A(0,T)", "fixed": "labels", "at": 5, "along": "eps", "before": 0.0, "after": 0.7,
        "from": "helps", "to": "hurts",
    }  # fmt: skip


def test_a_study_without_a_finished_run_says_why(written):
    written.cells.append({"fingerprint": "f" * 16, "names": {"arm": "A(S,T)", "source": "s", "labels": 0, "eps": 0.0}})
    with pytest.raises(ValueError, match=r"no run of A\(S,T\) in .* has finished: no error is recorded"):
        card(studies.read(written.write()), CLASSES, "here")


def test_the_cost_of_selecting_a_checkpoint_is_the_mean_over_the_seeds(written):
    folder = filled(written, ARMS).folder
    gaps = {}
    for cell in studies.read(folder).cells:
        if cell.names["arm"] == "A(S,T)" and cell.names["source"] == "good" and cell.names["labels"] == 5:
            gaps[cell.seed] = 0.01 * (1 + cell.seed)
            rules = {"snd": {"step": 3, "value": 0.8, "gap": gaps[cell.seed]}}
            write_json(cell.folder / "result.json", {**cell.result, "rules": rules})
    (row,) = card(studies.read(folder), CLASSES, "here")["rules"]
    assert (row["rule"], row["source"], row["labels"], row["seeds"]) == ("snd", "good", 5, 5)
    assert (row["gap"], row["low"], row["high"]) == pytest.approx(significance.over_seeds(list(gaps.values())))
