"""The page of the benefit report: drawn from its document only, every number with its interval, open ends stated."""

import copy

import pytest

from tlx import Data, Optim, Recipe, Train, Weights, config, models, tasks
from tlx.report import benefit, page

RECIPE = Recipe(
    data=Data(target="digits", shots=8),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
    weights=Weights("runs/source"),
    optim=Optim(lr=0.01),
    train=Train(steps=4, batch=16),
)


def side(mean, low=None, high=None, bound=""):
    return {"mean": mean, "low": low, "high": high, "bound": bound}


def measure(name, unit, actual, expected, gain):
    inputs = {"name": name, "title": f"{name} of a kind", "unit": unit, "pretrained": actual, "scratch": expected}
    return inputs | {"gain": gain, "folders": ["cells/0123456789abcdef"]}


def times(value, low, high, bound=""):
    return {"kind": "ratio", "value": value, "low": low, "high": high, "bound": bound}


GAIN = {"kind": "difference", "value": 0.031, "low": 0.014, "high": 0.048, "bound": "", "verdict": "better"}
DOCUMENT = {
    "fingerprint": "0123456789abcdef",
    "recipe": config.dump(RECIPE),
    "changes": [["tuning", "Probe()", "Full()"]],
    "command": "tlx benefit x.py",
    "question": "How much does transfer help here?",
    "metric": "test/accuracy",
    "higher": True,
    "labels": [10, 80],
    "seeds": [0, 1, 2],
    "selection": "last",
    "looked": 5,
    "measures": [
        measure("final", "", side(0.963, 0.95, 0.97), side(0.932, 0.91, 0.95), GAIN)
        | {"title": "test/accuracy at the end"},
        measure("time", "s", side(9.0, 8.0, 10.0), side(90.0, 80.0, 99.0), times(10.0, 6.3, 13.6)),
        measure("operations", "FLOP", side(3e9, 2e9, 4e9, "at least"), side(2e9), times(0.7, None, 0.9, "at most")),
        measure("labels", "", side(10, None, 20, "at most"), side(80), times(8.0, 4.0, None, "at least"))
    ],
    "learning": [
        {"arm": arm, "labels": labels, "mean": mean, "low": mean - 0.1, "high": mean + 0.03, "values": {"0": mean}}
        for arm, labels, mean in (
            ("pretrained", 10, 0.9), ("scratch", 10, 0.5), ("pretrained", 80, 0.96), ("scratch", 80, 0.93),
        )
    ],
    "training": [
        {"arm": arm, "step": step, "seconds": step / 10, "mean": step / 20, "low": 0.0, "high": 1.0}
        for arm in ("pretrained", "scratch")
        for step in (5, 10, 15)
    ],
    "threshold": 0.93,
    "counted": "XLA's count of the compiled step x 4 steps, without evaluation",
    "energy": "declared: 24 W x 6 s",
    "strubell": {"kwh": side(1e-4, 9e-5, 1.1e-4), "co2e_kg": side(1e-5), "how": "24 W, PUE 1.58"},
    "notes": ["1 of 3 pretrained runs never reach the final value of scratch"],
    "environment": {},
}  # fmt: skip


def test_numbers_have_their_intervals_and_no_review_is_quoted():
    text = benefit.draw(DOCUMENT)
    for recorded in (
        "+3.1", "+1.4 to +4.8", "96.3\xa0%", "91.0\xa0% – 95.0\xa0%", "10 ×", "6.3 – 13.6",
        "≥ 8 ×", "4 – open", "≤ 0.7 ×", "open – 0.9", "≥ 3", "GFLOP", "≤ 10",
        "XLA&#39;s count of the compiled step", "declared: 24 W x 6 s",
        "1 of 3 pretrained runs never reach", "cells/0123456789abcdef/result.json", "every 5 steps",
        "by the formula of 2019: 0.1 Wh (0.09 – 0.11), 0.01 g CO2e, 24 W, PUE 1.58",
    ):  # fmt: skip
        assert recorded in text, recorded
    assert "review" not in text and "168 h" not in text


def test_the_charts_have_the_curves_and_the_target_level():
    specs = page.specification(benefit.draw(DOCUMENT))
    assert list(specs) == ["learning", "time"]
    assert specs["learning"]["datasets"]["level"] == [{"arm": "scratch", "mean": 0.93}]
    assert [row["labels"] for row in specs["learning"]["datasets"]["table"]] == [10, 10, 80, 80]
    assert specs["time"]["datasets"]["table"] == DOCUMENT["training"]
    assert specs["time"]["datasets"]["level"] == [{"arm": "scratch", "mean": 0.93}]
    one = page.specification(benefit.draw(DOCUMENT | {"labels": [80]}))
    assert list(one) == ["time"]


def single():
    """A benefit report with one seed and an error metric."""
    document = copy.deepcopy(DOCUMENT) | {"metric": "test/mse", "seeds": [0]}
    gain = GAIN | {"value": -0.25, "low": None, "high": None}
    document["measures"][0] = measure("final", "", side(0.25), side(0.5), gain)
    document["learning"] = [point | {"low": None, "high": None} for point in document["learning"]]
    return document


def test_errors_and_single_seeds_have_a_report_too():
    text = benefit.draw(single())
    assert "-0.25" in text and "One seed: not compared." in text and "mean squared error" in text


def test_markup_in_a_document_stays_text():
    evil = "</script><script>window.hit=1</script><img src=x onerror='window.hit=2'>"
    document = copy.deepcopy(DOCUMENT) | {"command": evil, "notes": [evil], "changes": [[evil, evil, evil]]}
    document["learning"][0]["arm"] = evil
    text = benefit.draw(document)
    assert evil not in text and "<img src=x" not in text


@pytest.mark.browser
def test_the_target_level_is_in_the_download(show, downloads, tmp_path):
    show(benefit.write(tmp_path / "benefit.html", DOCUMENT))
    header, *lines = downloads("learning", "csv").splitlines()
    assert header == "part,arm,labels,mean,low,high,seeds"
    assert [line.partition(",")[0] for line in lines] == ["table"] * 4 + ["level"]
    assert lines[-1] == "level,scratch,,0.93,,,"


@pytest.mark.browser
@pytest.mark.parametrize("document", [DOCUMENT, single()], ids=["many seeds", "one seed"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_draws_it_without_network_requests(browser, show, sized, tmp_path, width, document):
    sized(width)
    path = benefit.write(tmp_path / "benefit.html", document)
    requested, output = show(path)
    assert not output
    assert not [url for url in requested if not url.startswith(("data:", path.as_uri()))]
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('figure.drawing .plot')].map(p => p.querySelectorAll('path[d]').length)"
    )
    assert len(drawn) == 2 and min(drawn) > 3
    inner, outer = browser.execute_script("const e = document.documentElement; return [e.clientWidth, e.scrollWidth]")
    assert outer == inner <= width
