"""The section on changes of weights: drawn if they were measured, for a regression too, with the numbers of the
document.
"""

import json
import shutil

import pytest

from tlx import report
from tlx.analysis import changes
from tlx.report import moved, page


@pytest.fixture(scope="module")
def measured(digits, brightness, tmp_path_factory):
    """Copies of the runs, because other tests count the content of the original pages."""
    folders = {}
    for name, run in (("digits", digits), ("brightness", brightness)):
        folders[name] = tmp_path_factory.mktemp("moved") / name
        shutil.copytree(run.folder, folders[name])
        changes.moved(folders[name])
    return folders


@pytest.mark.parametrize(("name", "metrics"), [("digits", ("loss", "accuracy")), ("brightness", ("mse",))])
def test_each_part_has_its_chart_and_its_data(measured, name, metrics):
    document = json.loads((measured[name] / "moved.json").read_text())
    html = (measured[name] / "report.html").read_text(encoding="utf-8")
    drawings = {key: spec for key, spec in page.specification(html).items() if key.startswith("moved-")}
    lines = [f"moved-line-{metric}" for metric in metrics]
    assert list(drawings) == ["moved-weights", "moved-similarity", "moved-probes", *lines, "moved-ranks"]
    tables = {key: spec["datasets"]["table"] for key, spec in drawings.items()}
    for metric, line in zip(metrics, lines, strict=True):
        assert [row["value"] for row in tables[line]] == [point[metric]["value"] for point in document["line"]]
    stages = {row["name"]: row for row in document["stages"]}
    for row in tables["moved-weights"]:
        assert row["value"] == stages[row["stage"]]["weights"][row["kind"]]["relative"]
    for row in tables["moved-probes"]:
        assert row["value"] == stages[row["stage"]]["probe"][row["features"]]["value"]
    assert [row["value"] for row in tables["moved-ranks"]] == [
        kernel[of]["effective_rank"] for kernel in document["kernels"] for of in ("before", "after", "change")
    ]
    for note in document["notes"]:
        assert note.replace("'", "&#39;") in html


def test_a_regression_is_probed_by_ridge(measured):
    document = json.loads((measured["brightness"] / "moved.json").read_text())
    probe = document["stages"][0]["probe"]["after"]
    assert probe["measure"] == "r2"
    assert probe["low"] <= probe["value"] <= probe["high"] <= 1
    assert "Ridge regression" in (measured["brightness"] / "report.html").read_text(encoding="utf-8")


def test_a_page_without_changes_has_no_such_section(digits):
    html = report.write_run(digits.folder).read_text(encoding="utf-8")
    assert 'id="moved"' not in html
    assert moved.section(None) is None


def test_names_stay_text(measured, tmp_path, attacked):
    shutil.copytree(measured["digits"], tmp_path / "evil", ignore=shutil.ignore_patterns("files.json"))
    file = tmp_path / "evil" / "moved.json"
    document = json.loads(file.read_text())
    document["stages"][0]["name"] = document["kernels"][0]["path"] = document["before"]["source"] = attacked.markup
    document["notes"] = [attacked.markup]
    file.write_text(json.dumps(document))
    html = report.write_run(tmp_path / "evil").read_text(encoding="utf-8")
    assert attacked.markup not in html
    assert html.count("<b>") == (measured["digits"] / "report.html").read_text(encoding="utf-8").count("<b>")


def test_of_many_kernels_those_that_changed_most_are_shown(measured):
    document = json.loads((measured["digits"] / "moved.json").read_text())
    [first, *_] = document["kernels"]
    document["kernels"] = [
        {**first, "path": f"{n}", "change": {"effective_rank": n, "singular_values": [1.0]}} for n in range(100)
    ]
    drawn = moved.ranks(document)
    assert {row["path"] for row in drawn.rows} == {str(n) for n in range(100 - moved.LIMIT, 100)}
    assert "60 of 100 kernels" in drawn.caption
