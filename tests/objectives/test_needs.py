"""User-defined terms in a file outside tlx: everything that `needs` can declare, and everything that it rejects."""

import dataclasses
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx import Data, Learn, Optim, Recipe, Train, load_pretrained, models, report, run, tasks, terms, tuning
from tlx.models import features, forward
from tlx.objectives import Needs, Term, check_needs, load_references, structures, with_created
from tlx.records.log import read_metrics
from tlx.training.loop import How
from tlx.training.prepare import open_data, prepare
from tlx.training.state import initial_state, memories
from tlx.training.step import train_step
from tlx.trees import flatten
from tlx.types import Setting, Tick, Variables

MLP = models.Mlp(inputs=(8, 8, 1), widths=(6, 5))
RECIPE = Recipe(
    data=Data(target="digits", shots=4, size=8), task=tasks.Classification(classes=10), model=MLP,
    optim=Optim(lr=0.01), train=Train(steps=2, batch=16, eval_batch=256),
)  # fmt: skip
TWO = Data(source="mnist5k", target="digits", labels=0, size=8, shots=20)


class OnlyLoss(Term):
    """A term without fields and without needs reads every stream."""

    def loss(self, view):
        squares = {stream: (taps["logits"] ** 2).mean() for stream, taps in view.taps.items()}
        return sum(squares.values()), squares


