"""Rows of every kind have the same answers, in every batch; each task answers in its own form."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pytest

from tlx import tasks
from tlx.data import Csv
from tlx.models import Mlp, build, initialise
from tlx.predict import Predictor, open_model, predict, write_answers
from tlx.predict.asking import rows_of
from tlx.predict.forward import program
from tlx.predict.jobs import stream
from tlx.predict.opening import ModelInputs, OpenedModel
from tlx.predict.tables import with_answers
from tlx.processors import NumberProcessor
from tlx.trees import flatten, nest
from tlx.types import Column, Variables
from tlx.weights import Manifest, Pretrained


def asked(model, rows, batch=64, **columns):
    """Return the answers of an opened model as the values of a table."""
    predictor = Predictor(model, batch)
    inputs = rows_of(rows, model, {role: (name,) for role, name in columns.items()})
    return [predictor.values(answer) for part in stream(predictor, inputs) for answer in part.answers]


def close(first, second):
    assert [row["prediction"] for row in first] == [row["prediction"] for row in second]
    for one, other in zip(first, second, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)


def test_rows_of_every_kind_have_the_answers_of_their_texts(reviewed, reviews, tmp_path):
    rows = reviews.rows(9, seed=3, label=False)
    texts = [row["body"] for row in rows]
    plain = predict(reviewed, texts)
    for answer in plain:
        assert answer.keys() == set(reviews.CLASSES) and sum(answer.values()) == pytest.approx(1)
        assert list(answer.values()) == sorted(answer.values(), reverse=True)
    file = reviews.write(tmp_path / "rows.csv", rows)
    frame = pd.DataFrame(rows)
    for kind in (rows, frame.to_dict("list"), Path(file), Csv(file), frame["body"], np.array(texts)):
        assert [*map(pytest.approx, predict(reviewed.folder, kind))] == plain
    renamed = frame.rename(columns={"body": "words of the review"})
    assert predict(reviewed, renamed.to_dict("list"), text="words of the review") == plain
    assert predict(reviewed, []) == []
    for kind, part in (
        ("good film", r"\['good film'\]"), ([1, 2], "row 0 is 1"), (3, "int"), (["a", 2], "row 1 is 2"),
        (["a", None], "row 1 is None"),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=part):
            predict(reviewed, kind)


@pytest.mark.parametrize(
    ("kind", "settings", "parts"),
    [
        (["good"], {"batch": 0}, ("batch is 0", "1 or more")),
        (["good", "a\udce9"], {}, ("rows row 1", "surrogate")),
        ({"body": "good film"}, {}, ("'body' is one text", "['good film']")),
        ({"body": ["good", " "], "id": [1, 2]}, {}, ("rows row 1", "'body' is missing")),
        (pd.DataFrame({"body": ["good", None]}), {}, ("row 1", "'body' is missing")),
    ],
)
def test_a_wrong_row_is_named(kind, settings, parts, reviewed):
    with pytest.raises((ValueError, TypeError)) as error:
        predict(reviewed, kind, **settings)
    assert all(part in str(error.value) for part in parts), error.value


def test_a_blank_cell_has_no_answer_in_any_kind_of_table(reviewed, tmp_path):
    (tmp_path / "a.csv").write_text("body,n\ngood film,1\n,2\n")
    with pytest.raises(ValueError, match=r"a\.csv line 3: 'body' is missing"):
        predict(reviewed, tmp_path / "a.csv")
    for kind in (tmp_path / "a.csv", pd.DataFrame({"body": ["good film", ""]}).to_dict("list")):
        answers = predict(reviewed, kind, skip_broken=True)
        assert answers[0] is not None and answers[1] is None


def test_a_frame_is_returned_with_the_columns_of_the_file(reviewed, reviews, tmp_path):
    """The frame has the names, the order and the numbers of the file that `tlx predict --out` writes."""
    frame = pd.DataFrame(reviews.rows(9, seed=3, label=False), index=range(20, 29))
    predictor = Predictor(open_model(reviewed.folder))
    write_answers(predictor, rows_of(frame, predictor.model, {}), tmp_path / "a.csv")
    answered = predict(reviewed, frame)
    assert answered.index.tolist() == frame.index.tolist() and len(frame.columns) < len(answered.columns)
    pd.testing.assert_frame_equal(answered.reset_index(drop=True), pd.read_csv(tmp_path / "a.csv"), check_dtype=False)
    for kind, columns in (
        (pa.Table.from_pandas(frame, preserve_index=False), lambda table: table.to_pydict()),
        (polars.from_pandas(frame), lambda table: table.to_dict(as_series=False)),
    ):
        other = predict(reviewed, kind)
        assert type(other) is type(kind) and columns(other) == answered.to_dict("list")
    assert predict(reviewed, frame[:0]).columns.tolist() == [*frame.columns, "prediction"]


def test_several_classes_and_numbers_are_columns():
    frame = pd.DataFrame({"text": ["a", "b"], "prediction": [1, 2]})
    classes = [{"prediction": ["rude", "toxic"], "probabilities": {"rude": 0.9, "toxic": 0.8}}, None]
    answered = with_answers(frame, classes)
    assert answered.columns.tolist() == [*frame.columns, "tlx_prediction", "tlx_p(rude)", "tlx_p(toxic)"]
    assert answered["tlx_prediction"].tolist() == [["rude", "toxic"], None]
    numbers = [{"prediction": {"width": 1.5, "height": 2.5}}] * 2
    assert with_answers(frame[["text"]], numbers)["prediction(height)"].tolist() == [2.5, 2.5]


def test_an_answer_does_not_depend_on_its_batch(reviews):
    model = reviews.opened(tasks.Classification(classes=3, names=reviews.CLASSES))
    texts = [row["body"] for row in reviews.rows(20, seed=1)]
    together = asked(model, texts)
    close(asked(model, texts, batch=3), together)
    close(asked(model, texts[::-1])[::-1], together)


def nearly_equal(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


def test_logits_are_in_the_order_of_the_rows(reviews):
    """With one size of batches the output for a row has the same bits whatever the number of rows, if all texts are
    equally long. From jax 0.12 on a row is rounded differently in another place of its batch."""
    same = np.testing.assert_array_equal if jax.__version_info__ < (0, 12) else nearly_equal
    predictor = Predictor(reviews.opened(tasks.Classification(classes=3, names=reviews.CLASSES)), batch=4, sizes=())
    examples = [{"text": " ".join(row["body"].split()[:2])} for row in reviews.rows(70, seed=1)]
    assert len({len(predictor.arrays(example)["input_ids"]) for example in examples}) == 1
    logits = predictor.logits(examples)
    assert logits.shape == (70, 3) and predictor.chunk < 70
    same(predictor.logits(examples[::-1])[::-1], logits)
    same(predictor.logits(examples[5:6]), logits[5:6])
    assert predictor.logits([]).shape == (0, 3)


def test_models_of_one_architecture_share_a_program(reviews):
    task = tasks.Classification(classes=3, names=reviews.CLASSES)
    first, second = (reviews.opened(task).pretrained.model for _ in range(2))
    assert program(first, task) is program(second, task)

    class Unhashable(type(first.config)):
        __hash__ = None

    settings = {field.name: getattr(first.config, field.name) for field in dataclasses.fields(first.config)}
    config = Unhashable(**settings)
    assert program(first._replace(config=config), task) is not program(first, task)


def test_each_task_answers_in_its_form(reviews):
    frame = pd.DataFrame({"text": ["good film", "bad"]})
    names = ("a", "b")
    labels = asked(reviews.opened(tasks.MultiLabel(names=names, threshold=0.4)), frame)
    for row in labels:
        assert row["prediction"] == [name for name in names if row["probabilities"][name] > 0.4]
    numbers = asked(reviews.opened(tasks.Regression()), frame)
    assert all(isinstance(row["prediction"], float) and set(row) == {"prediction"} for row in numbers)
    inputs = ModelInputs({"text": Column("text")}, label=("width", "height"))
    several = asked(reviews.opened(tasks.Regression(outputs=2, standardise=False), inputs), frame)
    assert [list(row["prediction"]) for row in several] == [["width", "height"]] * 2


def test_there_is_a_tag_for_each_word_also_for_those_that_are_cut_off(reviews):
    task = tasks.TokenClassification(names=("O", "PER"))
    model = reviews.opened(task, ModelInputs({"words": Column("words")}, {"words": ("words",)}, True))
    words = [["anna", "bonn"], ["good"] * 20]
    tagged = asked(model, words)
    close_to = asked(model, pd.DataFrame({"words": [" ".join(row) for row in words]}))
    assert tagged == close_to == asked(model, [" ".join(row) for row in words])
    assert tagged == asked(model, [words[0], " ".join(words[1])])
    assert [len(row["prediction"]) for row in tagged] == [2, 20]
    # Two special tokens, and ten words of one piece.
    assert set(tagged[1]["prediction"][:10]) <= {"O", "PER"} and set(tagged[1]["prediction"][10:]) == {"?"}


def test_pairs_are_texts_in_their_order(reviews):
    columns = {"text": Column("text"), "text_pair": Column("text")}
    model = reviews.opened(tasks.Classification(classes=2, names=("no", "yes")), ModelInputs(columns, {}, True))
    pairs = [("good film", "bad film"), ("bad film", "good film")]
    answered = asked(model, pairs)
    assert answered[0]["probability"] != answered[1]["probability"]
    close(asked(model, pd.DataFrame(pairs, columns=["premise", "hypothesis"])), answered)
    close(asked(model, pd.DataFrame(pairs, columns=["a", "b"]), text="a", text_pair="b"), answered)
    with pytest.raises(ValueError, match=r"good film.*pairs of texts.*--pair"):
        asked(model, ["good film"])
    with pytest.raises(ValueError, match=r"'text' is not clear.*'a', 'b'.*--text"):
        asked(model, pd.DataFrame(pairs, columns=["a", "b"]))
    with pytest.raises(TypeError, match=r"row 1 is 'a film' \(str\); expected a pair of texts"):
        asked(model, [pairs[0], "a film"])
    single = reviews.opened(model.task, ModelInputs({"text": Column("text")}, {}, True))
    with pytest.raises(ValueError, match="pair of texts; the model reads texts"):
        asked(single, pairs)


def test_images_in_memory_and_in_files(tmp_path, pictures):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    files = [tmp_path / f"{n}.png" for n in range(3)]
    for file, image in zip(files, pixels, strict=True):
        Image.fromarray(image[..., 0]).save(file)
    model = pictures
    answered = asked(model, pixels)
    frame = pd.DataFrame({"file": [file.name for file in files]})
    frame.to_csv(tmp_path / "labels.csv", index=False)
    pictures_in_memory = [Image.fromarray(image[..., 0]) for image in pixels]
    for kind in (list(pixels), pictures_in_memory, files, list(map(str, files)), tmp_path / "labels.csv"):
        close(asked(model, kind), answered)
    (tmp_path / "labels.csv").unlink()
    trained_on_a_table = ModelInputs({"image": Column("image")}, {"image": ("picture",)}, True)
    for inputs in (model.inputs, trained_on_a_table):
        close(asked(model._replace(inputs=inputs), tmp_path), answered)


def test_rows_of_numbers():
    task = tasks.Regression(outputs=2, standardise=False)
    built = build(Mlp(inputs=(3,), widths=(4,), input="numbers"), task.head())
    params = initialise(built, jax.random.key(0)).params
    processor = NumberProcessor(width=3)
    loaded = Pretrained(built, Variables(params, {}), processor, Manifest("random", {}, ()), task)
    inputs = ModelInputs({"numbers": Column("numbers")}, {}, True)
    model = OpenedModel(Path("random"), loaded, processor, inputs, ())
    rows = np.random.default_rng(0).normal(size=(4, 3))
    answered = asked(model, rows)
    for kind in (rows.tolist(), list(rows), {"numbers": rows}):
        assert asked(model, kind) == answered
    with pytest.raises(TypeError, match=r"row 0 is 'a' \(str\); expected numbers"):
        asked(model, ["a", [1.0, 2.0, 3.0]])
    with pytest.raises(ValueError, match=r"row 1.*nan"):
        asked(model, [[1.0, 2.0, 3.0], [1.0, float("nan"), 3.0]])


def test_an_answer_that_is_not_finite_names_its_row(reviews):
    model = reviews.opened(tasks.Classification(classes=3, names=reviews.CLASSES))
    leaves = flatten(model.pretrained.variables.params)
    (words,) = [leaf for leaf in leaves.values() if leaf.shape[0] == len(reviews.PIECES)]
    changed = {path: np.array(leaf) for path, leaf in leaves.items() if leaf is not words}
    broken = np.array(words)
    broken[reviews.PIECES.index("bad")] = np.nan
    (path,) = leaves.keys() - changed.keys()
    variables = Variables(nest(changed | {path: broken}), {})
    model = model._replace(pretrained=model.pretrained._replace(variables=variables))
    with pytest.raises(ValueError, match=r"'the bad film'.*nan"):
        asked(model, ["good film", "the bad film"])
