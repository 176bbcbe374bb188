"""The command line: every output, and one clear line with exit code 2 for every mistake of the user."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from tlx.cli import main
from tlx.cli.group import trackers_named
from tlx.records.trackers import Mlflow

CONFIG = '''"""A tiny run.   tlx run tiny.py"""
from tlx import Data, Recipe, Train, models, tasks

def recipe():
    return Recipe(
        data=Data(target="digits", shots=4),
        task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
        train=Train(steps=3, batch=8, eval_batch=64),
    )
'''


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "tiny.py"
    path.write_text(CONFIG)
    return str(path)


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("runs") / "tiny")
    outcome = call("run", config, "--out", out)
    assert outcome.exit_code == 0, outcome.output
    return out


def call(*arguments):
    return CliRunner().invoke(main, list(arguments))


def error_line(*arguments):
    """Return the single line of an error."""
    outcome = call(*arguments)
    assert outcome.exit_code == 2, outcome.output
    *changes, last = outcome.output.splitlines()
    assert last.startswith("tlx: "), outcome.output
    assert all(" -> " in change for change in changes), outcome.output
    return last.removeprefix("tlx: ")


def test_a_finished_run_keeps_its_config_and_is_lengthened(config, finished, tmp_path):
    assert (Path(finished) / "config.py").read_text() == Path(config).read_text()
    out = str(shutil.copytree(finished, tmp_path / "run"))
    steps = json.loads((tmp_path / "run" / "result.json").read_text())["steps"]
    outcome = call("lengthen", out, "--steps", str(steps + 2))
    assert outcome.exit_code == 0, outcome.output
    assert f"the run was lengthened after {steps} steps" in outcome.output
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == steps + 2
    assert f"the new length is {steps} steps" in error_line("lengthen", out, "--steps", str(steps))
    assert "--steps 2000" in error_line("lengthen", out)
    assert f"tlx lengthen {out} --steps 99" in error_line("run", config, "--out", out, "--set", "train.steps=99")


def test_a_tracker_is_named_or_called():
    assert trackers_named(("wandb", "Mlflow(experiment='a b')")) == ("wandb", Mlflow(experiment="a b"))


def test_an_unknown_tracker_is_one_line(config, tmp_path):
    assert error_line("run", config, "--track", "wandbb", "--out", str(tmp_path / "run")) == (
        "there is no tracker 'wandbb'; close: 'wandb'"
    )
    assert "projet" in error_line("run", config, "--track", "Wandb(projet='x')")
    assert "Wandbb" in error_line("run", config, "--track", "Wandbb(project='x')")


def test_help_answers_in_under_half_a_second():
    def once():
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "tlx.cli", "--help"], check=True, capture_output=True)
        return time.perf_counter() - start

    assert min(once() for _ in range(5)) < 0.5


def test_help_imports_nothing_heavy():
    code = "import sys, tlx.cli; print([m for m in ('jax', 'numpy', 'rich', 'transformers') if m in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert process.stdout.strip() == "[]"


def test_run_prints_the_effect_of_an_override(config, tmp_path):
    outcome = call("run", config, "--set", "optim.lr=0.1", "--out", str(tmp_path / "run"))
    assert outcome.exit_code == 0, outcome.output
    assert "optim.lr: 0.001 -> 0.1\n" in outcome.output
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["changes"] == [["optim.lr", "0.001", "0.1"]]


def test_show_lists_every_parameter_and_the_bytes(config):
    displayed = call("show", config, "--set", "tuning=Probe()").output
    for path in ("stem/kernel", "stem/bias", "head/kernel", "head/bias"):
        assert path in displayed
    assert "90 of 610 parameters are trainable\n" in displayed
    assert "bytes: parameters 2,440, gradients 360, optimiser state 724\n" in displayed


def test_predict_works_for_files_and_as_json(finished, tmp_path):
    import numpy as np
    from PIL import Image

    path = tmp_path / "digit.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
    answer = json.loads(call("predict", finished, str(path), "--json").output)["answer"]
    assert set(answer) == set("0123456789")
    assert sum(answer.values()) == pytest.approx(1.0)
    assert list(answer.values()) == sorted(answer.values(), reverse=True)


def test_export_writes_a_loadable_model_and_never_overwrites(finished, tmp_path):
    import tlx

    assert call("export", finished, "--out", str(tmp_path / "model")).exit_code == 0
    assert tlx.load_pretrained(tmp_path / "model").task.classes == 10
    assert error_line("export", finished, "--out", str(tmp_path / "model")) == (
        f"{tmp_path / 'model'} is not empty; choose another directory"
    )


def test_report_writes_the_report_again(finished):
    assert call("report", finished).output == f"{finished}/report.html\n"


@pytest.mark.parametrize("command", [("models",), ("datasets",), ("assets", "list"), ("completion", "bash")])
def test_lists_are_printed(command):
    outcome = call(*command)
    assert outcome.exit_code == 0
    assert len(outcome.output.splitlines()) > 5


def test_an_unknown_field_names_the_nearest_field(config):
    assert error_line("run", config, "--set", "optim.lrr=1") == (
        "the recipe has no field 'optim.lrr'; close: 'optim.lr', 'optim.clip', 'optim'"
    )


def test_a_value_of_the_wrong_type_names_the_expected_type(config):
    assert error_line("run", config, "--set", "train.batch=many") == "train.batch is 'many'; expected int"


def test_an_override_without_an_equals_sign_is_refused(config):
    assert error_line("run", config, "--set", "seed") == (
        "--set 'seed' is not of the form path=value, for example optim.lr=0.01"
    )


def test_a_missing_config(tmp_path):
    path = str(tmp_path / "none.py")
    assert error_line("run", path) == f"there is no config file {path}; expected a Python file with a function recipe()"


def test_a_config_without_a_recipe(tmp_path):
    path = tmp_path / "empty.py"
    path.write_text("x = 1\n")
    assert error_line("show", str(path)) == (
        f"{path} has no function recipe(); a config file must define this function, without arguments"
    )
    path.write_text("def recipe():\n    return 3\n")
    assert error_line("show", str(path)) == f"recipe() in {path} returned int; expected a tlx.Recipe"


def test_a_misspelt_field_in_a_config_is_one_line(tmp_path):
    path = tmp_path / "slip.py"
    path.write_text(CONFIG.replace("batch=8", "bach=8"))
    message = error_line("show", str(path))
    assert "Train has no field 'bach'; close: 'batch'" in message
    assert message.startswith(f"{path} line 9: ")


def test_a_rule_that_matches_nothing(config):
    assert error_line("show", config, "--set", "tuning=Rules(('stm/.*', None), ('.*', Learn()))") == (
        "rule 'stm/.*' matches no parameter; close: 'stem/.*'"
    )


def test_a_parameter_that_no_rule_matches(config):
    assert error_line("show", config, "--set", "tuning=Rules(('stem/.*', Learn()),)") == (
        "no rule matches 2 of 4 parameters: 'head/bias', 'head/kernel'; "
        "end the rules with (r'.*', Learn()) or (r'.*', None)"
    )


def test_a_folder_in_use(config, finished):
    message = error_line("run", config, "--out", finished)
    for part in (finished, "the run of this recipe, finished", "--resume", "--overwrite"):
        assert part in message
    assert error_line("run", config, "--out", finished, "--set", "seed=1").startswith(
        f"{finished} contains the run of another recipe (fingerprint "
    )


def test_a_missing_data_set_while_offline(config, tmp_path, monkeypatch):
    monkeypatch.setenv("TLX_OFFLINE", "1")
    message = error_line("run", config, "--set", "data.target=digit", "--out", str(tmp_path / "run"))
    assert message.startswith("data set 'digit' is not on disk in ")
    assert "(TLX_OFFLINE is set); close: 'digits'" in message
    assert not (tmp_path / "run").exists()


def test_text_that_is_not_utf8(finished, tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("caf\xe9 noir\n".encode("latin1"))
    assert error_line("predict", finished, str(path)) == (
        f"{path} is not UTF-8 text (byte 0xe9 at 3); convert it, for example: iconv -f latin1 -t utf-8 {path}"
    )


def test_a_folder_without_a_run(tmp_path):
    assert (
        error_line("report", str(tmp_path))
        == f"{tmp_path} contains neither a run nor a study: no result.json and no study.json"
    )


def test_labels_outside_the_class_range(config, tmp_path):
    assert error_line("run", config, "--set", "task.classes=3", "--out", str(tmp_path / "run")) == (
        "labels outside the class range: the data have 10 classes, but the task has 3"
    )


def test_a_traceback_is_printed_only_on_request(config, monkeypatch):
    monkeypatch.setenv("TLX_TRACEBACK", "1")
    assert isinstance(call("run", config, "--set", "seed").exception, ValueError)


@pytest.fixture(scope="module")
def tuned(finished, config, tmp_path_factory):
    """Two runs, fine-tuned from the finished run."""
    folder = tmp_path_factory.mktemp("tuned")
    change = ("--set", f"weights=Weights({finished!r})")
    runs = [str(folder / seed) for seed in "12"]
    for out in runs:
        outcome = call("run", config, *change, "--set", f"seed={out[-1]}", "--out", out, "--quiet")
        assert outcome.exit_code == 0, outcome.output
    return runs


def test_changes_prints_and_writes_the_changes(tuned):
    outcome = call("changes", tuned[0], "--examples", "20")
    assert outcome.exit_code == 0, outcome.output
    for recorded in ("spectra of kernels\n", "the line\n", "accuracy before", "stem", "head", "note: ", "CKA"):
        assert recorded in outcome.output
    assert {f"{tuned[0]}/moved.json", f"{tuned[0]}/report.html"} <= set(outcome.output.splitlines())
    folder = Path(tuned[0])
    assert json.loads((folder / "moved.json").read_text())["examples"]["validation"]["count"] == 20
    assert 'id="moved"' in (folder / "report.html").read_text(encoding="utf-8")


def test_the_old_name_of_changes_stays_and_is_not_listed(tmp_path):
    assert error_line("moved", str(tmp_path)) == error_line("changes", str(tmp_path))
    listed = [line.split()[0] for line in call("--help").output.splitlines() if line.startswith("  ")]
    assert "changes" in listed
    assert "moved" not in listed


def test_soup_and_wise_write_models_and_name_the_rule(tuned, tmp_path):
    import tlx

    for name, command in {
        "uniform": ("soup", *tuned),
        "greedy": ("soup", *tuned, "--greedy"),
        "none: the user chose share 0.25": ("wise", tuned[0], "--share", "0.25"),
    }.items():
        out = str(tmp_path / command[0] / name.partition(":")[0])
        outcome = call(*command, "--out", out)
        assert outcome.exit_code == 0, outcome.output
        for split in ("validation", "test"):
            assert f"{split} accuracy 0." in outcome.output
        assert f"(selection: {name}" in outcome.output
        assert tlx.load_pretrained(out).task.classes == 10
    line = error_line("wise", tuned[0], "--share", "2", "--out", str(tmp_path / "new"))
    assert line.startswith("share is 2.0; expected")
    assert error_line("soup", tuned[0], "--out", str(tmp_path / "new")).startswith(
        "a soup needs two runs or more, got 1"
    )
    assert error_line("changes", str(tmp_path)) == f"{tmp_path} contains no run: there is no result.json"


@pytest.mark.slow
def test_report_writes_pages_of_runs_and_studies(small_study, finished):
    outcome = call("report", str(small_study), finished)
    assert outcome.exit_code == 0, outcome.output
    assert outcome.output.splitlines() == [f"{small_study}/report.html", f"{finished}/report.html"]


def test_report_prints_tables(small_study):
    latex, markdown = (call("report", str(small_study), form) for form in ("--latex", "--markdown"))
    assert latex.output.startswith("\\begin{table}")
    assert "| method | shots | mean, % |" in markdown.output
    twice = call("report", str(small_study), str(small_study), "--markdown", "--metric", "test/loss")
    assert twice.output.count("| method | shots | mean |") == 2


def test_report_names_what_a_study_lacks(small_study, finished, tmp_path):
    assert error_line("report", str(small_study), "--metric", "test/los").startswith(
        f"no cell of {small_study} has the metric 'test/los'; close: 'test/loss'"
    )
    line = error_line("report", finished, "--latex")
    assert line == f"{finished} contains a run; a table compares the arms of a study"
