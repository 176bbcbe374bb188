"""Generated text: equal tokens to `transformers`, whatever the side of padding, the batch and the cache."""

from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest

from tlx import models, tuning
from tlx.models import Vocabulary, build, forward, generate, initialise
from tlx.models.generation import limited
from tlx.trees import map_named
from tlx.types import Variables

pytestmark = pytest.mark.usefixtures("quick")
TINY = {"vocabulary": 23, "width": 12, "depth": 2, "heads": 3, "mlp": 20, "positions": 32}
CONFIGS = {
    "gpt2": models.Gpt2(**TINY),
    "llama": models.Llama(key_heads=1, head_size=6, window=4, local=(0,), base=30.0, **TINY),
    "t5": models.T5(
        vocabulary=23, width=12, depth=2, decoder_depth=3, heads=3, size=5, mlp=20, buckets=6, furthest=5, start=3,
        gated=True, tied=False,
    ),
}  # fmt: skip
LEFT = np.array([[1] * 7, [0] * 3 + [1] * 4, [0] * 5 + [1] * 2])
IDS = np.random.default_rng(0).integers(2, 23, LEFT.shape)
INPUTS = {"input_ids": IDS, "attention_mask": LEFT}
LONGEST = 6


@cache
def made(name):
    model = build(CONFIGS[name], Vocabulary())
    rng = np.random.default_rng(1)

    def moved(path, leaf):
        return leaf + 0.5 * rng.normal(size=leaf.shape).astype(np.float32)

    return model, Variables(map_named(moved, initialise(model, jax.random.key(0)).params), {})


def right_side(inputs):
    """The same texts with the padding on the right."""
    return {
        field: np.stack(
            [np.concatenate([row[mask > 0], row[mask == 0]]) for row, mask in zip(array, LEFT, strict=True)]
        )
        for field, array in inputs.items()
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_the_cache_gives_the_tokens_of_whole_passes(name):
    model, variables = made(name)
    actual = generate(model, variables, INPUTS, longest=LONGEST)
    assert len({tuple(row) for row in actual.tokens.tolist()}) == 3
    whole = jax.jit(lambda inputs: forward(model, variables, inputs)[0]["logits"])
    first = CONFIGS[name].first_word()
    for row, (ids, mask) in enumerate(zip(IDS, LEFT, strict=True)):
        # A decoder beside an encoder begins with its first word.
        text = list(ids[mask > 0]) if first is None else [first]
        for token in actual.tokens[row]:
            padded = np.pad(np.array(text), (0, 16 - len(text)))[None]
            alone = {"input_ids": ids[None], "attention_mask": mask[None], "decoder_input_ids": padded}
            logits = whole({"input_ids": padded} if first is None else alone)
            assert int(logits[0, len(text) - 1].argmax()) == token
            text.append(token)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("sampled", [False, True])
def test_the_side_of_padding_changes_no_token(name, sampled):
    model, variables = made(name)
    key = jax.random.key(3) if sampled else None
    batches = (INPUTS, right_side(INPUTS), INPUTS)
    one, two, again = (generate(model, variables, batch, longest=LONGEST, key=key) for batch in batches)
    np.testing.assert_array_equal(one.tokens, two.tokens)
    np.testing.assert_array_equal(one.tokens, again.tokens)
    other = generate(model, variables, INPUTS, longest=LONGEST, key=jax.random.key(4))
    assert not np.array_equal(one.tokens, other.tokens)


def test_the_likeliest_token_alone_is_the_greedy_choice():
    model, variables = made("gpt2")
    greedy = generate(model, variables, INPUTS, longest=LONGEST).tokens
    for setting in ({"top_k": 1}, {"top_p": 1e-6, "temperature": 1e-3}):
        drawn = generate(model, variables, INPUTS, longest=LONGEST, key=jax.random.key(5), **setting).tokens
        np.testing.assert_array_equal(drawn, greedy)


def test_a_text_ends_with_its_first_stop_sequence_and_the_others_go_on():
    model, variables = made("gpt2")
    free = generate(model, variables, INPUTS, longest=LONGEST).tokens
    pair = free[0, 1:3].tolist()
    ended = generate(model, variables, INPUTS, longest=LONGEST, stop=[pair])
    for row, length in enumerate(ended.lengths):
        places = [n for n in range(2, LONGEST + 1) if free[row, n - 2 : n].tolist() == pair]
        assert length == (places[0] if places else LONGEST)
        np.testing.assert_array_equal(ended.tokens[row, :length], free[row, :length])
        assert not ended.tokens[row, length:].any()
    assert ended.lengths[0] == 3
    one = generate(model, variables, INPUTS, longest=LONGEST, stop=[int(free[1, 0])])
    assert one.lengths[1] == 1


@pytest.mark.parity
def test_likely_tokens_are_limited_as_in_transformers():
    import torch
    from transformers.generation import TopKLogitsWarper, TopPLogitsWarper

    logits = np.random.default_rng(0).normal(size=(5, 23)).astype(np.float32) * 2
    for value, top_k, top_p in ((TopKLogitsWarper(4), 4, None), (TopPLogitsWarper(0.7), None, 0.7)):
        wanted = value(None, torch.tensor(logits)).numpy()
        np.testing.assert_array_equal(limited(logits, top_k, top_p), wanted)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["t5-words", "t5-gated", "mt5-words"])
