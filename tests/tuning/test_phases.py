"""Tunings with several phases: what is trainable in each, the learning rates, and the clock."""

import numpy as np
import pytest

from tlx import Data, Learn, Recipe, Train, models, run, tasks, tuning
from tlx.config import dump, fingerprint, load
from tlx.partition import partition
from tlx.recipe import OWN
from tlx.records.log import read_metrics
from tlx.trees import flatten
from tlx.tuning.base import parametric
from tlx.tuning.gradual import shared_embeddings
from tlx.types import Model, Param, Stage

TEXT = models.Bert(vocabulary=11, width=4, depth=6, heads=2, mlp=4, positions=8)
MODELS = {
    "bert": models.build(TEXT, 3),
    "cnn": models.build(models.Cnn(size=8, widths=(2, 3), dense=4), 3),
    "mlp": models.build(models.Mlp(inputs=(4,), widths=(3, 3), input="x"), 3),
}
STAGES = {name: parametric(model) for name, model in MODELS.items()}
HOW = {
    "gradual": tuning.Gradual(),
    "last": tuning.Gradual(last=0.7, count=3),
    "two steps": tuning.LinearThenFull(share=0.2, decay=0.5),
    "fastai": tuning.FineTune(),
    "episodes": tuning.Episodes(episodes=3),
    "episodes that fit": tuning.Episodes(),
    "in turn": tuning.InTurn((0.25, tuning.Gradual(count=2)), (0.75, tuning.LinearThenFull(share=0.4))),
}


def rates(name, how):
    """Return the multiplier of each stage in each phase, None if it is frozen."""
    model, actual = MODELS[name], []
    for phase in how.phases(model):
        claimed = partition(model.params, phase.rules)
        value = {}
        for stage in STAGES[name]:
            (learn,) = {learn for path, learn in claimed.items() if path.startswith(f"{stage}/")}
            value[stage] = None if learn is None else learn.lr
        actual.append(value)
    return actual


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", MODELS)
def test_every_phase_matches_all_parameters_and_the_shares_cover_the_run(name, how):
    phases = HOW[how].phases(MODELS[name])
    assert sum(phase.share for phase in phases) == pytest.approx(1)
    assert min(phase.share for phase in phases) > 0
    recorded = rates(name, HOW[how])
    assert all(value is not None for value in recorded[-1].values())
    assert [recorded[0][stage] is not None for stage in STAGES[name]][-1]


@pytest.mark.parametrize("how", HOW)
def test_they_are_values_that_a_file_can_store(how):
    assert load(dump(HOW[how]), OWN) == HOW[how]


def test_gradual_unfreezes_one_stage_per_phase_from_the_top():
    for name, stages in STAGES.items():
        actual = rates(name, tuning.Gradual())
        assert len(actual) == len(stages)
        for number, value in enumerate(actual, 1):
            assert [stage for stage in stages if value[stage] is not None] == stages[-number:]
        # The pooler of BERT is a part of the head.
        layers = [stage for stage in reversed(stages) if name != "bert" or stage != "pool"]
        depth = {"pool": 0} | {stage: n for n, stage in enumerate(layers)}
        np.testing.assert_allclose(list(actual[-1].values()), [2.6 ** -depth[stage] for stage in stages])


def test_gradual_takes_groups_and_the_remaining_stages_in_the_last_phase():
    how = tuning.Gradual(groups=("head|pool", r"blocks/0[3-5]", r"blocks/\d+", "stem"), count=3, last=0.5, factor=2.0)
    phases = how.phases(MODELS["bert"])
    assert [phase.share for phase in phases] == [0.25, 0.25, 0.5]
    assert not any(phase.restart for phase in phases)
    first, second, third = rates("bert", how)
    assert {stage for stage, rate in first.items() if rate} == {"head", "pool"}
    assert {stage for stage, rate in second.items() if rate} == {"head", "pool", "blocks/03", "blocks/04", "blocks/05"}
    assert all(third.values()) and third["stem"] == 2.0**-7
    assert all(phase.restart for phase in tuning.Gradual(restart=True).phases(MODELS["mlp"]))


