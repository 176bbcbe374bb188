"""`tlx data` and `tlx start` on the command line: what they print and write, and questions through a pipe."""

import json
import re
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

import tlx
from tlx import Data, tasks, tuning
from tlx.cli import main
from tlx.data import Csv
from tlx.files.documents import read_json
from tlx.finetuning import recipe_for
from tlx.finetuning.first_config import draft

WORDS = ("film", "plot", "actor", "scene", "music", "story", "camera", "director")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments, answers=None):
    return CliRunner().invoke(main, list(arguments), input=answers)


def reviews(count=60, seed=0, **columns):
    random = np.random.default_rng(seed)
    texts = [f"{' '.join(random.choice(WORDS, 9))} {n}" for n in range(count)]
    labels = [("good", "bad")[n % 2] for n in range(count)]
    return pd.DataFrame({"id": range(count), "body": texts, "stars": labels} | columns)


def test_a_plain_file_needs_no_config(here):
    reviews().to_csv("reviews.csv", index=False)
    outcome = call("data", "reviews.csv", "--examples", "3")
    assert outcome.exit_code == 0, outcome.output
    for part in ("60 examples of text with 2 classes: 44 train, 4 validation, 12 test", "body", "stars", "not used"):
        assert part in outcome.stdout
    assert not any(here.glob("*.json"))
    document = json.loads(call("data", "reviews.csv", "--json").stdout)
    assert document["counts"]["classes"] == ["bad", "good"] and document["command"] == "tlx data reviews.csv"


def test_the_page_and_the_document_are_written_and_data_sets_are_compared(here):
    reviews().to_csv("reviews.csv", index=False)
    reviews(seed=1).to_csv("books.csv", index=False)
    outcome = call("data", "reviews.csv", "books.csv", "--set", "data.target.label=stars", "--out", "look")
    assert outcome.exit_code == 0, outcome.output
    assert outcome.stdout.splitlines()[-2:] == ["look/data.json", "look/data.html"]
    document = read_json(here / "look" / "data.json")
    assert document["distances"][0]["source"] == "books.csv"
    assert document["command"] == "tlx data reviews.csv books.csv --set data.target.label=stars --out look"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("nosuch.csv",), ("no file nosuch.csv", "'reviews.csv'")),
        (("reviews.csv", "reviews.csv"), ("are the same data set",)),
        (("reviews.csv", "--set", "data.target.labl=stars"), ("data.target.labl", "data.target.label")),
        (("reviews.csv", "--set", "stars"), ("not of the form path=value", "data.target.label=stars")),
        (("reviews.csv", "--set", "data.target.label=star"), ("line 1", "no column 'star'", "'stars'")),
    ],
)
def test_mistakes_are_one_line(arguments, parts, here):
    reviews().to_csv("reviews.csv", index=False)
    outcome = call("data", *arguments)
    assert outcome.exit_code == 2
    assert outcome.output.startswith("tlx: ") and outcome.output.count("\n") == 1
    assert all(part in outcome.output for part in parts), outcome.output


def test_start_writes_a_config_once_and_prints_three_commands(here):
    reviews().to_csv("reviews.csv", index=False)
    outcome = call("start", "reviews.csv")
    assert outcome.exit_code == 0, outcome.output
    commands = outcome.stdout.splitlines()
    assert commands[:2] == ["tlx data reviews.py --out runs/reviews-data", "tlx run reviews.py"]
    assert commands[2].startswith("tlx predict runs/reviews ") and len(commands) == 3
    recipe = runpy.run_path("reviews.py")["recipe"]()
    assert recipe.data.target == Csv("reviews.csv", text="body", label="stars")
    assert (type(recipe.task), type(recipe.tuning)) == (tasks.Classification, tuning.BitFit)
    assert "docs/results/tunings.md" in (here / "reviews.py").read_text()
    again = call("start", "reviews.csv")
    assert again.exit_code == 2 and "reviews.py exists" in again.output and "--out" in again.output


def test_questions_about_texts_are_described_and_started(here):
    rows = [
        {
            "question": f"Who is {n}?",
            "context": f"Anna is {n}. Bob is not.",
            "answers": {"text": ["Anna"] * (n % 3 > 0)},
        }
        for n in range(40)
    ]
    for row in rows:
        row["answers"]["answer_start"] = [0] * len(row["answers"]["text"])
    (here / "who.jsonl").write_text("\n".join(map(json.dumps, rows)))
    outcome = call("data", "who.jsonl")
    assert outcome.exit_code == 0, outcome.output
    assert "pairs of texts with answers" in outcome.output and "(no answer)" in outcome.output
    commands = call("start", "who.jsonl").stdout.splitlines()
    assert re.fullmatch(r"tlx predict runs/who --pair 'Who is \d+\?' 'Anna is \d+. Bob is not.'", commands[2])
    recipe = runpy.run_path("who.py")["recipe"]()
    assert isinstance(recipe.task, tasks.QuestionAnswering)


