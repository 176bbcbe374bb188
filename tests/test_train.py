"""A run from recipe to result: stopping, going on, choosing, and what goes wrong."""

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
from tlx.arm import Best, Diverged, phase_spans, total_steps
from tlx.data import Crop, examples
from tlx.objectives import Supervised
from tlx.optim import rate
from tlx.prepare import prepare
from tlx.records import Progress, read_metrics
from tlx.train import How
from tlx.trees import flatten, nest
from tlx.types import Phase, Variables
from tlx.updates import Sam
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
class Waves(tuning.Tuning):
    """The head alone for the first half, then everything at `lr`."""

    lr: float = 1.0

    def phases(self, model):
        return Phase(0.5, (("head/.*", Learn()), (".*", None))), Phase(0.5, ((".*", Learn(lr=self.lr)),))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shares(tuning.Tuning):
    """Everything, for these shares of the run."""

    shares: tuple[float, ...]
    optim: tuple[tuple[str, float], ...] = ()

    def phases(self, model):
        return tuple(Phase(share, ((".*", Learn()),), optim=self.optim) for share in self.shares)


BATCH_NORM = dataclasses.replace(RECIPE, model=models.Cnn(size=8, widths=(2,), dense=None))
SELECTED = dataclasses.replace(RECIPE, train=dataclasses.replace(RECIPE.train, select="best-validation"))
# At step 3, where a checkpoint ends the first phase.
WAVES = dataclasses.replace(RECIPE, tuning=Waves(), train=dataclasses.replace(RECIPE.train, eval_every=3))

EVERY_STEP = dataclasses.replace(RECIPE.train, eval_every=1)
AVERAGED = dataclasses.replace(
    WAVES, train=dataclasses.replace(EVERY_STEP, ema=0.5, accumulate=2, select="best-validation"), update=Sam()
)
TURNS = dataclasses.replace(
    RECIPE,
    train=EVERY_STEP,
    tuning=tuning.InTurn(
        (0.5, tuning.Rules(("stem/bias", None), (".*", Learn()))), (0.5, tuning.LinearThenFull(share=0.4))
    ),
    optim=Optim("schedule-free-adamw", lr=0.01, schedule="constant"),
)


