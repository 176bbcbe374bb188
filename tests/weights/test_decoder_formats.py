"""The config.json of decoders: settings that tlx does not cover, older fields, and fields that no class has."""

import pytest

from tlx import config as records
from tlx import models
from tlx.models import PerToken, Pooled, Vocabulary
from tlx.weights.formats import foreign

TINY = {
    "vocabulary": 23,
    "width": 12,
    "depth": 2,
    "heads": 3,
    "key_heads": 3,
    "head_size": 4,
    "mlp": 20,
    "positions": 16,
}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"model_type": "gpt2", "add_cross_attention": True}, "add_cross_attention; tlx supports GPT-2 without"),
        ({"model_type": "gpt2", "activation_function": "gelu_nem"}, "unknown activation 'gelu_nem'; close: 'gelu_new'"),
        ({"model_type": "gpt2", "n_embd": 10}, "width 10 is not a multiple of heads 12"),
        ({"model_type": "llama", "rope_scaling": {"type": "longrope"}}, "by 'longrope'; tlx supports default, linear"),
        ({"model_type": "llama", "partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5; tlx supports 1 only"),
        ({"model_type": "llama", "head_dim": 7}, "head_size is 7; expected an even number"),
        ({"model_type": "llama", "num_key_value_heads": 5}, "heads 32 is not a multiple of key_heads 5"),
        ({"model_type": "qwen2", "rope_parameters": {"full_attention": {}}}, "rope_parameters for kinds of blocks"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "tlx supports causal attention only"),
        (
            {"model_type": "gemma2", "num_hidden_layers": 2, "layer_types": ["full_attention", "chunked_attention"]},
            "layer_types .*; expected 2 of 'full_attention' and 'sliding_attention'",
        ),
    ],
)
def test_a_setting_that_is_not_covered_is_refused_with_one_line(document, message):
    with pytest.raises(ValueError, match=message) as error:
        foreign(document["model_type"]).read(document)
    assert len(str(error.value).splitlines()) == 1


def test_older_fields_of_rotary_positions_are_read():
    document = {"model_type": "llama", "rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}}
    config = foreign("llama").read(document)
    assert (config.base, config.scaling, config.factor, config.longest_text()) == (5e5, "linear", 4.0, 8192)
    written = foreign("llama").write(config, None, document)
    assert not written.keys() & {"rope_theta", "rope_scaling"}
    assert foreign("llama").read(written) == config
    stretched = {"rope_type": "yarn", "original_max_position_embeddings": 512, "mscale": 2.0, "mscale_all_dim": 1.0}
    config = foreign("llama").read({"model_type": "llama", "rope_scaling": stretched})
    assert (config.factor, config.original) == (4.0, 512)
    assert config.turned == pytest.approx(1.277259 / 1.138629, abs=1e-6)
    third = foreign("gemma3_text").read({"model_type": "gemma3_text", "rope_theta": 9.0, "rope_local_base_freq": 3.0})
    assert (third.base, third.local_base) == (9.0, 3.0)


@pytest.mark.parametrize(
    ("changes", "head", "message"),
    [
        ({"shifted": True}, None, "classes of 'llama' in transformers have shifted=False"),
        ({"query_bias": True}, None, "have output_bias=True"),
        ({"family": "qwen2"}, None, "have query_bias=True"),
        ({"family": "mistral", "window": 3, "local": (1,)}, None, r"have local=\(0, 1\)"),
        ({"heads": 6, "key_heads": 6, "width": 20}, None, "a width that is a multiple of heads"),
    ],
)
def test_fields_that_no_class_has_are_not_written(changes, head, message):
    with pytest.raises(ValueError, match=message):
        foreign("llama").write(models.Llama(**(TINY | changes)), head, {})


def test_a_decoder_without_an_id_of_padding_has_no_class_for_batches():
    for form, config in (("gpt2", models.Gpt2()), ("llama", models.Llama())):
        reason = foreign(form).unanswered(config, Pooled(2))
        assert "pad_token_id" in reason
        assert foreign(form).unanswered(records.replace(config, pad=0), Pooled(2)) is None
        for head in (None, PerToken(2), Vocabulary()):
            assert foreign(form).unanswered(config, head) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"local": (1,)}, r"local=\(1,\) names local blocks, but window is None"),
        ({"scaling": "dynamic", "head_size": 2}, "head_size is 2; expected 4 or more"),
        ({"window": 0}, "window=0; expected a number above 0"),
    ],
)
def test_invalid_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        models.Llama(**(TINY | fields))
