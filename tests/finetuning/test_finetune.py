"""Three lines from a data frame to a prediction: the run has its model, records and drawings, without a path."""

import json
import re
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import tlx
from tlx import config, models, tuning
from tlx.cli import load_recipe
from tlx.predict.runs import last_predictor
from tlx.training import frames
from tlx.training.loop import How

EVIL = "<script>alert(1)</script>"


def test_a_run_is_a_tuple_of_folder_recipe_and_result(review_run):
    folder, recipe, result = review_run
    assert (folder / "result.json").is_file() and recipe == review_run.recipe
    assert review_run.metrics == result["metrics"] == json.loads((folder / "result.json").read_text())["metrics"]
    assert recipe.data.target.text == "body" and recipe.data.target.label == "stars"
    assert review_run.metrics["test/accuracy"] == 1.0


def test_answers_to_a_list_are_probabilities_by_class(review_run):
    answers = review_run.predict(["a lovely film", "a dull film"])
    assert [next(iter(answer)) for answer in answers] == ["up", EVIL]
    for answer in answers:
        assert answer.keys() == {"up", EVIL} and abs(sum(answer.values()) - 1) < 1e-6
    assert review_run.predict([]) == []
    with pytest.raises(TypeError, match=r"\['a lovely film'\]"):
        review_run.predict("a lovely film")


def test_answers_to_a_frame_are_a_frame_with_the_same_rows(review_run, reviews):
    frame = reviews.sample(9, random_state=0).drop(columns="stars")
    answers = review_run.predict(frame)
    pd.testing.assert_frame_equal(answers[frame.columns], frame)
    assert answers.columns.tolist() == [*frame.columns, "prediction", "probability", f"p({EVIL})", "p(up)"]
    single = review_run.predict(frame["body"].tolist())
    assert answers["prediction"].tolist() == [next(iter(answer)) for answer in single]
    np.testing.assert_allclose(answers["p(up)"], [answer["up"] for answer in single])
    assert review_run.predict({"body": frame["body"].tolist()}) == single
    renamed = frame.rename(columns={"body": "prediction"})
    assert review_run.predict(renamed, text="prediction")["tlx_prediction"].tolist() == answers["prediction"].tolist()


def test_a_second_call_opens_and_compiles_nothing(review_run, monkeypatch):
    """Every number of rows has a batch of 1, 8 or 64 rows."""
    review_run.predict(["a film"] * 75)
    review_run.predict(["a film"])
    forward = last_predictor(review_run).forward
    compiled = forward._cache_size()
    monkeypatch.setattr("tlx.predict.runs.open_model", None)
    for count in (1, 2, 9, 64, 70):
        assert len(review_run.predict(["a film"] * count)) == count
    assert last_predictor(review_run).forward is forward and forward._cache_size() == compiled


@pytest.mark.parametrize(
    ("examples", "parts"),
    [
        (pd.DataFrame({"bodies": ["a film"]}), ("no column 'body'", "'bodies'")),
        (pd.DataFrame({"body": ["a film", None]}), ("row 1", "'body'", "missing")),
        (pd.DataFrame({"body": ["a film", 3]}), ("'body'", "integer (row 1)")),
        (["a film", 7], ("row 1", "7 (int)")),
        (["a film", None], ("row 1", "None")),
        ([("a film", "a story")], ("pair of texts", "reads texts")),
    ],
)
def test_examples_that_cannot_be_read_are_named(examples, parts, review_run):
    with pytest.raises((ValueError, TypeError)) as error:
        review_run.predict(examples)
    assert all(part in str(error.value) for part in parts), error.value


def test_history_has_a_row_for_each_step_and_a_column_for_each_metric(review_run):
    history = review_run.history
    steps = review_run.result["steps"]
    assert history.index.tolist() == list(range(1, steps + 1)) and history.index.name == "step"
    assert history["train/loss"].notna().all() and (history["seconds"] >= 0).all()
    assert history["validation/accuracy"].dropna().iloc[-1] == review_run.metrics["validation/accuracy"]


def test_predictions_are_the_test_examples_with_their_texts(review_run, reviews):
    predictions = review_run.predictions
    assert len(predictions) == review_run.result["examples"]["test"]
    assert (predictions["label"] == predictions["prediction"]).mean() == review_run.metrics["test/accuracy"]
    by_text = dict(zip(reviews["body"], reviews["stars"], strict=True))
    assert [by_text[text] for text in predictions["text"]] == predictions["label"].tolist()
    answers = review_run.predict(predictions["text"].tolist())
    np.testing.assert_allclose(
        predictions["probability"], [next(iter(answer.values())) for answer in answers], atol=1e-5
    )


