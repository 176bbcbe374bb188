"""Answers in files: the order and the columns of the rows, and the same bytes after a kill."""

import csv
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tlx import tasks
from tlx.predict import Predictor, open_model, write_answers
from tlx.predict.asking import rows_of
from tlx.predict.opening import ModelInputs
from tlx.predict.rows import folder_table, table_rows
from tlx.types import Column
from tlx.weights import save_pretrained

COUNT = 70


@pytest.fixture(scope="module")
def saved(reviews, tmp_path_factory):
    """A classifier of texts with random weights, in a folder."""
    model = reviews.pretrained(tasks.Classification(classes=3, names=reviews.CLASSES))
    return save_pretrained(model, tmp_path_factory.mktemp("saved") / "model", untrained=True)


@pytest.fixture(scope="module")
def predictor(saved):
    # A chunk of 32 rows.
    return Predictor(open_model(saved), batch=2)


@pytest.fixture(scope="module")
def table(predictor, reviews):
    """Rows of reviews as inputs of the model."""
    return rows_of(pd.DataFrame(reviews.rows(COUNT, seed=5)), predictor.model, {"text": ("body",)})


@pytest.fixture(scope="module")
def written(predictor, table, tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "answers.csv"
    write_answers(predictor, table, path)
    return path


def test_every_form_has_the_rows_in_order_and_the_same_answers(predictor, table, written, reviews, tmp_path):
    rows = pd.read_csv(written)
    probabilities = [f"p({name})" for name in reviews.CLASSES]
    assert list(rows) == ["id", "body", "language", "votes", "stars", "prediction", "probability", *probabilities]
    assert rows["id"].tolist() == [f"r{n}" for n in range(COUNT)]
    assert (rows[probabilities].sum(axis=1) - 1).abs().max() < 1e-5
    assert rows["prediction"].tolist() == [reviews.CLASSES[n] for n in rows[probabilities].to_numpy().argmax(1)]
    write_answers(predictor, table, tmp_path / "a.parquet")
    pd.testing.assert_frame_equal(pq.read_table(tmp_path / "a.parquet").to_pandas(), rows, check_dtype=False)
    write_answers(predictor, table, tmp_path / "a.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [line["probabilities"]["good"] for line in lines] == rows["p(good)"].tolist()
    assert list(lines[0]) == ["id", "body", "language", "votes", "stars", "prediction", "probability", "probabilities"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.jsonl", "a.parquet"]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_job_that_was_stopped_ends_with_the_same_bytes(ending, predictor, table, written, tmp_path):
    complete, path = written, tmp_path / f"answers.{ending}"
    if ending == "parquet":
        complete = tmp_path / "complete.parquet"
        write_answers(predictor, table, complete)
    with pytest.raises(KeyboardInterrupt):
        write_answers(predictor, table, path, say=stop)
    assert not path.exists()
    with pytest.raises(FileExistsError, match=r"--resume.*--overwrite"):
        write_answers(predictor, table, path)
    seen = []
    write_answers(predictor, table, path, resume=True, say=lambda done, total: seen.append(done))
    assert seen[0] == 32 and seen[-1] == COUNT
    assert path.read_bytes() == complete.read_bytes()
    assert not path.with_name(f"{path.name}.parts").exists()
    assert not write_answers(predictor, table, path, resume=True).fresh
    with pytest.raises(FileExistsError, match="--overwrite"):
        write_answers(predictor, table, path)


def stop(done, total):
    """Stop a job after its first chunk."""
    if done == 32:
        raise KeyboardInterrupt


def test_a_job_is_not_continued_on_other_rows(predictor, table, reviews, tmp_path):
    path = tmp_path / "answers.csv"
    with pytest.raises(KeyboardInterrupt):
        write_answers(predictor, table, path, say=stop)
    others = rows_of(pd.DataFrame(reviews.rows(COUNT + 1)), predictor.model, {"text": ("body",)})
    with pytest.raises(FileExistsError, match=r"other settings.*rows"):
        write_answers(predictor, others, path, resume=True)
    write_answers(predictor, others, path, overwrite=True)
    assert len(reviews.read(path)) == COUNT + 1


def test_a_finished_file_is_complete_for_its_own_rows_only(predictor, table, reviews, tmp_path):
    path = tmp_path / "answers.csv"
    write_answers(predictor, table, path)
    first = path.read_bytes()
    others = rows_of(pd.DataFrame(reviews.rows(COUNT, seed=6)), predictor.model, {"text": ("body",)})
    with pytest.raises(FileExistsError, match=r"another job: data.*--overwrite"):
        write_answers(predictor, others, path, resume=True)

    def stop_at_once(done, total):
        raise KeyboardInterrupt

    # The file is replaced at the end, so a job that was stopped before its first chunk is continued.
    with pytest.raises(KeyboardInterrupt):
        write_answers(predictor, others, path, overwrite=True, say=stop_at_once)
    assert path.read_bytes() == first
    assert write_answers(predictor, others, path, resume=True).fresh
    assert path.read_bytes() != first and not path.with_name("answers.csv.parts").exists()
    assert not write_answers(predictor, others, path, resume=True).fresh
    path.write_text("edited")
    with pytest.raises(FileExistsError, match=r"no record.*--overwrite"):
        write_answers(predictor, others, path, resume=True)


def test_chunks_without_the_description_of_their_job_are_computed_again(predictor, table, written, tmp_path):
    path = tmp_path / "answers.csv"
    with pytest.raises(KeyboardInterrupt):
        write_answers(predictor, table, path, say=stop)
    parts = path.with_name("answers.csv.parts")
    chunk = parts / f"{0:012}.jsonl"
    chunk.write_text(chunk.read_text().replace('"prediction": "', '"prediction": "un'))
    (parts / "job.json").unlink()
    write_answers(predictor, table, path)
    assert path.read_bytes() == written.read_bytes()


def test_a_job_that_was_stopped_counts_all_texts_that_were_cut(predictor, reviews, tmp_path):
    frame = pd.DataFrame(reviews.rows(COUNT, seed=5))
    frame.loc[[0, 40], "body"] = "film " * 1000
    rows = rows_of(frame, predictor.model, {"text": ("body",)})
    path = tmp_path / "answers.csv"
    with pytest.raises(KeyboardInterrupt):
        write_answers(predictor.again(2), rows, path, say=stop)
    assert write_answers(predictor.again(2), rows, path, resume=True).notes[0].startswith("2 texts are longer")


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_every_cell_is_read_back(ending, predictor, tmp_path):
    texts = ["a\rb", "a\r\nb", "a\nb", 'a "b"', "a,b\tc", " a ", "=a()"]
    frame = pd.DataFrame({"text": texts, "n": range(len(texts))})
    path = tmp_path / f"a.{ending}"
    write_answers(predictor, rows_of(frame, predictor.model, {}), path)
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t" if ending == "tsv" else ","))
    assert [row["text"] for row in rows] == texts and [row["n"] for row in rows] == [*map(str, range(len(texts)))]
    assert path.read_bytes().count(b"\r\n") == 1


def test_numbers_of_the_rows_are_short_and_valid_json(predictor, tmp_path):
    numbers = pa.array([1.1, float("nan"), None], pa.float32())
    nested = pa.array([[0.1, float("inf")], [], None], pa.list_(pa.float32()))
    table = pa.table({"text": ["good", "bad", "film"], "n": numbers, "v": nested})
    write_answers(predictor, rows_of(table, predictor.model, {}), tmp_path / "a.jsonl")
    lines = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [(line["n"], line["v"]) for line in lines] == [(1.1, [0.1, None]), (None, []), (None, None)]
    write_answers(predictor, rows_of(table, predictor.model, {}), tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().splitlines()[1].startswith('good,1.1,"[0.1, null]",')


def test_answers_get_other_names_where_the_rows_have_theirs(predictor, reviews, tmp_path):
    frame = pd.DataFrame({"text": ["good", "bad"], "prediction": ["x", "y"], "p(good)": [0, 1]})
    write_answers(predictor, rows_of(frame, predictor.model, {}), tmp_path / "a.csv")
    rows = reviews.read(tmp_path / "a.csv")
    assert [row["prediction"] for row in rows] == ["x", "y"]
    assert {row["tlx_prediction"] for row in rows} <= set(reviews.CLASSES) and "tlx_p(good)" in rows[0]
    for name, part in (("a.xyz", "a.xyz"), ("none/a.csv", "no folder")):
        with pytest.raises((ValueError, FileNotFoundError), match=part):
            write_answers(predictor, rows_of(frame, predictor.model, {}), tmp_path / name)


def test_a_broken_picture_is_named_or_left_without_an_answer(tmp_path, reviews, pictures):
    save_pretrained(pictures.pretrained, tmp_path / "model", untrained=True)
    (tmp_path / "pictures").mkdir()
    for n in range(5):
        Image.fromarray(np.full((8, 8), n * 50, np.uint8)).save(tmp_path / "pictures" / f"{n}.png")
    (tmp_path / "pictures" / "2.png").write_bytes(b"\x89PNG no")
    predictor = Predictor(open_model(tmp_path / "model"), batch=2)
    rows = rows_of(tmp_path / "pictures", predictor.model, {})
    with pytest.raises(ValueError, match=r"2\.png.*--skip-broken"):
        write_answers(predictor, rows, tmp_path / "a.csv")
    assert not (tmp_path / "a.csv.parts").exists()
    result = write_answers(predictor, rows, tmp_path / "a.csv", skip_broken=True)
    assert list(result.broken) == [2] and "2.png" in result.broken[2]
    answers = reviews.read(tmp_path / "a.csv")
    assert [row["file"] for row in answers] == [f"{n}.png" for n in range(5)]
    assert [row["prediction"] == "" for row in answers] == [n == 2 for n in range(5)]


@pytest.mark.slow
def test_a_killed_process_continues_with_the_same_bytes(saved, reviews, tmp_path):
    file = reviews.write(tmp_path / "rows.csv", reviews.rows(20_000, label=False))
    command = [sys.executable, "-m", "tlx.cli", "predict", str(saved), file, "--text", "body", "--batch", "8"]
    subprocess.run([*command, "--out", str(tmp_path / "whole.csv")], check=True)
    stopped = [*command, "--out", str(tmp_path / "a.csv")]
    process = subprocess.Popen(stopped)
    parts = tmp_path / "a.csv.parts"
    while process.poll() is None and (not parts.is_dir() or len(list(parts.glob("*.jsonl"))) < 3):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    subprocess.run([*stopped, "--resume"], check=True)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_another_picture_of_the_same_name_and_size_is_another_row(tmp_path):
    def identity(shade):
        Image.fromarray(np.full((8, 8), shade, np.uint8)).save(tmp_path / "a.bmp")
        return table_rows(folder_table(tmp_path), ModelInputs({"image": Column("image")})).identity

    first, second = identity(10), identity(20)
    assert first != second and identity(10) == first