@dataclasses.dataclass(frozen=True, kw_only=True)
class Doubled(Term):
    """The supervised loss on images of twice the brightness: a stream that the term creates."""

    on: str = "labelled"

    def needs(self, streams):
        return Needs(
            forward=("doubled",), batch=(self.on,), labels=(self.on,), creates=("doubled",),
            task=tasks.Classification, inputs=("image",), features=False,
        )  # fmt: skip

    def streams(self, batch, tick):
        return {**batch, "doubled": {**batch[self.on], "image": 2 * batch[self.on]["image"]}}

    def loss(self, view):
        logits, labels = view.taps["doubled"]["logits"], view.batch["doubled"]["label"]
        risk = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()
        return risk, {"rows": jnp.float32(len(logits))}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread(Term):
    """The variance of the features over the batches of two streams."""

    def needs(self, streams):
        return Needs(forward=("source", "unlabelled"), features=True, taps=("features",))

    def loss(self, view):
        rows = jnp.concatenate([features(view.taps[stream]) for stream in ("source", "unlabelled")])
        return 0.1 * rows.var(0).sum(), {"rows": jnp.float32(len(rows))}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Anchored(Term):
    """The distance of the average of the parameters from zero, times the mean of an input that is read once."""

    def needs(self, streams):
        return Needs(once=("unlabelled",), average=True, frozen_head=True, taps=("head", "hidden"), features=False)

    def memory(self, setting):
        images = [batch["image"][batch["weight"] > 0] for batch in setting.inputs("unlabelled")]
        return {"centre": np.concatenate(images).mean(dtype=np.float64).astype(np.float32)}

    def loss(self, view):
        squares = sum((leaf**2).sum() for leaf in jax.tree.leaves(view.average))
        return 1e-3 * view.memory["centre"] * squares, {"centre": view.memory["centre"]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Taught(Term):
    """The distance to the logits of another model."""

    teacher: str
    on: str = "source"

    def needs(self, streams):
        return Needs(forward=(self.on,), models=(self.teacher,), features=False)

    def check(self, preview):
        if (outputs := preview.references[self.teacher].model.outputs) != preview.model.outputs:
            raise ValueError(f"Taught: the teacher has {outputs} outputs, the model {preview.model.outputs}")

    def notes(self, preview):
        return [f"taught by {type(preview.references[self.teacher].model.config).__name__}"]

    def memory(self, setting):
        return load_pretrained(self.teacher).variables._asdict()

    def loss(self, view):
        taps, _ = forward(view.references[self.teacher], Variables(**view.memory), view.batch[self.on])
        distance = ((view.taps[self.on]["logits"] - taps["logits"]) ** 2).mean()
        return distance, {"distance": distance}


def logged(folder):
    return {line["name"]: line["value"] for line in read_metrics(folder)}


@pytest.fixture(autouse=True)
def no_page(monkeypatch):
    monkeypatch.setattr(report, "available", lambda: False)


@pytest.mark.slow
def test_a_term_with_only_a_loss_trains(tmp_path):
    recipe = dataclasses.replace(
        RECIPE, objective=(OnlyLoss(),), train=dataclasses.replace(RECIPE.train, accumulate=2)
    )  # fmt: skip
    outcome = run(recipe, tmp_path / "run", how=How(quiet=True, leave="learned"))
    assert "train/onlyloss/labelled" in logged(outcome.folder)
    # The term does not declare whether it compares examples.
    assert any("OnlyLoss" in note and "features=True" in note for note in outcome.result["notes"])


def test_everything_that_needs_can_declare(mlp, tmp_path):
    mlp.save(tmp_path / "teacher", MLP, 10, seed=3)
    objective = (
        terms.Supervised(on="source"), Doubled(on="source"), Spread(), Anchored(),
        Taught(teacher=str(tmp_path / "teacher")),
    )  # fmt: skip
    recipe = dataclasses.replace(
        RECIPE, data=TWO, objective=objective, tuning=tuning.Rules((r"head/.*", None), (".*", Learn())),
        train=dataclasses.replace(RECIPE.train, accumulate=2, ema=0.9),
    )  # fmt: skip
    outcome = run(recipe, tmp_path / "run", how=How(quiet=True, leave="learned"))
    metrics = logged(outcome.folder)
    # Half of a batch at a time; both streams are whole where the term compares examples.
    assert metrics["train/doubled/rows"] == 8 and metrics["train/spread/rows"] == 32
    images = [batch["image"] for batch in ([*read_images(recipe)])]
    assert metrics["train/anchored/centre"] == pytest.approx(np.concatenate(images).mean(), rel=1e-4)
    assert metrics["train/taught/distance"] > 0
    assert "taught by Mlp" in outcome.result["notes"]
    assert not any("features=True" in note for note in outcome.result["notes"])


def read_images(recipe):
    from tlx.training.active_run import setting

    splits = open_data(recipe)
    for batch in setting(prepare(recipe, splits), splits).inputs("unlabelled"):
        yield {"image": batch["image"][batch["weight"] > 0]}


def term_with(**needs):
    """Return a term with these needs."""
    return type("Mine", (OnlyLoss,), {"needs": lambda self, streams: Needs(**needs)})()


BY_RECIPE = [
    (terms.Entropy(on="unlabelled"), {}, ("Entropy", "'unlabelled'", "labelled")),
    (terms.Supervised(on="unlabelled"), {"data": TWO}, ("Supervised", "labels", "'unlabelled'")),
    (terms.Pada(), {"data": TWO, "task": tasks.Regression()}, ("Pada", "tasks.Classification", "tasks.Regression")),
    (terms.Distill(teacher="nowhere"), {"task": tasks.Regression()}, ("Distill", "tasks.Regression")),
    (term_with(forward=("labeled",)), {}, ("Mine", "'labeled'", "streams are: labelled")),
    (term_with(labels=("other",)), {}, ("Mine", "'other'")),
    (term_with(forward=("labelled",), once=("other",)), {}, ("Mine", "'other'")),
    (term_with(creates=("labelled",)), {}, ("Mine", "'labelled'", "already exists")),
    (term_with(task=tasks.Regression), {}, ("Mine", "tasks.Regression", "tasks.Classification")),
    (term_with(forward=("labelled",)), {"data": TWO}, ("'labelled'",)),
    (term_with(forward=("unlabelled",)), {"data": TWO}, ("no term reads the source",)),
    (terms.Kmm(), {"data": dataclasses.replace(TWO, source=("mnist5k", "other"))}, ("Kmm", "'source'", "source/0")),
]  # fmt: skip


@pytest.mark.parametrize(("term", "changes", "parts"), BY_RECIPE)
@pytest.mark.parametrize("call", [open_data, prepare, lambda recipe: run(recipe, "nowhere", quiet=True)])
def test_errors_that_follow_from_the_recipe_are_raised_before_data_are_opened(term, changes, parts, call, monkeypatch):
    recipe = dataclasses.replace(RECIPE, objective=(term,), **changes)
    for opens in ("prepare.load", "prepare.models.build", "prepare.weights.load_pretrained"):
        monkeypatch.setattr(f"tlx.training.{opens}", None)
    monkeypatch.setattr("tlx.objectives.reference.load_pretrained", None)
    with pytest.raises(ValueError) as error:
        call(recipe)
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_a_missing_moving_average_is_rejected_by_the_recipe():
    with pytest.raises(ValueError, match=r"^Mine reads the moving average .*train\.ema"):
        dataclasses.replace(RECIPE, objective=(term_with(forward=("labelled",), average=True),))


FROZEN = tuning.Rules((r"head/.*", None), (".*", Learn()))
BY_MODEL = [
    (terms.Shot(on="labelled"), {"tuning": FROZEN}, ("Shot", "'head/bias'", "Weights")),
    (terms.Lwf(), {}, ("Lwf", "'head/bias'", "source=")),
    (terms.Bss(k=6), {}, ("Bss", "k is 6", "5 features")),
    (terms.Delta(stages=("block/00",)), {}, ("Delta", "'block/00'", "'blocks/00'")),
    (terms.Mixup(), {"model": models.Mlp(inputs=(8, 8, 1), widths=(6,), input="x")}, ("Mixup", "'image'", "'x'")),
    (term_with(forward=("labelled",), frozen_head=True), {}, ("Mine", "'head/bias'", "Rules")),
    (term_with(forward=("labelled",), inputs=("input_ids",)), {}, ("Mine", "'input_ids'", "'image'")),
]  # fmt: skip


@pytest.mark.parametrize(("term", "changes", "parts"), BY_MODEL)
def test_errors_that_follow_from_the_model_are_raised_before_compilation(term, changes, parts, monkeypatch):
    recipe = dataclasses.replace(RECIPE, objective=(term,), **changes)
    monkeypatch.setattr("tlx.training.prepare.jax", SimpleNamespace(**{**vars(jax), "jit": None}))
    with pytest.raises(ValueError) as error:
        prepare(recipe)
    assert all(part in str(error.value) for part in parts), str(error.value)


@pytest.mark.parametrize(
    ("needs", "parts"),
    [
        ({"forward": "labelled"}, ("Mine.needs", "forward='labelled'", "('labelled',)")),
        ({"labels": (1,)}, ("Mine.needs", "labels=(1,)")),
        ({"taps": ("feature",)}, ("Mine.needs", "'feature'", "close: 'features'")),
        ({"task": "classification"}, ("Mine.needs", "task='classification'", "class")),
    ],
)
def test_malformed_needs_are_named(needs, parts):
    with pytest.raises(TypeError) as error:
        check_needs((term_with(**needs),), ("labelled",))
    assert all(part in str(error.value) for part in parts), str(error.value)
    with pytest.raises(TypeError, match=r"^Mine\.needs returns \('labelled',\); expected a tlx\.terms\.Needs$"):
        check_needs((type("Mine", (Term,), {"needs": lambda self, streams: ("labelled",)})(),), ("labelled",))


@pytest.mark.parametrize(
    ("creates", "adds", "message"),
    [
        ((), ("other",), "creates 'other', but its needs do not declare it"),
        (("other",), (), "does not create 'other'"),
        (("labelled",), ("labelled",), "'labelled', which already exists"),
    ],
)
def test_a_step_has_the_declared_streams(creates, adds, message):
    custom = term_with(creates=creates)
    object.__setattr__(custom, "streams", lambda batch, tick: {**batch, **{stream: {} for stream in adds}})
    with pytest.raises(ValueError, match=message):
        with_created((custom,), {"labelled": {}}, Tick(jnp.float32(0), jax.random.key(0)))


def caches():
    """Return the size of every container and cache at module level in tlx."""
    sizes = {}
    for name, module in [*sys.modules.items()]:
        if name.partition(".")[0] != "tlx":
            continue
        for attribute, value in vars(module).items():
            if isinstance(value, dict | list | set):
                sizes[name, attribute] = len(value)
            elif hasattr(value, "cache_info"):
                sizes[name, attribute] = value.cache_info().currsize
    return sizes


@pytest.mark.slow
def test_tracing_fills_no_cache_and_leaks_nothing(mlp, tmp_path):
    """The same step is traced twice; neither trace leaves objects behind."""
    config = models.Mlp(inputs=(4, 4, 1), widths=(5, 4), activation="tanh")
    mlp.save(tmp_path / "saved", config, 3, seed=8)
    saved = str(tmp_path / "saved")
    objective = (
        terms.Supervised(weight=terms.Ramp()), terms.CoTuning(source=saved), terms.Distill(teacher=saved),
        terms.Distill(teacher=saved, what="hidden", weight=2.0), terms.Lwf(source=saved), terms.Delta(),
        terms.FixMatch(on="labelled"), terms.Mixup(), terms.Cdan(source="labelled", target="other", width=3),
    )  # fmt: skip
    recipe = dataclasses.replace(
        RECIPE, task=tasks.Classification(classes=3), model=config, objective=(terms.Supervised(),)
    )  # fmt: skip
    parts = prepare(recipe).parts(0)
    model, variables = parts.model, mlp.drawn(parts.model, 0)
    params = variables.params
    for number, term in enumerate(objective):
        if not isinstance(term, terms.Distill):
            params = term.insert(model, params, jax.random.key(number))
    variables = variables._replace(params=params)
    streams = {name: mlp.labelled(config, seed=seed) for seed, name in enumerate(("labelled", "other"))}
    references = structures(load_references(objective, tuple(streams)))
    memory = memories(objective, Setting(model, variables, parts.task, lambda stream: [streams[stream]]))
    parts = parts._replace(
        terms=objective, references=references, partition=dict.fromkeys(flatten(params), Learn()),
        layout=type(parts.layout)(),
    )  # fmt: skip
    state = initial_state(parts, variables, 2, jax.random.key(0), memory)
    before = caches()
    with jax.checking_leaks():
        for _ in range(2):
            _, metrics = jax.eval_shape(lambda state, batch: train_step(parts, state, batch), state, streams)
    assert metrics["loss"].shape == ()
    assert caches() == before
