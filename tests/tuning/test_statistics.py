"""Adapt norms to a target: scales and shifts by the entropy, or only the running statistics."""

import re
from functools import partial

import jax
import numpy as np
import pytest

from tlx import Optim, Train, models, partition, tasks, terms, tuning
from tlx.training.step import Parts, eval_step, initial_state, train_step
from tlx.training.tuning_checks import check_statistics
from tlx.trees import flatten, map_named
from tlx.types import Learn

SMALL = models.Cnn(size=4, channels=1, widths=(3,), dense=None, dropout=0.0)
UNLABELLED = (terms.Entropy(on="unlabelled", weight=1.0),)


def begun(config, way, objective, variables=None, lr=0.5, steps=4):
    model = models.build(config, 3)
    if variables is None:
        variables = jax.jit(partial(models.initialise, model))(jax.random.key(0))
    claimed = partition.partition(model.params, way.phases(model)[0].rules)
    parts = Parts(model, tasks.Classification(classes=3), objective, Optim("sgd", lr=lr, schedule="constant"), claimed)
    return parts, initial_state(parts, variables, steps, jax.random.key(3))


def answers(params, images):
    """Probabilities of SMALL with batch statistics and without dropout, in float64; and the moments."""
    p = {path: np.asarray(leaf, np.float64) for path, leaf in flatten(params).items()}
    x = np.pad(np.float64(images), ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = sum(x[:, i : i + 4, j : j + 4] @ p["stem/kernel"][i, j] for i in range(3) for j in range(3))
    mean, variance = y.mean((0, 1, 2)), y.var((0, 1, 2))
    y = (y - mean) / np.sqrt(variance + 1e-5) * p["stem/norm/scale"] + p["stem/norm/bias"]
    pooled = np.maximum(y, 0).reshape(-1, 2, 2, 2, 2, 3).max((2, 4)).mean((1, 2))
    logits = pooled @ p["head/kernel"] + p["head/bias"]
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True), mean, variance


def test_norm_tuning_without_the_head_on_the_entropy_is_tent():
    images = np.random.default_rng(1).normal(1.0, 2.0, (7, 4, 4, 1)).astype(np.float32)
    parts, start = begun(SMALL, tuning.NormTuning(head=False), UNLABELLED)
    batch = {"unlabelled": {"image": images, "index": np.arange(7, dtype=np.int32)}}
    state, metrics = jax.jit(partial(train_step, parts))(start, batch)

    def entropy(path=None, n=0, step=0.0):
        leaves = {name: np.asarray(leaf, np.float64).copy() for name, leaf in flatten(start.variables.params).items()}
        if path:
            leaves[path][n] += step
        p, *_ = answers(leaves, images)
        return -(p * np.log(p)).sum(-1).mean()

    assert float(metrics["entropy/entropy"]) == pytest.approx(entropy(), rel=1e-5)
    before, after = flatten(start.variables.params), flatten(state.variables.params)
    for path in ("stem/norm/scale", "stem/norm/bias"):
        slope = np.array([(entropy(path, n, 1e-6) - entropy(path, n, -1e-6)) / 2e-6 for n in range(3)])
        np.testing.assert_allclose(after[path], before[path] - 0.5 * slope, rtol=1e-4, atol=1e-6)
    moved = {path for path, leaf in after.items() if not np.array_equal(leaf, before[path])}
    assert moved == {"stem/norm/scale", "stem/norm/bias"}
    _, mean, variance = answers(start.variables.params, images)
    norm = state.stats["stem"]["norm"]
    np.testing.assert_allclose(norm["mean"], 0.1 * mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(norm["variance"], 0.9 + 0.1 * variance, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        models.Cnn(size=4, widths=(2, 3), dense=4),
        models.Bert(vocabulary=11, width=4, depth=1, heads=2, mlp=4, positions=8),
        models.Vit(size=4, patch=2, channels=1, width=4, depth=1, heads=2, mlp=4),
    ],
)
def test_without_the_head_the_other_norms_move_in_the_same_way(config):
    model = models.build(config, 3)
    full, stored = (
        partition.partition(model.params, tuning.NormTuning(head=head).phases(model)[0].rules) for head in (True, False)
    )
    for path, learn in full.items():
        assert stored[path] == (None if path.startswith("head/") else learn), path
    assert "head" in partition.frozen_stages([stage.name for stage in model.stages], stored)


