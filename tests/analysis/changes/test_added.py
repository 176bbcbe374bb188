"""What changed if a tuning inserted parameters: in merged kernels, or in the inserted parameters."""

import dataclasses

import numpy as np
import pytest

import tlx
from tlx import Train, Weights, models, tuning
from tlx.analysis import changes
from tlx.training.reopen import reopen
from tlx.trees import flatten


def by_name(document):
    return {row["name"]: row for row in document["stages"]}


def changed(document):
    """Return the parameters that differ."""
    return {row["path"] for row in document["leaves"] if row["change"]}


@pytest.mark.slow
def test_lora_changes_its_kernels_by_its_rank_and_nothing_else(scratch, tmp_path):
    recipe = dataclasses.replace(
        scratch.recipe,
        weights=Weights(str(scratch.folder), reset=("head/.*",)),
        tuning=tuning.Lora(rank=2, on="pool"),
        seed=1,
    )
    run = tlx.run(recipe, tmp_path / "run", quiet=True)
    document = changes.moved(run)
    # The merged model has the same paths as the initial model.
    assert {row["path"] for row in document["leaves"]} == set(flatten(reopen(scratch.folder).after.params))
    assert changed(document) == {"pool/kernel", "head/kernel", "head/bias"}
    assert document["before"]["fresh"] == ["head/bias", "head/kernel"]
    kernels = {row["path"]: row for row in document["kernels"]}
    assert 1 < kernels["pool/kernel"]["change"]["effective_rank"] <= 2
    values = kernels["pool/kernel"]["change"]["singular_values"]
    # Beyond the rank there is only the rounding of the merge.
    assert max(values[2:]) < 1e-5 * values[1]
    # Stages below the adapter have the same features as before.
    stages = by_name(document)
    assert stages["blocks/00"]["similarity"]["plain"] == pytest.approx(1, abs=1e-9)
    assert stages["pool"]["similarity"]["cka"] < 0.999
    for name in ("loss", "accuracy"):
        assert document["line"][-1][name]["value"] == pytest.approx(run.metrics[f"validation/{name}"], rel=1e-5)


@pytest.mark.slow
def test_only_the_prefix_has_changed(scratch, tmp_path):
    recipe = dataclasses.replace(
        scratch.recipe,
        model=models.Vit(size=8, patch=4, channels=1, width=8, depth=1, heads=2, mlp=8),
        tuning=tuning.Prefix(tokens=2),
        train=Train(steps=4, batch=16, eval_batch=256),
    )
    run = tlx.run(recipe, tmp_path / "run", quiet=True)
    document = changes.moved(run, examples=64)
    prefix = {"blocks/00/attention/prefix/key", "blocks/00/attention/prefix/value"}
    assert changed(document) == prefix | {"head/output/kernel", "head/output/bias"}
    assert prefix <= set(document["before"]["fresh"])
    block = by_name(document)["blocks/00"]["weights"]
    assert block["added"]["change"] == pytest.approx(block["all"]["change"])
    assert block["added"]["count"] == 2 * 2 * 8
    assert block["kernels"]["change"] == block["norms"]["change"] == 0
    # Share 0 is the initial prefix, not the model without a prefix.
    before, after = flatten(reopen(run.folder).before.params), flatten(reopen(run.folder).after.params)
    assert before.keys() == after.keys() and all(np.abs(before[path]).max() > 0 for path in prefix)
