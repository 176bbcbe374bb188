"""Models with a head on spans, written for `transformers` and read from it, with equal scores of every token."""

import jax
import numpy as np
import pytest

from tlx import models
from tlx.models import Span, build, forward
from tlx.types import Variables
from tlx.weights import Manifest, Pretrained, export_pretrained, load_pretrained, save_pretrained
from tlx.weights.formats.bert import FAMILIES

TEXT = {"vocabulary": 29, "positions": 13, "width": 12, "depth": 2, "heads": 3, "mlp": 10}
CONFIGS = {
    "bert": models.Bert(activation="relu", **TEXT),
    "roberta": models.Bert(family="roberta", pad=1, **TEXT),
    "xlm-roberta": models.Bert(family="roberta", types=1, pad=1, **TEXT),
    "distilbert": models.Bert(family="distilbert", types=0, **TEXT),
    "electra": models.Bert(family="electra", embedding=8, **TEXT),
    "mpnet": models.MPNet(pad=1, **TEXT),
    "albert": models.Albert(embedding=8, **TEXT),
    "modernbert": models.ModernBert(pad=0, window=6, every=2, **TEXT),
    "deberta-v2": models.DebertaV2(relative=True, terms=("c2p", "p2c"), buckets=4, types=2, **TEXT),
}


@pytest.mark.parity
@pytest.mark.parametrize("kind", CONFIGS)
def test_both_libraries_open_a_head_on_spans_and_compute_the_same(kind, tmp_path):
    import torch
    import transformers

    assert FAMILIES.keys() - {"camembert"} <= CONFIGS.keys()
    model, random = build(CONFIGS[kind], Span()), np.random.default_rng(0)
    params, _ = models.initialise(model, jax.random.key(0))
    params = jax.tree.map(lambda leaf: random.normal(0.1, 0.4, leaf.shape).astype(np.float32), params)
    pretrained = Pretrained(model, Variables(params, {}), None, Manifest("random", {"model_type": kind}, ()), None)
    folder = export_pretrained(pretrained, tmp_path / "exported")
    auto = transformers.AutoModelForQuestionAnswering
    theirs, loaded = auto.from_pretrained(folder, output_loading_info=True)
    assert not any(loaded.values()), loaded
    inputs = {"input_ids": random.integers(2, 29, (2, 7)), "attention_mask": np.array([[1] * 7, [1] * 5 + [0] * 2])}
    with torch.no_grad():
        outputs = theirs.eval()(**{name: torch.tensor(array) for name, array in inputs.items()})
    wanted = np.stack([outputs.start_logits.numpy(), outputs.end_logits.numpy()], -1)
    theirs.save_pretrained(tmp_path / "theirs")
    for place in (folder, tmp_path / "theirs"):
        opened = load_pretrained(place)
        assert opened.model.head == Span()
        logits = np.asarray(forward(opened.model, opened.variables, inputs)[0]["logits"])
        np.testing.assert_allclose(
            logits[inputs["attention_mask"] > 0], wanted[inputs["attention_mask"] > 0], atol=1e-5
        )


def test_a_head_on_spans_in_the_form_of_tlx_keeps_its_kind(tmp_path):
    class Words(models.Bert):
        """A Bert that no other library knows."""

        formats = ()

    model = build(Words(**TEXT), Span())
    variables = Variables(*models.initialise(model, jax.random.key(0)))
    save_pretrained(Pretrained(model, variables, None, Manifest("here", {}, ()), None), tmp_path, untrained=True)
    assert load_pretrained(tmp_path, model=Words(**TEXT)).model.head == Span()


def test_models_without_a_form_for_spans_refuse_the_head():
    with pytest.raises(ValueError, match=r"Gpt2 does not support the head Span.*Pooled, PerToken"):
        build(models.Gpt2(**TEXT), Span())
    for number in (1, 3):
        with pytest.raises(ValueError, match=f"outputs={number}; expected 2"):
            Span(number)
