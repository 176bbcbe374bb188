"""Runs of tasks whose fields follow from the data: what they learn, keep, report and predict."""

import dataclasses
import json

import numpy as np
import pytest

import tlx
from tlx import Data, Optim, Recipe, Train, config, models, predict, report, tasks
from tlx.analysis.evaluation import evaluate
from tlx.data import Dataset, Source, open_dataset
from tlx.records import run_directory
from tlx.training.active_run import opened as opened_run
from tlx.training.lengthen import lengthen
from tlx.training.loop import How
from tlx.training.prepare import open_data
from tlx.training.reopen import Meter, rebuild, reopen
from tlx.types import Column
from tlx.weights import load_pretrained

MLP = models.Mlp(inputs=(8, 8, 1), widths=(16,))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Brightness(Source):
    """Digits with their mean brightness, its thousandfold, and the number of the digit as labels."""

    count: int = 160

    def open(self):
        whole = open_dataset("digits").splits["train"]
        rows = [self.row(whole[n]) for n in range(self.count)]
        columns = {"image": Column("image"), "label": Column("numbers")}
        splits = {"train": rows[60:], "validation": rows[:30], "test": rows[30:60]}
        return Dataset("brightness", splits, columns, f"brightness-{self.count}")

    def row(self, example):
        mean = float(example["image"].mean())
        return {"image": example["image"], "label": [mean / 100, 1000 * mean, float(example["label"])]}


def recipe(task, **data):
    return Recipe(
        data=Data(target="digits", **data) if "target" not in data else Data(**data),
        task=task,
        model=MLP,
        optim=Optim(lr=3e-3),
        train=Train(steps=40, batch=16, eval_every=20),
    )


def selecting(base, name):
    """Return the recipe with its checkpoint chosen by a metric of the validation split."""
    return dataclasses.replace(base, train=dataclasses.replace(base.train, select=f"validation/{name}"))


@pytest.fixture(scope="module")
def classified(tmp_path_factory):
    """A calibrated run on imbalanced weights and balanced sampling, chosen by a metric that is not the primary one."""
    task = tasks.Classification(class_weights="balanced", focal=1.0, calibrate=True)
    base = selecting(recipe(task, shots=8, sampling="balanced"), "auroc")
    return tlx.run(base, tmp_path_factory.mktemp("runs") / "classified")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    base = recipe(tasks.Regression(outputs=3), target=Brightness())
    base = dataclasses.replace(base, train=Train(steps=200, batch=16, eval_every=100), optim=Optim(lr=1e-2))
    return tlx.run(base, tmp_path_factory.mktemp("runs") / "measured", quiet=True)


def image(folder, number=0):
    from PIL import Image

    path = folder / "digit.png"
    Image.fromarray(open_dataset("digits").splits["test"][number]["image"][..., 0]).save(path)
    return str(path)


def test_a_calibrated_run_reports_both_and_keeps_its_temperature(classified, tmp_path):
    metrics, kept = classified.metrics, classified.result["task"]
    assert kept.keys() == {"temperature"} and 0.01 <= kept["temperature"] <= 100
    assert any(note.startswith("balanced weights of the classes: 0 1, 1 1,") for note in classified.result["notes"])
    assert metrics["validation/calibrated_loss"] <= metrics["validation/loss"] + 1e-6
    for split in ("validation", "test"):
        scores = np.load(classified.folder / "predictions" / f"{split}.npz")
        logits, labels = scores["logits"].astype(np.float64) / kept["temperature"], scores["label"]
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        loss = -log_p[np.arange(len(labels)), labels].mean()
        assert metrics[f"{split}/calibrated_loss"] == pytest.approx(loss, rel=1e-5)
        assert {f"{split}/{name}" for name in ("ece", "calibrated_ece", "mcc", "top5")} < metrics.keys()
    # Predictions use the temperature, and the order of the classes stays.
    model = load_pretrained(classified.folder)
    assert model.task.temperature == kept["temperature"]
    (answer,) = predict.predict(classified.folder, [image(tmp_path)])
    first = np.load(classified.folder / "predictions" / "test.npz")["calibrated_confidence"][0]
    assert max(answer.values()) == pytest.approx(float(first), abs=1e-4)
    assert classified.predictions["probability"].iloc[0] == pytest.approx(float(first), rel=1e-6)
    page = (classified.folder / "report.html").read_text()
    assert "temperature" in page and "calibrated ECE" in page and "AUROC" in page


def test_a_reopened_run_measures_what_it_reported(classified):
    opened = reopen(classified.folder)
    predictions = Meter(opened)(opened.after, "test")
    actual = predictions.metrics(opened.ready.task)
    expected = {name.partition("/")[2]: value for name, value in classified.metrics.items() if name.startswith("test/")}
    assert actual == pytest.approx(expected, rel=1e-4, abs=1e-6)
    # Temperature scaling never reads the test split.
    sealed = tlx.run(opened.ready.recipe, classified.folder.parent / "sealed", how=How(quiet=True, test=False))
    assert sealed.result["task"] == classified.result["task"]