def test_the_model_is_opened_and_computes_the_same_answers(review_run):
    pretrained = review_run.model
    inputs = {
        name: array[None] for name, array in pretrained.processor({"text": "a dull film"}).items()
    }  # fmt: skip
    taps, _ = tlx.forward(pretrained.model, pretrained.variables, inputs)
    probability = np.exp(taps["logits"][0]) / np.exp(taps["logits"][0]).sum()
    [answer] = review_run.predict(["a dull film"])
    np.testing.assert_allclose(probability, [answer[name] for name in pretrained.task.names], rtol=1e-4, atol=1e-6)
    assert review_run.model is pretrained


def test_drawings_are_those_of_the_page(review_run):
    curves = review_run.plot.curves().to_dict()
    assert next(part["title"] for part in curves["vconcat"]) == "Training and validation loss"
    confusion = review_run.plot.confusion().to_dict()
    (rows,) = confusion["datasets"].values()
    assert sum(row["count"] for row in rows) == len(review_run.predictions)
    assert review_run.plot.calibration().to_dict()["title"] == "Calibration"


def test_the_page_is_opened(review_run, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    page = review_run.open()
    assert opened == [page.resolve().as_uri()] and page.name == "report.html"


def test_the_recipe_is_saved_as_a_config_file(review_run, tmp_path):
    file = review_run.save_config(tmp_path / "reviews.py")
    _, recipe = load_recipe(str(file), ())
    assert config.fingerprint(recipe) == config.fingerprint(review_run.recipe)
    assert review_run.save_config(file) == file
    file.write_text("other = 1\n")
    with pytest.raises(FileExistsError, match=r"reviews\.py"):
        review_run.save_config(file)


def test_a_second_call_returns_the_finished_run(review_run, tiny_text, reviews, capsys):
    settings = {"text": "body", "label": "stars", "epochs": 8, "lr": 1e-2, "batch": 8}
    settings |= {"tuning": tuning.Full(), "out": review_run.folder}
    again = tlx.finetune(tiny_text, train=reviews, **settings)
    assert again.result == review_run.result
    output = capsys.readouterr().err
    assert "overwrite=True" in output
    settings["lr"] = 2e-2
    with pytest.raises(FileExistsError, match="another recipe"):
        tlx.finetune(tiny_text, train=reviews, **settings, quiet=True)


@pytest.mark.slow
def test_a_changed_file_is_trained_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["dark", "light"] * 30
    for n in range(60):
        Image.fromarray(np.full((4, 4), (n % 2) * 100 + n, np.uint8)).save(f"{n}.png")

    def tuned(labels, **settings):
        pd.DataFrame({"image": [f"{n}.png" for n in range(60)], "label": labels}).to_csv("rows.csv", index=False)
        mlp = models.Mlp(inputs=(4, 4, 1), widths=(8,))
        return tlx.finetune(mlp, train="rows.csv", steps=2, quiet=True, **settings)

    first = tuned(names)
    file = first.folder / "result.json"
    written = file.stat().st_mtime_ns
    assert tuned(names).folder == tuned(names, out=first.folder).folder == first.folder
    assert file.stat().st_mtime_ns == written
    with pytest.raises(FileExistsError) as error:
        tuned(names[::-1], out=first.folder)
    parts = (str(first.folder), "rows.csv", first.result["data"], "overwrite=True")
    assert all(part in str(error.value) for part in parts), error.value
    second = tuned(names[::-1])
    assert second.folder != first.folder and second.result["data"] != first.result["data"]


@pytest.mark.slow
def test_one_line_states_the_settings_and_the_output_is_short(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (60, 4, 4), np.uint8)
    images[::2] //= 4
    mlp = models.Mlp(inputs=(4, 4, 1), widths=(8,))
    run = tlx.finetune(mlp, train={"image": images, "label": ["dark", "light"] * 30}, lr=1e-2, epochs=20)
    lines = capsys.readouterr().err.splitlines()
    [stated] = [line for line in lines if line.startswith("settings: ")]
    for part in ("Classification (2 classes)", "Full", "lr 0.01", "20 epochs in batches of 16", "Crop(padding=1)"):
        assert part in stated
    assert len(lines) <= 15, lines
    # Without a name the folder says the model, the data and the recipe.
    assert re.fullmatch(r"runs/mlp-arrays-[0-9a-f]{8}", run.folder.as_posix())
    answers = run.predict(images[:4])
    assert [next(iter(answer)) for answer in answers] == ["dark", "light"] * 2
    assert run.predict([images[0]]) == [pytest.approx(answers[0])]
    files = [str(tmp_path / f"{n}.png") for n in range(4)]
    for file, image in zip(files, images[:4], strict=True):
        Image.fromarray(image).save(file)
    assert run.predict(files) == run.predict({"image": files}) == answers
    assert run.predict(pd.DataFrame({"image": files}))["prediction"].tolist() == ["dark", "light"] * 2
    assert run.predictions.columns.tolist() == ["label", "prediction", "probability", "correct", "loss"]


@pytest.mark.slow
def test_numbers_are_predicted_and_drawn(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 4, 4), np.uint8)
    mlp = models.Mlp(inputs=(4, 4, 1), widths=(8,))
    labels = images.reshape(60, -1).mean(1) / 255
    run = tlx.finetune(mlp, train={"image": images, "label": labels}, steps=12, out=tmp_path / "run", quiet=True)
    frame = run.predictions
    np.testing.assert_allclose(((frame["label"] - frame["prediction"]) ** 2).mean(), run.metrics["test/mse"], rtol=1e-4)
    assert run.plot.confusion().to_dict()["title"] == "Predicted against true"
    with pytest.raises(ValueError, match=r"Regression has no drawing 'reliability'.*scatter"):
        run.plot.calibration()
    assert run.predict(images[:2])[0].keys() == {"output 0"}