def problem(count, seed, shift=0.0, scale=1.0):
    """Images of three textures; `shift` and `scale` change their brightness."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count).astype(np.int32)
    place = np.arange(8)
    rows, columns = np.broadcast_to(place[:, None] % 2, (8, 8)), np.broadcast_to(place % 2, (8, 8))
    textures = np.stack([rows, columns, (rows + columns) % 2]) - 0.5
    images = textures[labels] + 0.3 * random.normal(size=(count, 8, 8))
    images = (scale * images + shift).astype(np.float32)[..., None]
    return {"image": images, "label": labels, "index": np.arange(count, dtype=np.int32)}


@pytest.mark.slow
def test_a_shifted_target_is_recovered_by_its_statistics_only():
    config = models.Cnn(size=8, widths=(4, 6), dense=8, dropout=0.1)
    parts, state = begun(config, tuning.Full(), (terms.Supervised(),), lr=0.1, steps=60)
    train = jax.jit(partial(train_step, parts))
    for step in range(60):
        state, _ = train(state, {"labelled": problem(32, step)})
    target = {"shift": 0.05, "scale": 0.1}

    def right(parts, state, **how):
        held_out = problem(300, 1000, **how)
        return (np.argmax(eval_step(parts, state, held_out)["logits"], -1) == held_out["label"]).mean()

    assert right(parts, state) > 0.97
    assert right(parts, state, **target) < 0.6
    after, adapted = begun(config, tuning.AdaBN(), UNLABELLED, state.variables, lr=0.1, steps=60)
    train = jax.jit(partial(train_step, after))
    for step in range(60):
        batch = {name: array for name, array in problem(32, 100 + step, **target).items() if name != "label"}
        adapted, recorded = train(adapted, {"unlabelled": batch})
    assert right(after, adapted, **target) > 0.95
    assert np.isfinite(recorded["gradient_norm"])
    for path, leaf in flatten(state.variables.params).items():
        np.testing.assert_array_equal(flatten(adapted.variables.params)[path], leaf)
    # The statistics of the first norm are those of the target images after the first convolution.
    images = np.concatenate([problem(32, 100 + step, **target)["image"] for step in range(60)])
    kernel = np.asarray(state.variables.params["stem"]["kernel"], np.float64)
    x = np.pad(np.float64(images), ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = sum(x[:, i : i + 8, j : j + 8] @ kernel[i, j] for i in range(3) for j in range(3))
    np.testing.assert_allclose(adapted.stats["stem"]["norm"]["mean"], y.mean((0, 1, 2)), rtol=0.02, atol=2e-3)


@pytest.mark.parametrize("optim", ["adamw", "sgd", "schedule-free-adamw", "lion", "lamb", "adafactor"])
def test_no_optimiser_moves_a_parameter(optim):
    model = models.build(SMALL, 3)
    variables = jax.jit(partial(models.initialise, model))(jax.random.key(0))
    claimed = partition.partition(model.params, tuning.AdaBN().phases(model)[0].rules)
    settings = Optim(optim, lr=0.5, weight_decay=0.1, schedule="constant")
    parts = Parts(model, tasks.Classification(classes=3), UNLABELLED, settings, claimed)
    start = initial_state(parts, variables, 3, jax.random.key(3))
    state, train = start, jax.jit(partial(train_step, parts))
    batch = {"image": np.random.default_rng(0).normal(size=(6, 4, 4, 1)).astype(np.float32)}
    for _ in range(3):
        state, _ = train(state, {"unlabelled": batch | {"index": np.arange(6, dtype=np.int32)}})
    for path, leaf in flatten(start.variables.params).items():
        np.testing.assert_array_equal(flatten(state.variables.params)[path], leaf, err_msg=path)
    assert not np.allclose(state.stats["stem"]["norm"]["mean"], start.stats["stem"]["norm"]["mean"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tuning.AdaBN().phases(models.build(models.Mlp(), 3)),
         "AdaBN() ... batch norm (running statistics); Mlp"),
        (lambda: tuning.NormTuning(head=False).phases(models.build(models.Mlp(), 3)),
         "NormTuning() ... norm ... a scale, perhaps a bias); Mlp"),
    ],
)  # fmt: skip
def test_an_invalid_tuning_is_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    for part in message.split(" ... "):
        assert part in str(error.value)


# Stages: a stem with a norm, two like blocks, a pool and the head.
RESNET = models.ResNet(
    size=8, channels=1, stem=4, widths=(4,), depths=(3,), bottleneck=False, halve_first=False
)  # fmt: skip
IMAGES = {"image": np.random.default_rng(2).normal(0.5, 2.0, (6, 8, 8, 1)).astype(np.float32)}
NORMS = sorted({path.rpartition("/")[0] for path in flatten(models.build(RESNET, 3).stats)})
LABELLED = IMAGES | {"index": np.arange(6, dtype=np.int32), "label": np.arange(6, dtype=np.int32) % 3}


def drawn(config):
    """Return variables with statistics that are not the initial ones."""
    variables = models.initialise(models.build(config, 3), jax.random.key(0))
    random = np.random.default_rng(3)
    stats = map_named(lambda _, leaf: random.uniform(0.5, 1.5, leaf.shape).astype(np.float32), variables.stats)
    return variables._replace(stats=stats)


def moved_norms(rules, fixed_statistics):
    """Return the norms with changed statistics after a step, the state, and the metrics of the step."""
    parts, start = begun(RESNET, tuning.Rules(*rules), (terms.Supervised(),), drawn(RESNET))
    parts = parts._replace(fixed_statistics=fixed_statistics)
    state, metrics = jax.jit(partial(train_step, parts))(start, {"labelled": LABELLED})
    before, after = flatten(start.stats), flatten(state.stats)
    assert before.keys() == after.keys()
    for path, leaf in flatten(start.frozen).items():
        np.testing.assert_array_equal(flatten(state.frozen)[path], leaf)
    names = {path.rpartition("/")[0] for path, leaf in after.items() if not np.array_equal(leaf, before[path])}
    return names, state, metrics


# Half of the backbone is frozen; convolutions alone are trained, as with adapters; in two blocks one norm is frozen.
HALF = ((r"(stem|blocks/00)/.*", None), (r".*", Learn()))
CONVOLUTIONS = ((r".*/norm/.*", None), (r"stem/.*", None), (r".*", Learn()))
ONE_NORM = ((r"blocks/01/.*", None), (r".*/first/norm/.*", None), (r".*", Learn()))


@pytest.mark.parametrize(
    ("rules", "fixed_statistics", "moved"),
    [
        (HALF, "stages", r"blocks/0[12]/.*"),
        (HALF, "none", r".*"),
        (CONVOLUTIONS, "stages", r"blocks/.*"),
        (CONVOLUTIONS, "layers", r"$"),
        (ONE_NORM, "layers", r"stem/.*|blocks/0[02]/second/.*"),
    ],
)
def test_the_statistics_that_a_frozen_part_keeps_are_a_choice(rules, fixed_statistics, moved):
    names, _, _ = moved_norms(rules, fixed_statistics)
    assert names == {name for name in NORMS if re.fullmatch(moved, name)}


def test_a_frozen_backbone_normalises_by_the_statistics_that_it_keeps():
    rules = ((r"head/.*", Learn()), (r".*", None))
    model, variables = models.build(RESNET, 3), drawn(RESNET)
    for fixed_statistics, train in (("stages", False), ("none", True)):
        _, state, metrics = moved_norms(rules, fixed_statistics)
        taps, stats = models.forward(model, variables, IMAGES, train=train)
        logits = np.asarray(taps["logits"], np.float64)
        losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(6), LABELLED["label"]]
        assert float(metrics["loss"]) == pytest.approx(losses.mean(), rel=1e-5), fixed_statistics
        for path, leaf in flatten(stats).items():
            np.testing.assert_allclose(flatten(state.stats)[path], leaf, rtol=1e-5, atol=1e-6, err_msg=path)


def test_frozen_stages_with_moving_statistics_have_no_dropout():
    config = models.Cnn(size=8, widths=(3, 4), dense=5, dropout=0.5)
    model, variables = models.build(config, 3), drawn(models.Cnn(size=8, widths=(3, 4), dense=5, dropout=0.5))
    names = [stage.name for stage in model.stages]
    noisy, quiet = (
        models.forward(model, variables, IMAGES, key=jax.random.key(n), train=True, still=still, moving=still)
        for n, still in ((0, ()), (1, names))
    )
    plain = models.forward(model, variables, IMAGES, train=True)
    np.testing.assert_array_equal(quiet[0]["logits"], plain[0]["logits"])
    assert not np.array_equal(noisy[0]["logits"], plain[0]["logits"])
    jax.tree.map(np.testing.assert_array_equal, quiet[1], plain[1])


@pytest.mark.parametrize("fixed", [("blocks/00/first/norm",), NORMS])
def test_a_loop_over_blocks_fixes_the_same_norms(fixed):
    model, variables = models.build(RESNET, 3), drawn(RESNET)

    def pass_of(loop):
        return jax.jit(lambda variables: models.forward(model, variables, IMAGES, train=True, fixed=fixed, loop=loop))

    (taps, stats), (looped, moved) = pass_of(None)(variables), pass_of({})(variables)
    assert "scan" in str(jax.make_jaxpr(pass_of({}))(variables))
    np.testing.assert_allclose(looped["logits"], taps["logits"], rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), stats, moved)
    for path, leaf in flatten(moved).items():
        assert np.array_equal(leaf, flatten(variables.stats)[path]) == (path.rpartition("/")[0] in fixed), path


def test_a_bridged_module_cannot_fix_single_norms():
    bridged = models.build(SMALL, 3)._replace(inserts=False)
    check_statistics("stages", bridged)
    with pytest.raises(ValueError, match=r"fixed_statistics is 'layers'.*\(Cnn\).*'stages' or 'none'"):
        check_statistics("layers", bridged)
    with pytest.raises(ValueError, match="fixed_statistics is 'layer'"):
        Train(fixed_statistics="layer")