@pytest.mark.slow
def test_all_of_ulmfit_is_one_value(tmp_path, monkeypatch):
    monkeypatch.setattr("tlx.report.available", lambda: False)
    recipe = Recipe(
        data=Data(target="digits", shots=4), task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(8,)), tuning=tuning.Gradual(schedule="slanted-triangular"),
        train=Train(steps=10, batch=8, eval_batch=512),
    )  # fmt: skip
    run(recipe, tmp_path / "run", quiet=True)
    metrics = [line["value"] for line in read_metrics(tmp_path / "run") if line["name"] == "train/rate"]
    # Once over both phases: up in the first tenth, and down in equal steps to a 32nd.
    np.testing.assert_allclose(np.diff(metrics[1:]), np.diff(metrics[1:])[0], rtol=1e-4)
    assert max(metrics) == metrics[1] and metrics[0] == pytest.approx(metrics[1] / 32)
    assert {learn.schedule for phase in recipe.tuning.phases(MODELS["mlp"]) for _, learn in phase.rules if learn} == {
        "slanted-triangular"
    }
    # Recipes written without the field are the same recipes.
    assert fingerprint(tuning.Gradual(factor=1.0)) == "dd86750724cbd1a9"


def test_linear_then_full_has_two_trainings():
    first, second = tuning.LinearThenFull(share=0.2, decay=0.5).phases(MODELS["mlp"])
    assert (first.share, second.share, first.restart, second.restart) == (0.2, 0.8, True, True)
    actual = rates("mlp", tuning.LinearThenFull(share=0.2, decay=0.5))
    assert actual == [{"stem": None, "blocks/00": None, "head": 1.0}, {"stem": 0.25, "blocks/00": 0.5, "head": 1.0}]


def test_fine_tune_is_the_policy_of_fastai():
    frozen, full = tuning.FineTune().phases(MODELS["mlp"])
    assert frozen.restart and full.restart
    both = {"cycle_end": 1e5, "cycle_momentum": (0.95, 0.85)}
    assert dict(frozen.optim) == {"cycle_peak": 0.99, "cycle_start": 25.0} | both
    assert dict(full.optim) == {"cycle_peak": 0.3, "cycle_start": 5.0} | both
    assert {learn.schedule for _, learn in (*frozen.rules, *full.rules) if learn} == {"one-cycle"}
    first, second = rates("mlp", tuning.FineTune())
    assert first == {"stem": None, "blocks/00": None, "head": 1.0}
    # slice(lr / 2 / 100, lr / 2) over three groups, in equal ratios.
    np.testing.assert_allclose(list(second.values()), [0.005, 0.05, 0.5])


def test_episodes_divide_the_stages_from_the_top():
    actual = rates("bert", tuning.Episodes(episodes=4))
    assert [sum(rate is not None for rate in value.values()) for value in actual] == [3, 5, 7, 9]
    assert {stage for stage, rate in actual[0].items() if rate} == {"blocks/05", "pool", "head"}


@pytest.mark.parametrize(("depth", "count"), [(1, 4), (6, 9), (24, 12)])
def test_there_are_twelve_episodes_or_one_per_stage_if_there_are_fewer(depth, count):
    model = models.build(models.Bert(vocabulary=11, width=4, depth=depth, heads=2, mlp=4, positions=8), 3)
    assert len(tuning.Episodes().phases(model)) == count


