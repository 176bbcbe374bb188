"""A run on some of the devices: the same numbers, or an error before anything is loaded."""

import dataclasses

import numpy as np
import pytest
from click.testing import CliRunner

import tlx
from tlx import Data, Recipe, Train, config, models, tasks
from tlx.cli import main
from tlx.sharding import Mesh
from tlx.training.loop import How
from tlx.training.run_many import CELLS, run_many

RECIPE = Recipe(
    data=Data(target="digits", shots=4),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
    train=Train(steps=4, batch=12, eval_batch=60, eval_every=4),
)


def logits(run):
    return np.load(run.folder / "predictions" / "validation.npz")["logits"]


@pytest.mark.slow
def test_a_run_on_some_devices_equals_the_run_on_one(tmp_path):
    """Twelve examples cannot be divided among eight devices, but among four, two and one."""
    runs = {n: tlx.run(RECIPE, tmp_path / str(n), how=How(quiet=True, mesh=Mesh(data=n))) for n in (1, 4)}
    [grouped] = run_many([RECIPE], [tmp_path / "grouped"], how=dataclasses.replace(CELLS, mesh=Mesh(data=2)))
    for run in (runs[4], grouped):
        np.testing.assert_allclose(logits(run), logits(runs[1]), rtol=1e-5, atol=1e-6)
        assert run.result["fingerprint"] == config.fingerprint(RECIPE)


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (Mesh(), "train.batch is 12, which 8 devices cannot share evenly ... 8 or 16, or a mesh of data=6"),
        (Mesh(data=5), "train.batch is 12, which 5 devices cannot share evenly ... 10 or 15, or a mesh of data=4"),
        (Mesh(data=9), "mesh data=9: there are only 8 devices; use data=8 or fewer"),
        (Mesh(fsdp=8), "train.batch is 12, which 8 devices cannot share evenly; use 8 or 16"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused_before_the_data_are_opened(tmp_path, mesh, message):
    recipe = dataclasses.replace(RECIPE, data=Data(target="no such data"))
    with pytest.raises(ValueError, match=message.replace(" ... ", ".*")):
        tlx.run(recipe, tmp_path / "run", how=How(quiet=True, mesh=mesh))
    [error] = run_many([recipe], [tmp_path / "other"], how=dataclasses.replace(CELLS, mesh=mesh))
    for part in message.split(" ... "):
        assert part in str(error)
    assert not any(tmp_path.glob("*/recipe.json"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data=0", "mesh data is 0; expected 1 or more devices"),
        ("data=four", "'four' is not a whole number of devices; give data=4"),
        ("dat=4", "names the axis 'dat'; close: 'data'"),
        ("model=2", "names the axis 'model'; there are 'data', 'fsdp', 'tensor'"),
        ("4", "is not of the form data=N"),
        ("data=2,fsdp", "is not of the form data=N"),
        ("data=2,data=4", "names the axis 'data' twice"),
        ("data=-1,fsdp=-1", "only one axis can be -1"),
        ("fsdp=0", "mesh fsdp is 0; expected 1 or more devices"),
        ("fsdp=3", "mesh data=-1,fsdp=3: 8 devices cannot be divided into equal parts of 3; ... have 2 or 4 devices"),
        ("data=4,tensor=4", "mesh data=4,tensor=4: there are only 8 devices; use smaller numbers"),
    ],
)
def test_the_command_line_refuses_an_invalid_mesh(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("from tests_mesh import recipe\n")
    (tmp_path / "tests_mesh.py").write_text(
        "from tlx import Data, Recipe, models, tasks\n"
        "def recipe():\n"
        "    return Recipe(data=Data(target='digits'), task=tasks.Classification(), model=models.Mlp(widths=(4,)))\n"
    )
    result = CliRunner().invoke(main, ["run", "mine.py", "--mesh", text])
    assert result.exit_code == 2
    [line] = result.output.strip().splitlines()
    for part in message.split(" ... "):
        assert part in line
