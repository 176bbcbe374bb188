"""The sentences of the answer, from hand-written records: each states the verdicts and no more."""

import numpy as np
import pytest

from tlx.functional import significance
from tlx.report.study import names
from tlx.report.study.answer import answer


def right(count, of=1000):
    return np.arange(of) < count


def add(written, method, values, **more):
    for seed, value in enumerate(values):
        written.add(right(value), method=method, **more, seed=seed)
    return written


def sentences_of(table):
    actual = answer(table, names.columns(table), names.unit(table))
    return actual | {"lead": "".join(text for text, _ in actual["lead"]).replace("\N{NO-BREAK SPACE}", " ")}


BASE = (500, 520, 540, 560, 580)
UP = tuple(value + gain for value, gain in zip(BASE, (50, 52, 48, 51, 49), strict=True))
DOWN = tuple(value - gain for value, gain in zip(BASE, (50, 52, 48, 51, 49), strict=True))
SAME = tuple(value + gain for value, gain in zip(BASE, (20, -20, 10, -10, 5), strict=True))


@pytest.mark.parametrize(
    ("arms", "lead"),
    [
        ({"b": UP}, "b is better than a: +5.0 points [+4.8, +5.2]."),
        ({"b": DOWN}, "b is worse than a: −5.0 points [−5.2, −4.8]."),
        ({"b": UP, "c": DOWN}, "Against a, b is better; c is worse."),
        ({"b": UP, "c": UP, "d": SAME}, "Against a, b and c are better; no difference was shown for d."),
        (dict.fromkeys("bcdefghij", UP), "Against a, better in 9 of 9 comparisons."),
    ],
)
def test_the_first_sentence_names_better_and_worse_arms(written, arms, lead):
    add(written, "a", BASE)
    for name, values in arms.items():
        add(written, name, values)
    assert sentences_of(written.compare())["lead"] == lead


def test_no_shown_difference_comes_with_the_minimum_detectable_difference(written):
    table = add(add(written, "a", BASE), "b", SAME).compare()
    gap = np.subtract(SAME, BASE) / 10
    recorded = significance.detectable(float(np.std(gap, ddof=1)), 5)
    low, high = significance.over_seeds(gap)[1:]
    expected = f"No difference between b and a was shown: +0.1 points [{low:+.1f}, {high:+.1f}]; "
    message = f"{expected}minimum detectable difference {recorded:.1f} points."
    assert sentences_of(table)["lead"] == message.replace("-", "−")


def test_settings_are_separate_if_they_differ(written):
    for labels, values in ((8, UP), (16, SAME)):
        add(add(written, "a", BASE, labels=labels), "b", values, labels=labels)
        add(written, "c", UP, labels=labels)
    actual = sentences_of(written.compare())
    assert actual["lead"] == (
        "Against a, c is better in all settings; b is better in 1, no difference shown in 1 of 2 settings."
    )  # fmt: skip
    [b, c] = actual["methods"]
    assert [(group["told"], [item["setting"] for item in group["items"]]) for group in b["verdicts"]] == [
        ("better", ["labels 8"]), ("no difference shown", ["labels 16"]),
    ]  # fmt: skip
    assert "minimum detectable difference" in b["verdicts"][1]["items"][0]["known"]
    assert len(c["verdicts"][0]["items"]) == 2
    assert "p < 0.05 after Holm's correction over 4 comparisons." in actual["how"]


def test_settings_that_agree_are_stated_once(written):
    for labels in (8, 16):
        add(add(written, "a", BASE, labels=labels), "b", UP, labels=labels)
    assert sentences_of(written.compare())["lead"] == "Against a, in all 2 settings, b is better."


def test_an_interval_and_a_corrected_p(written):
    """An interval without zero may still show nothing after the correction over the table; the sentence says so."""
    add(add(written, "a", BASE), "b", [value + gain for value, gain in zip(BASE, (20, 40, 60, 80, 5), strict=True)])
    for name in "cdef":
        add(written, name, SAME)
    table = written.compare()
    assert table.comparisons[0].p < 0.05 < table.comparisons[0].holm
    [item] = sentences_of(table)["methods"][0]["verdicts"][0]["items"]
    assert f", p {table.comparisons[0].holm:.3f} after Holm's correction; " in item["known"]


def test_one_seed_shows_nothing(written):
    written.add(right(500), method="a", seed=0).add(right(560), method="b", seed=0)
    actual = sentences_of(written.compare())
    assert actual["lead"] == "Every arm has one seed, so methods are not compared."
    [item] = actual["methods"][0]["verdicts"][0]["items"]
    assert actual["methods"][0]["verdicts"][0]["told"] == "not compared (one seed)"
    assert item["known"] == "+6.0\N{NO-BREAK SPACE}points; McNemar of these two models: p < 0.001"


def test_two_seeds_show_little(written):
    """Two very different seeds have a t-interval beyond 0 and 1: it is clipped, and no difference is detectable."""
    for seed, (first, second) in enumerate(((300, 999), (990, 900))):
        written.add(right(first), method="a", seed=seed).add(right(second), method="b", seed=seed)
    table = written.compare()
    [one] = table.comparisons
    assert (one.difference.low, one.difference.high) == (-1.0, 1.0)
    assert all(0 <= summary.low <= summary.high <= 1 for summary in table.summaries)
    assert one.detectable is None and one.detectable_alone is None
    assert "[−100.0, +100.0]; 2 seeds" in sentences_of(table)["lead"]
    assert any(recorded.startswith("two seeds say little") for recorded in table.warnings)


def test_seeds_that_vary_too_much_have_no_detectable_difference(written):
    for seed, (first, second) in enumerate(((0, 1000), (1000, 0), (0, 1000))):
        written.add(right(first), method="a", seed=seed).add(right(second), method="b", seed=seed)
    table = written.compare()
    assert table.comparisons[0].detectable is None
    assert "seeds vary too much" in sentences_of(table)["lead"]


def test_without_a_baseline_nothing_is_compared(written):
    table = add(add(written, "a", BASE), "b", UP).compare(baseline={})
    lead = sentences_of(table)["lead"]
    for part in ("has no baseline", "b has the highest mean test accuracy", "59.0 %"):
        assert part in lead


def test_the_smallest_effect_is_part_of_the_verdict(written):
    table = add(add(written, "a", BASE), "b", UP).compare(smallest=0.049)
    actual = sentences_of(table)
    assert actual["lead"].startswith("No difference between b and a was shown: +5.0 points [+4.8, +5.2]; minimum")
    assert "and a difference beyond 4.9 points" in actual["how"].replace("\N{NO-BREAK SPACE}", " ")
