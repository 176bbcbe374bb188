"""An argument that looks like a path is a file or an error, never a text; files and standard input are understood."""

import io
import os

import pandas as pd
import pytest
from PIL import Image

from tlx import tasks
from tlx.predict.arguments import looks_like_path, understood


@pytest.fixture(scope="module")
def model(reviews):
    return reviews.opened(tasks.Classification(classes=3, names=reviews.CLASSES))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with a table, lines of text, an image and a folder."""
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"id": [1, 2], "review": ["good film", "bad"]}).to_csv("reviews.csv", index=False)
    (tmp_path / "one.csv").write_text("text\ngood film\n")
    (tmp_path / "lines.txt").write_text("\ufeffgood film\n\nbad\n", encoding="utf-8")
    Image.new("L", (4, 4)).save("photo.png")
    (tmp_path / "my folder").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("a fine film", False), ("good and/or bad", False), ("10/10 would watch again", False), ("Wow...", False),
        ("fine.", False), ("good", False), ("a\nb/c.csv", False), ("", False), ("a" * 300 + "/b", False),
        ("reviews.csv", True), ("reviews.cvs", True), ("my reviews.csv", True), ("photo.png", True),
        ("data/x", True), ("./x", True), ("/tmp/x", True), ("~/x", True), ("and/or", True), ("notes.md", True),
    ],
)  # fmt: skip
def test_what_looks_like_a_path(text, path):
    assert looks_like_path(text) is path


def rows(parts):
    return [[part.words(n) for n in range(len(part))] for _, part in parts]


def test_files_folders_tables_and_texts_are_understood_in_order(place, model):
    parts = understood(["very good", "reviews.csv", "lines.txt", "bad", "the film"], model)
    assert rows(parts) == [["very good"], ["good film", "bad"], ["good film", "bad"], ["bad", "the film"]]
    assert [name for name, _ in parts] == ["", "reviews.csv", "lines.txt", ""]
    assert "2 rows; text is 'review'; other columns: 'id'" in parts[1][1].what
    assert parts[1][1].place(1) == "reviews.csv line 3" and parts[2][1].place(1) == "lines.txt line 3"
    assert rows(understood(["one.csv"], model)) == [["good film"]]
    assert rows(understood(["reviews.csv", "data/x"], model, literal=True)) == [["reviews.csv", "data/x"]]


@pytest.mark.parametrize(
    ("form", "content"),
    [
        (None, "good film\nbad\n"),
        ("csv", "text,x\ngood film,1\nbad,2\n"),
        ("jsonl", '{"text": "good film"}\n{"text": "bad"}\n'),
    ],
)
def test_standard_input_is_lines_or_a_table(form, content, model):
    parts = understood(["-"], model, form=form, stdin=io.BytesIO(content.encode()))
    assert rows(parts) == [["good film", "bad"]]
    assert parts[0][1].place(1).startswith("standard input")


@pytest.mark.parametrize(("form", "content"), [(None, b"good film\nbad\n"), ("csv", b"text\ngood film\nbad\n")])
def test_a_pipe_is_read_like_standard_input(form, content, model):
    read, write = os.pipe()
    os.write(write, content)
    os.close(write)
    try:
        parts = understood([f"/dev/fd/{read}"], model, form=form)
    finally:
        os.close(read)
    assert rows(parts) == [["good film", "bad"]]
    with pytest.raises(ValueError, match="/dev/null is empty"):
        understood([os.devnull], model)


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("reviws.csv", ("no file reviws.csv", "'reviews.csv'", "--literal")),
        ("nowhere/x", ("no file nowhere/x", "no folder nowhere", "--literal")),
        ("photo.png", ("photo.png is an image", "reads texts", "--literal")),
        ("my folder", ("my folder", "directory", "--literal")),
    ],
)
def test_a_wrong_path_is_an_error_that_says_how_to_give_a_text(argument, parts, place, model):
    with pytest.raises((ValueError, OSError)) as error:
        understood([argument], model)
    assert all(part in str(error.value) for part in parts), error.value


@pytest.mark.parametrize(
    ("name", "content", "columns", "parts"),
    [
        ("a.csv", "id,revew\n1,x\n2,y\n", {"text": ["review"]}, ("a.csv", "'review'", "'revew'")),
        ("a.csv", "id,other\n1,2\n", {}, ("a.csv", "'text' is not clear", "--text")),
        ("a.csv", "text\n", {}, ("a.csv", "no rows")),
        ("a.jsonl", "", {}, ("a.jsonl", "empty")),
        ("a.txt", "\n \n", {}, ("a.txt", "empty")),
        ("a.csv", "text\nx\n", {"image": ["text"]}, ("image='text'", "reads texts")),
        ("a.xlsx", "x", {}, ("a.xlsx", "CSV")),
        ("a.txt", "good", {"text": ["body"]}, ("--text", "no argument is a table")),
        ("a.csv", "text\ngood\n", {"form": "lines"}, ("a.csv", "--format lines", "- <")),
        ("a.txt", "good", {"split": "test"}, ("--split test", "no argument is a data set")),
    ],
)
def test_a_bad_table_names_the_file_and_the_column(name, content, columns, parts, tmp_path, model):
    (tmp_path / name).write_text(content)
    settings = {role: columns.pop(role) for role in ("form", "split") if role in columns}
    with pytest.raises(ValueError) as error:
        understood([str(tmp_path / name)], model, columns=columns, **settings)
    assert all(part in str(error.value) for part in parts), error.value
