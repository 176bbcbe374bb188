"""Inputs outside the range of a model, or that it does not read, are refused; given positions are used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tlx
from tlx import models, tuning
from tlx.types import Variables

TINY = {"width": 12, "depth": 1, "heads": 3, "mlp": 16, "vocabulary": 20, "positions": 10}
BERT = models.Bert(**TINY)
ROBERTA = models.Bert(family="roberta", types=1, pad=1, **TINY)
DISTIL = models.Bert(family="distilbert", types=0, **TINY)
IDS = np.array([[5, 6, 7, 8], [9, 10, 11, 12]])


def build(config, outputs=2):
    model = models.build(config, outputs)
    rng = np.random.default_rng(0)
    tree = models.initialise(model, jax.random.key(0)).params
    return model, Variables(jax.tree.map(lambda leaf: rng.normal(0.1, 0.4, leaf.shape).astype(np.float32), tree), {})


def logits(config, **inputs):
    model, variables = build(config)
    return np.asarray(tlx.forward(model, variables, inputs)[0]["logits"])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input_ids": IDS + 12}, "input_ids contains 24, but the model has 20 word embeddings (0 to 19)"),
        ({"input_ids": jnp.array([[3, -1]])}, "input_ids contains -1"),
        (
            {"input_ids": IDS, "token_type_ids": IDS * 0 + 2},
            "token_type_ids contains 2, but the model has 2 token type",
        ),
        ({"input_ids": IDS, "token_type_ids": IDS * 0 - 1}, "token_type_ids contains -1"),
        ({"input_ids": IDS, "position_ids": IDS}, "position_ids contains 12, but the model has 10 position embeddings"),
        ({"input_ids": IDS, "position_ids": IDS[:, :3]}, "position_ids is int32[2, 3]; expected integers"),
        ({"input_ids": IDS, "position_ids": IDS / 4}, "position_ids is float32[2, 4]; expected integers"),
        ({"input_ids": IDS / 2}, "input_ids is float32[2, 4]; expected integers [batch, tokens]"),
        ({"input_ids": IDS[0]}, "input_ids is int32[4]; expected integers [batch, tokens]"),
        (
            {"input_ids": IDS, "attention_mask": np.ones((2, 4, 4))},
            "attention_mask has the shape (2, 4, 4); expected (2, 4)",
        ),
        ({"input_ids": IDS, "token_type_ids": np.zeros((2, 3), int)}, "token_type_ids has the shape (2, 3)"),
        ({"attention_mask": IDS}, "model reads 'input_ids' ... inputs ... ['attention_mask']"),
        ({"input_ids": IDS, "inputs_embeds": IDS}, "the model does not read 'inputs_embeds'; it reads input_ids"),
        ({"input_ids": IDS, "head_mask": IDS}, "the model does not read 'head_mask'"),
    ],
)
def test_an_input_outside_the_range_of_the_model_is_refused(inputs, message):
    with pytest.raises(ValueError) as error:
        logits(BERT, **inputs)
    for part in message.split(" ... "):
        assert part in str(error.value)


def test_a_model_with_one_token_type_refuses_another_and_a_model_without_types_reads_none():
    with pytest.raises(ValueError, match="token_type_ids contains 1, but the model has 1 token type"):
        logits(ROBERTA, input_ids=IDS, token_type_ids=IDS * 0 + 1)
    same = logits(DISTIL, input_ids=IDS, token_type_ids=IDS * 0 + 1)
    np.testing.assert_array_equal(same, logits(DISTIL, input_ids=IDS))


def test_an_image_model_refuses_what_it_does_not_read():
    config = models.Vit(size=8, patch=4, width=12, depth=1, heads=3, mlp=16)
    with pytest.raises(ValueError, match="does not read 'bool_masked_pos'; it reads image"):
        logits(config, image=np.zeros((1, 8, 8, 3), np.float32), bool_masked_pos=np.ones((1, 4), bool))


@pytest.mark.parametrize("name", ["input_ids", "token_type_ids", "position_ids"])
def test_in_a_compiled_function_an_index_out_of_range_gives_nan(name):
    model, variables = build(BERT)
    forward = jax.jit(lambda variables, inputs: tlx.forward(model, variables, inputs)[0]["logits"])
    inputs = {"input_ids": IDS, "token_type_ids": IDS * 0, "position_ids": np.broadcast_to(np.arange(4), IDS.shape)}
    np.testing.assert_allclose(
        forward(variables, inputs), tlx.forward(model, variables, inputs)[0]["logits"], rtol=1e-5, atol=1e-6
    )
    for wrong in (99, -1):
        array = np.array(inputs[name])
        array[1, 2] = wrong
        actual = np.asarray(forward(variables, inputs | {name: array}))
        assert np.isnan(actual[1]).all() and np.isfinite(actual[0]).all()


@pytest.mark.parametrize("config", [BERT, ROBERTA, DISTIL], ids=lambda own: own.family)
def test_given_positions_are_used(config):
    first = config.pad + 1 if config.family == "roberta" else 0
    usual = np.arange(first, first + 4)
    before = logits(config, input_ids=IDS)
    for shape in (usual, usual[None], np.broadcast_to(usual, IDS.shape)):
        np.testing.assert_array_equal(logits(config, input_ids=IDS, position_ids=shape), before)
    np.testing.assert_array_equal(logits(config, input_ids=IDS, position_ids=None), before)
    assert np.abs(logits(config, input_ids=IDS, position_ids=usual[::-1].copy()) - before).max() > 1e-3


@pytest.mark.parametrize("value", [tuning.Prompt(tokens=2), tuning.Prefix(tokens=2)])
def test_positions_and_a_learned_prompt_exclude_each_other(value):
    model, variables = build(BERT)
    params = value.insert(model, variables.params, jax.random.key(0))
    with pytest.raises(ValueError, match="learned prompt or prefix does not accept position_ids"):
        tlx.forward(model, Variables(params, {}), {"input_ids": IDS, "position_ids": np.arange(4)})
    assert models.text_room(model, params) == 8


@pytest.mark.parity
@pytest.mark.parametrize("name", ["BertForSequenceClassification", "RobertaForSequenceClassification"])
def test_positions_are_those_of_transformers(tmp_path, name):
    import torch
    import transformers

    fields = {"vocab_size": 20, "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3}
    kind = getattr(transformers, name)
    config = kind.config_class(intermediate_size=16, max_position_embeddings=10, pad_token_id=1, **fields)
    torch.manual_seed(0)
    expected = kind(config).eval()
    expected.save_pretrained(tmp_path)
    actual = tlx.load_pretrained(tmp_path)
    places = np.array([[7, 3, 2, 5], [2, 2, 9, 4]])
    with torch.no_grad():
        wanted = expected(torch.tensor(IDS), position_ids=torch.tensor(places)).logits.numpy()
    taps, _ = tlx.forward(actual.model, actual.variables, {"input_ids": IDS, "position_ids": places})
    np.testing.assert_allclose(taps["logits"], wanted, atol=1e-5, rtol=0)
