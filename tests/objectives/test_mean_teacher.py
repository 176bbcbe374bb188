"""A model and its moving average."""

from functools import partial

import jax
import numpy as np
import pytest

from tlx import Data, Optim, Recipe, Train, models, partition, tasks, terms, tuning
from tlx.training.state import Parts, initial_state
from tlx.training.step import train_step
from tlx.trees import flatten, nest
from tlx.types import Variables

KEEP = 0.7


def test_it_is_the_distance_to_the_moving_average(mlp):
    batch = mlp.labelled(rows=7)
    terms_ = (terms.Supervised(), terms.MeanTeacher(on="labelled", weight=3.0))
    (phase,) = tuning.Freeze(through="stem").phases(mlp.model)
    claimed = partition.partition(mlp.model.params, phase.rules)
    variables, task = mlp.drawn(mlp.model, 0), tasks.Classification(classes=3)
    parts = Parts(mlp.model, task, terms_, Optim("sgd", lr=0.3), claimed, ema=KEEP)
    state = initial_state(parts, variables, 5, jax.random.key(0))
    train, recorded = jax.jit(partial(train_step, parts)), []
    for _ in range(5):
        now = flatten(state.variables.params)
        # By definition: the average over the parameters after each step; before the first step, the initial parameters.
        weights = np.array([KEEP ** (len(recorded) - 1 - n) for n in range(len(recorded))])
        average = now if not recorded else {
            path: sum(w * np.float64(value[path]) for w, value in zip(weights, recorded, strict=True)) / weights.sum()
            for path in now
        }  # fmt: skip
        p, q = (mlp.softmax(mlp.by_hand(Variables(nest(value), {}), batch["x"])[2]) for value in (now, average))
        risk = -np.log(p[np.arange(7), batch["label"]]).mean()
        stored = state.average
        state, reported = train(state, {"labelled": batch})
        apart = ((p - q) ** 2).mean()
        assert float(reported["meanteacher/distance"]) == pytest.approx(apart, rel=1e-4, abs=1e-9)
        assert float(reported["loss"]) == pytest.approx(risk + 3 * apart, rel=1e-5)
        recorded.append(flatten(state.variables.params))
    assert apart > 1e-5
    # Frozen parameters have no separate average.
    assert set(flatten(stored["0"]["mean"])) == {path for path, value in claimed.items() if value is not None}


def test_the_teacher_has_no_gradient(mlp):
    """Return the slope of mean (p - q)^2 in the logits, for a constant q."""
    batch = mlp.labelled(rows=5)
    average = mlp.drawn(mlp.model, 1).params
    actual = mlp.look(terms.MeanTeacher(on="labelled", weight=3.0), batch=batch, average=average)
    _, hidden, logits = mlp.by_hand(mlp.drawn(mlp.model, 0), batch["x"])
    p = mlp.softmax(logits)
    q = mlp.softmax(mlp.by_hand(Variables(average, {}), batch["x"])[2])
    slope = 2 * (p - q) / 3 / 5 * 3.0
    through = p * (slope - (slope * p).sum(-1, keepdims=True))
    np.testing.assert_allclose(actual.gradient["head/kernel"], hidden.T @ through, rtol=1e-4, atol=1e-6)


def test_without_an_average_it_is_refused(mlp):
    requested = "MeanTeacher reads the moving average of the parameters, but the run keeps none: set train.ema=0.99"
    with pytest.raises(ValueError) as error:
        mlp.look(terms.MeanTeacher(on="labelled"))
    assert str(error.value) == requested
    inputs = {"data": Data(target="digits"), "task": tasks.Classification(), "model": models.Mlp()}
    objective = (terms.Supervised(), terms.MeanTeacher(on="labelled"))
    Recipe(objective=objective, train=Train(ema=0.9), **inputs)
    with pytest.raises(ValueError) as error:
        Recipe(objective=objective, **inputs)
    assert str(error.value) == requested
