"""Pages of small real runs: they state what the records state, escape text, and make no network request."""

import json
import math
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from tlx import report, tasks
from tlx.functional import resampling
from tlx.functional.scores import confusion_matrix, scores_of
from tlx.report import figures, intervals, page, reading, run, words


class Reader(HTMLParser):
    """What a browser reads: elements with their attributes, text, and the numbers marked by metric."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.values, self.words = [], {}, []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.elements.append((tag, attrs))
        if "data-metric" in attrs:
            self.values.setdefault(attrs["data-metric"], set()).add(float(attrs["value"]))

    def handle_data(self, data):
        if self.cdata_elem is None:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def draw(folder):
    return report.write_run(folder).read_text(encoding="utf-8")


def test_numbers_on_the_page_are_those_of_the_result(finished):
    read = Reader(draw(finished.folder))
    assert read.values == {name: {value} for name, value in finished.metrics.items()}
    total = f"{finished.result['parameters']['total']:,}"
    for value in (finished.result["fingerprint"], finished.result["data"], total):
        assert value in read.text
    assert f"selection: {finished.result['selection']}, step {finished.result['selected_step']} of" in read.text
    assert f"over {finished.result['examples']['test']} test examples" in read.text


def test_the_page_makes_no_network_request(finished):
    html = draw(finished.folder)
    elements = Reader(html).elements
    for tag, attrs in elements:
        assert tag not in ("iframe", "object", "embed", "base", "form", "audio", "video")
        assert not any(name.startswith("on") for name in attrs)
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert attrs.get(name, "data:").startswith(("data:", "#")), (tag, attrs)
    style = html.partition('<style id="style">')[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(attrs["content"] for tag, attrs in elements if attrs.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "connect-src" not in rules
    assert all(source.startswith("'sha256-") for source in rules["script-src"].split())


def test_every_chart_has_its_data(finished):
    html = draw(finished.folder)
    drawings = page.specification(html)
    assert len(drawings) == html.count('<figure class="drawing')
    assert {"train-loss", "train-rate", "train-gradient-norm"} < set(drawings)
    for name, spec in drawings.items():
        assert spec["datasets"]["table"], name
        assert all(value["name"] in spec["datasets"] for value in values_of(spec, "data")), name
        assert not values_of(spec, "url"), name
    rows = drawings["train-loss"]["datasets"]["table"]
    steps = [row["step"] for row in rows if row.get("split") != "validation"]
    assert steps == list(range(1, finished.result["steps"] + 1))


def values_of(node, key):
    """Return every value of `key` anywhere in a specification, except in its tables."""
    if isinstance(node, list):
        return [value for item in node for value in values_of(item, key)]
    if not isinstance(node, dict):
        return []
    here = [node[key]] if key in node else []
    return here + [value for name, item in node.items() if name != "datasets" for value in values_of(item, key)]


def test_charts_agree_with_the_predictions(digits):
    drawings = page.specification(draw(digits.folder))
    assert "scatter" not in drawings
    cells, result = drawings["confusion"]["datasets"]["table"], digits.result
    assert len(cells) == 100
    assert sum(cell["count"] for cell in cells) == result["examples"]["test"]
    right = sum(cell["count"] for cell in cells if cell["true"] == cell["predicted"])
    assert right / result["examples"]["test"] == result["metrics"]["test/accuracy"]
    for name in result["classes"]:
        assert sum(cell["share"] for cell in cells if cell["true"] == name) == pytest.approx(1)
    bins = drawings["reliability"]["datasets"]["table"]
    gap = sum(row["count"] * abs(row["accuracy"] - row["confidence"]) for row in bins)
    assert gap / result["examples"]["test"] == pytest.approx(result["metrics"]["test/ece"])
    assert all(row["low"] <= row["accuracy"] <= row["high"] for row in bins)
    measured = {row["step"]: row["value"] for row in drawings["validation-accuracy"]["datasets"]["table"]}
    assert list(measured) == [10, 20, 30, 40]
    assert max(measured.values()) == measured[result["selected_step"]] == result["metrics"]["validation/accuracy"]


def test_a_regression_shows_predicted_against_true(brightness):
    drawings = page.specification(draw(brightness.folder))
    assert not {"confusion", "reliability"} & set(drawings)
    rows = drawings["scatter"]["datasets"]["table"]
    errors = [(row["true"] - row["predicted"]) ** 2 for row in rows]
    assert len(rows) == 40
    assert np.mean(errors) == pytest.approx(brightness.metrics["test/mse"])
    assert "Largest errors" in Reader(draw(brightness.folder)).text


@pytest.mark.slow
def test_every_measured_rule_is_shown_with_its_step_and_its_gap(digits, brightness):
    rules, text = digits.result["rules"], Reader(draw(digits.folder)).text
    assert list(rules) == ["last", "oracle", "snd", "entropy"]
    assert rules["oracle"]["step"] == digits.result["selected_step"]
    # All labels are available, so the best checkpoint by labels is no oracle.
    assert "oracle" not in text.partition("Selection rules")[2].partition("Curves")[0]
    for name, item in rules.items():
        value, gap = (words.number(item[key], pad=True) for key in ("value", "gap"))
        displayed = "best-validation" if name == "oracle" else name
        assert f"{displayed} {item['step']} {value} {gap} {words.RULES[displayed]}" in text
    assert "Selection rules" not in Reader(draw(brightness.folder)).text
    flattered = run.draw(reading.read(digits.folder))
    assert flattered.count("chosen on this split") == len(digits.result["measures"])


def test_metrics_that_the_rule_did_not_use_are_not_improved(digits, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(digits.folder, copy, ignore=shutil.ignore_patterns("files.json"))
    result = json.loads((copy / "result.json").read_text())
    (copy / "result.json").write_text(json.dumps(result | {"selection": "snd"}))
    assert "chosen on this split" not in draw(copy)


def test_the_page_states_the_origin_of_the_run(digits):
    read = Reader(draw(digits.folder))
    text = read.text
    for recorded in ("Overrides", "optim.lr", "0.001", "0.003", "From scratch", "stem/kernel", "frozen"):
        assert recorded in text
    trainable = digits.result["parameters"]["trainable"]
    assert f"{trainable:,} of {digits.result['parameters']['total']:,}" in text
    pictures = [attrs["src"] for tag, attrs in read.elements if tag == "img"]
    assert pictures == [item["image"] for item in json.loads((digits.folder / "mistakes.json").read_text())]


@pytest.mark.slow
def test_the_same_records_give_the_same_page(digits):
    assert draw(digits.folder) == draw(digits.folder)
    assert not list(digits.folder.glob("*.partial"))


@pytest.mark.slow
def test_markup_in_the_records_stays_text(attacked, digits):
    clean, html = draw(digits.folder), draw(attacked.folder)
    assert attacked.markup not in html
    read = Reader(html)
    # The text is there once for the reader; it neither makes an element nor counts as a template.
    assert "</script><script>window.hit=1</script>" in read.text
    assert "{{ 7*7 }}" in read.text
    assert not any("onerror" in attrs for _, attrs in read.elements)
    for tag in ("<script", "<b>"):
        assert html.count(tag) == clean.count(tag)
    assert "spy.png" not in html
    assert attacked.markup in {row["true"] for row in page.specification(html)["confusion"]["datasets"]["table"]}


@pytest.mark.slow
def test_a_long_curve_is_thinned_and_keeps_its_spikes(digits, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(digits.folder, folder, ignore=shutil.ignore_patterns("checkpoints", "model", "files.json"))
    lines = [{"step": n, "name": "train/loss", "value": 1 / n, "time": 0} for n in range(1, 20_001)]
    lines[5]["value"], lines[7000]["value"] = math.nan, 99.0
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    html = draw(folder)
    rows = page.specification(html)["train-loss"]["datasets"]["table"]
    assert len(rows) <= figures.LIMIT
    assert (rows[0]["step"], rows[-1]["step"]) == (1, 20_000)
    assert [row["value"] for row in rows if row["step"] == 7001] == [99.0]
    assert "NaN" not in html.partition('data-figure="train-loss">')[2].partition("</script>")[0]


def test_phases_are_marked_where_they_begin(digits):
    records = reading.read(digits.folder)
    phase = records.parameters["phases"][0]
    records = records._replace(parameters={"phases": [{**phase, "share": share} for share in (0.25, 0.5, 0.25)]})
    assert [mark["step"] for mark in figures.phases(records)] == [10, 30]
    assert "Phase 3, 25.0" in Reader(run.draw(records)).text


def test_a_run_of_an_early_version_keeps_the_names_of_its_metrics(digits):
    """Its result declares no metrics, and the macro F1 of a classification was "f1"."""
    records = reading.read(digits.folder)
    result = {name: value for name, value in records.result.items() if name not in ("measures", "task")}
    values = {name.replace("macro_f1", "f1"): value for name, value in digits.metrics.items() if "macro_f1" in name}
    page = Reader(run.draw(records._replace(result=result | {"metrics": digits.metrics | values})))
    assert page.values["test/f1"] == page.values["test/macro_f1"]
    low, high, _ = intervals.measure("f1", records.predictions["test"], records.task)
    assert low < values["test/f1"] < high


def test_a_metric_that_is_not_defined_has_a_dash_and_a_reason(digits):
    records = reading.read(digits.folder)
    metrics = digits.metrics | {"test/mcc": float("nan")}
    page = run.draw(records._replace(result=records.result | {"metrics": metrics}))
    row = page.partition('data-metric="test/mcc"')[2].partition("</tr>")[0]
    assert "–</data>" in row and "not defined" in row


def test_intervals():
    # By hand: Wilson (1927) for 8 of 10, with z = 1.959964.
    low, high, _ = intervals.wilson(8, 10)
    z = 1.959963984540054
    centre, half = (0.8 + z * z / 20) / (1 + z * z / 10), z / (1 + z * z / 10) * math.sqrt(0.016 + z * z / 400)
    assert (low, high) == pytest.approx((centre - half, centre + half))
    values = np.random.default_rng(0).normal(3, 2, 4000)
    low, high, _ = intervals.bootstrap(values)
    half = 1.96 * values.std() / math.sqrt(4000)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)
    assert intervals.bootstrap(values) == intervals.bootstrap(values)
    one = reading.Predictions(scores_of(np.zeros((1, 1)), np.zeros(1)), np.zeros(1))
    assert intervals.measure("mse", one, tasks.Regression()) is None
    one = reading.Predictions(scores_of(np.zeros((1, 2)), np.zeros(1, int)), np.zeros(1))
    assert intervals.measure("macro_f1", one, tasks.Classification()) is None


@pytest.mark.parametrize(
    "name", ["micro_f1", "macro_f1", "accuracy", "loss", "entity_f1", "entity_macro_f1", "entity_recall"]
)
def test_intervals_from_sums_are_those_of_a_copy_for_each_resample(name, monkeypatch):
    random = np.random.default_rng(0)
    counts = {score: random.integers(0, 3, (30, 4)) for score in ("tp", "fp", "fn")}
    tokens = random.integers(1, 9, 30)
    counts |= {f"entity_{score}": random.integers(0, 3, (30, 2)) for score in ("tp", "fp", "fn")}
    scores = {**counts, "tokens": tokens, "right": random.integers(0, tokens + 1), "loss": random.random(30)}
    predictions = reading.Predictions(scores, np.arange(30))
    task = tasks.TokenClassification(names=("O", "B-a", "I-a", "B-b"))
    fast = intervals.measure(name, predictions, task)
    monkeypatch.setattr(resampling, "CALLS", 2000)
    monkeypatch.delitem(resampling.PLANS, task.metric(name).value)
    slow = intervals.measure(name, predictions, task)
    np.testing.assert_allclose(fast[:2], slow[:2], rtol=1e-12)
    assert fast.method == slow.method


def test_examples_with_equal_scores_have_no_interval():
    """For 20 correct words the bootstrap would give 100 % to 100 %."""
    counts = {"tp": np.ones((20, 2)), "fp": np.zeros((20, 2)), "fn": np.zeros((20, 2)), "loss": np.ones(20)}
    predictions = reading.Predictions(counts, np.arange(20))
    task = tasks.MultiLabel(names=("a", "b"))
    assert intervals.measure("micro_f1", predictions, task) is None
    assert intervals.measure("loss", predictions, task) is None
    correct = reading.Predictions({"correct": np.ones(20, bool)}, np.arange(20))
    assert intervals.measure("exact_match", correct, task).low < 0.9


def test_recipes_are_written_as_python(digits):
    document = json.loads((digits.folder / "recipe.json").read_text())["recipe"]
    written = words.source(document)
    assert max(map(len, written.splitlines())) <= words.WIDTH + 1
    from tlx.recipe import OWN

    assert eval(written, dict(OWN)) == digits.recipe


def test_a_folder_without_a_finished_run_is_refused(digits, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        report.write_run(tmp_path / "none")
    assert "no directory" in str(error.value) and str(tmp_path / "none") in str(error.value)
    shutil.copy(digits.folder / "recipe.json", tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        report.write_run(tmp_path)
    assert str(error.value).startswith(f"{tmp_path} contains an unfinished run: there is no result.json; finish it: ")
    shutil.copy(digits.folder / "result.json", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"contains an unfinished run: there is no predictions/validation\.npz"):
        report.write_run(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_without_the_package_the_extra_is_named(monkeypatch, tmp_path):
    actual = report.find_spec
    monkeypatch.setattr(report, "find_spec", lambda name: None if name == "altair" else actual(name))
    assert not report.available()
    with pytest.raises(ImportError) as error:
        report.write_run(tmp_path)
    assert str(error.value) == "a page needs altair: pip install 'tlx[report]'"


def test_many_classes_need_no_numbers_in_the_cells():
    rng = np.random.default_rng(0)
    counts = confusion_matrix(rng.integers(0, 120, 500), rng.integers(0, 120, 500), 120)
    drawing = figures.confusion(counts, [f"class {n}" for n in range(120)])
    assert len(drawing.rows) <= 500
    assert sum(row["count"] for row in drawing.rows) == 500
    assert not [mark for mark in values_of(drawing.spec, "mark") if mark["type"] == "text"]


def test_a_metric_measured_once_has_no_curve(digits):
    records = reading.read(digits.folder)
    single = [line for line in records.metrics if line["step"] == 40]
    assert figures.validation(records)
    assert figures.validation(records._replace(metrics=single)) == []


def test_metrics_that_are_not_means_over_examples_are_resampled_too():
    random = np.random.default_rng(0)
    labels, logits = random.integers(0, 4, 300), random.normal(size=(300, 5))
    logits[np.arange(300), labels] += 1
    measured = tasks.Classification(classes=5)
    predictions = reading.Predictions(scores_of(logits, labels), labels)
    full = predictions.metrics(measured)
    low, high, _ = intervals.measure("macro_f1", predictions, measured)
    assert low < full["macro_f1"] < high < low + 0.15
    assert intervals.measure("ece", predictions, measured) is None
    target = random.normal(size=(200, 1))
    scores = scores_of(target + 0.5 * random.normal(size=(200, 1)), target[:, 0])
    inputs = reading.Predictions(scores, np.arange(200))
    full = inputs.metrics(tasks.Regression())
    for name in ("r2", "pearson"):
        low, high, _ = intervals.measure(name, inputs, tasks.Regression())
        assert low < full[name] < high < low + 0.2
