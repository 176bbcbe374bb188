"""User-defined tunings: one that chooses the trainable parameters, and one that inserts parameters."""

import json

import pytest
from click.testing import CliRunner

import tlx
from tlx.cli import load_recipe, main
from tlx.trees import flatten
from tlx.weights import load_pretrained

LAST_STAGES = '''"""The last stages learn, the head faster."""

from dataclasses import dataclass

from tlx import Data, Learn, Recipe, Train, models, tasks
from tlx.tuning import Tuning
from tlx.types import Phase


@dataclass(frozen=True, kw_only=True)
class LastStages(Tuning):
    """The last `count` stages learn; all but the head at `lr` times the rate."""

    count: int = 2
    lr: float = 0.5

    def phases(self, model):
        *others, head = [stage.name for stage in model.stages][-self.count :]
        rules = [(f"{name}/.*", Learn(lr=self.lr)) for name in others]
        return (Phase(1.0, ((f"{head}/.*", Learn()), *rules, (r".*", None))),)


def recipe():
    return Recipe(
        data=Data(target="digits", shots=4),
        task=tasks.Classification(),
        model=models.Mlp(inputs=(8, 8, 1), widths=(16, 16)),
        tuning=LastStages(),
        train=Train(steps=6, batch=8, eval_every=3),
    )
'''

GAIN = '''"""A factor for each output of every layer."""

from dataclasses import dataclass

import jax.numpy as jnp

from tlx import Data, Learn, Recipe, Train, models, tasks
from tlx.trees import added, flatten
from tlx.tuning import Tuning, merge_layers, with_head


@dataclass(frozen=True, kw_only=True)
class Gain(Tuning):
    """Each output of every layer is multiplied by a factor, which learns, and the head."""

    lr: float = 1.0

    # No layer of tlx reads `gain`: the step computes with the merged kernels.
    merged_in_step = True

    def insert(self, model, params, key):
        kernels = [(path, leaf.shape) for path, leaf in flatten(model.params).items() if path.endswith("/kernel")]
        leaves = {path.replace("/kernel", "/gain/scale"): jnp.ones(shape[-1]) for path, shape in kernels}
        return added(params, leaves, "Gain")

    def phases(self, model):
        return with_head(model, "Gain", (r".*/gain/scale", Learn(lr=self.lr, weight_decay=0.0)))

    def merge(self, params):
        return merge_layers(params, "gain", lambda layer, gain: layer | {"kernel": layer["kernel"] * gain["scale"]})


def recipe():
    return Recipe(
        data=Data(target="digits", shots=4),
        task=tasks.Classification(),
        model=models.Mlp(inputs=(8, 8, 1), widths=(16,)),
        tuning=Gain(lr=2.0),
        train=Train(steps=6, batch=8, eval_every=3),
    )
'''

STUDY = '''"""A user's tuning against ours."""

import mine

from tlx import Study, param
from tlx.tuning import Probe


def study():
    tunings = (Probe(), mine.LastStages(lr=0.25), mine.LastStages(lr=1.0))
    return Study(base=mine.recipe(), cells=param("tuning", *tunings), question="Does it?")
'''


@pytest.mark.slow
def test_a_tuning_that_chooses_the_trainable_parameters(check_recipe):
    artifacts = check_recipe(LAST_STAGES, "tuning.lr", (0.25, 1.0))
    document = json.loads((artifacts.folder / "recipe.json").read_text())
    assert document["schema"] == 2 and document["classes"] == {"tlx_config_mine:LastStages": "../mine.py"}
    # On the command line its class has a name like the classes of tlx, and its values can be searched and swept.
    arguments = [
        "run",
        str(artifacts.file),
        "--set",
        "tuning=LastStages(count=1)",
        "--quiet",
        "--out",
        str(artifacts.folder.parent / "one"),
    ]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    (artifacts.file.parent / "sweep.py").write_text(STUDY)
    out = artifacts.file.parent / "swept"
    result = CliRunner().invoke(main, ["study", str(artifacts.file.parent / "sweep.py"), "--out", str(out), "--quiet"])
    assert result.exit_code == 0, result.output
    [cell] = [path.parent for path in out.glob("cells/*/recipe.json") if '"lr": 0.25' in path.read_text()]
    result = CliRunner().invoke(main, ["rebuild", str(cell)])
    assert result.exit_code == 2 and "LastStages" in result.output and "--config FILE" in result.output
    result = CliRunner().invoke(main, ["rebuild", str(cell), "--config", str(artifacts.file.parent / "sweep.py")])
    assert result.exit_code == 0, result.output


@pytest.mark.slow
def test_a_tuning_that_inserts_parameters_is_merged_into_the_model(check_recipe, tmp_path):
    artifacts = check_recipe(GAIN, "optim.lr", (0.01, 0.02))
    pretrained = load_pretrained(artifacts.folder)
    assert flatten(pretrained.variables.params).keys() == flatten(pretrained.model.params).keys()
    assert not (artifacts.folder / "adapter").exists()
    result = CliRunner().invoke(main, ["export", str(artifacts.folder), str(tmp_path / "exported")])
    assert result.exit_code == 0, result.output
    changed = tmp_path / "wrong.py"
    changed.write_text(GAIN.replace('layer | {"kernel"', 'layer | {"kernels"'))
    with pytest.raises(ValueError, match=r"Gain.merge: 'blocks/00/kernels' is \(16, 10\)|Gain.merge: '.*/kernels' is"):
        tlx.run(load_recipe(str(changed), ())[1], tmp_path / "wrong", quiet=True)
