"""`tlx predict` and `tlx eval`: what is printed, and one clear line with exit code 2 for every mistake."""

import json
import shlex
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from tlx.cli import main
from tlx.cli.commands import READER_ENDED
from tlx.cli.predict import continuing


def call(*arguments, stdin=None):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)


@pytest.fixture
def table(reviews, tmp_path):
    return reviews.write(tmp_path / "rows.csv", reviews.rows(5, seed=2, label=False))


def test_predict_prints_a_line_for_each_text_row_and_line(reviewed, reviews, table):
    outcome = call("predict", reviewed.folder, "good film", table)
    assert outcome.exit_code == 0, outcome.output
    texts = ["good film", *(row["body"] for row in reviews.read(table))]
    assert [line.partition("  | ")[2] for line in outcome.stdout.splitlines()] == texts
    assert "5 rows; text is 'body'; other columns: 'id'" in outcome.stderr
    quiet = call("predict", reviewed.folder, "--json", "--quiet", "-", "--format", "csv", stdin="body\ngood film\n")
    assert quiet.exit_code == 0 and not quiet.stderr, quiet.output
    line = json.loads(quiet.stdout)
    assert line["example"] == "good film" and set(line["answer"]) == set(reviews.CLASSES)


def test_predict_writes_a_file_once(reviewed, reviews, table, tmp_path):
    out = tmp_path / "answers.csv"
    outcome = call("predict", reviewed.folder, table, "--out", out)
    assert outcome.exit_code == 0, outcome.output
    assert outcome.stdout == f"{out}\n" and "5 of 5 rows" in outcome.stderr
    assert [row["id"] for row in reviews.read(out)] == [f"r{n}" for n in range(5)]
    assert call("predict", reviewed.folder, table, "--out", out, "--resume").exit_code == 0
    for arguments, parts in (
        ((table, "--out", out), ("answers.csv exists", "--overwrite")),
        ((table, table, "--out", tmp_path / "b.csv"), ("one table", "2")),
        ((table, "--resume"), ("--resume is for a file", "--out")),
        ((), ("no example",)),
        ((tmp_path / "rows.cvs",), ("rows.cvs", "'rows.csv'", "--literal")),
        ((table, "--text", "bod"), ("no column 'bod'", "'body'")),
        (("--pair", "a", "b"), ("pair of texts", "reads texts")),
    ):
        outcome = call("predict", reviewed.folder, *arguments)
        assert outcome.exit_code == 2, outcome.output
        assert outcome.stderr.splitlines()[-1].startswith("tlx: ")
        assert all(part in outcome.stderr for part in parts), outcome.stderr


def test_an_unfinished_run_is_named(tmp_path):
    (tmp_path / "recipe.json").write_text("{}")
    outcome = call("predict", tmp_path, "a text")
    assert outcome.exit_code == 2
    assert "unfinished run" in outcome.stderr and "--resume" in outcome.stderr


def test_a_reader_that_ends_is_no_error():
    program = (
        "import click; from tlx.cli.commands import Commands\n"
        "group = Commands()\n"
        "@group.command()\n"
        "def count():\n"
        "    for n in range(10**6): click.echo(f'line {n}')\n"
        "group(['count'])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"line 0\n"
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == READER_ENDED


@pytest.mark.slow
def test_eval_prints_and_writes_the_numbers(reviewed, reviews, tmp_path, monkeypatch):
    table = reviews.write(tmp_path / "other.csv", reviews.rows(60, seed=9))
    arguments = ("eval", reviewed.folder, "--data", table, "--by", "language", "--by", "votes", "--mistakes", "3")
    outcome = call(*arguments, "--out", tmp_path / "eval")
    assert outcome.exit_code == 0, outcome.output
    for part in (
        "60 examples",
        "accuracy",
        "by class",
        "mixed",
        "by language",
        "de",
        "by votes",
        "above 14.75 to 29.5",
    ):
        assert part in " ".join(outcome.stdout.split()), part
    document = json.loads((tmp_path / "eval" / "evaluation.json").read_text())
    scores = np.load(tmp_path / "eval" / "scores.npz")
    assert document["metrics"][0]["value"] == pytest.approx(scores["correct"].mean())
    printed = json.loads(call(*arguments, "--out", tmp_path / "eval", "--json").stdout)
    assert printed["metrics"] == document["metrics"]
    # The output has the name of the folder, however it is written.
    monkeypatch.chdir(tmp_path)
    assert call("eval", reviewed.folder / "model" / "..", "--data", table, "--mistakes", "0").exit_code == 0
    assert [folder.name for folder in (tmp_path / "runs").iterdir()] == [f"eval-{reviewed.folder.name}-other-train"]
    wrong = reviews.write(tmp_path / "wrong.csv", [row | {"stars": "god"} for row in reviews.rows(3)])
    for arguments, parts in (
        (("--data", wrong), ("wrong.csv line 2", "'stars' is 'god'", "'good'")),
        (("--data", table, "--by", "langage"), ("no column 'langage'", "'language'")),
        (("--data", tmp_path / "othr.csv"), ("othr.csv", "'other.csv'")),
        (("--data", table, "--split", "tset"), ("'tset'", "'train'")),
        (("--text", "body"), ("--data",)),
        (("--split", "tset"), ("'tset'", "'test'")),
        (("--data", table, "--out", tmp_path), ("not empty", "--out")),
    ):
        outcome = call("eval", reviewed.folder, *arguments)
        assert outcome.exit_code == 2, outcome.output
        assert all(part in outcome.stderr for part in parts), outcome.stderr


def test_a_job_that_stopped_before_it_began_replaces_the_older_file_again(tmp_path):
    out = tmp_path / "answers.csv"
    for is_file, is_begun, option in ((0, 0, "--resume"), (1, 0, "--overwrite"), (1, 1, "--resume")):
        if is_file:
            out.touch()
        if is_begun:
            out.with_name("answers.csv.parts").mkdir()
        assert continuing(("predict", "r"), ("--", "a.csv"), out) == f"tlx predict r {option} -- a.csv"


def test_the_command_that_is_printed_continues_the_same_job(reviewed, table, tmp_path, monkeypatch):
    calls = []

    def stopped(predictor, rows, out, **settings):
        del settings["say"]
        calls.append((rows.identity, predictor.batch, out, settings))
        raise KeyboardInterrupt

    monkeypatch.setattr("tlx.predict.write_answers", stopped)
    out = str(tmp_path / "it's.csv")
    for words in ((table, "--text", "id"), ("--literal", "--", "-5 stars", "a.csv"), ("--batch", "3", table)):
        outcome = call("predict", reviewed.folder, "--out", out, "--skip-broken", *words)
        assert outcome.exit_code == 130, outcome.output
        printed = shlex.split(outcome.stderr.splitlines()[-1].partition("continue with: ")[2])
        assert printed[0] == "tlx" and call(*printed[1:]).exit_code == 130
        first, second = calls[-2:]
        assert second[:3] == first[:3] and second[3] == first[3] | {"resume": True}
