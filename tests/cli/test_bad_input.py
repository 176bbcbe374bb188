"""Data that cannot be used: one clear line with the place, and exit code 2, from `tlx data` and from `tlx run`."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from tlx.cli import main

CONFIG = '''"""A small run.   tlx run small.py"""
from tlx import Data, Recipe, Train, Weights, models, tasks, tuning

def recipe():
    return Recipe(
        data=Data(target="digits"), task=tasks.Classification(), weights=Weights("minilm-l6"),
        tuning=tuning.Probe(), train=Train(steps=2, batch=8),
    )
'''
COUNT = 40
LABELS = [("good", "bad")[n % 2] for n in range(COUNT)]


def rows(count=COUNT, **columns):
    texts = [f"a text about things of number {n}" for n in range(count)]
    return pd.DataFrame({"body": texts, "stars": LABELS[:count]} | columns)


def table(folder, name="rows.csv", **columns):
    rows(**columns).to_csv(folder / name, index=False)


def written(content, name="rows.csv"):
    """Return a function that writes a file."""
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def edited(change, name="rows.csv"):
    """Return a function that writes a table after a change of its rows."""

    def write(folder):
        frame = rows().astype(object)
        change(frame)
        frame.to_csv(folder / name, index=False)

    return write


def set_cell(row, column, value):
    return lambda frame: frame.__setitem__(column, frame[column].where(frame.index != row, value))


def splits(folder):
    """Write a folder with a class in the test split alone."""
    (folder / "parts").mkdir()
    table(folder / "parts", "train.csv")
    frame = rows(12)
    frame.loc[7, "stars"] = "goood"
    frame.to_csv(folder / "parts" / "test.csv", index=False)


def pictures(folder):
    """Write a folder of pictures, of which one is broken."""
    for n in range(24):
        place = folder / "pets" / ("cat", "dog")[n % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 6), 9 * n, np.uint8)).save(place / f"{n}.png")
    (folder / "pets" / "cat" / "8.png").write_bytes(b"\x89PNG no picture")


def mixed(folder):
    lines = [{"body": f"text {n}", "stars": "good" if n else 3} for n in range(COUNT)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def null_labels(folder):
    values = [float(n % 7) / 2 for n in range(COUNT)]
    values[5] = float("nan")
    pq.write_table(pa.table({"body": rows()["body"].tolist(), "stars": values}), folder / "rows.parquet")


def ids(folder):
    parts = [rows().assign(stars=[f"u-{part}-{n}" for n in range(COUNT)]) for part in range(4)]
    pd.concat(parts).to_csv(folder / "rows.csv", index=False)


def twice(folder):
    table(folder)
    (folder / "same.csv").write_bytes((folder / "rows.csv").read_bytes())


PARTS = {"split": ["train"] * 30 + ["dev"] * 5 + ["tset"] * 5}
CASES = {
    "a missing file": (table, "row.csv", ("no file", "row.csv", "'rows.csv'")),
    "a missing column": (
        table,
        'Csv("rows.csv", label="star", text="body")',
        ("rows.csv line 1", "no column 'star'", "'stars'"),
    ),
    "a label in one split only": (splits, "parts", ("test.csv", "'goood'", "test split", "'good'", "line 9")),
    "one class": (lambda folder: table(folder, stars="good"), "rows.csv", ("'stars'", "'good'", "two classes")),
    "two rows": (
        lambda folder: rows(2).to_csv(folder / "rows.csv", index=False),
        "rows.csv",
        ("rows.csv", "2 training examples", "too few"),
    ),
    "an empty file": (written(""), "rows.csv", ("rows.csv is empty", "header")),
    "a header alone": (written("body,stars\n"), "rows.csv", ("rows.csv", "no rows")),
    "ragged rows": (
        written("body,stars\na,good\nb, c,bad\n"),
        "rows.csv",
        ("rows.csv line 3", "3 cells", "2"),
    ),
    "mixed types": (mixed, "rows.jsonl", ("rows.jsonl", "'stars'", "integer (line 1)", "text (line 2)")),
    "missing labels": (
        edited(set_cell(5, "stars", None)),
        "rows.csv",
        ("line 7", "'stars' is empty", "missing='drop'"),
    ),
    "NaN labels": (
        edited(lambda frame: frame.__setitem__("stars", ["nan" if n == 5 else str(n / 4) for n in range(COUNT)])),
        "rows.csv",
        ("line 7", "'stars'", "'nan'", "finite"),
    ),
    "NaN labels in Parquet": (null_labels, "rows.parquet", ("row 5", "'stars'", "nan")),
    "wrong encoding": (
        written("body,stars\nschön,good\nbad,bad\n".encode("latin-1")),
        "rows.csv",
        ("line 2", "not valid utf-8", "encoding='latin-1'"),
    ),
    "UTF-16": (written("body,stars\na,good\n".encode("utf-16")), "rows.csv", ("UTF-16", "iconv")),
    "duplicate column names": (written("body,stars,body\na,good,b\n"), "rows.csv", ("line 1", "'body'", "two")),
    "a directory as a file": (
        lambda folder: (folder / "rows.csv").mkdir(),
        'Csv("rows.csv")',
        ("rows.csv is a directory", "CSV file"),
    ),
    "an empty directory": (lambda folder: (folder / "pets").mkdir(), "pets", ("pets", "no image or sound")),
    "a broken picture": (pictures, "pets", ("8.png", "image")),
    "labels that look like ids": (
        ids,
        'Csv("rows.csv", text="body", label="stars")',
        ("rows.csv", "'stars'", "160 different labels in 160 rows", "label_kind='number'"),
    ),
    "a regression target with three values": (
        lambda folder: table(folder, stars=[(0.0, 0.5, 1.0)[n % 3] for n in range(COUNT)]),
        "rows.csv",
        ("'stars'", "0, 0.5, 1", "are these classes?", "line 2"),
    ),
    "a split column with unknown values": (
        lambda folder: table(folder, **PARTS),
        'Csv("rows.csv", text="body", label="stars", split="split")',
        ("line 37", "'split' is 'tset'", "'test'"),
    ),
    "a NUL byte": (written("body,stars\na\0b,good\nc,bad\n"), "rows.csv", ("line 2", "NUL")),
    "an open quote": (written('body,stars\n"a,good\nc,bad\n'), "rows.csv", ("line 2", "quote")),
    "JSON lines with a broken line": (
        written('{"body": "a", "stars": 1}\n{"body": \n', "rows.jsonl"), "rows.jsonl", ("line 2", "no JSON")
    ),
    "a damaged Parquet file": (written(b"PAR1 no", "rows.parquet"), "rows.parquet", ("rows.parquet", "cannot be read")),
    "a table of another kind": (written("x", "rows.xlsx"), "rows.xlsx", ("rows.xlsx", "CSV")),
}  # fmt: skip


# A model of images, from scratch.
PICTURES = {
    "a broken picture": (
        "--set", "model=Cnn(size=6, widths=(4,))", "--set", "weights=None", "--set", "data.size=6",
        "--set", "tuning=Full()",
    ),
}  # fmt: skip


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Return a function that runs a command in an empty directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.py").write_text(CONFIG)
    return lambda *arguments: CliRunner().invoke(main, list(arguments))


def check(outcome, parts):
    assert outcome.exit_code == 2, outcome.output
    *changes, last = outcome.output.splitlines()
    assert last.startswith("tlx: ") and all(" -> " in line for line in changes), outcome.output
    assert all(part in last for part in parts), last


@pytest.mark.parametrize("case", CASES)
def test_every_mistake_is_one_line_with_its_place(case, call, tmp_path):
    write, target, parts = CASES[case]
    write(tmp_path)
    plain = target if "(" not in target else None
    if plain is not None:
        check(call("data", plain), parts)
    elif target.startswith("Csv"):
        path, *fields = target.removeprefix("Csv(").removesuffix(")").split(", ")
        settings = [f"data.target.{field.replace(chr(34), '')}" for field in fields]
        words = [word for setting in settings for word in ("--set", setting)]
        check(call("data", path.strip('"'), *words), parts)
    check(call("run", "small.py", *PICTURES.get(case, ()), "--set", f"data.target={target}", "--quiet"), parts)
    # A picture is read when the run has begun.
    assert not (tmp_path / "runs").exists() or case in PICTURES


def test_the_same_file_as_source_and_target(call, tmp_path):
    twice(tmp_path)
    check(call("data", "rows.csv", "same.csv"), ("same.csv", "rows.csv", "same data set"))
    words = ("--set", "data.target=rows.csv", "--set", "data.source=same.csv")
    objective = ("--set", "objective=(Supervised(on='source'), Supervised())")
    check(call("run", "small.py", *words, *objective, "--quiet"), ("same.csv", "rows.csv", "same data set"))
    check(
        call("run", "small.py", "--set", "data.target=rows.csv", "--set", "data.source=rows.csv"), ("rows.csv", "both")
    )


def test_rows_without_a_label_can_be_dropped(call, tmp_path):
    edited(set_cell(5, "stars", None))(tmp_path)
    outcome = call("data", "rows.csv", "--set", "data.target.missing=drop")
    assert outcome.exit_code == 0, outcome.output
    assert "1 rows of rows.csv have no label in 'stars' and are not used" in outcome.output
