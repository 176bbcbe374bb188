"""Parameters that a mesh cuts are drawn and read part by part, with the bits of whole ones; no host has them all."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tlx import Data, Recipe, Train, Weights, load_pretrained, models, sharding, tasks, tuning
from tlx.models import initialise
from tlx.sharding import Mesh
from tlx.training.placement import Placement
from tlx.training.prepare import prepare
from tlx.training.pretrained import drawn
from tlx.training.state import initial_state
from tlx.trees import flatten
from tlx.types import Variables
from tlx.weights import Manifest, Pretrained, save_pretrained
from tlx.weights.files import read_file

BERT = models.Bert(vocabulary=32, width=16, depth=2, heads=2, mlp=32, positions=8)
TASK = tasks.Classification(classes=2, names=("no", "yes"))
HALF = ("float16", "bfloat16")
MESHES = [Mesh(data=1, fsdp=8), Mesh(data=2, fsdp=2, tensor=2), Mesh(data=4, tensor=2)]


@pytest.fixture(autouse=True)
def cut_all(monkeypatch):
    """Cut small parameters, too: the models of the tests have no others."""
    monkeypatch.setattr(sharding, "SMALLEST", 0)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Return the directories of one model in floats of 32 and of 16 bits."""
    model = models.build(BERT, models.Pooled(2))
    variables = jax.jit(lambda key: initialise(model, key))(jax.random.key(5))
    folder = tmp_path_factory.mktemp("stored")
    for name in ("float32", "float16", "bfloat16"):
        save_pretrained(Pretrained(model, variables, None, Manifest("", {}, ()), TASK), folder / name)
        if name != "float32":
            path = folder / name / "model.safetensors"
            dtype = np.dtype(jax.numpy.bfloat16) if name == "bfloat16" else np.float16
            save_file({key: leaf.astype(dtype) for key, leaf in load_file(path).items()}, path)
    return folder


def assert_equal(actual, expected):
    actual, expected = flatten(actual), flatten(expected)
    assert actual.keys() == expected.keys()
    for path, leaf in expected.items():
        assert actual[path].dtype == leaf.dtype, path
        np.testing.assert_array_equal(np.asarray(actual[path]), np.asarray(leaf), err_msg=path)


def assert_cut(mesh, model, params):
    """Every device has only its part of each parameter."""
    for path, leaf in flatten(params).items():
        spec = sharding.spec_of(mesh, leaf.shape, flatten(model.params)[path].axes)
        assert leaf.sharding.spec == spec, path


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_each_device_draws_its_part_of_the_same_bits(mesh):
    mesh, model = sharding.make_mesh(mesh=mesh), models.build(BERT, models.Pooled(2))
    parts = drawn(model, 3, mesh)
    assert_equal(parts.params, drawn(model, 3, None).params)
    assert_cut(mesh, model, parts.params)


@pytest.mark.parametrize("dtype", ["float32", *(pytest.param(name, marks=pytest.mark.slow) for name in HALF)])
def test_each_device_reads_its_part_of_the_same_bits(stored, dtype):
    mesh, recipe = sharding.make_mesh(mesh=MESHES[1]), recipe_of(stored / dtype)
    ready = prepare(recipe, mesh=mesh)
    variables = Placement(ready.parts(0), mesh).spread(ready.variables)
    assert_equal(variables.params, load_pretrained(stored / dtype, TASK).variables.params)
    assert_cut(mesh, ready.model, variables.params)
    for path, leaf in flatten(ready.variables.params).items():
        # A tensor of 32 bits stays in its file. That a head was trained is checked on the host.
        on_host = dtype == "float32" or path.startswith(("pool/", "head/"))
        assert isinstance(leaf, jax.Array) != on_host, path
        assert dtype != "float32" or not leaf.flags.owndata, path


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
def test_what_a_checkpoint_lacks_is_drawn_as_without_a_mesh(stored, dtype):
    mesh, seed = sharding.make_mesh(mesh=MESHES[0]), 7
    settings = {"task": tasks.Classification(classes=8), "reset": ("blocks/01/.*",), "resize": 6, "seed": seed}
    whole = load_pretrained(stored / dtype, **settings)
    parts = load_pretrained(stored / dtype, **settings, mesh=mesh)
    assert_equal(parts.variables.params, whole.variables.params)
    assert parts.manifest == whole.manifest