@pytest.fixture(autouse=True, scope="module")
def no_page():
    """The page has tests of its own, and takes longer than these runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlx.report.available", lambda: False)
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return run(RECIPE, tmp_path_factory.mktemp("plain") / "run", quiet=True)


def bits(folder):
    return (folder / "model" / "model.safetensors").read_bytes()


def told(folder):
    """Every number recorded, without the time it was."""
    return [(line["step"], line["name"], line["value"]) for line in read_metrics(folder)]


def interrupted(recipe, out, at, monkeypatch, **how):
    """A run that the user stops when the metrics of step `at` come in."""
    settle = Progress.step

    def stop(self, step, loss, rate):
        if step == at:
            raise KeyboardInterrupt
        settle(self, step, loss, rate)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, out, quiet=True, **how)


def test_the_result_holds_what_was_promised(plain):
    result = json.loads((plain.folder / "result.json").read_text())
    assert result == plain.result
    assert {"fingerprint", "seed", "selection", "steps", "examples_per_second", "peak_memory_bytes"} < result.keys()
    assert {"test/accuracy", "test/f1", "test/loss", "test/ece", "validation/accuracy"} < result["metrics"].keys()
    assert plain.metrics is plain.result["metrics"]
    assert result["parameters"] == {"total": 64 * 16 + 16 + 16 * 10 + 10, "trainable": 64 * 16 + 16 + 16 * 10 + 10}
    assert result["seconds"].keys() == {"setup", "compile", "train", "eval"}
    assert (result["steps"], result["selected_step"], result["selection"], result["seed"]) == (STEPS, STEPS, "last", 0)
    assert result["examples"]["train"] == 40
    assert result["examples_per_second"] > 0
    assert result["peak_memory_bytes"] > 10**7
    assert result["energy"].keys() == {"kwh", "co2e_kg", "how"} and result["energy"]["kwh"] > 0


def test_every_number_of_a_run_is_on_record(plain):
    names = {}
    for step, name, value in told(plain.folder):
        names.setdefault(name, {})[step] = value
    assert list(names["train/loss"]) == list(names["train/gradient_norm"]) == list(range(1, STEPS + 1))
    assert list(names["validation/accuracy"]) == [2, 4, 6]
    assert list(names["test/accuracy"]) == [6]
    assert names["test/accuracy"][6] == plain.metrics["test/accuracy"]
    assert names["validation/accuracy"][6] == plain.metrics["validation/accuracy"]
    assert names["train/rate"][6] < names["train/rate"][3] <= 0.01


def test_what_is_measured_is_what_was_saved(plain):
    kept = np.load(plain.folder / "predictions" / "test.npz")
    assert plain.metrics["test/accuracy"] == (kept["logits"].argmax(-1) == kept["labels"]).mean()
    pretrained = load_pretrained(plain.folder)
    source = examples.open_dataset("digits").splits["test"]
    image = pretrained.processor(source[int(kept["indices"][5])])["image"]
    logits = models.forward(pretrained.model, pretrained.variables, {"image": image[None]})[0]["logits"]
    np.testing.assert_allclose(logits[0], kept["logits"][5], rtol=1e-5, atol=1e-6)


def test_what_became_of_every_tensor_is_on_record(plain, tmp_path):
    assert not (plain.folder / "weights.json").exists()
    brought = Weights(str(plain.folder), reset=("head/.*",))
    second = run(dataclasses.replace(RECIPE, weights=brought), tmp_path / "run", quiet=True)
    held = json.loads((second.folder / "weights.json").read_text())
    assert held["source"] == str(plain.folder)
    assert {entry["path"]: entry["action"] for entry in held["entries"]} == {
        "head/bias": "reset", "head/kernel": "reset", "stem/bias": "loaded", "stem/kernel": "loaded",
    }  # fmt: skip


def test_the_same_recipe_gives_the_same_bits_and_another_seed_others(plain, tmp_path):
    run(RECIPE, tmp_path / "again", quiet=True)
    assert bits(tmp_path / "again") == bits(plain.folder)
    assert told(tmp_path / "again") == told(plain.folder)
    run(dataclasses.replace(RECIPE, seed=1), tmp_path / "other", quiet=True)
    assert bits(tmp_path / "other") != bits(plain.folder)


@pytest.mark.parametrize(
    ("recipe", "stops"),
    [
        (RECIPE, (5,)),
        (SELECTED, (3, 6)),
        (BATCH_NORM, (4,)),
        (WAVES, (4,)),
        (WAVES, (2,)),
        (WAVES, (3,)),
        (AVERAGED, (2, 4, 6)),
        (TURNS, (5,)),
    ],
    ids=[
        "plain",
        "best-validation, twice",
        "batch norm",
        "after a phase",
        "before a checkpoint",
        "at the switch",
        "averaged, three times",
        "in turn, schedule-free",
    ],
)
def test_going_on_equals_never_having_stopped_bit_for_bit(recipe, stops, tmp_path, monkeypatch):
    whole = run(recipe, tmp_path / "whole", quiet=True)
    for count, at in enumerate(stops):
        interrupted(recipe, tmp_path / "stopped", at, monkeypatch, resume=count > 0)
    resumed = run(recipe, tmp_path / "stopped", resume=True, quiet=True)
    assert bits(resumed.folder) == bits(whole.folder)
    assert told(resumed.folder) == told(whole.folder)
    same = ("metrics", "selected_step", "fingerprint", "parameters", "steps")
    assert {name: resumed.result[name] for name in same} == {name: whole.result[name] for name in same}


def test_what_is_saved_and_measured_is_the_average(plain, tmp_path):
    """With an average that keeps nothing of the past the run is the plain one, with a slow one it is not."""
    found = {}
    for ema in (1e-6, 0.9):
        recipe = dataclasses.replace(RECIPE, train=dataclasses.replace(RECIPE.train, ema=ema))
        done = run(recipe, tmp_path / str(ema), quiet=True)
        found[ema] = flatten(load_pretrained(done.folder).variables.params)
        kept = np.load(done.folder / "predictions" / "test.npz")
        image = examples.open_dataset("digits").splits["test"][int(kept["indices"][5])]
        pretrained = load_pretrained(done.folder)
        inputs = {"image": pretrained.processor(image)["image"][None]}
        logits = models.forward(pretrained.model, pretrained.variables, inputs)[0]["logits"]
        np.testing.assert_allclose(logits[0], kept["logits"][5], rtol=1e-5, atol=1e-6)
        losses = [value for _, name, value in told(done.folder) if name == "train/loss"]
        np.testing.assert_allclose(
            losses, [value for _, name, value in told(plain.folder) if name == "train/loss"], rtol=1e-5
        )
    last = flatten(load_pretrained(plain.folder).variables.params)
    np.testing.assert_allclose(found[1e-6]["head/kernel"], last["head/kernel"], rtol=1e-4, atol=1e-5)
    assert not np.allclose(found[0.9]["head/kernel"], last["head/kernel"], rtol=1e-2)


def test_a_phase_is_traced_once(tmp_path):
    traces = []

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Traced(Supervised):
        def loss(self, view):
            traces.append(self.weight)
            return super().loss(view)

    run(dataclasses.replace(WAVES, objective=(Traced(),)), tmp_path / "run", quiet=True)
    assert len(traces) == 2


def test_the_schedule_of_a_restarted_phase_is_on_record(tmp_path):
    recipe = dataclasses.replace(RECIPE, tuning=tuning.FineTune(share=0.5), optim=Optim(lr=0.02))
    done = run(recipe, tmp_path / "run", quiet=True)
    # All leaves follow the one-cycle: 3 of 3 steps up, then up and down from a fifth.
    rates = [value for _, name, value in told(done.folder) if name == "train/rate"]
    one = Optim(lr=0.02, schedule="one-cycle", cycle_peak=0.99)
    two = dataclasses.replace(one, cycle_peak=0.3, cycle_start=5.0)
    expected = [float(rate(optim, step, 3)) for optim in (one, two) for step in range(3)]
    np.testing.assert_allclose(rates, expected, rtol=1e-4)


def test_a_run_by_pmap_goes_on_too_and_ends_where_jit_does(plain, tmp_path, monkeypatch):
    recipe = dataclasses.replace(RECIPE, train=dataclasses.replace(RECIPE.train, compile="pmap"))
    interrupted(recipe, tmp_path / "run", 5, monkeypatch)
    resumed = run(recipe, tmp_path / "run", resume=True, quiet=True)
    ours, theirs = (flatten(load_pretrained(found.folder).variables.params) for found in (resumed, plain))
    for path, leaf in ours.items():
        np.testing.assert_allclose(leaf, theirs[path], rtol=1e-5, atol=1e-6, err_msg=path)


def test_the_best_checkpoint_is_the_one_that_is_measured(tmp_path):
    # A rate that climbs to the absurd: what follows the first steps only spoils them.
    optim = Optim("sgd", lr=300.0, warmup=0.99, schedule="constant")
    recipe = dataclasses.replace(SELECTED, optim=optim, train=dataclasses.replace(SELECTED.train, eval_every=1))
    result = run(recipe, tmp_path / "run", quiet=True).result
    measured = {step: value for step, name, value in told(tmp_path / "run") if name == "validation/accuracy"}
    best = max(measured.values())
    assert measured[STEPS] < best
    assert result["selection"] == "best-validation"
    assert result["selected_step"] == min(step for step, value in measured.items() if value == best)
    assert result["metrics"]["validation/accuracy"] == best
    kept = np.load(tmp_path / "run" / "predictions" / "validation.npz")
    assert (kept["logits"].argmax(-1) == kept["labels"]).mean() == best


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spoilt(tuning.Tuning):
    """All goes well for the first half; then the rate is absurd."""

    def phases(self, model):
        whole = Phase(0.5, ((".*", Learn()),))
        return whole, whole._replace(optim=(("lr", 300.0),))


def test_the_best_of_an_average_is_the_average(tmp_path):
    train = dataclasses.replace(SELECTED.train, eval_every=1, ema=0.5)
    recipe = dataclasses.replace(SELECTED, tuning=Spoilt(), optim=Optim(lr=0.03), train=train)
    result = run(recipe, tmp_path / "run", quiet=True).result
    measured = {step: value for step, name, value in told(tmp_path / "run") if name == "validation/loss"}
    # Of one step the average is that step.
    assert result["selected_step"] in (2, 3)
    assert result["metrics"]["validation/loss"] == measured[result["selected_step"]]


def test_the_best_of_an_earlier_phase_brings_its_own_frozen_leaves(tmp_path, monkeypatch):
    recipe = dataclasses.replace(
        WAVES, tuning=Waves(lr=1e6), train=dataclasses.replace(SELECTED.train, eval_every=1), optim=Optim(lr=0.03)
    )
    interrupted(recipe, tmp_path / "run", 5, monkeypatch)
    result = run(recipe, tmp_path / "run", resume=True, quiet=True).result
    assert result["selected_step"] <= 3
    before = flatten(prepare(recipe).variables.params)
    after = flatten(load_pretrained(tmp_path / "run").variables.params)
    np.testing.assert_array_equal(before["stem/kernel"], after["stem/kernel"])
    assert not np.array_equal(before["head/kernel"], after["head/kernel"])


def test_the_best_is_the_first_of_equals_and_heeds_which_way_is_better():
    found = Variables({"x": np.ones(2, np.float32)}, {})
    accuracy, error = tasks.Classification(classes=2), tasks.Regression()
    first = Best().better(1, 0.5, accuracy, found)
    assert first.better(2, 0.5, accuracy, found) is first
    assert first.better(2, 0.4, accuracy, found) is first
    assert first.better(2, 0.6, accuracy, found).step == 2
    assert first.better(2, 0.4, error, found).step == 2
    assert first.variables.params["x"] is not found.params["x"]


def test_a_finished_run_is_returned_as_it_is(plain):
    before = (plain.folder / "result.json").stat().st_mtime_ns
    again = run(RECIPE, plain.folder, resume=True, quiet=True)
    assert again.result == plain.result
    assert (plain.folder / "result.json").stat().st_mtime_ns == before
    with pytest.raises(FileExistsError) as error:
        run(RECIPE, plain.folder, quiet=True)
    assert str(error.value) == (
        f"{plain.folder} holds this recipe's run, finished; go on with --resume, or --overwrite it"
    )


def test_the_folder_of_another_recipe_is_left_alone(plain):
    for resume in (True, False):
        with pytest.raises(FileExistsError, match="holds another recipe's run"):
            run(dataclasses.replace(RECIPE, seed=1), plain.folder, resume=resume, quiet=True)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"task": tasks.Classification(classes=5)}, ValueError,
         "labels outside the class range: the data have 10 classes, the task 5"),
        ({"task": tasks.Regression()}, ValueError,
         "the data set has classes (0, 1, 2, ...); it fits tasks.Classification"),
        ({"model": models.Mlp()}, ValueError,
         "images of (8, 8, 1) do not fit the model's (28, 28, 1); leave Data(size=, channels=) out, "
         "or resize the model's position embeddings: Weights(resize=...)"),
        ({"tuning": tuning.Rules(("stemm/.*", None), (".*", Learn()))}, ValueError,
         "rule 'stemm/.*' claims no parameter; close: 'stem', 'stem/bias'"),
        ({"train": Train(steps=2, batch=12)}, ValueError,
         "train.batch is 12, which 8 devices cannot share evenly; take 8 or 16"),
        ({"seed": "0"}, TypeError, "seed wants int, got '0'"),
        ({"train": Train(steps=2, batch=16, accumulate=4)}, ValueError,
         "train.accumulate is 4: micro-batches of 4, which 8 devices cannot share evenly; take a batch that is a "
         "multiple of 32, or fewer pieces"),
        ({"tuning": tuning.Rules((".*", Learn(schedule="cosin")))}, ValueError,
         "no schedule 'cosin'; close: 'cosine', 'constant'"),
        ({"tuning": Shares(shares=(0.5, 0.4))}, ValueError,
         "the shares of the phases sum to 0.9, not to 1: [0.5, 0.4]"),
        ({"tuning": Shares(shares=(1.0,), optim=(("warmupp", 0.5),))}, ValueError,
         "a phase changes optim.warmupp, which is no number of it; close: 'warmup'"),
    ],
)  # fmt: skip
def test_a_recipe_that_does_not_fit_is_refused_before_anything_is_written(changes, kind, message, tmp_path):
    recipe = dataclasses.replace(RECIPE, **({"data": Data(target="digits", size=8)} | changes))
    with pytest.raises(kind) as error:
        run(recipe, tmp_path / "run", quiet=True)
    assert str(error.value) == message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_split_is_named(split, tmp_path, monkeypatch):
    dataset = examples.open_dataset("digits")
    empty = dataset.splits | {split: dataset.splits[split].view([])}
    monkeypatch.setattr(examples, "open_dataset", lambda name: dataclasses.replace(dataset, splits=empty))
    with pytest.raises(ValueError) as error:
        run(dataclasses.replace(RECIPE, data=Data(target="digits")), tmp_path / "run", quiet=True)
    assert str(error.value) == f"data set 'digits' has no examples in its '{split}' split"


def test_a_loss_that_is_no_number_stops_the_run_with_step_examples_and_parameter(tmp_path):
    recipe = dataclasses.replace(RECIPE, optim=Optim("sgd", lr=float("inf")))
    with pytest.raises(Diverged) as error:
        run(recipe, tmp_path / "run", quiet=True)
    found = re.fullmatch(
        r"the loss is nan at step 2, its gradient's norm nan; the batch held examples \[(.*)\]; "
        r"the largest gradient is that of 'head/bias' \(norm nan\)",
        str(error.value),
    )
    assert found
    assert len(found[1].split(", ")) == BATCH
    assert [step for step, name, _ in told(tmp_path / "run") if name == "train/loss"] == [1]


def test_parameters_that_are_spoilt_are_neither_measured_nor_kept(tmp_path):
    recipe = dataclasses.replace(
        RECIPE, optim=Optim("sgd", lr=float("inf")), train=dataclasses.replace(RECIPE.train, eval_every=1)
    )
    with pytest.raises(Diverged) as error:
        run(recipe, tmp_path / "run", quiet=True)
    assert str(error.value) == (
        "the model's outputs are not finite after step 1, whose loss still was; its rate was inf: lower optim.lr, or "
        "bound the gradient with optim.clip"
    )
    assert not [file for file in (tmp_path / "run" / "checkpoints").iterdir() if file.name.isdigit()]


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
import tlx.report, tlx.checkpoint
tlx.report.available = lambda: False
say = test_train.Progress.say
def full(self, text):
    # From here on no file may grow: the checkpoint of step 4 and all after it fail, as on a full disk.
    if text.startswith("step 4/"):
        while not (Path(sys.argv[1]) / "checkpoints" / "2").is_dir():
            time.sleep(0.01)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
test_train.Progress.say = full
try:
    test_train.run(test_train.RECIPE, sys.argv[1], quiet=True)
except tlx.checkpoint.DiskFull as error:
    print(error)
"""


