"""A run from recipe to result: stopping, resuming, selecting, and failures."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tlx import Data, Learn, Optim, Recipe, Train, Weights, models, run, tasks, tuning
from tlx.data import Crop, examples
from tlx.records.log import read_metrics
from tlx.training.active_run import Diverged
from tlx.training.loop import How
from tlx.trees import flatten
from tlx.types import Phase
from tlx.weights import load_pretrained

STEPS, EVERY, BATCH = 6, 2, 16
RECIPE = Recipe(
    data=Data(target="digits", shots=4, augment=(Crop(padding=1),)),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(16,), dropout=0.3),
    optim=Optim(lr=0.01, weight_decay=0.1, warmup=0.3, clip=1.0),
    train=Train(steps=STEPS, batch=BATCH, eval_every=EVERY, eval_batch=128),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shares(tuning.Tuning):
    """All parameters, in phases with these shares of the run."""

    shares: tuple[float, ...]
    optim: tuple[tuple[str, float], ...] = ()

    def phases(self, model):
        return tuple(Phase(share, ((".*", Learn()),), optim=self.optim) for share in self.shares)


BATCH_NORM = dataclasses.replace(RECIPE, model=models.Cnn(size=8, widths=(2,), dense=None))
SELECTED = dataclasses.replace(RECIPE, train=dataclasses.replace(RECIPE.train, select="best-validation"))


pytestmark = pytest.mark.usefixtures("no_page")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return run(RECIPE, tmp_path_factory.mktemp("plain") / "run", quiet=True)


def bits(folder):
    return (folder / "model" / "model.safetensors").read_bytes()


def recorded_numbers(folder):
    """Return every recorded number, without its time."""
    return [(line["step"], line["name"], line["value"]) for line in read_metrics(folder)]


def test_the_result_has_all_documented_fields(plain):
    result = json.loads((plain.folder / "result.json").read_text())
    assert result == plain.result
    assert {"fingerprint", "seed", "selection", "steps", "examples_per_second", "peak_memory_bytes"} < result.keys()
    assert {"test/accuracy", "test/macro_f1", "test/loss", "test/ece", "validation/accuracy"} < result["metrics"].keys()
    assert plain.metrics is plain.result["metrics"]
    assert result["parameters"] == {"total": 64 * 16 + 16 + 16 * 10 + 10, "trainable": 64 * 16 + 16 + 16 * 10 + 10}
    assert result["seconds"].keys() == {"setup", "compile", "train", "eval"}
    assert (result["steps"], result["selected_step"], result["selection"], result["seed"]) == (STEPS, STEPS, "last", 0)
    assert result["examples"]["train"] == 40
    assert result["examples_per_second"] > 0
    assert result["peak_memory_bytes"] > 10**7
    assert result["energy"].keys() == {"kwh", "co2e_kg", "how"} and result["energy"]["kwh"] > 0


def test_every_number_of_a_run_is_recorded(plain):
    names = {}
    for step, name, value in recorded_numbers(plain.folder):
        names.setdefault(name, {})[step] = value
    assert list(names["train/loss"]) == list(names["train/gradient_norm"]) == list(range(1, STEPS + 1))
    assert list(names["validation/accuracy"]) == [2, 4, 6]
    assert list(names["test/accuracy"]) == [6]
    assert names["test/accuracy"][6] == plain.metrics["test/accuracy"]
    assert names["validation/accuracy"][6] == plain.metrics["validation/accuracy"]
    assert names["train/rate"][6] < names["train/rate"][3] <= 0.01


def test_the_evaluated_model_is_the_saved_model(plain):
    remaining = np.load(plain.folder / "predictions" / "test.npz")
    assert plain.metrics["test/accuracy"] == (remaining["logits"].argmax(-1) == remaining["label"]).mean()
    pretrained = load_pretrained(plain.folder)
    source = examples.open_dataset("digits").splits["test"]
    image = pretrained.processor(source[int(remaining["indices"][5])])["image"]
    logits = models.forward(pretrained.model, pretrained.variables, {"image": image[None]})[0]["logits"]
    np.testing.assert_allclose(logits[0], remaining["logits"][5], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("recipe", "stops"),
    [
        (RECIPE, (5,)),
        pytest.param(SELECTED, (3, 6), marks=pytest.mark.slow),
        pytest.param(BATCH_NORM, (4,), marks=pytest.mark.slow),
    ],
    ids=["plain", "best-validation, twice", "batch norm"],
)
def test_a_resumed_run_equals_an_unstopped_run_bit_for_bit(recipe, stops, goes_on):
    goes_on(recipe, stops)


def test_the_origin_of_every_tensor_is_recorded(plain, tmp_path):
    assert not (plain.folder / "weights.json").exists()
    pretrained = Weights(str(plain.folder), reset=("head/.*",))
    second = run(dataclasses.replace(RECIPE, weights=pretrained), tmp_path / "run", quiet=True)
    stored = json.loads((second.folder / "weights.json").read_text())
    assert stored["source"] == str(plain.folder)
    assert {entry["path"]: entry["action"] for entry in stored["entries"]} == {
        "head/bias": "reset", "head/kernel": "reset", "stem/bias": "loaded", "stem/kernel": "loaded",
    }  # fmt: skip


@pytest.mark.slow
def test_the_same_recipe_gives_the_same_bits_and_another_seed_others(plain, tmp_path):
    run(RECIPE, tmp_path / "again", quiet=True)
    assert bits(tmp_path / "again") == bits(plain.folder)
    assert recorded_numbers(tmp_path / "again") == recorded_numbers(plain.folder)
    run(dataclasses.replace(RECIPE, seed=1), tmp_path / "other", quiet=True)
    assert bits(tmp_path / "other") != bits(plain.folder)


@pytest.mark.slow
def test_a_run_by_pmap_resumes_too_and_ends_like_jit(plain, tmp_path, interrupted):
    recipe = dataclasses.replace(RECIPE, train=dataclasses.replace(RECIPE.train, compile="pmap"))
    interrupted(recipe, tmp_path / "run", 5)
    resumed = run(recipe, tmp_path / "run", resume=True, quiet=True)
    actual, expected = (flatten(load_pretrained(result.folder).variables.params) for result in (resumed, plain))
    for path, leaf in actual.items():
        np.testing.assert_allclose(leaf, expected[path], rtol=1e-5, atol=1e-6, err_msg=path)


def test_a_finished_run_is_returned_unchanged(plain):
    before = (plain.folder / "result.json").stat().st_mtime_ns
    resumed = run(RECIPE, plain.folder, resume=True, quiet=True)
    assert resumed.result == plain.result
    assert (plain.folder / "result.json").stat().st_mtime_ns == before
    with pytest.raises(FileExistsError) as error:
        run(RECIPE, plain.folder, quiet=True)
    for part in (str(plain.folder), "finished", "--resume", "--overwrite"):
        assert part in str(error.value)


def test_the_folder_of_another_recipe_is_not_changed(plain):
    for resume in (True, False):
        with pytest.raises(FileExistsError, match="contains the run of another recipe"):
            run(dataclasses.replace(RECIPE, seed=1), plain.folder, resume=resume, quiet=True)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"task": tasks.Classification(classes=5)}, ValueError,
         "labels outside the class range: the data have 10 classes ... task ... 5"),
        ({"task": tasks.Regression()}, ValueError,
         "data set has classes (0, 1, 2, ...) ... tasks.Classification"),
        ({"model": models.Mlp()}, ValueError,
         "images ... (8, 8, 1) do not fit ... (28, 28, 1) ... Data(size=, channels=) ... Weights(resize=...)"),
        ({"tuning": tuning.Rules(("stemm/.*", None), (".*", Learn()))}, ValueError,
         "rule 'stemm/.*' ... parameter; close: 'stem/.*'"),
        ({"train": Train(steps=2, batch=12)}, ValueError,
         "train.batch is 12, which 8 devices cannot share evenly ... 8 or 16, or a mesh of data=6"),
        ({"seed": "0"}, TypeError, "seed ... '0' ... int"),
        ({"train": Train(steps=2, batch=16, accumulate=4)}, ValueError,
         "divided evenly among 8 devices; use a train.batch that is a multiple of 32, or fewer pieces"),
        ({"tuning": tuning.Rules((".*", Learn(schedule="cosin")))}, ValueError,
         "there is no schedule 'cosin'; close: 'cosine', 'constant'"),
        ({"tuning": Shares(shares=(0.5, 0.4))}, ValueError,
         "the shares of the phases sum to 0.9, not to 1: [0.5, 0.4]"),
        ({"tuning": Shares(shares=(1.0,), optim=(("warmupp", 0.5),))}, ValueError,
         "a phase changes optim.warmupp, which is not a numeric setting; close: 'warmup'"),
    ],
)  # fmt: skip
def test_an_invalid_recipe_is_refused_before_files_are_written(changes, kind, message, tmp_path):
    recipe = dataclasses.replace(RECIPE, **({"data": Data(target="digits", size=8)} | changes))
    with pytest.raises(kind) as error:
        run(recipe, tmp_path / "run", quiet=True)
    for part in message.split(" ... "):
        assert part in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_split_is_named(split, tmp_path, monkeypatch):
    dataset = examples.open_dataset("digits")
    empty = dataset.splits | {split: dataset.splits[split].view([])}
    monkeypatch.setattr(examples, "open_dataset", lambda name: dataclasses.replace(dataset, splits=empty))
    with pytest.raises(ValueError) as error:
        run(dataclasses.replace(RECIPE, data=Data(target="digits")), tmp_path / "run", quiet=True)
    assert str(error.value) == f"data set 'digits' has no examples in its split '{split}'"


def test_a_nan_loss_stops_the_run_with_step_examples_and_parameter(tmp_path):
    recipe = dataclasses.replace(RECIPE, optim=Optim("sgd", lr=float("inf")))
    with pytest.raises(Diverged) as error:
        run(recipe, tmp_path / "run", quiet=True)
    actual = re.fullmatch(
        r"the loss is nan at step 2, and .* gradient is nan; .* examples \[(.*)\]; .* 'head/bias' \(norm nan\)",
        str(error.value),
    )
    assert actual
    assert len(actual[1].split(", ")) == BATCH
    assert [step for step, name, _ in recorded_numbers(tmp_path / "run") if name == "train/loss"] == [1]


def test_nan_parameters_are_neither_evaluated_nor_saved(tmp_path):
    recipe = dataclasses.replace(
        RECIPE, optim=Optim("sgd", lr=float("inf")), train=dataclasses.replace(RECIPE.train, eval_every=1)
    )
    with pytest.raises(Diverged) as error:
        run(recipe, tmp_path / "run", quiet=True)
    for part in ("outputs are not finite after step 1,", "rate is inf", "optim.lr", "optim.clip"):
        assert part in str(error.value)
    assert not list((tmp_path / "run").glob("checkpoints/[0-9]*"))


FULL_DISK = """
import resource, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import conftest
import importlib.util
spec = importlib.util.spec_from_file_location("test_train", {file!r})
test_train = importlib.util.module_from_spec(spec)
sys.modules["test_train"] = test_train
spec.loader.exec_module(test_train)
import tlx.report, tlx.training.checkpoint, tlx.records.progress
tlx.report.available = lambda: False
def full(self, text):
    # From here on no file may grow: the checkpoint of step 4 and all after it fail, as on a full disk.
    if text.startswith("step 4/"):
        while not (Path(sys.argv[1]) / "checkpoints" / "2").is_dir():
            time.sleep(0.01)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
