"""A small network, with the same network computed by hand in float64."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx import models, save_pretrained, tasks
from tlx.objectives import Preview, check_terms, load_references, loss_of, passes, structures, with_created
from tlx.trees import flatten, map_named, nest
from tlx.types import Setting, Tick, Variables, View
from tlx.weights import Manifest, Pretrained

CLASSES, BATCH = 3, 6
MLP = models.Mlp(inputs=(4,), widths=(5, 4), activation="tanh", input="x")


def drawn(model, seed):
    random = np.random.default_rng(seed)

    def leaf(path, param):
        array = random.normal(size=param.shape).astype(np.float32)
        return np.abs(array) if path.endswith("variance") else array

    return Variables(map_named(leaf, model.params), map_named(leaf, model.stats))


def save(folder, config, classes, seed, names=()):
    """Save a model with random numbers from `seed`, and return the numbers."""
    built = models.build(config, classes)
    variables = drawn(built, seed)
    task = tasks.Classification(classes=classes, names=names) if classes else None
    save_pretrained(Pretrained(built, variables, None, Manifest("", {}, ()), task), folder)
    return variables


def by_hand(variables, x):
    """Return the hidden states of the two layers and the logits of MLP, in float64."""
    p = {path: np.asarray(leaf, np.float64) for path, leaf in flatten(variables.params).items()}
    first = np.tanh(np.asarray(x, np.float64) @ p["stem/kernel"] + p["stem/bias"])
    second = np.tanh(first @ p["blocks/00/kernel"] + p["blocks/00/bias"])
    return first, second, second @ p["head/kernel"] + p["head/bias"]


def softmax(logits):
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def labelled(config=MLP, rows=BATCH, seed=1):
    random = np.random.default_rng(seed)
    inputs = {name: random.normal(size=(rows, *s.shape[1:])) for name, s in models.example_inputs(config).items()}
    arguments = {name: array.astype(np.float32) for name, array in inputs.items()}
    labels = random.integers(0, CLASSES, rows).astype(np.int32)
    return arguments | {"label": labels, "index": np.arange(rows, dtype=np.int32)}


TASK = tasks.Classification(classes=CLASSES, names=("a", "b", "c"))


def preview_of(term, model, *, task=TASK, streams=("labelled", "source", "unlabelled"), params=None, new=frozenset()):
    """Return the input of the checks of `term`, as `prepare` builds it, after the checks pass."""
    references = load_references((term,), streams)
    preview = Preview(model, model.params if params is None else params, task, streams, new, references)
    check_terms((term,), preview)
    return preview


def look(term, *, config=MLP, now=None, initial=None, batch=None, others=None, progress=0.0, data=None, train=False,
         turn=0, average=None, **setting):  # fmt: skip
    """Compute the loss of `term` on a batch.

    The batches of `others` belong to other streams. `now` are the present weights, `initial` the initial weights, and
    `turn` is the move of the step. Returns `(value, metrics, gradient by path)`.
    """
    model = models.build(config, CLASSES)
    initial = drawn(model, 0) if initial is None else initial
    batch = labelled(config) if batch is None else batch
    task, known = TASK, {"streams": ("labelled", *sorted(others or {})), "new": setting.get("new", frozenset())}
    references = preview_of(term, model, params=initial.params, **known).references
    inserted = term.insert(model, initial.params, jax.random.key(5))
    initial = initial._replace(params=inserted)
    memory = term.memory(Setting(model, initial, task, lambda stream: [batch] if data is None else data, **setting))
    now = initial if now is None else now._replace(params=nest(flatten(inserted) | flatten(now.params)))
    tick = Tick(jnp.float32(progress), jax.random.key(7))

    @partial(jax.value_and_grad, has_aux=True)
    def value(params, given, memory):
        stored = {"labelled": given, **(others or {})}
        streams = with_created((term,), stored, tick)
        taps = {}
        for stream, salt, *_ in passes((term,), sorted(stored), streams):
            key = jax.random.fold_in(tick.key, salt)
            taps[stream], _ = models.forward(model, Variables(params, now.stats), streams[stream], key=key, train=train)
        view = View(
            model, params, now.stats, memory, streams, taps, task, tick, turn=turn, average=average,
            references=structures(references),
        )  # fmt: skip
        return loss_of(term, view)

    (total, recorded), gradient = jax.jit(value)(now.params, batch, memory)
    recorded = {name: np.asarray(number) for name, number in recorded.items()}
    return SimpleNamespace(
        value=float(total), metrics=recorded, gradient=flatten(gradient), params=inserted, memory=memory
    )


def across(streams, term, **more):
    """Call `look` with several streams."""
    rest = {name: batch for name, batch in streams.items() if name != "labelled"}
    return look(term, batch=streams["labelled"], others=rest, **more)


def network(params, name, x, hidden="01", last="2"):
    p = {path: np.asarray(leaf, np.float64) for path, leaf in flatten(params[name]).items()}
    for layer in hidden:
        x = np.maximum(x @ p[f"{layer}/kernel"] + p[f"{layer}/bias"], 0)
    actual = x @ p[f"{last}/kernel"] + p[f"{last}/bias"]
    return actual[:, 0] if actual.shape[1] == 1 else actual


def softplus(x):
    return np.log1p(np.exp(x))


@pytest.fixture(scope="session")
def mlp():
    return SimpleNamespace(
        config=MLP, model=models.build(MLP, CLASSES), classes=CLASSES, look=look, preview=preview_of, drawn=drawn,
        save=save, by_hand=by_hand, softmax=softmax, labelled=labelled, across=across, network=network,
        softplus=softplus,
    )  # fmt: skip


@pytest.fixture
def seen(mlp):
    """The batches of three streams, and for each stream its `(x, features, logits)` in the small network."""
    streams = {name: mlp.labelled(rows=rows, seed=seed)
               for name, rows, seed in (("labelled", 4, 1), ("source", 6, 2), ("unlabelled", 5, 3))}  # fmt: skip
    known = streams["source"]["label"], streams["labelled"]["label"]
    del streams["unlabelled"]["label"]
    variables = mlp.drawn(mlp.model, 0)
    answers = {}
    for name, batch in streams.items():
        _, f, logits = mlp.by_hand(variables, batch["x"])
        answers[name] = (f, logits)
    return streams, answers, known