def test_a_full_disk_loses_nothing_that_was_saved(plain, tmp_path):
    program = FULL_DISK.format(tests=str(Path(__file__).parent), file=__file__)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "run")], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == (
        f"the disk is full: {tmp_path / 'run'} could not be written. What was saved before is whole; "
        "make room and go on with --resume\n"
    ), done.stderr
    assert [file.name for file in (tmp_path / "run" / "checkpoints").iterdir() if file.name.isdigit()] == ["2"]
    assert not (tmp_path / "run" / "result.json").exists()
    run(RECIPE, tmp_path / "run", resume=True, quiet=True)
    assert bits(tmp_path / "run") == bits(plain.folder)
    assert told(tmp_path / "run") == told(plain.folder)


def test_the_length_of_a_run():
    train = dataclasses.replace(RECIPE.train, steps=None, epochs=2.5, batch=32)
    recipe = dataclasses.replace(RECIPE, train=train)
    assert total_steps(recipe, 64) == 5
    assert total_steps(recipe, 65) == 6
    assert total_steps(recipe, 1) == 1
    assert total_steps(RECIPE, 10**6) == STEPS


def test_phases_cover_the_run_without_gap_or_overlap():
    ready = prepare(RECIPE)
    for shares in ((1.0,), (0.5, 0.5), (1 / 3, 1 / 3, 1 / 3), (0.1, 0.2, 0.7), (0.01, 0.99)):
        for steps in (1, 2, 7, 100):
            spans = phase_spans(ready._replace(phases=tuple(Phase(share, ()) for share in shares)), steps)
            assert [step for first, last in spans for step in range(first, last)] == list(range(steps))
    with pytest.raises(ValueError) as error:
        phase_spans(ready._replace(phases=(Phase(0.5, ()), Phase(0.4, ()))), 10)
    assert str(error.value) == "the shares of the phases sum to 0.9, not to 1: [0.5, 0.4]"