tlx.records.progress.Progress.measured = full
try:
    test_train.run(test_train.RECIPE, sys.argv[1], quiet=True)
except tlx.training.checkpoint.DiskFull as error:
    print(error)
"""


@pytest.mark.slow
def test_a_full_disk_loses_nothing_that_was_saved(plain, tmp_path):
    program = FULL_DISK.format(tests=str(Path(__file__).parents[1]), file=__file__)
    process = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "run")], capture_output=True, text=True, timeout=120, check=False
    )
    assert process.stdout == (
        f"the disk is full: {tmp_path / 'run'} cannot be written. Everything saved before is intact; "
        "free some space and continue with --resume\n"
    ), process.stderr
    assert [file.name for file in (tmp_path / "run" / "checkpoints").iterdir()] == ["2"]
    assert not (tmp_path / "run" / "result.json").exists()
    run(RECIPE, tmp_path / "run", resume=True, quiet=True)
    assert bits(tmp_path / "run") == bits(plain.folder)
    assert recorded_numbers(tmp_path / "run") == recorded_numbers(plain.folder)


def test_compiled_programs_are_cached_unless_the_user_sets_a_folder(monkeypatch, tmp_path):
    from tlx.training.loop import remember_compilations

    monkeypatch.setenv("TLX_CACHE", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    least = jax.config.jax_persistent_cache_min_compile_time_secs
    try:
        jax.config.update("jax_compilation_cache_dir", "/elsewhere")
        remember_compilations()
        assert jax.config.jax_compilation_cache_dir == "/elsewhere"
        jax.config.update("jax_compilation_cache_dir", None)
        remember_compilations()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "compiled")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", least)


def test_the_test_environment_is_strict():
    assert os.environ["XLA_FLAGS"].count("device_count=8") >= 1
    assert len(jax.devices()) == 8


class Unreadable(tuple):
    """Records that must not be read."""

    def __getitem__(self, row):
        raise AssertionError(f"record {row} of the test split was read")


@pytest.mark.slow
def test_a_run_without_test_evaluation_never_reads_a_test_example(plain, tmp_path, monkeypatch):
    dataset = examples.open_dataset("digits")
    stored = dataset.splits["test"]
    hidden = examples.Examples(
        stored.name, stored.split, Unreadable(range(len(stored))), stored.columns, rows=stored.rows
    )
    monkeypatch.setattr(
        examples, "open_dataset", lambda name: dataclasses.replace(dataset, splits=dataset.splits | {"test": hidden})
    )
    blind = run(RECIPE, tmp_path / "blind", how=How(quiet=True, test=False))
    assert {path.name for path in (blind.folder / "predictions").iterdir()} == {"validation.npz"}
    assert not (blind.folder / "mistakes.json").exists()
    assert recorded_numbers(blind.folder) == [
        line for line in recorded_numbers(plain.folder) if not line[1].startswith("test/")
    ]
    assert blind.metrics == {name: value for name, value in plain.metrics.items() if name.startswith("validation/")}
    # The rows are known without their labels.
    assert blind.result["data"] == plain.result["data"]
    with pytest.raises(AssertionError, match="was read"):
        run(RECIPE, tmp_path / "open", quiet=True)
    # The feature cache has no test examples either.
    probe = dataclasses.replace(RECIPE, data=Data(target="digits", shots=4), tuning=tuning.Probe())
    probed = run(probe, tmp_path / "probe", how=How(quiet=True, test=False))
    assert [phase["cut"] for phase in probed.result["prefix"]] == ["head"]


def test_a_run_without_test_evaluation_does_not_count_as_complete(tmp_path):
    run(RECIPE, tmp_path / "run", how=How(quiet=True, test=False))
    resumed = run(RECIPE, tmp_path / "run", resume=True, how=How(quiet=True, test=False))
    assert "test/accuracy" not in resumed.metrics
    with pytest.raises(FileExistsError) as error:
        run(RECIPE, tmp_path / "run", quiet=True, resume=True)
    for part in (str(tmp_path / "run"), "without test evaluation", "--overwrite"):
        assert part in str(error.value)
