"""The page of a real study states what its records state."""

import json
import re
import shutil
from html import unescape

import numpy as np
import pytest

from tlx import config, report
from tlx.records import studies
from tlx.records.log import read_metrics
from tlx.report import page


@pytest.fixture(scope="module")
def html(small_study):
    return report.write_study(small_study).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def drawings(html):
    return {name: spec["datasets"] for name, spec in page.specification(html).items()}


def accuracies(study):
    """Return the results by arm and seed, from the predictions only."""
    results = {}
    for item in json.loads((study / "study.json").read_text())["cells"]:
        names, file = item["names"], study / "cells" / item["fingerprint"] / "predictions" / "test.npz"
        if file.is_file():
            with np.load(file) as arrays:
                value = float((arrays["logits"].argmax(-1) == arrays["label"]).mean())
            results.setdefault(f"{names['method']} · shots {names['shots']}", {})[names["seed"]] = value
    return results


def marked(html, name):
    """Return the marked numbers of the page, by arm."""
    actual = re.findall(rf'<data value="([^"]*)" data-{name}="([^"]*)"', html)
    return {unescape(arm): float(value) for value, arm in actual}


def text(html):
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html.partition("<main>")[2].partition("</main>")[0])).split())


def test_means_and_differences_follow_from_the_predictions(html, small_study):
    raw = accuracies(small_study)
    means = {arm: np.mean(list(seeds.values())) for arm, seeds in raw.items()}
    assert marked(html, "mean") == pytest.approx(means)
    gaps = {f"probe · shots {n}": means[f"probe · shots {n}"] - means[f"full · shots {n}"] for n in (4, 16)}
    assert marked(html, "difference") == pytest.approx(gaps)


def test_the_chart_and_the_deciding_columns_come_first(html):
    """The first screen shows the differences above the text; a phone shows the verdict without horizontal scrolling."""
    assert html.index('id="figure-differences"') < html.index('id="answer"')
    assert html.count('id="figure-differences"') == 1
    table = html.partition('<section id="compared">')[2]
    heads = [
        unescape(re.sub("<[^>]*>", "", head)) for head in re.findall("<th scope.*?</th>", table.partition("<tbody>")[0])
    ]
    assert heads[:5] == ["method", "shots", "difference", "verdict", "95 % interval"]


def test_no_axis_has_ticks_with_a_positive_exponent(html):
    """The default format of Vega writes 47 million as 4.7e+7."""
    from tlx.report.scales import NUMBERS

    formats = set(re.findall(r'"axis": ?\{[^}]*"format": ?"([^"]*)"', html))
    assert not {form for form in formats if form.endswith(("g", "e"))}
    assert "'~s'" in NUMBERS and NUMBERS.index("10000") < NUMBERS.index("~s")


def test_notes_of_the_runs_are_on_the_page_once(written):
    from tlx.report import study

    right = np.arange(20) < 12
    for seed in range(2):
        shared = ["labelled has 3 examples"]
        written.add(right, method="a", seed=seed, notes=shared)
        written.add(right, method="b", seed=seed, notes=[*shared, *(["a <b>copy</b>"] if seed else [])])
    html = study.draw(written.compare())
    assert "2 notes" in html and html.count("Labelled has 3 examples.") == 1
    assert "A &lt;b&gt;copy&lt;/b&gt; (1 of 4 runs)." in html


def test_every_seed_is_drawn_and_linked(drawings, small_study):
    raw = accuracies(small_study)
    rows = [row for shots in (4, 16) for row in drawings[f"seeds-shots-{shots}"]["table"]]
    assert {(row["arm"], row["seed"]): row["value"] for row in rows} == {
        (arm, seed): value for arm, seeds in raw.items() for seed, value in seeds.items()
    }
    assert all((small_study / row["href"]).is_file() for row in rows)
    along = drawings["by-shots"]
    assert sorted(row["value"] for row in along["table"]) == sorted(row["value"] for row in rows)
    assert {row["at"] for row in along["means"]} == {4, 16}


def test_curves_are_means_and_bands_over_the_seeds(drawings, small_study):
    runs = [cell for cell in studies.read(small_study).cells if cell.arm == {"method": "full", "shots": 16}]
    lines = [read_metrics(cell.folder) for cell in runs if cell.state == "done"]
    rows = [row for row in drawings["validation-accuracy-shots-16"]["table"] if row["label"] == "full"]
    assert [row["step"] for row in rows] == [8, 16, 24, 32, 40]
    for row in rows:
        values = [
            line["value"] for run in lines for line in run
            if (line["name"], line["step"]) == ("validation/accuracy", row["step"])
        ]  # fmt: skip
        assert (row["low"], row["high"], row["seeds"]) == (min(values), max(values), 3)
        assert row["mean"] == pytest.approx(np.mean(values))
    assert {"train-loss-shots-4", "train-loss-shots-16"} < drawings.keys()


def test_the_cost_is_next_to_the_accuracy(drawings, small_study):
    results = [cell.result for cell in studies.read(small_study).cells if cell.arm == {"method": "probe", "shots": 4}]
    [row] = [row for row in drawings["cost-parameters-trainable"]["table"] if row["arm"] == "probe · shots 4"]
    assert row["cost"] == results[0]["parameters"]["trainable"]
    [row] = [row for row in drawings["cost-seconds"]["table"] if row["arm"] == "probe · shots 4"]
    assert row["cost"] == pytest.approx(np.mean([sum(r["seconds"].values()) / r["pack"]["arms"] for r in results]))