def test_a_mapped_file_is_checked_like_one_that_is_read(stored):
    path = stored / "float32" / "model.safetensors"
    assert_equal(read_file(path, mapped=True), read_file(path))
    damaged = path.parent.parent / "damaged.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(ValueError, match="its tensors differ from those that tlx wrote"):
        read_file(damaged, mapped=True)


def recipe_of(source, how=tuning.Full(), **train):
    return Recipe(
        data=Data(target="digits", tokens=8, buckets=(8,)),
        task=TASK,
        weights=Weights(str(source)),
        tuning=how,
        train=Train(**train),
    )


def test_a_state_of_spread_parameters_is_not_copied_again(stored):
    """Its arrays go to the step, which donates them; those that the run keeps are copied."""
    mesh, recipe = sharding.make_mesh(mesh=MESHES[0]), recipe_of(stored / "float32", ema=0.9)
    ready = prepare(recipe, mesh=mesh)
    placement = Placement(ready.parts(0), mesh)
    variables = placement.spread(ready.variables)
    memory = {"0": {"anchor": flatten(variables.params)["blocks/00/mlp/up/kernel"]}}
    state = initial_state(ready.parts(0), variables, 3, jax.random.key(0), memory)
    placed = placement.put(state, copy=False)
    assert flatten(placed.trainable)["blocks/00/mlp/up/kernel"] is flatten(state.trainable)["blocks/00/mlp/up/kernel"]
    leaves = [leaf.unsafe_buffer_pointer() for leaf in shards(placed)]
    assert len(leaves) == len(set(leaves))


def shards(state):
    """Return the part on the first device of every array of a state."""
    arrays = [leaf for leaf in jax.tree.leaves(state) if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended)]
    return [leaf.addressable_shards[0].data for leaf in arrays if leaf.size]


MEASURE = """
import sys
import jax
from tlx import Data, Optim, Recipe, Weights, models, sharding, tasks
from tlx.training.placement import Placement
from tlx.training.prepare import prepare
from tlx.training.state import initial_state

def resident(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field)) / 1024

def place(width, source, mesh):
    model = None if source else models.Mlp(inputs=(16, 16, 1), widths=(width,) * 24)
    weights = Weights(source) if source else None
    optim = Optim("sgd", momentum=None)
    task = tasks.Classification(classes=2, names=("no", "yes"))
    ready = prepare(Recipe(data=Data(target="digits"), task=task, model=model, weights=weights, optim=optim), mesh=mesh)
    if not source:
        return ready.variables
    placement = Placement(ready.parts(0), mesh)
    state = initial_state(ready.parts(0), placement.spread(ready.variables), 3, jax.random.key(0), {"0": {}})
    return placement.put(state, copy=False).trainable

mesh = sharding.make_mesh(mesh=sharding.Mesh(data=1, fsdp=8))
small, large = sys.argv[1:] if len(sys.argv) > 1 else ("", "")
place(256, small, mesh)
before = resident("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
placed = jax.block_until_ready(place(1024, large, mesh))
total = sum(leaf.nbytes for leaf in jax.tree.leaves(placed)) / 2**20
print(resident("VmHWM") - before, total)
"""


@pytest.mark.slow
def test_no_host_holds_a_whole_model_beside_its_parts(tmp_path):
    """The parts of all eight devices are in the memory of this one process, 93 MiB; a parameter has 4 MiB."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    for width in (256, 1024):
        model = models.build(models.Mlp(inputs=(16, 16, 1), widths=(width,) * 24), models.Pooled(2))
        variables = Variables(jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes_of(model)), {})
        pretrained = Pretrained(model, variables, None, Manifest("", {}, ()), TASK)
        save_pretrained(pretrained, tmp_path / str(width))
    for sources in ((), (str(tmp_path / "256"), str(tmp_path / "1024"))):
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, *sources], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        peak, total = map(float, done.stdout.split())
        assert 90 < total < 100 and total < peak < 1.5 * total, (sources, peak, total)


def shapes_of(model):
    return jax.eval_shape(lambda: initialise(model, jax.random.key(0))).params
