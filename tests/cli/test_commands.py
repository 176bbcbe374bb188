"""The command printed when a command is stopped: pasted into a shell, it resumes the same work."""

import shlex

import pytest
from click.testing import CliRunner

from tlx import config as records
from tlx.cli import main
from tlx.study import Study

CONFIG = '''"""A tiny run.   tlx run tiny.py"""
from tlx import Data, Recipe, Study, Train, models, param, tasks, terms
from tlx.tune import uniform

def recipe():
    return Recipe(
        data=Data(target="digits", source="mnist5k", labels=0, size=16),
        task=tasks.Classification(classes=10),
        model=models.Cnn(size=16, channels=1, widths=(8,), dense=8),
        objective=(terms.Supervised(on="source"), terms.Dann()),
        train=Train(steps=3, batch=8, eval_batch=64),
    )

def study():
    return Study(base=recipe(), cells=param("seed", 0, 1), question="Does a seed matter?")

def space():
    return {"optim.lr": uniform(1e-4, 1e-2)}
'''
PLAIN = CONFIG.replace('source="mnist5k", labels=0, size=16', "size=16").replace(
    '(terms.Supervised(on="source"), terms.Dann())', "(terms.Supervised(),)"
)
SET = ("--set", "tuning=Freeze(through='stem')", "--set", "optim.lr=0.003")
MESH = ("--mesh", "data=2")
TRACK = ("--track", "mlflow", "--track", "Wandb(project='a b')")
WEIGHTS = ("--set", "weights=Weights('no where')")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with names that a shell splits into several words or takes for options."""
    folder = tmp_path / "it's $HOME; a *"
    folder.mkdir()
    (folder / "ti ny.py").write_text(CONFIG)
    (folder / "-plain.py").write_text(PLAIN)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("tlx.training.loop.run", ("run", "ti ny.py", *SET, "--out", "o u t", "--no-feature-cache", *MESH)),
        ("tlx.training.loop.run", ("run", "ti ny.py", *SET)),
        ("tlx.training.loop.run", ("run", "--quiet", "--overwrite", "--", "-plain.py")),
        # The packages of the trackers are installed for the slow tests.
        pytest.param("tlx.training.loop.run", ("run", "ti ny.py", *TRACK), marks=pytest.mark.slow),
        pytest.param("tlx.training.lengthen.lengthen", ("lengthen", "o u t", *TRACK), marks=pytest.mark.slow),
        ("tlx.training.lengthen.lengthen", ("lengthen", "o u t", "--steps", "7", *MESH)),
        ("tlx.training.lengthen.lengthen", ("lengthen", "o u t", "--epochs", "2.5", "--config", "ti ny.py")),
        (
            "tlx.training.lr_find.find",
            ("lr-find", "ti ny.py", *SET, "--steps", "7", "--start", "1.23456789e-6", "--per-group", *MESH),
        ),
        ("tlx.study.run_study", ("study", "ti ny.py", *SET, "--jobs", "3", "--together", "2", "--out", "o u t", *MESH)),
        ("tlx.study.run_study", ("study", "--quiet", "--", "-plain.py")),
        (
            "tlx.tune.search",
            ("tune", "ti ny.py", *SET, "--space", "ti ny.py", "--trials", "3", "--sampler", "grid", "--jobs", "2",
             "--together", "3", "--seed", "5", "--metric", "validation/loss", "--direction", "minimize", "--out", "o",
             *MESH),
        ),
        ("tlx.analysis.benefit.measure", ("benefit", *WEIGHTS, "--scratch", "optim.lr=1e-3", "--seeds", "2",
                                 "--shots", "2,4", "--pue", "1.2345678", "--jobs", "2", *MESH, "--", "-plain.py")),
        ("tlx.analysis.negative.measure", ("negative-transfer", "ti ny.py", *SET[2:], "--seeds", "2", "--labels",
                                  "0,0.125", "--eps", "0,0.123456789", "--smallest", "0.0123", *MESH, "--out", "o")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)  # fmt: skip
def test_the_printed_command_resumes_the_same_work(function, words, place, monkeypatch):
    calls = []

    def stopped(*positional, **named):
        calls.append(comparable([*positional, *sorted(named.items())]))
        raise KeyboardInterrupt

    monkeypatch.setattr(function, stopped)
    # It opens the weights and the data.
    monkeypatch.setattr(
        "tlx.analysis.benefit.benefit_study", lambda recipe, **named: (recipe, sorted(named.items()), "study")
    )
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code == 130, result.output
    printed = result.output.rstrip("\n").splitlines()[-1].partition(": ")[2]
    repeated = shlex.split(printed)
    assert repeated[0] == "tlx"
    result = CliRunner().invoke(main, repeated[1:])
    assert result.exit_code == 130, result.output
    first, second = calls
    if words[0] == "run":
        assert ("resume", True) in second
        for name in ("resume", "overwrite"):
            first, second = ([item for item in call if item[0] != name] for call in (first, second))
    assert second == first
    # The command that it prints is the same.
    assert result.output.rstrip("\n").splitlines()[-1].partition(": ")[2] == printed


def comparable(items):
    """Arguments as comparable values; other tests cover workers and records."""
    results = []
    for item in items:
        name, value = item if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str) else ("", item)
        if name in ("worker", "command", "file"):
            # `./-plain.py` is `-plain.py`.
            value = [word.removeprefix("./") for word in value] if name == "worker" else None
        if isinstance(value, Study):
            value = list(value.by_fingerprint)
        elif records.is_record(value) and type(value).__name__ == "Recipe":
            value = records.fingerprint(value)
        results.append((name, value if not callable(value) else None))
    return results
