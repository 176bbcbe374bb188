"""Decoders compared with `transformers` on torch, as in `test_parity`: hidden states, logits, every gradient."""

import pytest

from tests.models.test_parity import TOLERANCE, Case, check_config, check_return, compare, draw, head_of, reference

pytestmark = pytest.mark.parity
GPT2 = {"vocab_size": 23, "n_embd": 15, "n_layer": 3, "n_head": 3, "n_inner": 13, "n_positions": 17, "pad_token_id": 1}
# Grouped heads of a size of their own, and a window smaller than the text.
LLAMA = {
    "vocab_size": 23, "hidden_size": 15, "num_hidden_layers": 3, "num_attention_heads": 3, "num_key_value_heads": 1,
    "head_dim": 6, "intermediate_size": 13, "max_position_embeddings": 17, "pad_token_id": 1,
}  # fmt: skip
SOFT = {"query_pre_attn_scalar": 7, "sliding_window": 3, "num_key_value_heads": 3}


def rotary(kind: str, **fields: float) -> dict:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 30.0, **fields}}


CASES = {
    "llama": Case("LlamaModel", LLAMA | {"hidden_act": "gelu"}),
    "llama-words": Case("LlamaForCausalLM", LLAMA | {"attention_bias": True, "mlp_bias": True}),
    "llama-head": Case("LlamaForSequenceClassification", LLAMA | rotary("linear", factor=3.0)),
    "llama-tokens": Case(
        "LlamaForTokenClassification", LLAMA | {"max_position_embeddings": 5} | rotary("dynamic", factor=2.0)
    ),
    "llama-3": Case(
        "LlamaForCausalLM",
        LLAMA
        | {"tie_word_embeddings": True}
        | rotary("llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8),
    ),
    "llama-yarn": Case("LlamaModel", LLAMA | rotary("yarn", factor=4.0, original_max_position_embeddings=8)),
    "mistral": Case("MistralForCausalLM", LLAMA | {"sliding_window": 3}),
    "qwen2": Case(
        "Qwen2ForCausalLM",
        {key: value for key, value in LLAMA.items() if key != "head_dim"}
        | {"hidden_size": 18, "use_sliding_window": True, "sliding_window": 2, "max_window_layers": 1},
    ),
    "qwen3": Case("Qwen3ForSequenceClassification", LLAMA | {"num_key_value_heads": 3, "num_hidden_layers": 2}),
    "gemma": Case("GemmaForCausalLM", LLAMA | {"hidden_act": "gelu_pytorch_tanh"}),
    "gemma-2": Case("Gemma2ForCausalLM", LLAMA | SOFT | {"attn_logit_softcapping": 2.0}),
    "gemma-3": Case("Gemma3ForCausalLM", LLAMA | SOFT | {"num_hidden_layers": 6}),
    "gemma-3-head": Case("Gemma3TextForSequenceClassification", LLAMA | SOFT | {"attention_bias": True}),
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


@pytest.mark.parametrize(
    "name", ["gpt2-words", "gpt2-untied", "gpt2-tokens", "llama-3", "llama-tokens", "qwen2", "gemma-3"]
)
def test_weights_of_decoders_return_as_they_came(tmp_path, name):
    check_return(CASES[name], tmp_path)
