"""A user-defined task: ordered classes, with metrics and answers that tlx does not know."""

import json

import pytest

from tlx import report
from tlx.records import studies

FILE = '''
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import tlx
from tlx import Data, Optim, Recipe, Train, models, tasks


@dataclass(frozen=True, kw_only=True)
class Ordinal(tasks.Task):
    """Classes in an order: one output for each threshold between two classes."""

    names: tuple[str, ...] = ()
    sharpness: float = 1.0

    metrics = {"distance": tasks.Metric("min", 0.0, mean_of="distance"), "worst": "min"}

    def resolve(self, columns):
        return replace(self, names=columns["label"].classes)

    def head(self):
        if not self.names:
            raise ValueError("the classes are not known yet")
        return models.Pooled(len(self.names) - 1)

    def loss(self, outputs, batch):
        logits = outputs["logits"] * self.sharpness
        passed = batch["label"][:, None] > jnp.arange(logits.shape[-1])
        sums = jnp.where(passed, jax.nn.softplus(-logits), jax.nn.softplus(logits)).sum(-1)
        return sums, jnp.full_like(sums, 2.0)

    def score(self, outputs, batch):
        prediction = (outputs["logits"] > 0).sum(-1)
        distance = jnp.abs(prediction - batch["label"])
        return {
            "label": batch["label"], "prediction": prediction, "distance": distance,
            "correct": distance == 0, "loss": self.loss(outputs, batch)[0],
        }

    def summarise(self, scores):
        return {"distance": float(scores["distance"].mean()), "worst": float(scores["distance"].max())}

    def answers(self, outputs, inputs):
        places = (np.asarray(outputs["logits"]) > 0).sum(-1)
        return [[self.names[n]] for n in places]


def recipe():
    return Recipe(
        data=Data(target="digits", shots=4),
        task=Ordinal(),
        model=models.Mlp(inputs=(8, 8, 1), widths=(16,)),
        optim=Optim(lr=3e-3),
        train=Train(steps=6, batch=8, eval_every=3, select="best-validation"),
    )
'''


def check_answers(answers):
    assert all(len(answer) == 1 and answer[0] in "0123456789" for answer in answers)


@pytest.mark.slow
def test_a_user_defined_task_supports_all_steps(check_recipe):
    """Run all steps; the metrics and scores of the task are in every record."""
    artifacts = check_recipe(FILE, "task.sharpness", (0.5, 2.0), check_answers=check_answers)
    result = json.loads((artifacts.folder / "result.json").read_text())
    assert result["metrics"].keys() >= {"test/distance", "test/worst", "validation/distance"}
    assert result["measures"]["distance"]["better"] == "min" and result["measures"]["worst"]["low"] is None

    # The study compares by the primary metric: lower is better, with paired differences over the examples.
    table = studies.compare(studies.read(artifacts.study))
    assert (table.metric, table.higher) == ("test/distance", False)
    for summary in table.summaries:
        for score in summary.scores.values():
            assert score.source == "predictions" and score.agrees and score.examples is not None

    # The report can be written with and without the file.
    page = report.write_run(artifacts.folder).read_text()
    assert "distance" in page and "Confusion matrix" in page
