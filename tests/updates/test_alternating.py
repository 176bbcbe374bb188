"""Several moves per step: a whole step of MCD by hand, frozen parameters in a turn, devices, pieces."""

import dataclasses
import itertools
from functools import partial

import jax
import numpy as np
import optax
import pytest

from tlx import Optim, models, partition, sharding, tasks, terms, tuning
from tlx import optim as optimisers
from tlx.objectives import inserted
from tlx.training.step import Parts, compile_step, initial_state, memories, train_step
from tlx.trees import flatten
from tlx.types import Setting
from tlx.updates import Alternating, Sum, in_turns

LINEAR = models.Mlp(inputs=(4,), widths=(3,), activation="linear", input="x")
CNN = models.Cnn(size=4, widths=(4, 6), dense=5, dropout=0.3)
MLP = models.Mlp(inputs=(4,), widths=(6, 5), dropout=0.3, input="x")
CLASSES = 3
SOURCE = terms.Supervised(on="source")
OBJECTIVES = {"mcd": (SOURCE, terms.Mcd(trade_off=2.0, repeats=3)), "adda": (terms.Adda(width=4),)}
STREAMS = {"source": 8, "unlabelled": 16}


def streams_of(settings, rows=STREAMS):
    results = {}
    for seed, (name, count) in enumerate(rows.items()):
        random = np.random.default_rng(seed)
        inputs = {
            name: random.normal(size=(count, *s.shape[1:])) for name, s in models.example_inputs(settings).items()
        }
        results[name] = {name: array.astype(np.float32) for name, array in inputs.items()}
        results[name]["index"] = np.arange(count, dtype=np.int32)
    results["source"]["label"] = np.random.default_rng(9).integers(0, CLASSES, rows["source"]).astype(np.int32)
    return results


def build_step(settings, objective, optim, update=Alternating(), steps=4, **more):
    """Return the static half of a step and its initial state, as a run builds them."""
    model = models.build(settings, CLASSES)
    variables = models.initialise(model, jax.random.key(0))
    params, learn = inserted(objective, model, variables.params, jax.random.key(1))
    variables = variables._replace(params=params)
    claimed = partition.partition(params, (*learn, *tuning.Full().phases(model)[0].rules))
    [claimed] = in_turns(update, objective, model, [claimed])
    turns = tuple(turn for term in objective for turn in term.turns(model))
    task = tasks.Classification(classes=CLASSES)
    layout = optimisers.layout(model, [claimed], turns=turns)
    parts = Parts(model, task, objective, optim, claimed, update=update, layout=layout, **more)
    memory = memories(objective, Setting(model, variables, task, lambda stream: ()))
    return parts, initial_state(parts, variables, steps, jax.random.key(3), memory)


def walk(parts, start, streams, how="jit", devices=8, count=1):
    compiled = compile_step(parts, sharding.make_mesh(jax.devices()[:devices]), how)
    state = compiled.place(start)
    for _ in range(count):
        state, metrics = compiled.train(state, {name: compiled.put(dict(value)) for name, value in streams.items()})
    return compiled.fetch(state), jax.device_get(metrics)


def wide(params):
    return {path: np.asarray(leaf, np.float64) for path, leaf in flatten(params).items()}


class ByHand:
    """MCD on a linear model, in float64: y_k = (x W + b) V_k + c_k for the two heads k."""

    features = ("stem/kernel", "stem/bias")
    heads = (("head/kernel", "head/bias"), ("mcd/head/kernel", "mcd/head/bias"))

    def __init__(self, streams):
        self.x, self.t = (np.asarray(streams[name]["x"], np.float64) for name in ("source", "unlabelled"))
        self.y = np.eye(CLASSES)[streams["source"]["label"]]

    def softmax(self, p, x, head):
        logits = (x @ p["stem/kernel"] + p["stem/bias"]) @ p[head[0]] + p[head[1]]
        exp = np.exp(logits - logits.max(1, keepdims=True))
        return exp / exp.sum(1, keepdims=True)

    def back(self, p, x, slopes):
        """Return the gradient of all parameters, from the slope of the logits of each head, [B, C]."""
        hidden, actual, below = x @ p["stem/kernel"] + p["stem/bias"], {}, 0.0
        for (kernel, bias), slope in zip(self.heads, slopes, strict=True):
            actual |= {kernel: hidden.T @ slope, bias: slope.sum(0)}
            below = below + slope @ p[kernel].T
        return actual | {"stem/kernel": x.T @ below, "stem/bias": below.sum(0)}

    def risks(self, p):
        p1, p2 = (self.softmax(p, self.x, head) for head in self.heads)
        value = -(self.y * np.log(p1)).sum(1).mean() - (self.y * np.log(p2)).sum(1).mean()
        return value, self.back(p, self.x, [(q - self.y) / len(self.y) for q in (p1, p2)])

    def discrepancy(self, p):
        p1, p2 = (self.softmax(p, self.t, head) for head in self.heads)
        sign = np.sign(p1 - p2) / p1.size
        slopes = [q * (s - (q * s).sum(1, keepdims=True)) for q, s in ((p1, sign), (p2, -sign))]
        return np.abs(p1 - p2).mean(), self.back(p, self.t, slopes)

    def turns(self, trade_off, repeats):
        """Return the moving parameters of each turn, and their gradient at given parameters."""
        heads = [path for head in self.heads for path in head]

        def apart(p):
            one, two = self.risks(p)[1], self.discrepancy(p)[1]
            return {path: leaf - trade_off * two[path] for path, leaf in one.items()}

        def together(p):
            return {path: trade_off * leaf for path, leaf in self.discrepancy(p)[1].items()}

        yield [*self.features, *heads], lambda p: self.risks(p)[1]
        yield heads, apart
        for _ in range(repeats):
            yield list(self.features), together


