"""A run ends after validations without a better measurement: alone, in a group, and where it was stopped before."""

import json
import math
from dataclasses import replace

import pytest

from tlx import Data, Learn, Optim, Recipe, Train, models, run, tasks, tuning
from tlx.records.log import read_metrics
from tlx.training import run_many
from tlx.training.lengthen import lengthen
from tlx.training.loop import How
from tlx.training.patience import Patience

# A rate of 100 spoils the model in the steps after its peak: the accuracy is best early and never again.
RECIPE = Recipe(
    data=Data(target="digits", shots=4),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
    optim=Optim("sgd", lr=100.0, warmup=0.9, schedule="constant"),
    train=Train(steps=40, batch=16, eval_every=2, eval_batch=512, select="best-validation", patience=3),
)
PLATEAU = replace(
    RECIPE,
    optim=Optim("sgd", lr=30.0, schedule="plateau", plateau_divisor=2, plateau_falls=2),
    train=replace(RECIPE.train, patience=1),
)
LEAN = How(quiet=True, leave="learned")


pytestmark = pytest.mark.usefixtures("no_page")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that ends early."""
    return run(RECIPE, tmp_path_factory.mktemp("stopped") / "run", quiet=True)


@pytest.fixture(scope="module")
def plateau(tmp_path_factory):
    """A run with the schedule "plateau" that ends early."""
    return run(PLATEAU, tmp_path_factory.mktemp("plateau") / "run", quiet=True)


def records(folder):
    """Return every recorded number but those of the test split, without its time."""
    lines = [(line["step"], line["name"], line["value"]) for line in read_metrics(folder)]
    return [line for line in lines if not line[1].startswith("test/")]


def measured(folder, name="validation/accuracy"):
    return {step: value for step, metric, value in records(folder) if metric == name}


def expected_end(values, patience):
    """Return the step of the first validation that ends a wait, None where there is none."""
    best, waited = -math.inf, 0
    for step, value in values.items():
        best, waited = (value, 0) if value > best else (best, waited + 1)
        if waited == patience:
            return step
    return None


@pytest.mark.slow
def test_a_run_ends_at_the_third_validation_without_a_better_one(stopped, tmp_path):
    full = run(replace(RECIPE, train=replace(RECIPE.train, patience=None)), tmp_path / "full", how=LEAN)
    end = expected_end(measured(full.folder), 3)
    assert end < 40
    assert (stopped.result["steps"], stopped.result["asked_steps"], stopped.result["stopped"]) == (end, 40, "patience")
    assert full.result["stopped"] is None
    assert records(stopped.folder) == [line for line in records(full.folder) if line[0] <= end]
    best = max(measured(stopped.folder), key=measured(stopped.folder).get)
    assert stopped.result["selected_step"] == full.result["selected_step"] == best <= end - 6
    assert stopped.metrics == full.metrics
    (note,) = [note for note in stopped.result["notes"] if "patience" in note or "without a better" in note]
    assert f"step {end} of 40: 3 validations" in note
    assert 0 < stopped.result["flops"] < full.result["flops"]


def test_a_finished_run_that_lost_patience_is_complete(stopped):
    assert run(RECIPE, stopped.folder, resume=True, quiet=True).result == stopped.result


@pytest.mark.slow
def test_a_resumed_run_ends_at_the_same_step_with_the_same_bits(stopped, interrupted, tmp_path):
    end = stopped.result["steps"]
    for count, at in enumerate((5, end)):
        interrupted(RECIPE, tmp_path / "run", at, resume=count > 0)
    resumed = run(RECIPE, tmp_path / "run", resume=True, quiet=True)
    assert records(resumed.folder) == records(stopped.folder)
    assert resumed.metrics == stopped.metrics and resumed.result["flops"] == stopped.result["flops"]
    # Killed after its last step: the checkpoint says that the run has ended.
    (resumed.folder / "result.json").unlink()
    (resumed.folder / "files.json").unlink()
    again = run(RECIPE, resumed.folder, resume=True, quiet=True)
    same = ("metrics", "steps", "selected_step", "stopped", "flops", "notes", "rules")
    assert {name: again.result[name] for name in same} == {name: stopped.result[name] for name in same}
    assert records(again.folder) == records(stopped.folder)
    assert (again.folder / "model" / "model.safetensors").read_bytes() == (
        stopped.folder / "model" / "model.safetensors"
    ).read_bytes()


@pytest.mark.slow
def test_in_a_group_each_run_ends_as_it_would_alone(stopped, tmp_path, monkeypatch):
    monkeypatch.setattr(run_many, "GAIN", 1e9)
    recipes = [RECIPE, replace(RECIPE, optim=replace(RECIPE.optim, lr=0.5)), replace(RECIPE, seed=1)]
    outcomes = run_many.run_many(recipes, [tmp_path / str(n) for n in range(3)], how=LEAN)
    assert {outcome.result["pack"]["arms"] for outcome in outcomes} == {3}
    ends = [expected_end(measured(outcome.folder), 3) for outcome in outcomes]
    assert [outcome.result["steps"] for outcome in outcomes] == [end or 40 for end in ends]
    assert ends[0] == stopped.result["steps"] and len(set(ends)) > 1
    # Nothing is recorded of a run after its end, and its operations are those of its steps.
    assert [max(step for step, *_ in records(outcome.folder)) for outcome in outcomes] == [end or 40 for end in ends]
    per_step = {outcome.result["flops"] / outcome.result["steps"] for outcome in outcomes}
    assert max(per_step) == pytest.approx(min(per_step))
    assert outcomes[0].result["selected_step"] == stopped.result["selected_step"]
    assert outcomes[0].metrics["test/accuracy"] == stopped.metrics["test/accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [RECIPE, PLATEAU], ids=["constant", "plateau"])
def test_a_resumed_group_ends_with_the_same_bits(recipe, tmp_path, monkeypatch):
    from tlx.training import group

    monkeypatch.setattr(run_many, "GAIN", 1e9)
    slow = replace(recipe, optim=replace(recipe.optim, lr=0.5))
    recipes = [recipe, slow, replace(recipe, seed=1)]
    full = run_many.run_many(recipes, [tmp_path / f"full-{n}" for n in range(3)], how=LEAN)
    folders = [tmp_path / f"parts-{n}" for n in range(3)]
    validate = group.RunGroup.validate
    ends = sorted({outcome.result["steps"] for outcome in full})
    assert len(ends) > 1
    for stop in (4, ends[0] + 2):

        def stopping(group, stop=stop):
            if group.step == stop:
                raise KeyboardInterrupt
            return validate(group)

        with monkeypatch.context() as patch:
            patch.setattr(group.RunGroup, "validate", stopping)
            with pytest.raises(KeyboardInterrupt):
                run_many.run_many(recipes, folders, how=How(quiet=True, leave="learned"))
    resumed = run_many.run_many(recipes, folders, how=LEAN)
    for actual, expected in zip(resumed, full, strict=True):
        assert actual.metrics == expected.metrics and records(actual.folder) == records(expected.folder)
        assert actual.result["flops"] == expected.result["flops"]


def test_the_rate_falls_before_the_run_ends(plateau):
    values, rates = measured(plateau.folder), measured(plateau.folder, "train/rate")
    # With a patience of 1 every validation that is not better is a fall, and the third ends the run.
    best, expected, rate = -math.inf, {}, 30.0
    for step, value in values.items():
        expected |= {step - 1: rate, step: rate}
        best, rate = (value, rate) if value > best else (best, rate / 2)
    assert {step: pytest.approx(value) for step, value in rates.items()} == expected
    assert [*rates.values()][-1] == 7.5
    assert plateau.result["stopped"] == "patience"
    assert any("divided by 2 2 times" in note for note in plateau.result["notes"])


@pytest.mark.slow
def test_a_lengthened_run_goes_on_waiting(plateau, tmp_path):
    end = plateau.result["steps"]
    short, whole = (
        run(replace(PLATEAU, train=replace(PLATEAU.train, steps=steps)), tmp_path / str(steps), quiet=True)
        for steps in (end - 2, end)
    )
    assert (short.result["steps"], short.result["stopped"]) == (end - 2, None)
    longer = lengthen(short.folder, steps=40, how=How(quiet=True))
    assert records(longer.folder) == records(plateau.folder)
    same = ("metrics", "steps", "asked_steps", "selected_step", "stopped", "flops")
    assert {name: longer.result[name] for name in same} == {name: plateau.result[name] for name in same}
    # One that lost patience at its last step would take no further step.
    assert (whole.result["steps"], whole.result["stopped"]) == (end, "patience")
    with pytest.raises(ValueError, match="patience"):
        lengthen(whole.folder, steps=40, how=How(quiet=True))
    assert (whole.folder / "result.json").is_file()


@pytest.mark.slow
def test_a_resumed_run_keeps_the_rate_that_has_fallen(plateau, interrupted, tmp_path):
    rates = measured(plateau.folder, "train/rate")
    fallen = min(step for step, rate in rates.items() if rate < 30)
    interrupted(PLATEAU, tmp_path / "run", fallen)
    resumed = run(PLATEAU, tmp_path / "run", resume=True, quiet=True)
    assert records(resumed.folder) == records(plateau.folder)


@pytest.mark.slow
def test_a_trial_and_a_cell_that_lose_patience_are_complete(stopped, tmp_path):
    from tlx import Study, param
    from tlx.study import run_study
    from tlx.tune.attempt import Trial, execute

    ended = []
    execute([Trial(0, {}, RECIPE, tmp_path / "trial")], ended.append)
    assert [trial.state for trial in ended] == ["done"]
    assert ended[0].result["steps"] == stopped.result["steps"]
    study = Study(base=RECIPE, cells=param("seed", range(2)), question="Does it end?", baseline={"seed": 0})
    run_study(study, tmp_path / "study", quiet=True)
    results = [json.loads(path.read_text()) for path in (tmp_path / "study").glob("cells/*/result.json")]
    assert [result["stopped"] for result in results] == ["patience"] * 2
    assert stopped.result["steps"] in [result["steps"] for result in results]


def test_patience_counts_validations_without_a_better_one():
    def course(values, higher=True, **train):
        recipe = replace(RECIPE, train=replace(RECIPE.train, **train))
        patience, waits = Patience(), []
        for value in values:
            patience = patience.after(value, higher, recipe)
            waits.append(patience.waited)
        return waits, patience.over(recipe)

    assert course([0.5, 0.5, 0.6, 0.4, 0.6, 0.6]) == ([0, 1, 0, 1, 2, 3], True)
    assert course([0.5, 0.4, 0.5, 0.3, 0.3], higher=False) == ([0, 0, 1, 0, 1], False)
    # Small gains do not count, but they add up against the best value.
    assert course([0.5, 0.55, 0.59, 0.61], least_improvement=0.1)[0] == [0, 1, 2, 0]
    assert course([math.nan, math.nan, 0.5, math.nan])[0] == [0, 1, 0, 1]


@pytest.mark.slow
def test_phases_before_the_last_one_do_not_end(tmp_path):
    phases = tuning.InTurn((0.5, tuning.Probe()), (0.5, tuning.Full()))
    train = replace(RECIPE.train, steps=12, patience=1)
    outcome = run(replace(RECIPE, tuning=phases, optim=Optim("sgd", lr=0.0), train=train), tmp_path / "run", how=LEAN)
    # With a rate of 0 nothing improves. The first validation of the last phase is at step 8.
    assert outcome.result["steps"] == 10


def test_a_schedule_that_had_not_decayed_is_noted(tmp_path):
    recipe = replace(RECIPE, optim=Optim("sgd", lr=1e-9, schedule="cosine"), train=replace(RECIPE.train, patience=1))
    outcome = run(recipe, tmp_path / "run", how=LEAN)
    (note,) = [note for note in outcome.result["notes"] if "without a better" in note]
    for part in ("step 4 of 40: 1 validation", "99% of its peak", "'cosine'", "'plateau'"):
        assert part in note


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"train": {"patience": 0}}, ("patience is 0", "1 validation")),
        ({"train": {"patience": 2, "least_improvement": -0.1}}, ("least_improvement is -0.1",)),
        ({"train": {"patience": 2, "select": "last"}}, ("train.patience is 2", "'last'", "'best-validation'")),
        ({"train": {"patience": None}, "optim": {"schedule": "plateau"}}, ("'plateau'", "train.patience")),
        ({"optim": {"plateau_divisor": 1}}, ("plateau_divisor is 1", "2 or more")),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, parts):
    with pytest.raises(ValueError) as error:
        replace(RECIPE, **{name: replace(getattr(RECIPE, name), **fields) for name, fields in changes.items()})
    for part in parts:
        assert part in str(error.value)


def test_a_rule_cannot_have_the_schedule_of_the_whole_optimiser(tmp_path):
    recipe = replace(RECIPE, tuning=tuning.Rules((".*", Learn(schedule="plateau"))))
    with pytest.raises(ValueError, match="Optim\\(schedule='plateau'\\)"):
        run(recipe, tmp_path / "run", quiet=True)
