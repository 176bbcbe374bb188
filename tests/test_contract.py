"""What every tuning, every term and every architecture owe to one another: each with each."""

import itertools

import jax
import numpy as np
import pytest
from flax import linen

from tlx import Learn, Optim, models, partition, sharding, tasks, tuning
from tlx.checkpoint import Checkpoints, Saved
from tlx.objectives import TERMS
from tlx.step import Parts, compile_step, initial_state
from tlx.trees import flatten, nest
from tlx.tuning.base import parametric

CLASSES, BATCH = 3, 4


class Net(linen.Module):
    """A researcher's own."""

    @linen.compact
    def __call__(self, x, train=False):
        x = linen.Dropout(0.5, deterministic=not train)(linen.relu(linen.Dense(4)(x)))
        return linen.Dense(CLASSES)(x)


TEXT = {"vocabulary": 11, "width": 4, "depth": 1, "heads": 2, "mlp": 4, "positions": 8}
MODELS = {
    "bert": models.Bert(**TEXT),
    "vit": models.Vit(size=4, patch=2, channels=1, width=4, depth=1, heads=2, mlp=4, dropout=0.1),
    "cnn": models.Cnn(size=4, widths=(2, 2), dense=4),
    "mlp": models.Mlp(inputs=(4, 4, 1), widths=(3, 3), dropout=0.5),
    "linen": models.Linen(module=Net(), shape=(16,), input="x"),
}
# The dense layers of each, where LoRA and its kin may go.
ON = {"cnn": "pool", "mlp": r"stem|blocks/\d+"}
DENSE = r".*/attention/(query|value)"
TUNINGS = {
    "Full": lambda name, stages: tuning.Full(decay=0.5),
    "Probe": lambda name, stages: tuning.Probe(),
    "Freeze": lambda name, stages: tuning.Freeze(through=stages[0], decay=0.5),
    "Rules": lambda name, stages: tuning.Rules((r".*/bias", None), (r".*", Learn(lr=0.5, weight_decay=0.1))),
    "Lora": lambda name, stages: tuning.Lora(rank=2, on=ON.get(name, DENSE), dropout=0.5, plus=4.0),
    "Dora": lambda name, stages: tuning.Dora(rank=1, on=ON.get(name, DENSE), rank_stabilised=True),
    "Vera": lambda name, stages: tuning.Vera(rank=3, on=ON.get(name, DENSE)),
    "Ia3": lambda name, stages: tuning.Ia3(on=ON.get(name, DENSE), inputs=ON.get(name, r".*/mlp/down")),
    "BitFit": lambda name, stages: tuning.BitFit(),
    "NormTuning": lambda name, stages: tuning.NormTuning(),
    "Adapter": lambda name, stages: tuning.Adapter(width=2, placement="houlsby"),
    "Prefix": lambda name, stages: tuning.Prefix(tokens=2),
    "Prompt": lambda name, stages: tuning.Prompt(tokens=2),
    "SideHead": lambda name, stages: tuning.SideHead(),
    "Gradual": lambda name, stages: tuning.Gradual(last=0.5),
    "LinearThenFull": lambda name, stages: tuning.LinearThenFull(decay=0.5),
    "FineTune": lambda name, stages: tuning.FineTune(),
    "Episodes": lambda name, stages: tuning.Episodes(episodes=min(2, len(stages))),
    "InTurn": lambda name, stages: tuning.InTurn((0.5, TUNINGS["Lora"](name, stages)), (0.5, tuning.Full())),
}
# What a tuning refuses, with the reason.
REFUSED = {
    ("linen", "Probe"): "needs a stage below the head",
    ("linen", "BitFit"): "needs a stage below the head",
    ("linen", "LinearThenFull"): "needs a stage below the head",
    ("linen", "FineTune"): "needs a stage below the head",
    ("linen", "Freeze"): "leaves nothing to learn",
    ("cnn", "Adapter"): "needs transformer blocks",
    ("cnn", "Prefix"): "needs transformer blocks",
    ("cnn", "Prompt"): "needs a model of tokens",
    ("mlp", "Adapter"): "needs transformer blocks",
    ("mlp", "Prefix"): "needs transformer blocks",
    ("mlp", "Prompt"): "needs a model of tokens",
    ("mlp", "NormTuning"): "finds no norm",
    ("linen", "NormTuning"): "finds no norm",
} | {
    ("linen", how): "which a bridged module (Linen) does not read"
    for how in ("Lora", "Dora", "Vera", "Ia3", "Adapter", "Prefix", "Prompt", "SideHead", "InTurn")
}
PAIRS = [pair for pair in itertools.product(MODELS, TUNINGS) if pair not in REFUSED]


def begin(name, how):
    """The model, the way of tuning and the variables with what it adds."""
    model = models.build(MODELS[name], CLASSES)
    way = TUNINGS[how](name, parametric(model))
    variables = jax.jit(lambda key: models.initialise(model, key))(jax.random.key(0))
    return model, way, variables._replace(params=way.insert(model, variables.params, jax.random.key(1)))


