"""Two passes with different dropout agree."""

import dataclasses

import jax
import numpy as np
import pytest

from tlx import models, terms


def test_without_dropout_it_equals_the_supervised_loss(mlp):
    actual, risk = mlp.look(terms.RDrop(weight=0.5, alpha=3.0)), mlp.look(terms.Supervised())
    assert actual.value == pytest.approx(0.5 * risk.value, rel=1e-6)
    assert actual.metrics["divergence"] == pytest.approx(0.0, abs=1e-7)


def test_with_dropout_it_is_the_loss_of_the_paper(mlp):
    config = dataclasses.replace(mlp.config, dropout=0.5)
    batch, variables = mlp.labelled(), mlp.drawn(mlp.model, 0)
    actual = mlp.look(terms.RDrop(weight=2.0, alpha=3.0), config=config, train=True)
    model, key = models.build(config, 3), jax.random.key(7)
    salts = [salt for _, salt, *_ in terms.passes((terms.RDrop(),), ["labelled"], {"labelled": batch, "rdrop": batch})]
    first, second = (
        mlp.softmax(
            np.float64(
                models.forward(model, variables, batch, key=jax.random.fold_in(key, salt), train=True)[0]["logits"]
            )
        )
        for salt in salts
    )
    assert not np.allclose(first, second)
    risk = -np.log(second[np.arange(6), batch["label"]]).mean()
    apart = ((first * np.log(first / second)).sum(-1) + (second * np.log(second / first)).sum(-1)).mean() / 2
    assert actual.value == pytest.approx(2 * (risk + 3 * apart), rel=1e-4)