def test_start_asks_on_a_pipe(here):
    reviews(language=["en", "de"] * 30).to_csv("reviews.csv", index=False)
    frame = reviews(language=["en", "de"] * 30).rename(columns={"stars": "how", "body": "what"})
    frame.to_csv("unclear.csv", index=False)
    assert call("start", answers="reviews.csv\n").exit_code == 0
    outcome = call("start", answers="unclear.csv\nhow\n")
    assert outcome.exit_code == 0, outcome.output
    assert runpy.run_path("unclear.py")["recipe"]().data.target == Csv("unclear.csv", text="what", label="how")
    (here / "unclear.py").unlink()
    silent = call("start", "unclear.csv")
    assert silent.exit_code == 2 and "column of the label is not clear" in silent.output
    assert call("start", "unclear.csv", "--label", "how").exit_code == 0
    empty = call("start", answers="")
    assert empty.exit_code == 2 and "tlx start reviews.csv" in empty.output


def pictures(folder):
    for n in range(24):
        place = folder / ("cat", "dog")[n % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(n).integers(0, 256, (20, 20, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(place / f"{n}.png")


KINDS = {
    "classes": (reviews, "Classification"),
    "numbers": (lambda: reviews(stars=np.linspace(0.5, 9.7, 60).round(2)), "Regression"),
    "several": (lambda: reviews(stars=["plot;music", "music", "plot"] * 20), "MultiLabel"),
}


def written(kind, folder):
    """Write data of a kind, and return the name of the file or the folder."""
    if kind == "pictures":
        pictures(folder / "data")
        return "data"
    KINDS[kind][0]().to_csv("rows.csv", index=False)
    return "rows.csv"


@pytest.mark.parametrize("kind", [*KINDS, "pictures"])
def test_the_config_of_every_kind_of_data_is_a_recipe(kind, here):
    found = draft(written(kind, here))
    assert kind != "pictures" or Path(found.example).is_file()
    namespace: dict = {}
    exec(compile(found.text, "config.py", "exec"), namespace)
    recipe = namespace["recipe"]()
    assert type(recipe.task).__name__ == ("Classification" if kind == "pictures" else KINDS[kind][1])
    assert len(tlx.data.load(recipe.data, 0).train) > 10
    assert max(map(len, found.text.splitlines())) <= 120


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, "pictures"])
def test_the_config_runs_as_it_is(kind, here):
    assert call("start", written(kind, here), "--out", "config.py").exit_code == 0
    outcome = call("run", "config.py", "--set", "train.steps=2", "--quiet", "--out", "run")
    assert outcome.exit_code == 0, outcome.output
    assert (here / "run" / "result.json").is_file()


@pytest.mark.parametrize("kind", [*KINDS, "pictures"])
def test_the_config_is_the_recipe_of_finetune(kind, here):
    namespace: dict = {}
    exec(compile(draft(written(kind, here)).text, "config.py", "exec"), namespace)
    recipe = namespace["recipe"]()
    expected = recipe_for(recipe.model or "minilm-l6", recipe.data.target)
    # The config names a folder by its path alone.
    assert recipe == replace(expected, data=replace(expected.data, target=recipe.data.target))


def test_duplicates_imbalance_and_other_scripts_are_named_in_the_config(here):
    frame = reviews(stars=["good"] * 54 + ["bad"] * 6, body=[f"обзор фильма номер {n} и его героев" for n in range(60)])
    frame.loc[3, "body"] = frame.loc[9, "body"]
    frame.to_csv("rows.csv", index=False)
    text = draft("rows.csv").text
    for part in ("drop_duplicates=True", "times as frequent", "another script"):
        assert part in " ".join(text.split())
    assert Data(target="rows.csv")


def test_start_keeps_odd_names_and_texts_in_its_config_and_commands(here):
    name = 'a"""b\\x.csv'
    reviews(body=[f"--text of film {n} with plot" for n in range(60)]).to_csv(name, index=False)
    outcome = call("start", name, "--out", "odd.py")
    assert outcome.exit_code == 0, outcome.output
    assert runpy.run_path("odd.py")["recipe"]().data.target.path == name
    assert outcome.stdout.splitlines()[2].startswith("tlx predict runs/odd -- '--text of film")


def test_start_takes_digits_with_commas_for_numbers(here):
    reviews(stars=[f"{n % 5},{n % 7}" for n in range(60)]).to_csv("rows.csv", index=False)
    outcome = call("start", "rows.csv")
    assert outcome.exit_code == 2 and "decimal commas" in outcome.output and not (here / "rows.py").exists()
