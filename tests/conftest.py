"""Strict test settings: eight fake devices, no implicit type promotion, no network unless a test asks for an asset."""

import csv
import os
import sys
import warnings
import zlib
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tlx.assets import cache_dir

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
# Most of the test time is compilation. This cache saves it in a second run and in the processes that tests start.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_dir() / "compiled-by-tests"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers import models as tokenizer_models

import tlx
from tlx import Data, Optim, Recipe, Study, Train, Weights, choice, config, models, param, prod, sharding, tasks, tuning
from tlx.functional.metrics import document as declaration
from tlx.functional.scores import scores_of
from tlx.predict.opening import ModelInputs, OpenedModel
from tlx.processors import TextProcessor
from tlx.records import studies
from tlx.records.log import read_metrics, write_json
from tlx.records.progress import Progress
from tlx.records.run_directory import Predictions, write_predictions
from tlx.study import run_study
from tlx.study.base import document, settle
from tlx.training.prepare import open_data, prepare, training_batches
from tlx.training.step import compile_step, initial_state
from tlx.trees import flatten
from tlx.types import Column, Variables
from tlx.weights import Manifest, Pretrained, save_pretrained

jax.config.update("jax_numpy_dtype_promotion", "strict")
# The newest interpreter has neither torch nor peft, so pytest does not collect the files that import them.
collect_ignore_glob = [] if find_spec("torch") else ["*/test_parity*.py"]


def pytest_addoption(parser):
    parser.addoption("--part", default="1/1", help="run one part of the tests: 2/3 is the second of three parts")


def pytest_collection_modifyitems(config, items):
    part, parts = (int(number) for number in config.getoption("--part").split("/"))
    if not 1 <= part <= parts:
        raise pytest.UsageError(f"--part {part}/{parts}: the part is from 1 to {parts}")

    def belongs(item):
        # The name decides, so a new test leaves the others in their parts.
        return zlib.crc32(item.nodeid.encode()) % parts == part - 1

    config.hook.pytest_deselected(items=[item for item in items if not belongs(item)])
    items[:] = filter(belongs, items)


class Written:
    """A study of hand-written run records. `correct` marks the test examples that a run classifies correctly."""

    def __init__(self, folder, baseline=None, smallest=0.0, metric="test/accuracy"):
        self.folder, self.cells = folder, []
        self.fields = {"baseline": baseline, "smallest": smallest, "metric": metric}

    def add(self, correct, indices=None, selection="last", reported=None, keep=True, labelled=None, notes=(), **names):
        """Add a run. `labelled` has the labels of the examples; the default alternates two classes."""
        fingerprint = f"{len(self.cells):016x}"
        folder, correct = self.folder / "cells" / fingerprint, np.array(correct)
        (folder / "predictions").mkdir(parents=True)
        labels = np.arange(len(correct)) % 2 if labelled is None else np.array(labelled)
        logits = np.eye(2)[np.where(correct, labels, 1 - labels)]
        indices = np.arange(len(correct)) if indices is None else np.array(indices)
        if keep:
            np.savez(folder / "predictions" / "test.npz", logits=logits, labels=labels, indices=indices)
        value = float(correct.mean()) if reported is None else reported
        result = {"metrics": {"test/accuracy": value}, "selection": selection, "selected_step": 1, "notes": notes}
        write_json(folder / "result.json", result)
        write_json(folder / "recipe.json", {"recipe": {"task": {"kind": "Classification"}}})
        self.cells.append({"fingerprint": fingerprint, "names": names, "changes": []})
        return self

    def write(self, **fields):
        write_json(self.folder / "study.json", self.fields | {"cells": self.cells} | fields)
        return self.folder

    def compare(self, **fields):
        return studies.compare(studies.read(self.write(**fields)))


