"""The names at the top of the package, and how the objects that a user prints look."""

import subprocess
import sys

import pytest

import tlx
from tlx import Data, Optim, Recipe, Study, Train, config, models, param, prod, tasks, tuning
from tlx.recipe import classes

RECIPE = Recipe(
    data=Data(target="digits", shots=4),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
    tuning=tuning.Freeze(through="stem"),
    optim=Optim("sgd", lr=0.1),
    train=Train(steps=3, batch=8, eval_batch=64),
)


def test_completion_offers_the_names_of_the_package_alone():
    names = dir(tlx)
    assert {*tlx.__all__} <= {*names}
    assert {"weights", "functional", "data", "layers"} <= {*names}
    assert {"Any", "HOMES", "PACKAGES", "import_module", "find_spec", "TYPE_CHECKING"}.isdisjoint(names)
    for name in names:
        assert getattr(tlx, name) is not None


def test_dir_imports_nothing():
    program = "import sys, tlx; dir(tlx); print([name for name in sys.modules if name.startswith('tlx.')])"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


def test_a_recipe_is_printed_as_it_is_written():
    text = repr(RECIPE)
    assert len(text) < 300
    assert config.parse(text, classes()) == RECIPE
    assert "eval_every" not in text


def test_a_study_prints_its_question_and_its_columns():
    cells = prod(param("tuning.decay", 0.5, 1.0), param("seed", range(3)))
    study = Study(base=RECIPE, cells=cells, question="Which decay?", baseline={"tuning.decay": 1.0})
    for part in ("'Which decay?'", "6 cells", "tuning.decay, seed", "'test/accuracy'", "baseline tuning.decay=1.0"):
        assert part in repr(study)
    assert len(repr(study)) < 200


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tlx.run(RECIPE, tmp_path_factory.mktemp("run") / "run", quiet=True)


def test_a_run_prints_its_folder_and_its_primary_metric(run):
    text = repr(run)
    assert text == f"Run({str(run.folder)!r}, test/accuracy {run.metrics['test/accuracy']:.4f}, selection 'last')"
    # It stays a tuple.
    assert run[0] == run.folder


def test_a_model_prints_its_size_and_not_its_weights(run):
    pretrained = tlx.load_pretrained(run.folder)
    text = repr(pretrained)
    for part in ("Mlp", "2 stages", "610 parameters", "Classification(classes=10", str(run.folder)):
        assert part in text
    assert len(text) < 500
    assert "array" not in text.lower()