def test_compiled_programs_are_kept_unless_the_user_says_where(monkeypatch, tmp_path):
    from tlx.train import remember_compilations

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


def test_moved_part_leaves_out_what_no_phase_moves():
    from tlx.arm import moved_part

    ready = prepare(dataclasses.replace(RECIPE, tuning=tuning.Probe()))
    part = moved_part(ready.variables, ready.moving)
    assert flatten(part.params).keys() == {"head/kernel", "head/bias"}
    assert nest(flatten(part.params)) == part.params
    assert (
        flatten(moved_part(prepare(WAVES).variables, prepare(WAVES).moving).params).keys()
        == flatten(ready.variables.params).keys()
    )


def test_environment_of_the_room():
    assert os.environ["XLA_FLAGS"].count("device_count=8") >= 1
    assert len(jax.devices()) == 8


def test_two_averages_at_once_are_refused():
    with pytest.raises(ValueError) as error:
        dataclasses.replace(TURNS, train=dataclasses.replace(RECIPE.train, ema=0.9))
    assert str(error.value) == "schedule-free-adamw has an average of its own; leave train.ema out"
    with pytest.raises(ValueError, match=r"^ema is 1.0; it keeps a share in \(0, 1\), None is off$"):
        Train(ema=1.0)
    with pytest.raises(ValueError, match=r"^accumulate is 3; it is 1 or more and divides the batch, 16$"):
        Train(batch=16, accumulate=3)