def test_texts_are_left_out_where_the_data_are_gone(review_run, monkeypatch, caplog):
    def gone(*arguments):
        raise FileNotFoundError("the rows of the frame are no longer in the cache")

    monkeypatch.setattr(frames, "data_of", gone)
    predictions = review_run.predictions
    assert "text" not in predictions and len(predictions) == review_run.result["examples"]["test"]
    assert "no longer in the cache" in caplog.text


def test_a_missing_library_names_its_extra(review_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"tlx\[study\]"):
        _ = review_run.history


@pytest.mark.slow
def test_a_run_can_continue_from_a_run(review_run, reviews, tmp_path):
    again = tlx.finetune(
        review_run,
        train=reviews,
        text="body",
        label="stars",
        tuning=tuning.Full(),
        steps=1,
        out=tmp_path / "next",
        quiet=True,
    )
    assert again.recipe.weights.source == str(review_run.folder)
    # Its head is kept, because the classes are the same.
    assert again.metrics["validation/accuracy"] == 1.0


@pytest.mark.slow
def test_a_run_can_continue_from_a_new_model(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 4, 4), np.uint8)
    images[::2] //= 4
    data = {"image": images, "label": ["dark", "light"] * 30}
    mlp = models.Mlp(inputs=(4, 4, 1), widths=(8,))
    first = tlx.finetune(mlp, train=data, lr=1e-2, epochs=20, out=tmp_path / "first", quiet=True)
    second = tlx.finetune(first, train=data, steps=1, head_only=True, out=tmp_path / "second", quiet=True)
    assert (second.recipe.model, second.recipe.weights.source) == (mlp, str(first.folder))
    # The frozen part is that of the first run.
    stems = [run.model.variables.params["stem"]["kernel"] for run in (first, second)]
    np.testing.assert_array_equal(*stems)


@pytest.mark.slow
def test_a_sealed_run_shows_its_validation_split(tiny_text, reviews, tmp_path):
    from tlx.finetuning import Choices, recipe_for

    recipe = recipe_for(tiny_text, tlx.data.Frame(reviews), Choices(steps=2))
    run = tlx.run(recipe, tmp_path / "run", how=How(quiet=True, test=False))
    assert len(run.predictions) == run.result["examples"]["validation"]


@pytest.mark.slow
def test_frames_of_polars_are_read_and_returned(review_run, reviews, tiny_text):
    import polars

    from tlx.finetuning.sources import source_of

    frame = polars.from_pandas(reviews)
    source, _ = source_of(frame, None, None, {"text": "body", "label": "stars"})
    expected = review_run.recipe.data.target.open()
    assert [dict(row) for row in source.open().splits["test"]] == [dict(row) for row in expected.splits["test"]]
    answers = review_run.predict(frame.drop("stars"))
    assert isinstance(answers, polars.DataFrame)
    assert answers["prediction"].to_list() == review_run.predict(reviews)["prediction"].tolist()
    with pytest.raises(ValueError, match=r"row 1: 'body' is missing"):
        review_run.predict(polars.DataFrame({"body": ["a film", None]}))
