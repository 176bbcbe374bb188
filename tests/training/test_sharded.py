"""A step on a mesh that cuts the parameters, too, equals the step on one device."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tlx import Optim, models, partition, sharding, tasks, tuning
from tlx.models import initialise
from tlx.objectives import Supervised
from tlx.plan.collectives import collective_bytes
from tlx.sharding import Mesh
from tlx.training.placement import Placement
from tlx.training.step import Parts, compile_step, initial_state
from tlx.trees import flatten, size
from tlx.types import Variables

CLASSES, ROWS, STEPS = 3, 16, 2
BERT = models.Bert(vocabulary=22, width=8, depth=2, heads=2, mlp=12, positions=8, dropout=0.1, attention_dropout=0.1)
MINILM = {"vocabulary": 30522, "width": 384, "depth": 6, "heads": 12, "mlp": 1536, "positions": 512}
MESHES = [Mesh(data=2, fsdp=2, tensor=2), Mesh(data=1, fsdp=8), Mesh(data=4, tensor=2), Mesh(data=2, fsdp=4)]


@pytest.fixture(autouse=True)
def cut_all(monkeypatch):
    """Cut small parameters, too: the models of the tests have no others."""
    monkeypatch.setattr(sharding, "SMALLEST", 0)


def parts_of(how, optim=Optim(lr=0.05, clip=1.0), **more):
    model = models.build(BERT, CLASSES)
    params = jax.jit(lambda key: initialise(model, key))(jax.random.key(0)).params
    params = how.insert(model, params, jax.random.key(1))
    claimed = partition.partition(params, how.phases(model)[0].rules)
    task = tasks.Classification(classes=CLASSES)
    return Parts(model, task, (Supervised(),), optim, claimed, **more), Variables(params, {})


def batch_of(seed):
    random = np.random.default_rng(seed)
    mask = np.arange(7) < random.integers(2, 8, (ROWS, 1))
    return {
        "input_ids": np.where(mask, random.integers(1, 22, (ROWS, 7)), 0).astype(np.int32),
        "attention_mask": mask.astype(np.int32),
        "label": random.integers(0, CLASSES, ROWS).astype(np.int32),
        "index": np.arange(ROWS, dtype=np.int32),
    }


def walk(parts, variables, mesh):
    """Return the state after some steps, the last metrics, and the scores of a batch."""
    compiled = compile_step(parts, mesh)
    state = compiled.place(initial_state(parts, variables, STEPS, jax.random.key(2)))
    for seed in range(STEPS):
        state, metrics = compiled.train(state, {"labelled": compiled.put(batch_of(seed))})
    inputs = {name: array for name, array in batch_of(9).items() if name != "index"}
    return (
        state,
        jax.device_get(metrics),
        jax.device_get(compiled.evaluate(compiled.answer(state), compiled.put(inputs))),
    )


CASES = {
    "all, with an average": (tuning.Full(decay=0.5), {"ema": 0.9}),
    "lora in pieces": (tuning.Lora(rank=2, on=r".*/(query|value|up)", dropout=0.5), {"accumulate": 2}),
}


@pytest.mark.parametrize(
    ("case", "mesh"),
    [
        pytest.param(case, mesh, marks=[] if (case, mesh) == (next(iter(CASES)), MESHES[0]) else [pytest.mark.slow])
        for case in CASES
        for mesh in MESHES
    ],
    ids=str,
)
def test_a_step_on_a_mesh_equals_the_step_on_one_device(case, mesh):
    how, more = CASES[case]
    parts, variables = parts_of(how, **more)
    expected = walk(parts, variables, sharding.make_mesh(jax.devices()[:1]))
    actual = walk(parts, variables, sharding.make_mesh(mesh=mesh))
    for (path, leaf), other in zip(jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            np.testing.assert_allclose(leaf, other, rtol=1e-5, atol=1e-5, err_msg=jax.tree_util.keystr(path))


@pytest.mark.slow
def test_layers_in_a_loop_on_a_mesh_equal_layers_one_by_one_on_one_device():
    how, more = CASES["lora in pieces"]
    (looped, variables), (parts, _) = parts_of(how, layers="loop", **more), parts_of(how, **more)
    assert looped.loop is not None and parts.loop is None
    expected = walk(parts, variables, sharding.make_mesh(jax.devices()[:1]))
    actual = walk(looped, variables, sharding.make_mesh(mesh=MESHES[0]))
    for (path, leaf), other in zip(jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            np.testing.assert_allclose(leaf, other, rtol=1e-5, atol=1e-5, err_msg=jax.tree_util.keystr(path))


def test_every_array_of_the_state_is_cut_like_its_parameter_and_stays_so():
    parts, variables = parts_of(tuning.Full(), ema=0.9)
    mesh = sharding.make_mesh(mesh=Mesh(data=2, fsdp=2, tensor=2))
    compiled = compile_step(parts, mesh)
    state = compiled.place(initial_state(parts, variables, STEPS, jax.random.key(2)))
    kernel = "blocks/00/attention/query/kernel"
    for step in range(2):
        after = state if step == 0 else compiled.train(state, {"labelled": compiled.put(batch_of(0))})[0]
        leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(after)}
        name = "['" + kernel.replace("/", "']['") + "']"
        found = {path: leaf.sharding.spec for path, leaf in leaves.items() if path.endswith(name)}
        # The parameter, its two moments and its average.
        assert len(found) == 4 and {*found.values()} == {PartitionSpec("fsdp", "tensor")}
        assert flatten(after.trainable)[kernel].addressable_shards[0].data.shape == (4, 4)


def sent(parts, variables, mesh):
    """Return the bytes of the collectives of a step."""
    placed = sharding.make_mesh(mesh=mesh)
    form = jax.eval_shape(lambda: initial_state(parts, variables, STEPS, jax.random.key(2)))
    state = jax.tree.map(sharding.shapes, form, Placement(parts, placed).of_state(form))
    batch = {"labelled": sharding.shapes(batch_of(0), sharding.by_example(placed))}
    return collective_bytes(compile_step(parts, placed).train.lower(state, batch).compile().as_text())


@pytest.mark.parametrize("how", [tuning.Lora(rank=2), pytest.param(tuning.Full(), marks=pytest.mark.slow)], ids=type)
def test_only_gradients_of_trainable_parameters_are_communicated(how):
    parts, variables = parts_of(how)
    trained = 4 * sum(size(leaf) for path, leaf in flatten(variables.params).items() if path in parts.learning)
    moved = sent(parts, variables, Mesh())
    # Metrics, and parts of sums, come on top.
    assert set(moved) == {"all-reduce"} and moved["all-reduce"] <= 1.1 * trained + 200
    # A frozen base that is cut is gathered, and nothing else of it is sent.
    cut = sent(parts, variables, Mesh(data=1, fsdp=8))
    assert cut["all-gather"] > 0
    if isinstance(how, tuning.Lora):
        assert sum(bytes_ for kind, bytes_ in cut.items() if kind != "all-gather") < 4 * trained


@pytest.mark.slow
def test_lora_on_minilm_sends_less_than_a_fiftieth_of_full_fine_tuning(monkeypatch):
    monkeypatch.setitem(globals(), "BERT", models.Bert(**MINILM))
    totals = []
    for how in (tuning.Full(), tuning.Lora(rank=8)):
        totals.append(sum(sent(*parts_of(how), Mesh()).values()))
    assert totals[1] < 0.02 * totals[0], totals


def test_logical_axes_decide_how_a_parameter_is_cut(monkeypatch):
    def spec(shape, axes=(), **sizes):
        return tuple(sharding.spec_of(jax.sharding.AbstractMesh((1, *sizes.values()), ("data", *sizes)), shape, axes))

    both = {"fsdp": 2, "tensor": 4}
    assert spec((8, 16), ("width", "mlp"), **both) == ("fsdp", "tensor")
    assert spec((16, 8), ("heads", "width"), **both) == ("tensor", "fsdp")
    # A dimension that cannot be divided stays whole, and fsdp then cuts the largest other one.
    assert spec((8, 6), ("width", "mlp"), **both) == ("fsdp", None)
    assert spec((7, 6), ("width", "mlp"), **both) == (None, "fsdp")
    assert spec((7, 9), ("width", "mlp"), **both) == (None, None)
    # Without names: the largest dimension that can be divided.
    assert spec((4, 3, 10), **both) == (None, None, "fsdp")
    assert spec((9, 4), **both) == (None, "fsdp")
    assert spec((8, 8), ("width", "width"), **both) == ("fsdp", None)
    monkeypatch.setattr(sharding, "SMALLEST", 129)
    assert spec((8, 16), ("width", "mlp"), **both) == (None, "tensor")
    assert spec((8, 16), **both) == (None, None)
    assert spec((8, 17), **both) == ("fsdp", None)


# Kernels of three layers, one after the other.
CUTS = [(None, "tensor"), ("fsdp", "tensor"), ("tensor", "fsdp")]


@pytest.mark.slow
def test_the_partitioner_computes_the_right_gradients_with_the_rows_cut_as_here():
    """With the rows cut by `data` first, jaxlib 0.10.2 computes wrong gradients in 13 of these 27 cases (see
    docs/decisions/meshes.md); so the order of `sharding.ROWS` is not a matter of taste."""
    mesh = sharding.make_mesh(mesh=Mesh(data=2, fsdp=2, tensor=2))
    random = np.random.default_rng(0)
    x = random.normal(size=(16, 4)).astype(np.float32)
    kernels = [random.normal(size=(rows, 8)).astype(np.float32) for rows in (4, 8, 8)]

    def loss(kernels, x):
        for kernel in kernels:
            x = jax.nn.relu(x @ kernel)
        return (x**2).mean()

    expected = jax.grad(loss)(kernels, x)
    for cuts in itertools.product(CUTS, repeat=3):
        places = [NamedSharding(mesh, PartitionSpec(*cut)) for cut in cuts]
        slope = jax.jit(jax.grad(loss), in_shardings=(places, sharding.by_example(mesh)), out_shardings=places)
        for actual, other in zip(slope(kernels, x), expected, strict=True):
            np.testing.assert_allclose(actual, other, rtol=1e-4, atol=1e-4, err_msg=str(cuts))


def test_a_mesh_whose_tensor_axis_cuts_nothing_is_refused():
    model = models.build(dataclasses.replace(BERT, vocabulary=23, mlp=9, width=6, heads=2), CLASSES)
    mesh = jax.sharding.AbstractMesh((1, 1, 4), ("data", "fsdp", "tensor"))
    with pytest.raises(ValueError, match=r"mesh tensor=4 divides no parameter .* have 6, 9, 23 numbers"):
        sharding.specs_of(mesh, model.params, model.params)


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_each_process_reads_the_rows_of_its_devices(mesh):
    """Without overlap or loss."""
    devices = sharding.make_mesh(mesh=mesh)
    np.testing.assert_array_equal(sharding.share(devices, ROWS), np.arange(ROWS))
    shares = [sharding.share(devices, ROWS, jax.devices()[n : n + 4]) for n in (0, 4)]
    assert [len(rows) for rows in shares] == [ROWS // 2] * 2
    np.testing.assert_array_equal(np.sort(np.concatenate(shares)), np.arange(ROWS))
