"""Plans by the real compilers of TPUs and GPUs, which are installed in a folder of their own (see the Makefile): a
plain `import jax` in the tests must not see them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tlx import run
from tlx.cli import load_recipe
from tlx.plan import read_chips

COMPILERS = Path(sys.prefix) / "compilers"
CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))
TARGETS = ("v5e:1x1", "v5e:2x2", "v5p:2x2x1", "h100:2")
RECIPE = """
from tlx import Data, Optim, Recipe, Train, models, tasks


def recipe() -> Recipe:
    return Recipe(
        data=Data(target="digits"),
        task=tasks.Classification(classes=10),
        model=models.Mlp(widths=({width},)),
        optim=Optim(lr=1e-3),
        train=Train(steps=100, batch=32),
    )
"""
STUDY = """
from tlx import Data, Recipe, Study, Train, models, param, prod, tasks


def study() -> Study:
    base = Recipe(
        data=Data(target="digits"), task=tasks.Classification(classes=10), model=models.Mlp(),
        train=Train(steps=100, batch=32, eval_every=100),
    )
    cells = prod(param("optim.lr", 1e-3, 1e-2), param("seed", 0, 1, 2), param("train.dtype", "float32", "bfloat16"))
    return Study(base=base, cells=cells, question="Which rate?")
"""

pytestmark = pytest.mark.slow


def plan(folder, *words, **options):
    """Return the finished process of `tlx plan` with the compilers of absent chips."""
    assert COMPILERS.is_dir(), f"{COMPILERS} is missing: make {sys.prefix}/.compilers"
    environment = {
        name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")
    }
    command = [sys.executable, "-m", "tlx.cli", "plan", *words, "--out", str(folder), "--json"]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300,
        env={**environment, "PYTHONPATH": f"{Path(__file__).parents[2]}{os.pathsep}{COMPILERS}"}, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("plan")


@pytest.fixture(scope="module")
def small(folder):
    """The plans of a small model on every kind of chip, and what the command wrote to the standard error."""
    file = folder / "small.py"
    file.write_text(RECIPE.format(width=64))
    process = plan(folder / "small", str(file), *[word for name in TARGETS for word in ("--on", name)])
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)["plans"], process.stderr


def test_every_kind_of_chip_has_a_plan_in_silence(small):
    plans, said = small
    assert [entry["target"] for entry in plans] == list(TARGETS)
    assert said.splitlines() == [f"compiling for {name}" for name in TARGETS]
    chips = read_chips()
    for entry in plans:
        assert entry["fits"]
        assert sum(entry["memory"].values()) == entry["needed"] < chips[entry["target"].split(":")[0]].usable
        assert 0 < entry["bound"]["seconds"] < entry["step_seconds"][0] < entry["step_seconds"][1]
        assert entry["moved"] >= entry["memory"]["parameters"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_is_planned(path, tmp_path):
    """One of them starts from the run of another; a short run has the same shapes."""
    source = load_recipe(str(path), ())[1].weights
    if source is not None and source.source.startswith("runs/"):
        first = load_recipe(str(path.with_name(f"{Path(source.source).name}.py")), ("train.steps=1", "data.shots=1"))
        run(first[1], tmp_path / source.source, quiet=True)
    process = plan(tmp_path / "plan", str(path), "--on", "v5e:2x2", "--on", "h100:2", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert [entry["fits"] for entry in json.loads(process.stdout)["plans"]] == [True, True]


def test_devices_share_the_operations_and_send_the_gradients(small):
    one, four, *others = small[0]
    assert one["collectives"] == {}
    for entry in (four, *others):
        sent = entry["collectives"]["all-reduce"]
        assert sent == pytest.approx(4 * entry["trainable"], rel=0.05)
        # The update of the parameters is done by every device.
        assert one["flops"] / entry["chips"] <= entry["flops"] < one["flops"]


def test_the_command_leaves_a_document_and_a_page(small, folder):
    document = json.loads((folder / "small" / "plan.json").read_text())
    assert document["plans"] == small[0]
    assert "v5p:2x2x1" in (folder / "small" / "plan.html").read_text()


def test_a_sweep_finds_the_mesh_and_the_batch_that_fit(folder):
    """The model has 4.3 GB of parameters, of which this machine holds none."""
    file = folder / "wide.py"
    file.write_text(RECIPE.format(width="32768, 32768"))
    process = plan(
        folder / "wide", str(file), "--on", "v5e:2x2",
        "--sweep", "mesh=data=-1,data=1:fsdp=-1,train.batch=2,64,1048576",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    document = json.loads(process.stdout)
    whole, *skipped, impossible, cut, full = document["plans"]
    assert "2" in whole["error"] and "4 devices" in whole["error"]
    assert impossible["settings"]["train.batch"] == "2" and "error" in impossible
    assert skipped[0]["fits"] is False and skipped[0]["needed"] > skipped[0]["usable"]
    assert "smaller train.batch" in skipped[1]["error"]
    assert cut["fits"] and cut["memory"]["parameters"] == pytest.approx((784 + 32768) * 32768, rel=0.001)
    assert full["fits"] is False
    assert document["best"] == [{"target": "v5e:2x2", "largest": 4, "fastest_per_example": 4}]


def test_a_study_counts_its_runs_and_compiles_each_program_once(folder):
    file = folder / "rates.py"
    file.write_text(STUDY)
    process = plan(folder / "rates", str(file), "--on", "v5e:2x2", "--together", "4")
    assert process.returncode == 0, process.stderr
    assert process.stderr.count("compiling") == 2
    document = json.loads(process.stdout)
    assert (document["runs"], document["groups"], document["programs"]) == (12, 4, 2)
    (target,) = document["targets"]
    assert target["total"]["hours"][0] == pytest.approx(
        sum(row["runs"] * row["hours"][0] for row in target["programs"])
    )


def test_a_mesh_that_does_not_divide_the_devices_is_one_line(folder):
    file = folder / "small.py"
    file.write_text(RECIPE.format(width=64))
    process = plan(folder / "none", str(file), "--on", "v5e:2x2", "--mesh", "data=-1,fsdp=3")
    assert process.returncode == 2
    (line,) = process.stderr.strip().splitlines()
    assert "4 devices" in line and "parts of 3" in line and "2 or 4" in line
