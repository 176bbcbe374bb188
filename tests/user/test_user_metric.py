"""A metric of the user: a plain function in the user's file, in a rule, a study, a search and a report."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from tlx import Study, config, param, report, tasks
from tlx.cli import load_recipe, main
from tlx.records import studies
from tlx.study import run_study
from tlx.training.reopen import Meter, reopen

FILE = '''
from tlx import Data, Optim, Recipe, Train, models, tasks


def cost(scores):
    """Mean cost of an answer: a wrong 0 costs 5, any other mistake 1."""
    wrong = scores["prediction"] != scores["label"]
    return (wrong * (1 + 4 * (scores["label"] == 0))).mean()


def recipe():
    return Recipe(
        data=Data(target="digits", shots=4),
        task=tasks.Classification(extra_metrics=(tasks.ExtraMetric(cost, better="min", low=0.0),)),
        model=models.Mlp(inputs=(8, 8, 1), widths=(16,)),
        optim=Optim(lr=3e-3),
        train=Train(steps=8, batch=8, eval_every=4, select="validation/cost"),
    )
'''


def by_hand(path):
    scores = np.load(path)
    wrong = scores["prediction"] != scores["label"]
    return (wrong + 4 * (wrong & (scores["label"] == 0))).mean()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("user") / "mine.py"
    path.write_text(FILE)
    return path


@pytest.fixture(scope="module")
def folder(file):
    """The run of the file, from the command line."""
    folder = file.parent / "run"
    outcome = CliRunner().invoke(main, ["run", str(file), "--out", str(folder)], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    assert "validation cost" in outcome.output
    return folder


def test_the_metric_is_measured_and_chooses_the_checkpoint(folder):
    result = json.loads((folder / "result.json").read_text())
    for split in ("validation", "test"):
        assert result["metrics"][f"{split}/cost"] == pytest.approx(by_hand(folder / "predictions" / f"{split}.npz"))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    values = {line["step"]: line["value"] for line in lines if line["name"] == "validation/cost"}
    assert result["selected_step"] == min(values, key=values.__getitem__)
    assert (result["selection"], result["measures"]["cost"]["better"]) == ("validation/cost", "min")


def test_the_function_is_named_and_never_imported(folder, file):
    document = json.loads((folder / "recipe.json").read_text())
    (extra,) = document["recipe"]["task"]["extra_metrics"]
    module, _, name = extra["value"]["function"].partition(":")
    assert "mine" in module and name == "cost"
    with pytest.raises(ValueError, match=r":cost; pass the config file too \(--config FILE\)"):
        reopen(folder)
    opened = reopen(folder, load_recipe(str(file), ())[1])
    value = Meter(opened)(opened.after, "test").metrics(opened.ready.task)["cost"]
    assert value == pytest.approx(json.loads((folder / "result.json").read_text())["metrics"]["test/cost"])
    # Another body of the function is another experiment.
    other = file.parent / "other.py"
    other.write_text(FILE.replace("1 + 4 *", "1 + 9 *"))
    prints = {config.fingerprint(load_recipe(str(path), ())[1]) for path in (file, file, other)}
    assert len(prints) == 2


def test_a_page_shows_it_with_an_interval_and_without_the_file_as_recorded(folder):
    page = (folder / "report.html").read_text()
    row = page.partition('data-metric="test/cost"')[2].partition("</tr>")[0]
    assert "bootstrap, 1,000 resamples" in row
    redrawn = report.write_run(folder).read_text()
    row = redrawn.partition('data-metric="test/cost"')[2].partition("</tr>")[0]
    assert "no interval" in row and "value=cost" in redrawn


@pytest.mark.slow
def test_a_study_compares_by_it(file, tmp_path):
    _, recipe = load_recipe(str(file), ())
    study = Study(base=recipe, cells=param("seed", 0, 1), metric="test/cost", question="Does it vary?")
    run_study(study, tmp_path / "study", quiet=True)
    table = studies.compare(studies.read(tmp_path / "study"))
    assert (table.metric, table.higher) == ("test/cost", False)
    for score in table.summaries[0].scores.values():
        assert score.value == pytest.approx(by_hand(score.cell.folder / "predictions" / "test.npz"))


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: tasks.ExtraMetric(len, better="most"), ("'most'", "'max' or 'min'")),
        (lambda: tasks.ExtraMetric(lambda scores: 0.0), ("<lambda>", "name=")),
        (lambda: tasks.ExtraMetric(len, name="a/b"), ("'a/b'", "name=")),
        (lambda: tasks.Classification(extra_metrics=(tasks.ExtraMetric(len, name="accuracy"),)), ("'accuracy'",)),
        (lambda: tasks.Regression(extra_metrics=(tasks.ExtraMetric(len),) * 2), ("'len'",)),
        (lambda: tasks.ExtraMetric(np.atleast_1d, name="all").measure({}), ("'all'", "one number")),
    ],
)
def test_a_metric_that_makes_no_sense_is_refused(make, parts):
    with pytest.raises(ValueError) as error:
        make()
    assert all(part in str(error.value) for part in parts)
    with pytest.raises(TypeError, match="expected a function"):
        tasks.ExtraMetric("cost")