def batch(name):
    random = np.random.default_rng(0)
    inputs = {
        "bert": {
            "input_ids": random.integers(1, 11, (BATCH, 5)).astype(np.int32),
            "attention_mask": np.ones((BATCH, 5), np.int32),
        },
        "linen": {"x": random.normal(size=(BATCH, 16)).astype(np.float32)},
    }.get(name, {"image": random.normal(size=(BATCH, 4, 4, 1)).astype(np.float32)})
    labels = random.integers(0, CLASSES, BATCH).astype(np.int32)
    return {"labelled": inputs | {"label": labels, "index": np.arange(BATCH, dtype=np.int32)}}


def held(state):
    """A state whose key is numbers, as a checkpoint holds it."""
    return state._replace(key=jax.random.key_data(state.key))._asdict()


def test_the_tables_are_all_tried():
    assert TUNINGS.keys() == tuning.TUNINGS.keys()
    kinds = {type(settings) for settings in MODELS.values()}
    assert kinds == models.ARCHITECTURES.keys() - {models.Nnx}


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize(("name", "how"), PAIRS)
def test_two_steps(name, how, term, tmp_path):
    model, way, variables = begin(name, how)
    objective = TERMS[term]()
    variables = variables._replace(params=objective.insert(model, variables.params, jax.random.key(2)))
    (phase, *_) = way.phases(model)
    claimed = partition.partition(variables.params, phase.rules)
    parts = Parts(model, tasks.Classification(classes=CLASSES), (objective,), Optim(lr=0.1), claimed)

    compiled = compile_step(parts, sharding.make_mesh(jax.devices()[:1]))
    start = initial_state(parts, variables, 2, jax.random.key(3))
    state = compiled.place(start)
    for _ in range(2):
        state, metrics = compiled.train(state, jax.tree.map(np.copy, batch(name)))
        assert np.isfinite(float(metrics["loss"]))
    final = compiled.fetch(state)

    before, after = flatten(variables.params), flatten(final.variables.params)
    assert before.keys() == after.keys() == claimed.keys()
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    assert moved
    assert not moved & {path for path, learn in claimed.items() if learn is None}

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, Saved(held(final), {}, None, {"best": False}))
    checkpoints.wait()
    again = checkpoints.restore(held(start), {}).state
    checkpoints.close()
    assert jax.tree.structure(again) == jax.tree.structure(held(final))
    jax.tree.map(np.testing.assert_array_equal, again, held(final))


@pytest.mark.parametrize(("name", "how"), REFUSED)
def test_what_cannot_be_is_refused(name, how):
    with pytest.raises(ValueError) as error:
        begin(name, how)[1].phases(models.build(MODELS[name], CLASSES))
    assert REFUSED[name, how] in str(error.value)


ADDED = [pair for pair in PAIRS if getattr(tuning, pair[1]).insert is not tuning.Tuning.insert]


@pytest.mark.parametrize(("name", "how"), ADDED)
def test_what_is_added_begins_as_the_model_came_and_is_heard(name, how):
    """Prompt and Prefix add tokens, which are heard at once; everything else begins as the identity."""
    model = models.build(MODELS[name], CLASSES)
    way, random = TUNINGS[how](name, parametric(model)), np.random.default_rng(0)
    plain = jax.jit(lambda key: models.initialise(model, key))(jax.random.key(0))
    # Away from small weights, which would hide what is not heard.
    plain = plain._replace(
        params=jax.tree.map(lambda leaf: leaf + random.normal(size=leaf.shape).astype("f4"), plain.params)
    )
    variables = plain._replace(params=way.insert(model, plain.params, jax.random.key(1)))
    inputs = {name: array for name, array in batch(name)["labelled"].items() if name not in ("label", "index")}
    before, after = (models.forward(model, v, inputs)[0]["logits"] for v in (plain, variables))
    if how not in ("Prefix", "Prompt"):
        np.testing.assert_allclose(before, after, rtol=0, atol=1e-6)
    new = flatten(variables.params).keys() - flatten(plain.params).keys()
    # Away from the beginning, every leaf that learns is heard in the logits.
    leaves = flatten(variables.params)
    for path, key in zip(sorted(new), jax.random.split(jax.random.key(4), len(new)), strict=True):
        leaves[path] += 0.5 * jax.random.normal(key, leaves[path].shape)
    params = nest(leaves)
    moved = models.forward(model, variables._replace(params=params), inputs)[0]["logits"]
    assert not np.allclose(moved, after, atol=1e-4)
    gradient = jax.grad(lambda p: (models.forward(model, variables._replace(params=p), inputs)[0]["logits"] ** 2).sum())
    found = flatten(gradient(params))
    claimed = partition.partition(variables.params, way.phases(model)[0].rules)
    deaf = [path for path in new if claimed[path] is not None and not np.abs(found[path]).max() > 0]
    assert not deaf