def test_the_table_of_a_phase_has_the_rates_and_the_state_of_that_phase():
    from tlx.describe import rows, totals

    recipe = dataclasses.replace(RECIPE, tuning=tuning.FineTune(), train=dataclasses.replace(RECIPE.train, ema=0.9))
    ready = prepare(recipe)
    found = [{row.path: row.rate for row in rows(ready, phase)} for phase in range(2)]
    assert found[0]["stem/kernel"] == 0 and found[0]["head/kernel"] == 0.01
    assert found[1]["stem/kernel"] == pytest.approx(0.01 / 200) and found[1]["head/kernel"] == 0.005
    first, second = totals(ready, 0), totals(ready, 1)
    assert first["optimiser_bytes"] == 2 * 4 * 170 + 4 and first["average_bytes"] == 4 * 170
    # Two waves, two counts.
    assert second["optimiser_bytes"] == 2 * second["bytes"] + 8


class Unreadable(tuple):
    """A source of records that nobody may read."""

    def __getitem__(self, row):
        raise AssertionError(f"record {row} of the test split was read")


def test_a_run_told_not_to_look_never_reads_a_test_example(plain, tmp_path, monkeypatch):
    dataset = examples.open_dataset("digits")
    held = dataset.splits["test"]
    hidden = examples.Examples(
        held.name, held.split, Unreadable(range(len(held))), held.features, held.classes, rows=held.rows
    )
    monkeypatch.setattr(
        examples, "open_dataset", lambda name: dataclasses.replace(dataset, splits=dataset.splits | {"test": hidden})
    )
    blind = run(RECIPE, tmp_path / "blind", how=How(quiet=True, test=False))
    assert {path.name for path in (blind.folder / "predictions").iterdir()} == {"validation.npz"}
    assert not (blind.folder / "mistakes.json").exists()
    assert told(blind.folder) == [line for line in told(plain.folder) if not line[1].startswith("test/")]
    assert blind.metrics == {name: value for name, value in plain.metrics.items() if name.startswith("validation/")}
    # The rows are known without their labels.
    assert blind.result["data"] == plain.result["data"]
    with pytest.raises(AssertionError, match="was read"):
        run(RECIPE, tmp_path / "open", quiet=True)
    # Where a frozen prefix is computed beforehand, it is not computed of them.
    probe = dataclasses.replace(RECIPE, data=Data(target="digits", shots=4), tuning=tuning.Probe())
    probed = run(probe, tmp_path / "probe", how=How(quiet=True, test=False))
    assert [phase["cut"] for phase in probed.result["prefix"]] == ["head"]