def test_greedy_answers_are_those_of_transformers(tmp_path, name):
    import torch

    from tests.models.test_parity_t5 import CASES, torch_model
    from tlx.weights import load_pretrained

    reference = torch_model(CASES[name])
    reference.save_pretrained(tmp_path)
    loaded = load_pretrained(tmp_path)
    for inputs in (INPUTS, right_side(INPUTS)):
        arguments = {field: torch.tensor(array) for field, array in inputs.items()}
        # An end that one of the answers has after some tokens.
        free = generate(loaded.model, loaded.variables, inputs, longest=LONGEST)
        end = int(free.tokens[1, 2])
        wanted = reference.generate(**arguments, max_new_tokens=LONGEST, do_sample=False, eos_token_id=end)[:, 1:]
        actual = generate(loaded.model, loaded.variables, inputs, longest=LONGEST, stop=[end])
        np.testing.assert_array_equal(actual.tokens[:, : wanted.shape[1]], wanted.numpy())
        assert actual.lengths.min() < LONGEST


@pytest.mark.parity
@pytest.mark.parametrize("name", ["gpt2-words", "llama-3", "mistral", "qwen2", "gemma-2"])
def test_greedy_tokens_are_those_of_transformers(tmp_path, name):
    import torch

    from tests.models.test_parity import reference
    from tests.models.test_parity_decoders import CASES
    from tlx.weights import load_pretrained

    torch_model = reference(CASES[name])
    torch_model.save_pretrained(tmp_path)
    arguments = {field: torch.tensor(array) for field, array in INPUTS.items()}
    wanted = torch_model.generate(**arguments, max_new_tokens=LONGEST, do_sample=False, eos_token_id=None)
    loaded = load_pretrained(tmp_path)
    actual = generate(loaded.model, loaded.variables, INPUTS, longest=LONGEST)
    np.testing.assert_array_equal(actual.tokens, wanted[:, IDS.shape[1] :].numpy())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"longest": 0}, "longest is 0; expected 1 or more"),
        ({"longest": 26}, "33 tokens, but the model has positions for 32"),
        ({"temperature": 0.5}, r"for sampling; pass key="),
        ({"key": 1, "temperature": 0.0}, "temperature is 0.0; expected a number above 0"),
        ({"key": 1, "top_k": 0}, "top_k is 0; expected 1 or more"),
        ({"key": 1, "top_p": 1.5}, "top_p is 1.5; expected a probability"),
        ({"stop": [[]]}, "stop has an empty sequence"),
        ({"stop": [23]}, r"stop contains 23, but the model has 23 words"),
        ({"attention_mask": np.array([[1] * 7, [0] * 7, [1] * 7])}, "text 1 has no token"),
        ({"input_ids": np.full((3, 7), 23)}, "input_ids contains 23, but the model has 23 word embeddings"),
    ],
)
def test_wrong_arguments_are_refused_with_one_line(change, message):
    model, variables = made("gpt2")
    settings = {"longest": LONGEST} | change
    inputs = INPUTS | {name: settings.pop(name) for name in INPUTS if name in settings}
    if "key" in settings:
        settings["key"] = jax.random.key(settings["key"])
    with pytest.raises(ValueError, match=message) as error:
        generate(model, variables, inputs, **settings)
    assert len(str(error.value).splitlines()) == 1


def test_the_encoder_alone_and_words_for_the_decoder_are_refused():
    model, variables = made("t5")
    with pytest.raises(ValueError, match="remove 'decoder_input_ids'"):
        generate(model, variables, INPUTS | {"decoder_input_ids": IDS}, longest=2)
    alone = build(replace(CONFIGS["t5"], encoder_only=True))
    with pytest.raises(ValueError, match="T5 does not generate text"):
        generate(alone, initialise(alone, jax.random.key(0)), INPUTS, longest=2)


def test_models_that_do_not_decode_are_refused():
    encoder, classifier = build(models.Bert(**TINY), Vocabulary()), build(CONFIGS["gpt2"], 3)
    for model, message in ((encoder, "Bert does not generate text"), (classifier, r"requires Vocabulary\(\)")):
        with pytest.raises(ValueError, match=message):
            generate(model, initialise(model, jax.random.key(0)), INPUTS, longest=2)
    model, variables = made("gpt2")
    params = tuning.Prompt(tokens=2).insert(model, variables.params, jax.random.key(0))
    with pytest.raises(ValueError, match="learned prompt"):
        generate(model, Variables(params, {}), INPUTS, longest=2)