def test_flops_and_energy_are_shown_if_runs_have_them(small_study, tmp_path):
    out = tmp_path / "study"
    shutil.copytree(small_study, out, ignore=shutil.ignore_patterns("files.json"))
    for n, cell in enumerate(studies.read(out).cells):
        if cell.result:
            energy = {"kwh": 1e-3 * (n + 1), "co2e_kg": 4e-4 * (n + 1), "how": "watts x time"}
            (cell.folder / "result.json").write_text(json.dumps(cell.result | {"flops": 5e9 + n, "energy": energy}))
    html = report.write_study(out).read_text(encoding="utf-8")
    assert {"cost-flops", "cost-energy-kwh"} < page.specification(html).keys()
    assert "5e9" in text(html)
    assert "CO2e, kg" in text(html)


def test_the_page_states_the_progress_and_the_failures(html, small_study):
    recorded = text(html)
    assert "12 of 14 cells are done (1 failed, 1 waiting)" in recorded
    [failed] = [cell for cell in studies.read(small_study).cells if cell.failed]
    assert failed.failed["error"] in recorded
    assert "Traceback (most recent call last)" in recorded
    assert "full · shots 16 , seed 3" in recorded.replace("16, seed", "16 , seed")
    planned = [item["why"] for item in studies.read(small_study).plan()]
    assert planned
    for words in (*planned, "(selection: last)", "tlx study experiments/shots.py"):
        assert words in recorded
    stored = [cell.result for cell in studies.read(small_study).cells if cell.result]
    assert sum(result["pack"]["arms"] == 1 for result in stored) == 0 or "trained alone" in recorded
    assert "recorded in groups.json" in recorded
    read = sum("head" in [phase["cut"] for phase in result["prefix"]] for result in stored)
    assert f"{read} runs read cached features of the frozen stages below head" in recorded


def test_the_first_sentence_is_the_answer(html):
    question, answer, table = (html.index(part) for part in ("<h1>", 'class="lead"', 'id="compared"'))
    assert question < answer < table
    assert "Does a probe of random features keep up with full training?" in html[question:answer]
    lead = " ".join(unescape(re.sub(r"<[^>]*>", "", html[answer:table])).split())
    assert "Against full" in lead
    assert re.search(r"[+−]\d+\.\d points \[[+−]\d+\.\d, [+−]\d+\.\d\]", lead)


def test_the_page_makes_no_network_request(html):
    for address in re.findall(r'(?:href|src|action)="([^"]*)"', html.partition("<main>")[2].partition("</main>")[0]):
        assert address.startswith(("#", "cells/")), address
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1]
    assert unescape(policy).startswith("default-src 'none'; script-src 'sha256-")
    assert unescape(policy).count("'sha256-") == 3


def test_the_same_records_give_the_same_page(html, small_study):
    assert report.write_study(small_study).read_text(encoding="utf-8") == html
    assert not list(small_study.glob("*.partial"))


def test_another_metric_may_be_chosen(small_study, tmp_path):
    out = tmp_path / "study"
    shutil.copytree(small_study, out, ignore=shutil.ignore_patterns("files.json"))
    recorded = text(report.write(out, "test/loss").read_text(encoding="utf-8"))
    assert "Test cross-entropy at the last step" in recorded
    assert "smallest effect of interest" not in recorded.partition("How to read this")[0]
    with pytest.raises(ValueError, match=r"has the metric 'test/los'; close: 'test/loss'"):
        report.write(out, "test/los")


@pytest.mark.slow
def test_a_manipulated_result_is_named(small_study, tmp_path):
    out = tmp_path / "study"
    shutil.copytree(small_study, out, ignore=shutil.ignore_patterns("files.json"))
    cell = studies.read(out).cells[0]
    cell.result["metrics"]["test/accuracy"] += 0.05
    (cell.folder / "result.json").write_text(json.dumps(cell.result))
    html = report.write_study(out).read_text(encoding="utf-8")
    assert f"Result.json of cell {cell.fingerprint} contains" in text(html).replace("result.json", "Result.json")
    assert marked(html, "mean") == pytest.approx(marked(report.write_study(small_study).read_text(), "mean"))


def test_directories_without_a_study_are_refused(small_study, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        report.write(tmp_path)
    assert str(error.value) == f"{tmp_path} contains neither a run nor a study: no result.json and no study.json"
    run = next(small_study.glob("cells/*/report.html")).parent
    with pytest.raises(ValueError) as error:
        report.write(run, "test/loss")
    assert str(error.value) == (
        f"{run} contains a run, and its page shows every metric; --metric is for the comparison in a study"
    )  # fmt: skip
    with pytest.raises(ValueError) as error:
        report.table(run, "latex")
    assert str(error.value) == f"{run} contains a run; a table compares the arms of a study"
    shutil.copy(small_study / "study.json", tmp_path)
    with pytest.raises(ValueError, match=r"no cell of .* has finished yet: 14 waiting"):
        report.write(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_the_fingerprints_are_those_of_the_recipes(small_study):
    """The fixture has the layout of a study directory."""
    from tlx.recipe import OWN

    for cell in studies.read(small_study).cells:
        recipe = cell.recipe()
        assert recipe is None or config.fingerprint(config.load(recipe, OWN)) == cell.fingerprint
