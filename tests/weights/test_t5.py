"""Files of T5: the names of its embedding, separate and tied last layers, the encoder of a whole model, settings."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tlx import models
from tlx.models import PerToken, Vocabulary
from tlx.trees import flatten
from tlx.weights import Manifest, Pretrained, load_pretrained, save_pretrained
from tlx.weights.formats.t5 import T5Format

SIZES = {"vocabulary": 23, "width": 12, "depth": 2, "decoder_depth": 2, "heads": 2, "size": 4, "mlp": 9, "buckets": 6}


def saved(folder, change=None, head=Vocabulary(), **fields):
    """Save a model, and change its tensors; return its parameters by path."""
    model = models.build(models.T5(**SIZES, **fields), head)
    variables = models.initialise(model, jax.random.key(0))
    save_pretrained(Pretrained(model, variables, None, Manifest("random", {}, ()), None), folder, untrained=True)
    tensors = load_file(folder / "model.safetensors")
    if change is not None:
        change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return flatten(variables.params)


def rename(old, *new):
    def change(tensors):
        array = tensors.pop(old)
        tensors.update({name: array.copy() for name in new})

    return change


@pytest.mark.parametrize(
    "names",
    [
        ("decoder.embed_tokens.weight",),
        ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
        ("shared.weight", "lm_head.weight", "encoder.embed_tokens.weight"),
    ],
)
def test_the_embedding_is_read_under_every_name_that_transformers_has_written(names, tmp_path):
    params = saved(tmp_path, rename("shared.weight", *names))
    read = flatten(load_pretrained(tmp_path).variables.params)
    assert read.keys() == params.keys()
    np.testing.assert_array_equal(read["stem/words/embedding"], params["stem/words/embedding"])


@pytest.mark.parametrize("family", ["t5", "mt5"])
def test_a_separate_last_layer_that_the_file_leaves_out_equals_the_embedding(family, tmp_path):
    params = saved(tmp_path, lambda tensors: tensors.pop("lm_head.weight"), family=family, tied=False)
    pretrained = load_pretrained(tmp_path)
    read = flatten(pretrained.variables.params)
    np.testing.assert_array_equal(read["head/output/kernel"], params["stem/words/embedding"].T)
    assert not any(entry.action == "reset" for entry in pretrained.manifest.entries)


def test_the_encoder_of_a_whole_model_is_read_without_its_decoder_and_the_decoder_whole(tmp_path):
    params = saved(tmp_path / "whole")
    document = json.loads((tmp_path / "whole" / "config.json").read_text())
    file = tmp_path / "whole" / "config.json"
    file.write_text(json.dumps(document | {"architectures": ["T5EncoderModel"], "is_encoder_decoder": False}))
    read = load_pretrained(tmp_path / "whole")
    assert read.model.head is None and read.model.config.encoder_only
    assert flatten(read.variables.params).keys() == {p for p in params if p.startswith(("stem", "encoder"))}
    file.write_text(json.dumps(document | {"num_decoder_layers": 1}))
    with pytest.raises(ValueError, match=r"decoder\.block\.1"):
        load_pretrained(tmp_path / "whole")
    file.write_text(json.dumps(document | {"num_decoder_layers": 3}))
    with pytest.raises(ValueError, match="decoder/02"):
        load_pretrained(tmp_path / "whole")


@pytest.mark.parametrize("head", [None, 2, PerToken(3), Vocabulary()], ids=["none", "text", "tokens", "words"])
def test_saving_and_loading_is_the_identity(head, tmp_path):
    params = saved(tmp_path, head=head, gated=True, activation="gelu_new", tied=False)
    pretrained = load_pretrained(tmp_path)
    read = flatten(pretrained.variables.params)
    assert read.keys() == params.keys() and pretrained.model.config.gated
    for path, leaf in params.items():
        np.testing.assert_array_equal(read[path], leaf)


@pytest.mark.parametrize(
    ("document", "fields"),
    [
        ({}, {"tied": True, "gated": False, "activation": "relu", "decoder_depth": 6}),
        ({"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, {"tied": False, "activation": "gelu_new"}),
        (
            {"feed_forward_proj": "gated-silu", "num_layers": 4},
            {"gated": True, "activation": "silu", "decoder_depth": 4},
        ),
        # As version 5 of `transformers` writes a model with a separate last layer.
        ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, {"tied": False}),
        ({"model_type": "mt5"}, {"family": "mt5", "tied": False, "gated": True, "vocabulary": 250112, "mlp": 1024}),
        ({"pad_token_id": 5}, {"pad": 5, "start": 5}),
        ({"is_encoder_decoder": False}, {"encoder_only": True}),
    ],
)
def test_config_json_states_the_form(document, fields):
    config = T5Format().read({"model_type": "t5"} | document)
    assert {name: getattr(config, name) for name in fields} == fields


def test_settings_without_a_form_in_transformers_are_refused():
    with pytest.raises(ValueError, match=r"'twice-relu'.*'gated-'"):
        T5Format().read({"model_type": "t5", "feed_forward_proj": "twice-relu"})
    with pytest.raises(ValueError, match="gelu_new"):
        T5Format().write(models.T5(gated=True, activation="gelu", **SIZES), None, {})
