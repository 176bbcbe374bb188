"""The page of a search: drawn from its document only, with every trial; no text becomes markup."""

import json
import re

import pytest

from tlx import Data, Optim, Recipe, Train, models, tasks, tuning
from tlx.report import page, search
from tlx.tune import integer, log_uniform, one_of
from tlx.tune import search as look

RECIPE = Recipe(
    data=Data(target="digits", shots=4),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
    optim=Optim("sgd", lr=0.1),
    train=Train(steps=9, batch=16, eval_every=1, eval_batch=256),
)
SPACE = {
    "optim.lr": log_uniform(1e-3, 1.0),
    "tuning": one_of(tuning.Full(), tuning.Probe()),
    # Eight devices cannot share twelve examples.
    "train.batch": integer(8, 16, step=4),
}


@pytest.fixture(scope="session")
def searched(tmp_path_factory):
    out = tmp_path_factory.mktemp("search") / "out"
    look(RECIPE, SPACE, out, trials=9, sampler="random", pruner="hyperband", seed=2, command="tlx run x.py", quiet=True)
    return out


def test_every_trial_is_on_the_page_and_in_its_charts(searched):
    document = json.loads((searched / "tune.json").read_text())
    states = {trial["state"] for trial in document["trials"]}
    assert states == {"done", "stopped", "failed"}
    text = (searched / "report.html").read_text()
    specs = page.specification(text)
    measured = [trial for trial in document["trials"] if trial["value"] is not None]
    rows = specs["history"]["datasets"]["table"]
    assert [(row["trial"], row["value"]) for row in rows] == [(one["number"] + 1, one["value"]) for one in measured]
    best = next(trial["value"] for trial in document["trials"] if trial["number"] == document["best"])
    assert max(row["best"] for row in rows if row["best"] is not None) == best
    assert len(specs["parallel"]["datasets"]["table"]) == len(measured) * len(SPACE)
    assert all(0 <= row["place"] <= 1 for row in specs["parallel"]["datasets"]["table"])
    for number, path in enumerate(SPACE):
        assert [row["at"] for row in specs[f"slice-{number}"]["datasets"]["table"]] == [
            one["point"][path] for one in measured
        ]
    linked = re.findall(r'href="(cells/[^"]*)"', text)
    assert all((searched / address).is_dir() for address in linked)
    begun = [one for one in document["trials"] if (searched / "cells" / one["fingerprint"]).is_dir()]
    assert linked == [f"cells/{one['fingerprint']}/" for one in begun]
    # A batch that cannot be shared fails before there is a folder.
    assert len(measured) <= len(begun) < len(document["trials"])
    assert document["command"].replace("'", "&#39;") in text
    assert "which 8 devices cannot share evenly" in text


@pytest.mark.slow
def test_the_importance_of_fields_is_drawn(tmp_path):
    actual = look(RECIPE, SPACE, tmp_path / "out", trials=8, sampler="random", quiet=True)
    shares = json.loads((tmp_path / "out" / "tune.json").read_text())["importances"]
    assert shares.keys() == SPACE.keys() and shares == actual.importances
    text = (tmp_path / "out" / "report.html").read_text()
    rows = page.specification(text)["importances"]["datasets"]["table"]
    assert {row["path"]: row["share"] for row in rows} == shares
    assert "PED-ANOVA" in text.partition('id="figure-importances"')[2].partition("</figure>")[0]


def test_markup_in_a_document_stays_text(searched):
    evil = "</script><script>window.hit=1</script><img src=x onerror='window.hit=2'>"
    document = json.loads((searched / "tune.json").read_text())
    for trial in document["trials"]:
        trial["point"]["tuning"] = evil
        trial["error"] = evil
    document["command"] = evil
    text = search.draw(document, searched)
    assert evil not in text and "<img src=x" not in text


def test_a_search_without_a_finished_trial_has_a_page(searched):
    document = json.loads((searched / "tune.json").read_text())
    document |= {"trials": [document["trials"][0] | {"state": "failed", "value": None}], "best": None, "command": ""}
    text = search.draw(document | {"importances": {}}, searched)
    assert "No trial has finished." in text and "The chosen recipe" not in text


def test_a_smaller_loss_counts_as_the_best(searched):
    document = json.loads((searched / "tune.json").read_text()) | {"direction": "minimize"}
    rows = search.history(document).rows
    outcome = [row for row in rows if row["state"] == "done"]
    assert outcome[-1]["best"] == min(row["value"] for row in outcome)


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_draws_it_without_network_requests(browser, show, sized, searched, width):
    sized(width)
    path = searched / "report.html"
    requested, output = show(path)
    assert not output
    assert not [url for url in requested if not url.startswith(("data:", path.as_uri()))]
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('figure.drawing .plot')].map(p => p.querySelectorAll('path[d]').length)"
    )
    assert len(drawn) == len(page.specification(path.read_text())) and min(drawn) > 3
    inner, outer = browser.execute_script("const e = document.documentElement; return [e.clientWidth, e.scrollWidth]")
    assert outer == inner <= width
