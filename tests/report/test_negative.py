"""The page of negative transfer: drawn from its document only, the answer first, verdicts in words and colours."""

import copy

import pytest

from tlx import Data, Recipe, Train, config, models, tasks, terms
from tlx.report import negative, page

RECIPE = Recipe(
    data=Data(source="mnist5k", target="digits", labels=0, size=8),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
    objective=(terms.Supervised(on="source"), terms.Dann()),
    train=Train(steps=4, batch=16),
)


def gap(source, labels, baseline, value, verdict, eps=0.0):
    return {
        "source": source, "labels": labels, "eps": eps, "baseline": baseline, "transfer": 0.7, "without": 0.7 + value,
        "gap": value, "low": value - 0.02, "high": value + 0.02, "boot": [value - 0.03, value + 0.03], "pairs": 5,
        "p": 0.01, "holm": 0.02, "sign": 0.06, "wilcoxon": 0.06, "detectable": 0.03, "verdict": verdict,
        "folders": ["cells/0123456789abcdef", "cells/fedcba9876543210"],
    }  # fmt: skip


def arm(name, source, labels, mean):
    ends = {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}
    named = {"arm": name, "source": source, "labels": labels, "eps": None if source is None else 0.0}
    return {**named, **ends, "values": {"0": mean - 0.01, "1": mean + 0.01}, "folders": ["cells/0123456789abcdef"]}


TEXT = "<b>no</b> good"
DOCUMENT = {
    "fingerprint": "0123456789abcdef", "recipe": config.dump(RECIPE), "command": "tlx negative-transfer x.py",
    "question": "Does the source help?", "target": "digits", "metric": "test/accuracy", "higher": True, "smallest": 0.0,
    "seeds": [0, 1], "selection": "last", "steps": 150, "baselines": {"A(0,T)": "the same algorithm"},
    "arms": [
        arm("A(S,T)", "mnist5k", 5, 0.7), arm("A(S,T)", "clothes", 5, 0.6), arm("A(0,T)", None, 5, 0.65),
        arm("A(S,T)", "mnist5k", 0, 0.5),
    ],
    "gaps": [
        gap("mnist5k", 5, "A(0,T)", -0.05, "helps"), gap("clothes", 5, "A(0,T)", 0.05, "hurts"),
        gap("mnist5k", 0, "chance", -0.4, "helps"),
    ],
    "classes": [
        {"source": "mnist5k", "labels": 5, "eps": 0.0, "baseline": "A(0,T)", "class": name, "transfer": 0.5,
         "without": 0.6, "gap": 0.1, "low": 0.05, "high": 0.15, "holm": 0.01, "verdict": "hurts"}
        for name in "01"
    ],
    "advice": [
        {"labels": 0, "eps": 0.0, "baseline": "chance", "verdicts": {"mnist5k": "helps"}, "use": "mnist5k",
         "equal": ["clothes"]},
        {"labels": 5, "eps": 0.0, "baseline": "A(0,T)", "verdicts": {"mnist5k": "not shown"}, "use": None, "equal": []},
    ],
    "flips": [
        {"source": "mnist5k", "baseline": "A(0,T)", "fixed": "labels", "at": 5, "along": "eps", "before": 0.3,
         "after": 0.7, "from": "helps", "to": "hurts"}
    ],
    "rules": [
        {"source": "mnist5k", "labels": 5, "eps": 0.0, "rule": "snd", "seeds": 2, "value": 0.7, "gap": 0.021,
         "low": 0.01, "high": 0.03}
    ],
    "notes": ["not all runs have finished: 1 failed"],
    "domains": [
        {"source": name, "eps": 0.0, "a": a, "a_low": a, "a_high": a, "mmd": 0.1, "examples": [2000, 1258]}
        for name, a in (("mnist5k", 1.2), ("clothes", 1.9))
    ],
    "gated": [
        {"source": "mnist5k", "labels": 5, "eps": 0.0, "seed": 0, "folder": "cells/0123456789abcdef", "examples": 3,
         "effective": 0.5, "quantiles": [0.0, 1.0, 2.0],
         "away": [{"index": 3, "label": "7", "text": TEXT, "weight": 0.0}], "welcome": []}
    ],
    "related": [{"baseline": "A(0,T)", "labels": 5, "of": "a", "settings": 3, "rho": 0.5, "p": 0.3}],
}  # fmt: skip


@pytest.fixture(scope="module")
def drawn_page():
    return negative.draw(DOCUMENT)


def test_the_answer_comes_first_and_every_gap_is_shown(drawn_page):
    answer, _, rest = drawn_page.partition('id="gaps"')
    assert "use <strong>mnist5k</strong>; it is not shown to be better than clothes" in answer
    assert "use no source" in answer and "Not all runs have finished: 1 failed." in answer
    assert '<data value="0.05"><strong>+5.0</strong></data>' in rest and "+3.0 to +7.0" in rest
    assert "up to eps 0.3" in rest and "from 0.7" in rest
    assert 'href="cells/fedcba9876543210/result.json"' in rest and "shown-worse" in rest


def test_the_charts_have_every_row(drawn_page):
    actual = page.specification(drawn_page)
    assert {"map-A-0-T-", "arms-5", "arms-0", "classes", "distance-A-0-T-"} <= actual.keys()
    rows = actual["map-A-0-T-"]["datasets"]["table"]
    assert [(row["source"], row["said"]) for row in rows] == [("mnist5k", "-5.0"), ("clothes", "+5.0")]
    assert len(actual["classes"]["datasets"]["table"]) == 2
    assert {row["name"] for row in actual["arms-5"]["datasets"]["table"]} == {
        "A(S,T) mnist5k", "A(S,T) clothes", "A(0,T)",
    }  # fmt: skip


def test_examples_are_escaped_and_open_ends_are_stated(drawn_page):
    assert TEXT not in drawn_page and "&lt;b&gt;no&lt;/b&gt; good" in drawn_page
    one = copy.deepcopy(DOCUMENT)
    for actual in one["gaps"]:
        actual |= {"low": None, "high": None, "boot": None, "holm": None, "detectable": None}
    one |= {"classes": [], "gated": [], "related": []}
    recorded = negative.draw(one)
    assert '<td>snd</td><td class="number">70.0</td><td class="number">2.1</td>' in negative.draw(DOCUMENT)
    assert "one seed" in recorded and 'id="by-class"' not in recorded and 'id="gate"' not in recorded


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_draws_all_of_it_on_a_desktop_and_a_phone(browser, show, sized, drawn_page, tmp_path, width):
    sized(width)
    path = page.write(tmp_path / "negative.html", drawn_page)
    requested, output = show(path)
    assert not output and not [url for url in requested if not url.startswith(("data:", path.as_uri()))]
    counts = browser.execute_script(
        "return [...document.querySelectorAll('figure.drawing .plot')].map(p => p.querySelectorAll('svg').length)"
    )
    # Charts in a closed fold are drawn too.
    assert counts == [1] * len(page.specification(drawn_page))
    inner, outer = browser.execute_script("const e = document.documentElement; return [e.clientWidth, e.scrollWidth]")
    assert outer == inner <= width