def test_the_checkpoint_is_chosen_by_the_named_metric(classified):
    lines = [json.loads(line) for line in (classified.folder / "metrics.jsonl").read_text().splitlines()]
    by_step = {line["step"]: line["value"] for line in lines if line["name"] == "validation/auroc"}
    assert classified.result["selected_step"] == max(by_step, key=by_step.__getitem__)
    assert classified.metrics["validation/auroc"] == max(by_step.values())
    # The metrics that are neither main nor named are measured at the end only.
    assert not [line for line in lines if line["name"] == "validation/mcc"]


@pytest.mark.parametrize("name", ["macro_f2", "top5"])
def test_an_unknown_metric_is_refused_before_anything_is_trained(name, tmp_path):
    base = recipe(tasks.Classification(classes=3), target_classes=("0", "1"))
    with pytest.raises(ValueError) as error:
        tlx.run(selecting(base, name), tmp_path / "run", quiet=True)
    for part in (f"'validation/{name}'", "Classification", f"'{name}'; ", "'macro_f1'"):
        assert part in str(error.value)
    assert not (tmp_path / "run").exists()


def test_several_outputs_are_learned_in_their_own_units(measured, tmp_path):
    kept = measured.result["task"]
    labels = np.array([row["label"] for row in Brightness().open().splits["train"].source])
    np.testing.assert_allclose(kept["mean"], labels.mean(0), rtol=1e-6)
    np.testing.assert_allclose(kept["deviation"], labels.std(0), rtol=1e-6)
    scores = np.load(measured.folder / "predictions" / "test.npz")
    test = np.array([row["label"] for row in Brightness().open().splits["test"].source])
    np.testing.assert_allclose(scores["label"], test, rtol=1e-6)
    # Without standardisation the second output, which is large, would still be near 0.
    assert np.abs(scores["prediction"][:, 1] - test[:, 1]).mean() < test[:, 1].mean() / 4
    assert measured.metrics["test/r2"] > 0.3 and measured.metrics["test/spearman"] > 0.5
    (answer,) = predict.predict(measured.folder, [image(tmp_path)])
    assert list(answer) == ["output 0", "output 1", "output 2"] and answer["output 1"] > 1000
    assert "r2" in json.dumps(json.loads((measured.folder / "result.json").read_text())["measures"])
    assert report.write_run(measured.folder).is_file()


def test_a_reopened_regression_has_the_scales_of_its_run(measured):
    opened = reopen(measured.folder, measured.recipe)
    assert opened.ready.task.kept_fields == measured.result["task"] == opened.pretrained.task.kept_fields
    predictions = Meter(opened)(opened.after, "validation")
    stored = run_directory.read_predictions(measured.folder, "validation")
    np.testing.assert_allclose(predictions.scores["prediction"], stored.scores["prediction"], rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_a_run_of_an_early_version_keeps_the_units_of_its_outputs(tmp_path):
    """It has neither the field `standardise` in its recipe nor kept fields in its result."""
    plain = recipe(tasks.Regression(outputs=3), target=Brightness())
    plain = dataclasses.replace(plain, train=Train(steps=2, batch=16))
    changed = dataclasses.replace(plain, task=tasks.Regression(outputs=3, standardise=False))
    folder = tlx.run(changed, tmp_path / "run", quiet=True).folder
    stored = run_directory.read_predictions(folder, "test").scores["prediction"]
    (folder / "files.json").unlink()
    documents = {name: json.loads((folder / name).read_text()) for name in ("recipe.json", "result.json")}
    del documents["result.json"]["task"], documents["recipe.json"]["recipe"]["task"]["standardise"]
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document | {"fingerprint": config.fingerprint(plain)}))
    opened = reopen(folder, plain)
    np.testing.assert_allclose(Meter(opened)(opened.after, "test").scores["prediction"], stored, rtol=1e-5, atol=1e-5)
    (answer,) = predict.predict(folder, [image(tmp_path, 30)])
    assert not predict.open_model(folder).task.standardised and len(answer) == 3
    assert not report.reading.read(folder).task.standardised
    with pytest.raises(ValueError, match="earlier version of tlx"):
        lengthen(folder, steps=4, given=plain)
    (folder / "result.json").unlink()
    run = opened_run(plain, folder)
    run.close()
    assert not run.ready.task.standardised


