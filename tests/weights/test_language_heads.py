"""Models with a head over the vocabulary, written for `transformers`, which opens them without a missing tensor."""

import jax
import numpy as np
import pytest

from tlx import models
from tlx.models import Vocabulary, build, forward
from tlx.types import Variables
from tlx.weights import Manifest, Pretrained, export_pretrained, load_pretrained

SIZES = {"vocabulary": 29, "width": 12, "depth": 2, "heads": 3, "mlp": 10}
TEXT = SIZES | {"positions": 13}
CONFIGS = {
    "bert": models.Bert(activation="relu", **TEXT),
    "roberta": models.Bert(family="roberta", pad=1, **TEXT),
    "distilbert": models.Bert(family="distilbert", types=0, **TEXT),
    "electra": models.Bert(family="electra", embedding=8, **TEXT),
    "gpt2": models.Gpt2(pad=1, **TEXT),
    "llama": models.Llama(pad=0, key_heads=1, **TEXT),
    "qwen2": models.Llama(family="qwen2", tied=True, query_bias=True, pad=0, key_heads=1, **TEXT),
    "t5": models.T5(buckets=6, **SIZES),
    "mt5": models.T5(family="mt5", tied=False, buckets=6, **SIZES),
    "bart": models.Bart(decoder_heads=2, decoder_mlp=9, decoder_depth=1, **TEXT),
    "mbart": models.Bart(family="mbart", decoder_heads=2, decoder_mlp=9, decoder_depth=1, start=5, **TEXT),
}


@pytest.mark.parity
@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_opens_it_and_predicts_the_same_words(tmp_path, name):
    import torch
    import transformers

    model = build(CONFIGS[name], Vocabulary())
    rng = np.random.default_rng(0)
    variables = Variables(*models.initialise(model, jax.random.key(0)))
    variables = jax.tree.map(lambda leaf: rng.normal(0.1, 0.4, leaf.shape).astype(np.float32), variables)
    pretrained = Pretrained(model, variables, None, Manifest("random", {"model_type": name}, ()), None)
    folder = export_pretrained(pretrained, tmp_path / "exported")
    kinds = dict.fromkeys(("gpt2", "llama", "qwen2"), "CausalLM")
    kinds |= dict.fromkeys(("t5", "mt5", "bart", "mbart"), "Seq2SeqLM")
    auto = getattr(transformers, f"AutoModelFor{kinds.get(name, 'MaskedLM')}")
    theirs, loaded = auto.from_pretrained(folder, output_loading_info=True)
    assert not any(loaded[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")), (
        loaded
    )
    inputs = {"input_ids": rng.integers(2, 29, (2, 7)), "attention_mask": np.array([[1] * 7, [1] * 5 + [0] * 2])}
    if "decoder_input_ids" in CONFIGS[name].embedding_rows():
        inputs["decoder_input_ids"] = rng.integers(2, 29, (2, 4))
    reopened = load_pretrained(folder)
    assert isinstance(reopened.model.head, Vocabulary)
    logits = forward(reopened.model, reopened.variables, inputs)[0]["logits"]
    with torch.no_grad():
        wanted = theirs.eval()(**{key: torch.tensor(array) for key, array in inputs.items()}).logits.numpy()
    real = inputs["attention_mask"] > 0 if wanted.shape[1] == 7 else np.ones(wanted.shape[:2], bool)
    np.testing.assert_allclose(np.asarray(logits)[real], wanted[real], atol=1e-5)