@pytest.fixture(scope="module")
def no_page():
    """Turn the report off: it has separate tests, and takes longer than small runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlx.report.available", lambda: False)
        yield


@pytest.fixture
def interrupted(monkeypatch):
    """Return `interrupted(recipe, out, at, **how)`: a run that the user stops at step `at`."""
    settle = Progress.step

    def begin(recipe, out, at, **how):
        def stop(self, step, loss, rate):
            if step == at:
                raise KeyboardInterrupt
            settle(self, step, loss, rate)

        with monkeypatch.context() as patch:
            patch.setattr(Progress, "step", stop)
            with pytest.raises(KeyboardInterrupt):
                tlx.run(recipe, out, quiet=True, **how)

    return begin


@pytest.fixture
def goes_on(interrupted, tmp_path):
    """Return `goes_on(recipe, stops)`: it checks that a run stopped at `stops` equals an unstopped run, bit for bit."""

    def check(recipe, stops):
        complete = tlx.run(recipe, tmp_path / "whole", quiet=True)
        for count, at in enumerate(stops):
            interrupted(recipe, tmp_path / "stopped", at, resume=count > 0)
        resumed = tlx.run(recipe, tmp_path / "stopped", resume=True, quiet=True)
        # The weights of the model, and those of the adapter alone.
        files = [path.relative_to(complete.folder) for path in complete.folder.glob("*/*.safetensors")]
        assert files
        for file in files:
            assert (resumed.folder / file).read_bytes() == (complete.folder / file).read_bytes(), file
        lines = [[line | {"time": 0} for line in read_metrics(outcome.folder)] for outcome in (resumed, complete)]
        assert lines[0] == lines[1]
        same = ("metrics", "selected_step", "fingerprint", "parameters", "steps", "flops")
        assert {name: resumed.result[name] for name in same} == {name: complete.result[name] for name in same}

    return check


@pytest.fixture
def written(tmp_path):
    """A study without cells; its baseline is the method "a"."""
    return Written(tmp_path, {"method": "a"})


@pytest.fixture(scope="session")
def small_study(tmp_path_factory):
    """The directory of a real study with two methods, two numbers of labels and three seeds.

    One cell has diverged, one cell is waiting, and one run has a report.
    """
    base = Recipe(
        data=Data(target="digits"),
        task=tasks.Classification(),
        model=models.Mlp(inputs=(8, 8, 1), widths=(32, 32)),
        optim=Optim(lr=3e-3),
        train=Train(steps=40, batch=16, eval_every=8),
    )
    methods = choice("method", {"full": {}, "probe": {"tuning": tuning.Probe()}})
    shots = choice("shots", {count: {"data.shots": count} for count in (4, 16)})
    cells = prod(methods, shots, param("seed", range(3)))
    # With this learning rate the loss is not a number after one step. A separate name marks this cell.
    [diverging] = prod(methods[:1], shots[1:], param("seed", 3))
    cells.append(diverging._replace(changes=diverging.changes | {"optim.lr": 1e30}))
    out = tmp_path_factory.mktemp("study") / "shots"
    settings = {
        "base": base, "question": "Does a probe of random features keep up with full training?", "smallest": 0.005,
        "baseline": {"method": "full"},
    }  # fmt: skip
    run_study(Study(cells=cells, **settings), out, quiet=True)
    more = Study(cells=[*cells, *prod(methods[1:], shots[1:], param("seed", 3))], **settings)
    settle(out, document(more, "shots", "tlx study experiments/shots.py", "experiments/shots.py"))
    first = out / "cells" / next(iter(more.by_fingerprint))
    tlx.run(next(iter(more.by_fingerprint.values())).recipe, first, overwrite=True, quiet=True)
    return out


@pytest.fixture
def write_run():
    """Return a function that writes the records of a run by hand, without training."""
    return write_records


RECORDED = tasks.Classification(classes=2, names=("no", "yes"))


def write_records(folder, correct, *, indices=None, labels=None, changes=(), finished=True, selection="last", **fields):
    """Write a run in `folder` whose model is right on the test examples where `correct` is true; return the folder.

    `fields` are fields of the recipe, `indices` the positions of the examples, `changes` overrides for the record.
    """
    settings = {"data": Data(target="digits"), "task": RECORDED, "model": models.Mlp(inputs=(8, 8, 1), widths=(8,))}
    recipe = Recipe(**(settings | fields))
    correct = np.array(correct, bool)
    labels = np.arange(len(correct)) % 2 if labels is None else np.array(labels)
    # Some answers are surer than others.
    logits = np.eye(2)[np.where(correct, labels, 1 - labels)] * (1 + np.arange(len(correct))[:, None] % 3)
    scores = scores_of(logits, labels)
    folder.mkdir(parents=True)
    written = {"schema": config.SCHEMA, "fingerprint": config.fingerprint(recipe), "recipe": config.dump(recipe)}
    write_json(folder / "recipe.json", written | {"changes": [list(change) for change in changes], "command": ""})
    if not finished:
        return folder
    predictions = Predictions(scores, np.arange(len(correct)) if indices is None else np.array(indices))
    write_predictions(folder, "test", predictions)
    result = {
        "fingerprint": written["fingerprint"], "seed": recipe.seed, "selection": selection, "selected_step": 3,
        "metrics": {f"test/{name}": value for name, value in predictions.metrics(RECORDED).items()}, "steps": 3,
        "measures": {name: declaration(RECORDED.metric(name)) for name in RECORDED.measures},
        "parameters": {"total": 10, "trainable": 5}, "seconds": {"train": 1.5}, "examples": {"test": len(correct)},
        "classes": list(RECORDED.names), "data": "0" * 16,
    }  # fmt: skip
    write_json(folder / "result.json", result)
    return folder


class Reviews:
    """Made-up reviews, tables of them, and small models that read them."""

    PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "the", "very", "an", "##na", "bo", "##nn")
    CLASSES = ("bad", "good", "mixed")
    LONGEST = 12

    def rows(self, count, seed=0, label=True):
        """Return reviews with an id, a text, a language, a length and a class that follows from the text."""
        random, rows = np.random.default_rng(seed), []
        for n in range(count):
            stars = self.CLASSES[n % 3]
            words = {"good": ["good"], "bad": ["bad"], "mixed": ["good", "bad"]}[stars]
            others = random.choice(["film", "the", "very"], random.integers(1, 7)).tolist()
            text = " ".join(random.permutation([*words, *others]).tolist())
            row = {"id": f"r{n}", "body": text, "language": ("en", "de")[n // 3 % 2], "votes": n}
            rows.append(row | ({"stars": stars} if label else {}))
        return rows

    def write(self, path, rows):
        """Write a CSV file. Return its path."""
        with open(path, "w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return str(path)

    def read(self, path):
        """Return the rows of a CSV file."""
        with open(path, newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))

    def processor(self):
        """Return a tokenizer that splits names into two pieces."""
        pieces = {piece: n for n, piece in enumerate(self.PIECES)}
        raw = Tokenizer(tokenizer_models.WordPiece(pieces, unk_token="[UNK]"))
        raw.pre_tokenizer = pre_tokenizers.Whitespace()
        raw.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        return TextProcessor(raw, tokens=self.LONGEST)

    def pretrained(self, task=None):
        """Return a small BERT with random weights: with the head of a task, or without a head, to be trained."""
        config = models.Bert(vocabulary=len(self.PIECES), width=16, depth=1, heads=2, mlp=32, positions=16, dropout=0.0)
        built = models.build(config, None if task is None else task.head())
        params = jax.jit(lambda key: models.initialise(built, key))(jax.random.key(0)).params
        if task is not None:
            rng = np.random.default_rng(0)
            params = jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), params)
        return Pretrained(built, Variables(params, {}), self.processor(), Manifest("random", {}, ()), task)

    def opened(self, task, inputs=None):
        """Return a small BERT with random weights, opened for prediction."""
        model = self.pretrained(task)
        inputs = inputs or ModelInputs({"text": Column("text")})
        return OpenedModel(Path("random"), model, model.processor, inputs, (8, self.LONGEST))


@pytest.fixture(scope="session")
def reviews():
    """Made-up reviews."""
    return Reviews()


@pytest.fixture(scope="session")
def reviewed(reviews, tmp_path_factory):
    """A run on a table of reviews, whose columns are chosen by their names and their content."""
    folder = tmp_path_factory.mktemp("reviews")
    save_pretrained(reviews.pretrained(), folder / "weights", untrained=True)
    recipe = Recipe(
        data=Data(
            target=reviews.write(folder / "reviews.csv", reviews.rows(240)), tokens=reviews.LONGEST, buckets=(8,)
        ),
        task=tasks.Classification(),
        weights=Weights(os.fspath(folder / "weights"), pooling="mean"),
        optim=Optim(lr=5e-3),
        train=Train(steps=60, batch=16, eval_batch=32, eval_every=60),
    )
    return tlx.run(recipe, folder / "run", quiet=True)


# torchvision and timm have a folder of their own (see the Makefile).
NETWORKS = Path(sys.prefix) / "networks"


@pytest.fixture(scope="session")
def networks():
    """torchvision and timm. In other tests `transformers` must not see them, because it then prepares images with them.

    The operators of torchvision for detection do not load beside a torch for CPUs only. The networks do not use them,
    but the package declares them on import.
    """
    import torch
    from transformers.utils import import_utils

    assert NETWORKS.is_dir(), f"{NETWORKS} is missing: make {sys.prefix}/.networks"
    for package in ("torchvision", "torchvision_v2", "timm"):
        getattr(import_utils, f"is_{package}_available")()
    operators = torch.library.Library("torchvision", "FRAGMENT")
    sys.path.append(str(NETWORKS))
    with warnings.catch_warnings():
        # The decoders of images do not load either.
        warnings.simplefilter("ignore")
        try:
            import torchvision
        except RuntimeError:
            for name in ("nms", "qnms"):
                operators.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
            for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
                del sys.modules[name]
            import torchvision
        import timm
        import timm.data
    sys.path.remove(str(NETWORKS))
    yield SimpleNamespace(torchvision=torchvision, timm=timm)
    # The operators live as long as this value.
    del operators


@pytest.fixture(scope="session")
def two_steps():
    """A function that takes two steps of a recipe on two devices: the losses are finite, and only what learns moves."""

    def take(recipe):
        splits = open_data(recipe)
        ready = prepare(recipe, splits)
        parts = ready.parts(0)
        compiled = compile_step(parts, sharding.make_mesh(jax.devices()[:2]), recipe.train.compile)
        state = compiled.place(initial_state(parts, ready.variables, 2, jax.random.key(0)))
        batches = training_batches(ready, splits)
        for _ in range(2):
            state, metrics = compiled.train(state, compiled.put(next(batches)))
            assert np.isfinite(float(metrics["loss"]))
        before, after = flatten(ready.variables.params), flatten(compiled.fetch(state).variables.params)
        for name, learn in parts.partition.items():
            assert learn is not None or np.array_equal(before[name], after[name]), name
        assert not all(np.array_equal(before[name], after[name]) for name, learn in parts.partition.items() if learn)
        return ready

    return take