@pytest.mark.slow
def test_a_whole_step_of_mcd_by_hand():
    streams = streams_of(LINEAR, {"source": 7, "unlabelled": 5})
    parts, start = build_step(LINEAR, OBJECTIVES["mcd"], Optim("sgd", lr=0.5, momentum=None, schedule="constant"))
    hand, p = ByHand(streams), wide(start.trainable)
    risk, apart = hand.risks(p)[0], hand.discrepancy(p)[0]
    first, stages = hand.risks(p)[1], [p]
    for moves, gradient in hand.turns(2.0, 3):
        actual = gradient(p)
        p = p | {path: p[path] - 0.5 * actual[path] for path in moves}
        stages.append(p)
    state, metrics = walk(parts, start, streams, devices=1)
    for path, leaf in flatten(state.trainable).items():
        np.testing.assert_allclose(leaf, p[path], rtol=1e-5, atol=1e-6, err_msg=path)
    # Every turn matters: each moves its parameters by more than that.
    for before, after in itertools.pairwise(stages):
        assert max(np.abs(after[path] - before[path]).max() for path in p) > 1e-4
    # The logged values are those before the step, and it is one step.
    assert float(metrics["loss"]) == pytest.approx(risk, rel=1e-5)
    assert float(metrics["mcd/discrepancy"]) == pytest.approx(apart, rel=1e-5)
    norms = [np.linalg.norm(first[path]) for path in sorted(first)]
    np.testing.assert_allclose(metrics["leaf_norms"], norms, rtol=1e-5)
    assert int(state.step) == 1


@pytest.mark.slow
def test_each_group_of_parameters_has_the_moments_of_a_separate_optimiser():
    """Against the Adam of optax, one for the features and one for the heads, as in the code of the paper."""
    streams = streams_of(LINEAR)
    parts, start = build_step(LINEAR, OBJECTIVES["mcd"], Optim("adam", lr=0.02, schedule="constant"))
    hand = ByHand(streams)
    p = {path: np.asarray(leaf) for path, leaf in flatten(start.trainable).items()}
    groups = {"features": list(hand.features), "heads": [path for head in hand.heads for path in head]}
    adam = optax.adam(0.02)
    stored = {name: adam.init({path: p[path] for path in value}) for name, value in groups.items()}
    for _ in range(3):
        for moves, gradient in hand.turns(2.0, 3):
            actual = gradient({path: np.asarray(leaf, np.float64) for path, leaf in p.items()})
            for name, value in groups.items():
                if value[0] in moves:
                    slopes = {path: np.asarray(actual[path], np.float32) for path in value}
                    with jax.numpy_dtype_promotion("standard"):
                        updates, stored[name] = adam.update(slopes, stored[name])
                    p = p | {path: p[path] + np.asarray(updates[path]) for path in value}
    state, _ = walk(parts, start, streams, devices=1, count=3)
    for path, leaf in flatten(state.trainable).items():
        np.testing.assert_allclose(leaf, p[path], rtol=2e-4, atol=2e-5, err_msg=path)
    # In three steps the heads moved twice per step, the features once and three times.
    counts = {int(leaf) for leaf in jax.tree.leaves(state.optimiser) if leaf.dtype == np.int32}
    assert counts == {6, 12}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen(Alternating):
    """Record the points between the turns, and the gradient of each."""

    def step(self, slope, descend, point, tick):
        points, gradients = [point], []

        def record_point(point, gradient):
            gradients.append(gradient)
            points.append(descend(point, gradient))
            return points[-1]

        after, gradient, (stats, metrics) = super().step(slope, record_point, point, tick)
        return after, gradient, (stats, metrics | {"points": points, "gradients": gradients})


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_parameters_that_do_not_move_in_a_turn_are_bit_identical_and_so_is_their_optimiser_state(name):
    objective = OBJECTIVES[name]
    # Momentum, moments and weight decay alone would move a parameter.
    parts, start = build_step(MLP, objective, Optim(lr=0.01, weight_decay=0.5, clip=0.1), update=Seen())
    turns = next(turns for term in objective if (turns := term.turns(parts.model)))
    step, state = jax.jit(partial(train_step, parts)), start
    for _ in range(2):
        state, metrics = step(state, streams_of(MLP))
        points = jax.device_get(metrics["points"])
        assert len(points) == len(turns) + 1
        for turn, (before, after) in zip(turns, itertools.pairwise(points), strict=True):
            old, new = flatten(before.trainable), flatten(after.trainable)
            assert old.keys() == new.keys()
            for path, leaf in new.items():
                assert np.array_equal(leaf, old[path]) is not path.startswith(turn.moves), path
            for wave, stored in after.optimiser.items():
                pairs = zip(*map(jax.tree.leaves, (before.optimiser[wave], stored)), strict=True)
                unchanged = all(np.array_equal(one, two) for one, two in pairs)
                value = [path for path in new if parts.layout.wave(path) == wave]
                assert {path.startswith(turn.moves) for path in value} == {not unchanged}, wave
    for path, leaf in flatten(state.frozen).items():
        assert np.array_equal(leaf, flatten(start.frozen)[path])
    jax.tree.map(np.testing.assert_array_equal, state.memory, start.memory)


