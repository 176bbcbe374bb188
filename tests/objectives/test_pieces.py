"""A batch in pieces gives the step of the whole batch, for every term."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx import Data, Optim, Recipe, Train, models, partition, sharding, tasks, terms, tuning
from tlx import optim as optimisers
from tlx.objectives import Term, inserted, load_references, structures
from tlx.training.prepare import open_data, prepare
from tlx.training.results import odd
from tlx.training.state import Parts, initial_state, memories
from tlx.training.step import compile_step, train_step
from tlx.trees import flatten
from tlx.types import Setting
from tlx.updates import Alternating, Sam, Sum, in_turns

# The classes of terms that the package exports.
EXPORTED = {
    name: kind for name in terms.__all__ if terms.Term in getattr(kind := getattr(terms, name), "__mro__", ())[1:]
}
MLP = models.Mlp(inputs=(4, 4, 1), widths=(6, 5), activation="tanh", dropout=0.3)
CLASSES, ROWS = 3, 16
TASK = tasks.Classification(classes=CLASSES)
BETWEEN = {"width": 4, "reversal": 0.5}
SEVERAL = ("source", "labelled")
# Every term, and settings with other arithmetic; each weight is large enough to matter.
CASES = {
    "Supervised": terms.Supervised(), "L2SP": terms.L2SP(), "Delta": terms.Delta(weight=1.0), "Bss": terms.Bss(k=2),
    "Lwf": terms.Lwf(), "LabelSmoothing": terms.LabelSmoothing(), "Mixup": terms.Mixup(), "CutMix": terms.CutMix(),
    "RDrop": terms.RDrop(), "Entropy": terms.Entropy(), "Mmd": terms.Mmd(), "Mmd, linear": terms.Mmd(linear=True),
    "Coral": terms.Coral(weight=100.0), "Coral, mean": terms.Coral(form="mean"), "Dann": terms.Dann(**BETWEEN),
    "Mcc": terms.Mcc(), "Cmd": terms.Cmd(), "Afn": terms.Afn(weight=1.0), "Cdan": terms.Cdan(**BETWEEN),
    "Cdan, plain": terms.Cdan(entropy=False, projection=3, **BETWEEN), "Gate": terms.Gate(**BETWEEN),
    "Gate, normalised": terms.Gate(most=10.0, normalised=True, **BETWEEN), "Jmmd": terms.Jmmd(),
    "Jmmd, linear": terms.Jmmd(linear=True), "Mdd": terms.Mdd(**BETWEEN), "Bsp": terms.Bsp(k=2, weight=0.1),
    "Ot": terms.Ot(weight=1.0), "Ot, labels": terms.Ot(weight=1.0, label_cost=0.5), "Mcd": terms.Mcd(repeats=2),
    "Adda": terms.Adda(width=4), "PseudoLabel": terms.PseudoLabel(threshold=0.3),
    "FixMatch": terms.FixMatch(threshold=0.3), "MeanTeacher": terms.MeanTeacher(weight=10.0), "Shot": terms.Shot(),
    "M3sda": terms.M3sda(sources=SEVERAL), "Mdan": terms.Mdan(sources=SEVERAL, share=1.0, **BETWEEN),
    "Iwan": terms.Iwan(**BETWEEN), "Pada": terms.Pada(**BETWEEN), "Kmm": terms.Kmm(), "Kliep": terms.Kliep(),
}  # fmt: skip
LOADED = {
    "CoTuning": lambda at: terms.CoTuning(source=str(at / "source")),
    "Distill": lambda at: terms.Distill(teacher=str(at / "teacher")),
}
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@pytest.fixture(scope="module")
def saved(mlp, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    mlp.save(folder / "source", MLP, 5, seed=8)
    mlp.save(folder / "teacher", MLP, CLASSES, seed=9)
    return folder


def streams_of(mlp, config=MLP):
    names = ("labelled", "source", "unlabelled")
    actual = {name: mlp.labelled(config, rows=ROWS, seed=n) for n, name in enumerate(names, 1)}
    del actual["unlabelled"]["label"]
    return actual


def build_step(streams, objective, config=MLP, task=TASK, **fields):
    """Return the static half of a step, and its initial state."""
    model = models.build(config, CLASSES)
    variables = jax.jit(lambda key: models.initialise(model, key))(jax.random.key(0))
    params, learn = inserted(objective, model, variables.params, jax.random.key(1))
    variables = variables._replace(params=params)
    claimed = partition.partition(params, (*learn, *tuning.Full().phases(model)[0].rules))
    turns = tuple(turn for term in objective for turn in term.turns(model))
    update = Alternating() if turns else Sum()
    [claimed] = in_turns(update, objective, model, [claimed])
    inputs = Setting(model, variables, task, lambda s: [streams["labelled"]], inputs=lambda s: [streams[s]])
    memory = memories(objective, inputs)
    fields = {
        "ema": 0.9 if any(term.needs(tuple(streams)).average for term in objective) else None,
        "update": update,
    } | fields
    layout = optimisers.layout(model, [claimed], turns=turns)
    fields["references"] = structures(load_references(objective, tuple(streams)))
    parts = Parts(model, task, objective, Optim("sgd", lr=0.1), claimed, layout=layout, **fields)
    return parts, initial_state(parts, variables, 4, jax.random.key(3), memory)


def two_steps(parts, state, streams):
    # A second step also tests remembered values (averages, moments).
    step = jax.jit(partial(train_step, parts), compiler_options=QUICK)
    for _ in range(2):
        state, metrics = step(state, streams)
    return state, jax.device_get(metrics)


def same(actual, expected, tolerance=2e-5):
    (state, metrics), (full, recorded) = actual, expected
    assert metrics.keys() == recorded.keys()
    for name, value in recorded.items():
        np.testing.assert_allclose(metrics[name], value, rtol=tolerance, atol=tolerance, err_msg=name)
    tlx_side = flatten(state.variables.params)
    for path, leaf in flatten(full.variables.params).items():
        np.testing.assert_allclose(tlx_side[path], leaf, rtol=tolerance, atol=tolerance, err_msg=path)


def test_every_term_is_tested():
    assert {name.split(",")[0] for name in (*CASES, *LOADED)} == EXPORTED.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CASES, *LOADED])
def test_four_pieces_give_the_step_of_one(name, mlp, saved):
    streams = streams_of(mlp)
    objective = (CASES[name] if name in CASES else LOADED[name](saved),)
    parts, state = build_step(streams, objective)
    same(two_steps(parts._replace(accumulate=4), state, streams), two_steps(parts, state, streams))


# Terms that compare examples, and one that does not; each is so large that an error would show in the sum.
TOGETHER = (
    terms.Supervised(), terms.Cmd(), terms.M3sda(sources=SEVERAL),
    terms.Mdan(sources=SEVERAL, share=1.0, **BETWEEN), terms.Gate(most=10.0, normalised=True, **BETWEEN),
    terms.Pada(**BETWEEN), terms.Iwan(**BETWEEN), terms.Mcc(), terms.Cdan(**BETWEEN), terms.Bss(k=2), terms.Shot(),
    terms.Coral(weight=100.0), terms.Mmd(),
)  # fmt: skip


@pytest.fixture(scope="module")
def whole_batch(mlp):
    streams = streams_of(mlp)
    parts, state = build_step(streams, TOGETHER)
    return parts, state, streams, two_steps(parts, state, streams)


@pytest.mark.parametrize("pieces", [4, pytest.param(16, marks=pytest.mark.slow)])
def test_terms_that_compare_examples_see_the_whole_batch(pieces, whole_batch):
    """Two rows per piece, or one: fewer than a covariance or a singular value needs."""
    parts, state, streams, expected = whole_batch
    same(two_steps(parts._replace(accumulate=pieces), state, streams), expected)


@pytest.mark.slow
@pytest.mark.parametrize(("how", "devices"), [("jit", 8), ("pmap", 4)])
def test_dividing_the_pieces_among_devices_changes_nothing(how, devices, whole_batch):
    parts, state, streams, expected = whole_batch
    compiled = compile_step(parts._replace(accumulate=2), sharding.make_mesh(jax.devices()[:devices]), how)
    placed = compiled.place(state)
    for _ in range(2):
        placed, metrics = compiled.train(placed, {name: compiled.put(value) for name, value in streams.items()})
    same((compiled.fetch(placed), jax.device_get(metrics)), expected, tolerance=1e-4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uneven(tasks.Classification):
    """A task in which examples have different weights, some zero, like texts with different numbers of words."""

    def loss(self, outputs, batch):
        sums, _ = super().loss(outputs, batch)
        weights = (batch["index"] * 7 % 5).astype(jnp.float32) ** 2
        return weights * sums, weights


# Every term that reads the loss of the task.
WEIGHED = (
    terms.Supervised(), terms.Mixup(), terms.CutMix(), terms.RDrop(), terms.Pada(**BETWEEN), terms.Gate(**BETWEEN),
    terms.Mdan(sources=SEVERAL, **BETWEEN), terms.Kmm(),
)  # fmt: skip
WEIGHING = [
    tasks.Classification(classes=CLASSES, class_weights=(0.05, 1.0, 9.0), smoothing=0.1),
    Uneven(classes=CLASSES),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "objective", "ways"),
    [
        # Pieces on several devices; the slow tests have every term in every way.
        (WEIGHING[1], (terms.Supervised(), terms.RDrop()), (("pmap", 2, 2),)),
        *(
            pytest.param(task, WEIGHED, (("jit", 8, 1), ("pmap", 4, 1), ("pmap", 2, 2)), marks=pytest.mark.slow)
            for task in WEIGHING
        ),
    ],
)
def test_the_loss_is_the_sum_over_the_sum_of_weights_of_the_whole_batch(task, objective, ways, mlp):
    """It is not a mean over the means of pieces or devices; by hand for the supervised loss."""
    streams = streams_of(mlp)
    parts, state = build_step(streams, objective, task=task)
    expected = two_steps(parts, state, streams)
    same(two_steps(parts._replace(accumulate=4), state, streams), expected)
    for how, devices, pieces in ways:
        compiled = compile_step(parts._replace(accumulate=pieces), sharding.make_mesh(jax.devices()[:devices]), how)
        placed = compiled.place(state)
        for _ in range(2):
            placed, metrics = compiled.train(placed, {name: compiled.put(value) for name, value in streams.items()})
        same((compiled.fetch(placed), jax.device_get(metrics)), expected, tolerance=1e-4)


@pytest.mark.parametrize("task", WEIGHING)
def test_the_loss_of_a_weighted_task_by_hand(task, mlp):
    unchanged = dataclasses.replace(MLP, dropout=0.0)
    streams = {"labelled": mlp.labelled(unchanged, rows=ROWS, seed=1)}
    parts, state = build_step(streams, (terms.Supervised(),), config=unchanged, task=task)
    taps, _ = models.forward(parts.model, state.variables, {"image": streams["labelled"]["image"]})
    sums, weights = (np.asarray(array, np.float64) for array in task.loss(taps, streams["labelled"]))
    _, metrics = jax.jit(partial(train_step, parts))(state, streams)
    assert float(metrics["loss"]) == pytest.approx(sums.sum() / weights.sum(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{"update": Sam(rho=0.1)}, {"joint": True}, {"remat": "stages"}, {"ema": 0.5}])
def test_other_updates_have_pieces_too(fields, mlp):
    streams = streams_of(mlp)
    parts, state = build_step(
        streams, (terms.Supervised(), terms.Cmd(), terms.Mdan(sources=SEVERAL, **BETWEEN)), **fields
    )
    same(two_steps(parts._replace(accumulate=4), state, streams), two_steps(parts, state, streams))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread(Term):
    """The variance of the logits over the batch: a user-defined term that declares that it compares examples."""

    on: str = "labelled"

    def needs(self, streams):
        return super().needs(streams)._replace(features=True)

    def loss(self, view):
        logits = view.taps[self.on]["logits"]
        assert logits.shape == (ROWS, CLASSES) and view.batch[self.on]["label"].shape == (ROWS,)
        return ((logits - logits.mean(0)) ** 2).sum(), {"rows": jnp.float32(len(logits))}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plain(Term):
    """A user-defined term that does not declare how it is computed."""

    on: str = "labelled"

    def loss(self, view):
        return view.task.loss(view.taps[self.on]["logits"], view.batch[self.on]).mean(), {}


NORMED = "batch norm computes its statistics on each of 4 pieces of 4 examples"


@pytest.mark.parametrize(
    ("model", "objective", "accumulate", "way", "expected"),
    [
        ("mlp", (terms.Supervised(), terms.Bss(k=1)), 4, tuning.Full(), []),
        ("cnn", (terms.Supervised(),), 1, tuning.Full(), []),
        ("cnn", (terms.Supervised(),), 4, tuning.Full(), [NORMED]),
        # If every norm is frozen, the model uses its running statistics.
        ("cnn", (terms.Supervised(),), 4, tuning.Probe(), []),
        ("mlp", (Plain(),), 4, tuning.Full(), ["Plain is computed on each of 4 pieces of 4 examples"]),
        ("mlp", (Plain(),), 1, tuning.Full(), []),
        ("mlp", (Spread(),), 4, tuning.Full(), []),
    ],
)  # fmt: skip
def test_a_term_that_sees_the_pieces_one_by_one_is_noted(model, objective, accumulate, way, expected):
    shapes = {"mlp": models.Mlp(inputs=(8, 8, 1), widths=(6,)), "cnn": models.Cnn(size=8, widths=(2,), dense=None)}
    recipe = Recipe(
        data=Data(target="digits", shots=2), task=tasks.Classification(), model=shapes[model], objective=objective,
        tuning=way, train=Train(steps=1, batch=16, accumulate=accumulate),
    )  # fmt: skip
    splits = open_data(recipe)
    messages = [note for note in odd(prepare(recipe, splits), splits, 1) if "pieces" in note]
    assert len(messages) == len(expected)
    for note, begins in zip(messages, expected, strict=True):
        assert note.startswith(begins)


def test_a_user_defined_term_sees_the_whole_batch_if_it_declares_so(mlp):
    streams = streams_of(mlp)
    parts, state = build_step(streams, (Spread(), terms.Supervised(weight=0.5)))
    actual = two_steps(parts._replace(accumulate=4), state, streams)
    same(actual, two_steps(parts, state, streams))
    assert actual[1]["spread/rows"] == ROWS
