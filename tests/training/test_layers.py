"""Repeated layers in a loop: the choice, the step, and a run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tlx
from tlx import Data, Learn, Optim, Recipe, Train, models, partition, sharding, tasks, tuning
from tlx.models import initialise
from tlx.objectives import Supervised
from tlx.training.layers import choose_layers, longest_run
from tlx.training.loop import How
from tlx.training.step import Parts, compile_step, initial_state
from tlx.trees import flatten, subtree
from tlx.types import Variables

CLASSES, ROWS = 3, 8


def parts_of(depth, how, **more):
    """Return the static half of the step of an MLP with a stem and `depth` equal layers, and its variables."""
    model = models.build(models.Mlp(inputs=(6,), widths=(5,) * (depth + 1), dropout=0.3, input="x"), CLASSES)
    params = how.insert(model, initialise(model, jax.random.key(0)).params, jax.random.key(1))
    claimed = partition.partition(params, how.phases(model)[0].rules)
    task, optim = tasks.Classification(classes=CLASSES), Optim("sgd", lr=0.5, warmup=0.0, schedule="constant")
    return Parts(model, task, (Supervised(),), optim, claimed, **more), Variables(params, {})


def stepped(parts, variables):
    """Return the state after a step, its metrics, and the program."""
    compiled = compile_step(parts, sharding.make_mesh(jax.devices()[:1]))
    state = compiled.place(initial_state(parts, variables, 4, jax.random.key(2)))
    random = np.random.default_rng(0)
    batch = {
        "x": random.normal(size=(ROWS, 6)).astype(np.float32),
        "index": np.arange(ROWS),
        "label": np.arange(ROWS) % 3,
    }
    batch = {
        "labelled": compiled.put(
            {name: leaf.astype("float32" if name == "x" else "int32") for name, leaf in batch.items()}
        )
    }
    program = str(jax.make_jaxpr(compiled.train)(state, batch))
    return *compiled.train(state, batch), program


@pytest.mark.parametrize(
    ("how", "more", "lengths"),
    [
        (tuning.Full(decay=0.5), {"ema": 0.9, "remat": "stages", "accumulate": 2}, {4}),
        # The frozen layers are not in the loop of those that learn.
        (tuning.Freeze(through="blocks/01"), {}, {2}),
        pytest.param(tuning.Rules((r"blocks/0[01]/bias", None), (r".*", Learn())), {}, {2}, marks=pytest.mark.slow),
        (tuning.Probe(), {}, {4}),
        pytest.param(tuning.BitFit(), {}, {4}, marks=pytest.mark.slow),
    ],
    ids=["full", "freeze", "rules", "probe", "bias"],
)
def test_a_step_with_layers_in_a_loop_equals_the_step_with_layers_one_by_one(how, more, lengths):
    parts, variables = parts_of(4, how, **more)
    after, metrics, program = stepped(parts._replace(layers="loop"), variables)
    expected, expected_metrics, separate = stepped(parts, variables)
    for length in lengths:
        assert f"length={length}" in program and f"length={length}" not in separate
    names = jax.tree.leaves_with_path(((after.trainable, after.average), metrics))
    for (path, leaf), other in zip(
        names, jax.tree.leaves(((expected.trainable, expected.average), expected_metrics)), strict=True
    ):
        np.testing.assert_allclose(leaf, other, rtol=1e-5, atol=1e-6, err_msg=jax.tree_util.keystr(path))
    for path, leaf in flatten(after.frozen).items():
        assert (leaf == flatten(variables.params)[path]).all()


def test_frozen_parameters_of_a_loop_have_no_gradient():
    """The loop of a frozen kernel has no product for its gradient, so it takes fewer operations."""
    flops = {}
    for how in (tuning.Full(), tuning.BitFit()):
        parts, variables = parts_of(4, how, layers="loop")
        flops[type(how).__name__] = stepped(parts, variables)[2].count("dot_general")
    assert flops["BitFit"] < flops["Full"]


def test_the_loop_is_chosen_where_it_pays_or_where_it_is_requested():
    deep, variables = parts_of(6, tuning.Full())
    shallow, few = parts_of(3, tuning.Full())
    assert [stage.name for stage in longest_run(shallow, few)] == ["blocks/00", "blocks/01", "blocks/02"]
    kind, line = choose_layers("auto", deep, variables, "tpu")
    assert kind == "loop" and "6 layers" in line and "blocks/00" in line and "blocks/05" in line
    assert choose_layers("auto", deep, variables, "cpu") == ("unrolled", "")
    assert choose_layers("unrolled", deep, variables, "tpu") == ("unrolled", "")
    assert choose_layers("auto", shallow, few, "tpu") == ("unrolled", "")
    assert choose_layers("loop", shallow, few, "cpu")[0] == "loop"
    alone, one = parts_of(1, tuning.Full())
    kind, line = choose_layers("loop", alone, one, "cpu")
    assert kind == "unrolled" and "separately" in line
    # A step that starts at cached features has the layers above the cut alone.
    assert len(longest_run(shallow._replace(start="blocks/01"), few)) == 2
    with pytest.raises(ValueError, match=r"layers is 'lop'.*'loop'"):
        How(layers="lop")


@pytest.mark.slow
def test_a_run_with_layers_in_a_loop_has_the_metrics_and_the_names_of_one_without(tmp_path, capsys):
    recipe = Recipe(
        data=Data(target="digits"),
        task=tasks.Classification(),
        model=models.Mlp(inputs=(8, 8, 1), widths=(8,) * 4, dropout=0.1),
        optim=Optim(lr=3e-3),
        train=Train(steps=4, batch=16, eval_every=2),
    )
    runs = [tlx.run(recipe, tmp_path / layers, how=How(layers=layers)) for layers in ("loop", "unrolled")]
    assert "3 layers from blocks/00 to blocks/02 run as one loop" in "".join(capsys.readouterr())
    looped, unrolled = (run.result for run in runs)
    assert looped["fingerprint"] == unrolled["fingerprint"] and looped["flops"] == unrolled["flops"]
    assert looped["metrics"].keys() == unrolled["metrics"].keys()
    params = [flatten(run.model.variables.params) for run in runs]
    assert params[0].keys() == params[1].keys() and subtree(runs[0].model.variables.params, "blocks/02")
    for path, leaf in params[0].items():
        np.testing.assert_allclose(leaf, jnp.asarray(params[1][path]), rtol=1e-4, atol=1e-5, err_msg=path)