@pytest.mark.slow
def test_running_statistics_move_once_and_the_average_counts_one_step():
    parts, start = build_step(CNN, OBJECTIVES["mcd"], Optim("sgd", lr=0.1), ema=0.75)
    plain, begin = build_step(
        CNN, (SOURCE, terms.Entropy(on="unlabelled", weight=0.0)), Optim("sgd", lr=0.1), update=Sum()
    )
    state, _ = walk(parts, start, streams_of(CNN))
    single, _ = walk(plain, begin, streams_of(CNN))
    for path, leaf in flatten(state.stats).items():
        np.testing.assert_allclose(leaf, flatten(single.stats)[path], rtol=1e-6, err_msg=path)
    for value in state.average.values():
        assert float(value["weight"]) == pytest.approx(0.25)


@pytest.mark.parametrize("rate", [pytest.param(0.0, marks=pytest.mark.slow), 0.3])
def test_every_turn_has_separate_noise(rate):
    """If nothing moves, the gradients of the same turn differ by the noise only."""
    settings = dataclasses.replace(MLP, dropout=rate)
    parts, start = build_step(settings, OBJECTIVES["mcd"], Optim("sgd", lr=0.0), update=Seen())
    _, metrics = jax.jit(partial(train_step, parts))(start, streams_of(settings))
    one, two = (flatten(gradient)["stem/kernel"] for gradient in metrics["gradients"][2:4])
    assert np.abs(one).max() > 0
    assert np.array_equal(one, two) is (rate == 0.0)


# The step of MCD has three turns and compiles for a long time; the step of ADDA uses the same code.
LONG = [pytest.param(name, marks=pytest.mark.slow) if name == "mcd" else name for name in OBJECTIVES]


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_pmap_and_jit_agree(name):
    parts, start = build_step(CNN, OBJECTIVES[name], Optim("sgd", lr=0.1, weight_decay=0.1, clip=1.0))
    streams = streams_of(CNN)
    (state, metrics), (full, recorded) = (walk(parts, start, streams, how, count=2) for how in ("pmap", "jit"))
    for measure, value in recorded.items():
        np.testing.assert_allclose(metrics[measure], value, rtol=1e-4, atol=1e-5, err_msg=measure)
    actual = flatten(state.variables.params) | flatten(state.stats)
    for path, leaf in (flatten(full.variables.params) | flatten(full.stats)).items():
        np.testing.assert_allclose(actual[path], leaf, rtol=1e-4, atol=1e-5, err_msg=path)


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_micro_batches_take_the_same_step(name):
    """The sign of p1 - p2 and the noise belong to an example, so every turn is a mean over examples."""
    streams, optim = streams_of(MLP), Optim("sgd", lr=0.1, momentum=0.9)
    results = []
    for pieces in (1, 4):
        parts, start = build_step(MLP, OBJECTIVES[name], optim, accumulate=pieces)
        results.append(walk(parts, start, streams, devices=2, count=2))
    (full, recorded), (state, metrics) = results
    for path, leaf in flatten(full.trainable).items():
        np.testing.assert_allclose(flatten(state.trainable)[path], leaf, rtol=1e-4, atol=1e-6, err_msg=path)
    assert float(metrics["loss"]) == pytest.approx(float(recorded["loss"]), rel=1e-5)


@pytest.mark.slow
def test_a_weight_of_0_leaves_the_terms_without_turns():
    """With a frozen head, only the supervised loss moves the encoder."""
    streams = streams_of(LINEAR)
    optim = Optim("sgd", lr=0.1, momentum=0.9, weight_decay=0.1)
    parts, start = build_step(LINEAR, (SOURCE, terms.Adda(width=4, weight=0.0)), optim)
    state, _ = walk(parts, start, streams, count=2)
    plain, begin = build_step(LINEAR, (SOURCE,), optim, update=Sum())
    stored = {path: None if path.startswith("head/") else learn for path, learn in plain.partition.items()}
    plain = plain._replace(partition=stored)
    alone, _ = walk(plain, initial_state(plain, begin.variables, 4, jax.random.key(3)), streams, count=2)
    for path, leaf in flatten(alone.variables.params).items():
        np.testing.assert_allclose(flatten(state.variables.params)[path], leaf, rtol=1e-6, atol=1e-7, err_msg=path)