def test_balanced_sampling_needs_classes(tmp_path):
    base = recipe(tasks.Regression(outputs=3), target=Brightness(), sampling="balanced")
    with pytest.raises(ValueError, match=r"data\.sampling is 'balanced', .*numbers"):
        tlx.run(base, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_number_of_outputs_that_the_data_do_not_have_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has 3 numbers, but the task has outputs=2"):
        tlx.run(recipe(tasks.Regression(outputs=2), target=Brightness()), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_ordered_classes_from_a_run_to_its_predictions(tmp_path):
    """Digits are numbers, so their order is known. The cell of a study keeps its learned parameters alone."""
    base = recipe(tasks.Ordinal())
    run = tlx.run(base, tmp_path / "cell", how=How(quiet=True, leave="learned"))
    assert list(run.result["measures"]) == ["mae", "quadratic_kappa", "accuracy", "loss"]
    assert run.metrics["test/mae"] < 3 and 0 < run.metrics["test/quadratic_kappa"] <= 1
    folder = rebuild(run.folder)
    model = load_pretrained(folder)
    assert type(model.task) is tasks.Ordinal and model.task.names == tuple("0123456789") and model.model.outputs == 9
    (answer,) = predict.predict(folder, [image(tmp_path)])
    scores = np.load(run.folder / "predictions" / "test.npz")
    assert int(next(iter(answer))) == scores["prediction"][0]
    assert sum(answer.values()) == pytest.approx(1)
    # Another order of the same classes is another head.
    other = load_pretrained(folder, dataclasses.replace(model.task, names=model.task.names[::-1]))
    assert {entry.action for entry in other.manifest.entries if entry.path.startswith("head/")} == {"reset"}


@pytest.mark.slow
def test_classes_in_another_order_than_the_data_keep_their_names(tmp_path):
    base = recipe(tasks.Ordinal(names=tuple("2013456789")))
    run = tlx.run(base, tmp_path / "run", quiet=True)
    assert run.result["task"]["ranks"][:3] == [1, 2, 0]
    frame, test = run.predictions, open_data(base).test
    labels = dict(zip(test.rows.tolist(), test.labels().tolist(), strict=True))
    assert frame["label"].tolist() == [test.classes[labels[row]] for row in frame.index]
    assert (frame["label"] == frame["prediction"]).mean() == pytest.approx(run.metrics["test/accuracy"])
    # The saved model has no records of a run, and numbers the same labels in the same way.
    for folder in (run.folder, run.folder / "model"):
        assert evaluate(folder, "digits", mistakes=0).metrics["accuracy"] == pytest.approx(run.metrics["test/accuracy"])


def test_predictions_have_the_names_of_the_task(tmp_path):
    names = tuple(f"digit {number}" for number in range(10))
    base = recipe(tasks.Classification(names=names))
    base = dataclasses.replace(base, train=Train(steps=2, batch=16))
    frame = tlx.run(base, tmp_path / "run", how=How(quiet=True, leave="learned")).predictions
    assert set(frame["label"]) == set(names) >= set(frame["prediction"])


def mean_loss(scores):
    return float(scores["loss"].mean())


@pytest.mark.slow
def test_a_threshold_is_kept_with_the_run_and_with_its_model(tmp_path):
    """Also beside a metric of the user, the function of which no file names."""
    task = tasks.MultiLabel(threshold=0.1, extra_metrics=(tasks.ExtraMetric(mean_loss),))
    run = tlx.run(recipe(task), tmp_path / "run", quiet=True)
    for folder in (run.folder, run.folder / "model"):
        assert predict.open_model(folder).task.threshold == 0.1
        assert evaluate(folder, "digits", mistakes=0).metrics["micro_f1"] == pytest.approx(run.metrics["test/micro_f1"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "task",
    [
        tasks.Regression(outputs=3),
        tasks.Classification(class_weights="balanced", calibrate=True),
        tasks.Ordinal(),
    ],
    ids=lambda task: type(task).__name__,
)
def test_runs_in_one_program_have_the_numbers_of_each_run(task, tmp_path, monkeypatch):
    """Each run has the means, weights and temperature of its subset."""
    monkeypatch.setattr("tlx.training.run_many.GAIN", 1e9)
    source = {"target": Brightness()} if isinstance(task, tasks.Regression) else {}
    base = recipe(task, fraction=0.5, **source)
    recipes = [dataclasses.replace(base, seed=seed) for seed in (0, 1)]
    alone = [tlx.run(one, tmp_path / f"alone-{one.seed}", how=How(quiet=True, leave="learned")) for one in recipes]
    grouped = tlx.run_many(recipes, [tmp_path / f"grouped-{one.seed}" for one in recipes])
    for one, other in zip(alone, grouped, strict=True):
        assert other.result["pack"]["arms"] == 2
        assert other.result["task"].keys() == one.result["task"].keys()
        for name, value in one.result["task"].items():
            if name not in ("names", "standardise"):
                np.testing.assert_allclose(other.result["task"][name], value, rtol=1e-3, err_msg=name)
        stored = [run_directory.read_predictions(run.folder, "test") for run in (one, other)]
        for name, array in stored[0].scores.items():
            np.testing.assert_allclose(stored[1].scores[name], array, rtol=1e-3, atol=1e-3, err_msg=name)
    assert alone[0].result["task"] != alone[1].result["task"] or isinstance(task, tasks.Ordinal)
