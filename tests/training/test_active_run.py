"""The active run: its phases and moving averages, the checkpoint it selects, and the judge that may stop it."""

import dataclasses
import math
from pathlib import Path

import jax
import numpy as np
import pytest

from tlx import Data, Learn, Optim, Recipe, Train, models, run, tasks, tuning
from tlx.data import Crop, examples
from tlx.objectives import Supervised
from tlx.optim import rate
from tlx.records.log import read_metrics
from tlx.training.active_run import Best, moved_part, phase_spans, total_steps
from tlx.training.describe import rows, totals
from tlx.training.loop import How
from tlx.training.prepare import open_data, prepare
from tlx.training.results import odd, start_message
from tlx.trees import flatten, nest
from tlx.types import Phase, Variables
from tlx.updates import Sam
from tlx.weights import load_pretrained

STEPS = 6
RECIPE = Recipe(
    data=Data(target="digits", shots=4, augment=(Crop(padding=1),)),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(16,), dropout=0.3),
    optim=Optim(lr=0.01, weight_decay=0.1, warmup=0.3, clip=1.0),
    train=Train(steps=STEPS, batch=16, eval_every=2, eval_batch=128),
)
SELECTED = dataclasses.replace(RECIPE, train=dataclasses.replace(RECIPE.train, select="best-validation"))
EVERY_STEP = dataclasses.replace(RECIPE.train, eval_every=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Waves(tuning.Tuning):
    """The head only for the first half, then all parameters at `lr`."""

    lr: float = 1.0

    def phases(self, model):
        return Phase(0.5, (("head/.*", Learn()), (".*", None))), Phase(0.5, ((".*", Learn(lr=self.lr)),))


# At step 3, where a checkpoint ends the first phase.
WAVES = dataclasses.replace(RECIPE, tuning=Waves(), train=dataclasses.replace(RECIPE.train, eval_every=3))
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


pytestmark = pytest.mark.usefixtures("no_page")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return run(RECIPE, tmp_path_factory.mktemp("plain") / "run", quiet=True)


def recorded_numbers(folder):
    """Return every recorded number, without its time."""
    return [(line["step"], line["name"], line["value"]) for line in read_metrics(folder)]


@pytest.mark.parametrize(
    ("recipe", "stops"),
    [
        pytest.param(WAVES, (4,), marks=pytest.mark.slow),
        pytest.param(WAVES, (2,), marks=pytest.mark.slow),
        (WAVES, (3,)),
        pytest.param(AVERAGED, (2, 4, 6), marks=pytest.mark.slow),
        pytest.param(TURNS, (5,), marks=pytest.mark.slow),
    ],
    ids=["after a phase", "before a checkpoint", "at the switch", "averaged, three times", "in turn, schedule-free"],
)
def test_a_resumed_run_equals_an_unstopped_run_bit_for_bit(recipe, stops, goes_on):
    goes_on(recipe, stops)


@pytest.mark.slow
def test_the_saved_and_evaluated_weights_are_the_moving_average(plain, tmp_path):
    """With decay 0 the average equals the plain run; with a slow average it does not."""
    results = {}
    for ema in (1e-6, 0.9):
        recipe = dataclasses.replace(RECIPE, train=dataclasses.replace(RECIPE.train, ema=ema))
        outcome = run(recipe, tmp_path / str(ema), quiet=True)
        results[ema] = flatten(load_pretrained(outcome.folder).variables.params)
        remaining = np.load(outcome.folder / "predictions" / "test.npz")
        image = examples.open_dataset("digits").splits["test"][int(remaining["indices"][5])]
        pretrained = load_pretrained(outcome.folder)
        inputs = {"image": pretrained.processor(image)["image"][None]}
        logits = models.forward(pretrained.model, pretrained.variables, inputs)[0]["logits"]
        np.testing.assert_allclose(logits[0], remaining["logits"][5], rtol=1e-5, atol=1e-6)
        losses = [value for _, name, value in recorded_numbers(outcome.folder) if name == "train/loss"]
        np.testing.assert_allclose(
            losses, [value for _, name, value in recorded_numbers(plain.folder) if name == "train/loss"], rtol=1e-5
        )
    last = flatten(load_pretrained(plain.folder).variables.params)
    np.testing.assert_allclose(results[1e-6]["head/kernel"], last["head/kernel"], rtol=1e-4, atol=1e-5)
    assert not np.allclose(results[0.9]["head/kernel"], last["head/kernel"], rtol=1e-2)


@pytest.mark.slow
def test_a_phase_is_traced_once_to_run_and_to_count_flops(tmp_path):
    traces = []

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Traced(Supervised):
        def loss(self, view):
            traces.append(self.weight)
            return super().loss(view)

    run(dataclasses.replace(WAVES, objective=(Traced(),)), tmp_path / "run", quiet=True)
    assert len(traces) == 2


@pytest.mark.slow
def test_the_schedule_of_a_restarted_phase_is_recorded(tmp_path):
    recipe = dataclasses.replace(RECIPE, tuning=tuning.FineTune(share=0.5), optim=Optim(lr=0.02))
    outcome = run(recipe, tmp_path / "run", quiet=True)
    # All parameters follow the one-cycle schedule: up for 3 of 3 steps, then from a fifth up and down.
    rates = [value for _, name, value in recorded_numbers(outcome.folder) if name == "train/rate"]
    one = Optim(lr=0.02, schedule="one-cycle", cycle_peak=0.99)
    two = dataclasses.replace(one, cycle_peak=0.3, cycle_start=5.0)
    expected = [float(rate(optim, step, 3)) for optim in (one, two) for step in range(3)]
    np.testing.assert_allclose(rates, expected, rtol=1e-4)


def test_the_best_checkpoint_is_the_evaluated_one(tmp_path):
    # The learning rate becomes far too large: every step after the first ones makes the model worse.
    optim = Optim("sgd", lr=300.0, warmup=0.99, schedule="constant")
    recipe = dataclasses.replace(SELECTED, optim=optim, train=dataclasses.replace(SELECTED.train, eval_every=1))
    result = run(recipe, tmp_path / "run", quiet=True).result
    measured = {
        step: value for step, name, value in recorded_numbers(tmp_path / "run") if name == "validation/accuracy"
    }
    best = max(measured.values())
    assert measured[STEPS] < best
    assert result["selection"] == "best-validation"
    assert result["selected_step"] == min(step for step, value in measured.items() if value == best)
    assert result["metrics"]["validation/accuracy"] == best
    remaining = np.load(tmp_path / "run" / "predictions" / "validation.npz")
    assert (remaining["logits"].argmax(-1) == remaining["label"]).mean() == best


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spoilt(tuning.Tuning):
    """A normal learning rate in the first half, a far too large one in the second."""

    def phases(self, model):
        full = Phase(0.5, ((".*", Learn()),))
        return full, full._replace(optim=(("lr", 300.0),))


@pytest.mark.slow
def test_the_best_checkpoint_of_a_moving_average_has_the_average(tmp_path):
    train = dataclasses.replace(SELECTED.train, eval_every=1, ema=0.5)
    recipe = dataclasses.replace(SELECTED, tuning=Spoilt(), optim=Optim(lr=0.03), train=train)
    result = run(recipe, tmp_path / "run", quiet=True).result
    measured = {step: value for step, name, value in recorded_numbers(tmp_path / "run") if name == "validation/loss"}
    # The average after one step equals that step.
    assert result["selected_step"] in (2, 3)
    assert result["metrics"]["validation/loss"] == measured[result["selected_step"]]


@pytest.mark.slow
def test_the_best_checkpoint_of_an_earlier_phase_has_its_frozen_parameters(tmp_path, interrupted):
    recipe = dataclasses.replace(
        WAVES, tuning=Waves(lr=1e6), train=dataclasses.replace(SELECTED.train, eval_every=1), optim=Optim(lr=0.03)
    )
    interrupted(recipe, tmp_path / "run", 5)
    result = run(recipe, tmp_path / "run", resume=True, quiet=True).result
    assert result["selected_step"] <= 3
    before = flatten(prepare(recipe).variables.params)
    after = flatten(load_pretrained(tmp_path / "run").variables.params)
    np.testing.assert_array_equal(before["stem/kernel"], after["stem/kernel"])
    assert not np.array_equal(before["head/kernel"], after["head/kernel"])


def test_the_first_of_equal_checkpoints_is_the_best_in_both_directions():
    actual = Variables({"x": np.ones(2, np.float32)}, {})
    first = Best().better(1, 0.5, True, actual)
    assert first.better(2, 0.5, True, actual) is first
    assert first.better(2, 0.4, True, actual) is first
    assert first.better(2, 0.6, True, actual).step == 2
    assert first.better(2, 0.4, False, actual).step == 2
    assert first.variables.params["x"] is not actual.params["x"]


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
    for shares, message in (
        ((0.5, 0.4), "the shares of the phases sum to 0.9, not to 1: [0.5, 0.4]"),
        ((0.5, math.nan), "the shares of the phases are [0.5, nan]; "),
        ((math.inf, 0.5), "the shares of the phases sum to inf, not to 1: [inf, 0.5]"),
        ((1.5, -0.5), "the shares of the phases are [1.5, -0.5]; "),
    ):
        with pytest.raises(ValueError) as error:
            phase_spans(ready._replace(phases=tuple(Phase(share, ()) for share in shares)), 10)
        assert message in str(error.value)
    with pytest.raises(ValueError, match="with the sum nan"):
        tuning.InTurn((0.5, tuning.Full()), (math.nan, tuning.Full()))


def test_a_phase_without_a_step_is_noted():
    turns = tuning.InTurn((0.5, tuning.Probe()), (0.01, tuning.Lora(rank=1, on="stem")), (0.49, tuning.Full()))
    recipe = dataclasses.replace(RECIPE, tuning=turns)
    splits = open_data(recipe)
    ready = prepare(recipe, splits)
    assert not odd(ready, splits, 100)
    note = "phase 2 of 3 has no steps: its share, 0.01 of 10 steps, rounds to 0"
    assert odd(ready, splits, 10) == [note]
    assert start_message(ready, splits, 10, 0, Path("run")).splitlines()[-1] == f"note: {note}"


def test_a_last_phase_without_a_step_keeps_the_parameters_of_earlier_phases(tmp_path):
    turns = tuning.InTurn((0.97, tuning.Full()), (0.03, tuning.Probe()))
    recipe = dataclasses.replace(RECIPE, tuning=turns, model=models.Mlp(inputs=(8, 8, 1), widths=(6,)))
    ready = prepare(recipe, open_data(recipe))
    assert phase_spans(ready, STEPS) == [(0, STEPS), (STEPS, STEPS)]
    trained = load_pretrained(run(recipe, tmp_path / "run", quiet=True).folder).variables
    for path, leaf in flatten(ready.variables.params).items():
        assert not np.array_equal(flatten(trained.params)[path], leaf), path


def test_moved_part_leaves_out_parameters_that_no_phase_trains():
    ready = prepare(dataclasses.replace(RECIPE, tuning=tuning.Probe()))
    part = moved_part(ready.variables, ready.trainable)
    assert flatten(part.params).keys() == {"head/kernel", "head/bias"}
    assert nest(flatten(part.params)) == part.params
    assert (
        flatten(moved_part(prepare(WAVES).variables, prepare(WAVES).trainable).params).keys()
        == flatten(ready.variables.params).keys()
    )


def test_two_averages_at_once_are_refused():
    with pytest.raises(ValueError) as error:
        dataclasses.replace(TURNS, train=dataclasses.replace(RECIPE.train, ema=0.9))
    assert "schedule-free-adamw" in str(error.value) and "train.ema" in str(error.value)
    with pytest.raises(ValueError, match=r"^ema is 1.0; expected .* \(0, 1\)"):
        Train(ema=1.0)
    with pytest.raises(ValueError, match=r"^accumulate is 3; expected 1 or more, .* batch, 16$"):
        Train(batch=16, accumulate=3)


def test_the_table_of_a_phase_has_its_learning_rates_and_its_state():
    recipe = dataclasses.replace(RECIPE, tuning=tuning.FineTune(), train=dataclasses.replace(RECIPE.train, ema=0.9))
    ready = prepare(recipe)
    actual = [{row.path: row.rate for row in rows(ready, phase)} for phase in range(2)]
    assert actual[0]["stem/kernel"] == 0 and actual[0]["head/kernel"] == 0.01
    assert actual[1]["stem/kernel"] == pytest.approx(0.01 / 200) and actual[1]["head/kernel"] == 0.005
    first, second = totals(ready, 0), totals(ready, 1)
    assert first["optimiser_bytes"] == 2 * 4 * 170 + 4 and first["average_bytes"] == 4 * 170
    # Two waves have two step counts.
    assert second["optimiser_bytes"] == 2 * second["bytes"] + 8


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe", [RECIPE, pytest.param(SELECTED, marks=pytest.mark.slow), WAVES], ids=["plain", "selected", "waves"]
)
def test_a_judge_stops_a_run_at_the_current_step(recipe, tmp_path):
    calls = []

    def judge(step, measured):
        calls.append((step, measured["accuracy"]))
        return step < first

    full = run(recipe, tmp_path / "whole", quiet=True)
    first = recipe.train.eval_every
    short = run(recipe, tmp_path / "short", how=How(quiet=True, judge=judge))
    assert calls == [(first, {s: v for s, n, v in recorded_numbers(full.folder) if n == "validation/accuracy"}[first])]
    assert short.result["steps"] == short.result["selected_step"] == first
    assert short.result["asked_steps"] == full.result["steps"] == full.result["asked_steps"] == STEPS
    # Before that step the runs are equal.
    remaining = [line for line in recorded_numbers(short.folder) if not line[1].startswith("test/")]
    assert remaining == [line for line in recorded_numbers(full.folder) if line[0] <= first]
    assert short.metrics["validation/accuracy"] == calls[0][1] and "test/accuracy" in short.metrics
    with pytest.raises(FileExistsError) as error:
        run(recipe, tmp_path / "short", quiet=True, resume=True)
    for part in (str(tmp_path / "short"), f"stopped at step {first} of {STEPS}", "--overwrite"):
        assert part in str(error.value)


def test_a_judge_that_never_stops_changes_nothing_and_is_not_called_at_the_end(plain, tmp_path):
    calls = []

    def judge(step, measured):
        calls.append(step)
        return True

    run(RECIPE, tmp_path / "run", how=How(quiet=True, judge=judge))
    assert calls == [2, 4]
    assert recorded_numbers(tmp_path / "run") == recorded_numbers(plain.folder)
    final = [load_pretrained(folder).variables for folder in (tmp_path / "run", plain.folder)]
    jax.tree.map(np.testing.assert_array_equal, *final)
