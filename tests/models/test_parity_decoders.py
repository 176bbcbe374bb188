"""Decoders compared with `transformers` on torch, as in `test_parity`: hidden states, logits, every gradient."""

import pytest

from tests.models.test_parity import TOLERANCE, Case, check_config, compare, draw, head_of, reference

pytestmark = pytest.mark.parity
GPT2 = {"vocab_size": 23, "n_embd": 15, "n_layer": 3, "n_head": 3, "n_inner": 13, "n_positions": 17, "pad_token_id": 1}
CASES = {
    "gpt2": Case("GPT2Model", GPT2 | {"activation_function": "relu", "n_inner": None}),
    "gpt2-words": Case("GPT2LMHeadModel", GPT2),
    "gpt2-untied": Case("GPT2LMHeadModel", GPT2 | {"tie_word_embeddings": False, "scale_attn_weights": False}),
    "gpt2-head": Case("GPT2ForSequenceClassification", GPT2 | {"scale_attn_by_inverse_layer_idx": True}),
    "gpt2-tokens": Case("GPT2ForTokenClassification", GPT2 | {"activation_function": "silu"}),
}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", CASES)
def test_random_decoders_agree(name, tmp_path):
    actual = compare(reference(CASES[name]), draw(CASES[name]), tmp_path)
    assert {"hidden" if head_of(CASES[name]) is None else "logits", "gradients"} <= actual.keys()
    assert max(actual.values()) <= TOLERANCE, actual


@pytest.mark.parametrize("name", CASES)
def test_a_config_of_a_decoder_is_read_as_it_was_written(name):
    check_config(CASES[name])