def test_a_run_that_did_not_look_is_not_taken_for_one_that_did(tmp_path):
    run(RECIPE, tmp_path / "run", how=How(quiet=True, test=False))
    again = run(RECIPE, tmp_path / "run", resume=True, how=How(quiet=True, test=False))
    assert "test/accuracy" not in again.metrics
    with pytest.raises(FileExistsError) as error:
        run(RECIPE, tmp_path / "run", quiet=True, resume=True)
    assert str(error.value) == (
        f"{tmp_path / 'run'} holds this recipe's run without its test split; --overwrite it for the whole"
    )


@pytest.mark.parametrize("recipe", [RECIPE, SELECTED, WAVES], ids=["plain", "selected", "waves"])
def test_a_judge_stops_a_run_where_it_stands(recipe, tmp_path):
    asked = []

    def judge(step, measured):
        asked.append((step, measured["accuracy"]))
        return step < first

    whole = run(recipe, tmp_path / "whole", quiet=True)
    first = recipe.train.eval_every
    short = run(recipe, tmp_path / "short", how=How(quiet=True, judge=judge))
    assert asked == [(first, {s: v for s, n, v in told(whole.folder) if n == "validation/accuracy"}[first])]
    assert short.result["steps"] == short.result["selected_step"] == first
    assert short.result["asked_steps"] == whole.result["steps"] == whole.result["asked_steps"] == STEPS
    # Until then nothing was different.
    kept = [line for line in told(short.folder) if not line[1].startswith("test/")]
    assert kept == [line for line in told(whole.folder) if line[0] <= first]
    assert short.metrics["validation/accuracy"] == asked[0][1] and "test/accuracy" in short.metrics
    with pytest.raises(FileExistsError) as error:
        run(recipe, tmp_path / "short", quiet=True, resume=True)
    assert str(error.value) == (
        f"{tmp_path / 'short'} holds this recipe's run stopped at step {first} of {STEPS}; --overwrite it for the whole"
    )


def test_a_judge_that_never_minds_changes_nothing_and_is_not_asked_at_the_end(plain, tmp_path):
    asked = []

    def judge(step, measured):
        asked.append(step)
        return True

    run(RECIPE, tmp_path / "run", how=How(quiet=True, judge=judge))
    assert asked == [2, 4]
    assert told(tmp_path / "run") == told(plain.folder)
    assert bits(tmp_path / "run") == bits(plain.folder)
