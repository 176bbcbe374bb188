"""Files of BART: names of the embedding, the bias of the words, forced words, settings."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tlx import models
from tlx.models import Vocabulary
from tlx.trees import flatten
from tlx.weights import Manifest, Pretrained, load_pretrained, save_pretrained
from tlx.weights.expected import expected
from tlx.weights.formats.bart import BartFormat

SIZES = {"vocabulary": 23, "width": 12, "depth": 1, "heads": 2, "mlp": 9, "positions": 8}
SIZES |= {"decoder_depth": 2, "decoder_heads": 3, "decoder_mlp": 7}


def saved(folder, change=None, head=Vocabulary(), **fields):
    """Save a model of random numbers, and change its tensors; return its variables."""
    model, rng = models.build(models.Bart(**SIZES, **fields), head), np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: models.initialise(model, jax.random.key(0)))
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    save_pretrained(Pretrained(model, variables, None, Manifest("random", {}, ()), None), folder, untrained=True)
    tensors = load_file(folder / "model.safetensors")
    if change is not None:
        change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return variables


def rewrite(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("family", ["bart", "mbart"])
@pytest.mark.parametrize("head", [None, 2, Vocabulary()], ids=["none", "text", "words"])
def test_saving_and_loading_is_the_identity(family, head, tmp_path):
    variables = saved(tmp_path, head=head, family=family, embeddings_scaled=True, forced_first=5, forced_last=None)
    read = load_pretrained(tmp_path)
    assert read.model.config.forced_words() == (5, None) and read.model.config.embeddings_scaled
    jax.tree.map(np.testing.assert_array_equal, read.variables, variables)
    document = {"id2label": {"0": "no", "1": "yes"}} | json.loads((tmp_path / "config.json").read_text())
    assert expected(document) == {name: t.shape for name, t in load_file(tmp_path / "model.safetensors").items()}


def test_the_embedding_is_read_under_every_name_that_transformers_has_written(tmp_path):
    def rename(tensors):
        array = tensors.pop("model.shared.weight")
        tensors |= {f"model.{stack}.embed_tokens.weight": array for stack in ("encoder", "decoder")}
        tensors |= {"lm_head.weight": array.copy(), "model.encoder.version": np.ones(1, np.float32)}

    variables = saved(tmp_path, rename)
    read = load_pretrained(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, read.variables, variables)


def test_the_bias_of_the_words_is_zero_where_a_file_leaves_it_out(tmp_path):
    variables = saved(tmp_path / "theirs", lambda tensors: tensors.pop("final_logits_bias"))
    read = load_pretrained(tmp_path / "theirs")
    jax.tree.map(np.testing.assert_array_equal, read.variables.params, variables.params)
    np.testing.assert_array_equal(read.variables.stats["head"]["bias"], np.zeros(23))
    (entry,) = [entry for entry in read.manifest.entries if entry.path == "stats:head/bias"]
    assert entry.action == "loaded" and "which means 0" in entry.note
    # Nothing was drawn at random, so the model may be saved.
    save_pretrained(read, tmp_path / "ours")
    np.testing.assert_array_equal(load_file(tmp_path / "ours" / "model.safetensors")["final_logits_bias"], [[0.0] * 23])


def test_the_words_that_are_forced_are_those_of_transformers(tmp_path):
    saved(tmp_path)
    rewrite(tmp_path, forced_bos_token_id=0)
    assert load_pretrained(tmp_path).model.config.forced_words() == (0, 2)
    # A generation_config.json replaces both; a word that it leaves out is free.
    (tmp_path / "generation_config.json").write_text(json.dumps({"forced_bos_token_id": 7, "num_beams": 4}))
    config = load_pretrained(tmp_path).model.config
    assert config.forced_words() == (7, None) and config.start == 2
    (tmp_path / "generation_config.json").write_text(json.dumps({"decoder_start_token_id": 9}))
    config = load_pretrained(tmp_path).model.config
    assert config.forced_words() == (None, None) and config.start == 9
    (tmp_path / "generation_config.json").write_text(json.dumps({"forced_eos_token_id": [2, 3]}))
    with pytest.raises(ValueError, match=r"generation_config\.json.*forced_eos_token_id"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("document", "fields"),
    [
        ({}, {"width": 1024, "depth": 12, "decoder_heads": 16, "start": 2, "forced_first": None, "forced_last": 2}),
        ({"forced_eos_token_id": None}, {"forced_last": None}),
        ({"model_type": "mbart"}, {"family": "mbart", "start": None, "forced_last": 2, "norm_first": True}),
        ({"model_type": "mbart", "decoder_start_token_id": 250020, "vocab_size": 250027}, {"start": 250020}),
        ({"decoder_layers": 3, "decoder_ffn_dim": 5, "scale_embedding": True}, {"decoder_depth": 3, "decoder_mlp": 5}),
    ],
)
def test_config_json_states_the_form(document, fields):
    config = BartFormat().read({"model_type": "bart"} | document)
    assert {name: getattr(config, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tie_word_embeddings": False}, "tie_word_embeddings false"),
        ({"is_encoder_decoder": False}, "without its encoder"),
        ({"is_decoder": True}, "without its encoder"),
        ({"decoder_layerdrop": 0.1}, r"decoder_layerdrop 0\.1.*write 0"),
    ],
)
def test_settings_that_tlx_does_not_cover_are_refused_in_one_line(change, message, tmp_path):
    saved(tmp_path)
    rewrite(tmp_path, **change)
    with pytest.raises(ValueError, match=message) as error:
        load_pretrained(tmp_path)
    assert len(str(error.value).splitlines()) == 1


def test_other_names_of_the_sizes_are_not_written_again(tmp_path):
    saved(tmp_path / "theirs")
    rewrite(tmp_path / "theirs", num_hidden_layers=12, num_beams=4)
    save_pretrained(load_pretrained(tmp_path / "theirs"), tmp_path / "ours")
    document = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert "num_hidden_layers" not in document and document["num_beams"] == 4
    assert flatten(load_pretrained(tmp_path / "ours").variables.params).keys()