def test_embeddings_that_the_output_reads_are_trainable_from_the_start():
    def identity(params, stats, carry, context):
        return carry, stats

    words = Param((11, 4), ("vocabulary", "width"), None)
    kernel = Param((4, 4), ("width", "width"), None)
    params = {"stem": {"words": {"embedding": words}}, "block": {"kernel": kernel}, "head": {"kernel": kernel}}
    stages = tuple(Stage(name, identity) for name in params)
    tied = Model(stages, params, {}, head=models.Pooled(11))
    assert shared_embeddings(tied) == ["stem/words/embedding"]
    first, last = tuning.Episodes(episodes=2).phases(tied)
    claimed = partition(params, first.rules)
    assert claimed == {"block/kernel": Learn(), "head/kernel": Learn(), "stem/words/embedding": Learn()}
    partition(params, last.rules)
    assert shared_embeddings(tied._replace(head=models.Pooled(3))) == shared_embeddings(tied._replace(head=None)) == []
    untied = params | {"head": {"kernel": Param((4, 11), ("width", None), None)}}
    assert shared_embeddings(tied._replace(params=untied)) == []
    assert shared_embeddings(MODELS["bert"]) == []


def test_in_turn_trains_inserted_parameters_only_in_their_turn():
    import jax

    model = models.build(models.Bert(vocabulary=11, width=4, depth=1, heads=2, mlp=4, positions=8), 3)
    how = tuning.InTurn((0.5, tuning.Lora(rank=2)), (0.2, tuning.BitFit()), (0.3, tuning.Full()))
    params = how.insert(model, models.initialise(model, jax.random.key(0)).params, jax.random.key(1))
    new = flatten(params).keys() - flatten(model.params).keys()
    assert len(new) == 6
    lora, bias, full = (partition(params, phase.rules) for phase in how.phases(model))
    assert {path for path in new if lora[path]} == {path for path in new if path.endswith(("/a", "/b"))}
    assert not any(part[path] for part in (bias, full) for path in new)
    assert all(full[path] for path in full.keys() - new)
    shares = [phase.share for phase in how.phases(model)]
    assert shares == [0.5, 0.2, 0.3]


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: tuning.Gradual(factor=0.5), ValueError, "factor is 0.5 ... 1 or more ... rate ... layer"),
        (lambda: tuning.Gradual(last=1.0), ValueError, "last is 1.0 ... share of the run in (0, 1)"),
        (lambda: tuning.Gradual(count=0), ValueError, "count is 0 ... one phase"),
        (lambda: tuning.Gradual(count=4).phases(MODELS["mlp"]), ValueError,
         "Gradual(count=4) ... 3 groups to unfreeze ... 3"),
        (lambda: tuning.Gradual(groups=("heads",)).phases(MODELS["mlp"]), ValueError,
         "Gradual(groups=...): 'heads' matches ... stage; close: 'head'"),
        (lambda: tuning.Gradual(groups=("head", "stem")).phases(MODELS["mlp"]), ValueError,
         "Gradual(groups=...) ... 'blocks/00'; every stage ... group"),
        (lambda: tuning.Episodes(episodes=0), ValueError, "episodes is 0 ... more"),
        (lambda: tuning.Episodes(episodes=12).phases(MODELS["mlp"]), ValueError,
         "Episodes(episodes=12) ... 3 stages to unfreeze ... 3"),
        (lambda: tuning.LinearThenFull(share=1.0), ValueError,
         "share is 1.0 ... share of the first ... (0, 1)"),
        (lambda: tuning.FineTune(ratio=0.1), ValueError,
         "ratio is 0.1 ... 1 or more ... rate ... lowest"),
        (tuning.InTurn, ValueError, "InTurn() ... least one (share of the run, tuning)"),
        (lambda: tuning.InTurn((0.5, tuning.Full()), (0.4, tuning.Probe())), ValueError,
         "shares of InTurn are [0.5, 0.4] ... sum 0.9 ... positive shares ... sum 1"),
        (lambda: tuning.InTurn(tuning.Full()), TypeError, "turn is Full(decay=1.0) ... (share of the run, tuning)"),
    ],
)  # fmt: skip
def test_invalid_phases_are_refused(make, kind, message):
    with pytest.raises(kind) as error:
        make()
    for part in message.split(" ... "):
        assert part in str(error.value)
