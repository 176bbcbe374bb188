"""Beam search: the best of all texts where the beams hold them all, and the texts and scores of `transformers`."""

from itertools import product

import jax
import numpy as np
import pytest

from tests.models.test_generation import INPUTS, LEFT, LONGEST, made, right_side
from tlx import models
from tlx.models import Vocabulary, beam_search, build, forward, generate, initialise
from tlx.trees import map_named
from tlx.types import Variables

pytestmark = pytest.mark.usefixtures("quick")
T5 = models.T5(vocabulary=5, width=12, depth=1, decoder_depth=2, heads=2, size=4, mlp=9, buckets=6, furthest=5)
GPT2 = models.Gpt2(vocabulary=5, width=12, depth=2, heads=2, mlp=9, positions=16)


def moved(model):
    rng = np.random.default_rng(0)
    params = initialise(model, jax.random.key(0)).params
    return Variables(map_named(lambda _, leaf: leaf + 0.5 * rng.normal(size=leaf.shape).astype("f"), params), {})


@pytest.mark.parametrize("config", [GPT2, T5], ids=["gpt2", "t5"])
def test_beams_that_hold_all_texts_return_the_best_ones(config):
    """All 5 x 5 beginnings fit into the beams, so the search is exhaustive over three tokens."""
    model = build(config, Vocabulary())
    variables, text = moved(model), np.array([[3, 1, 4]])
    new = np.array(list(product(range(5), repeat=3)))
    if config is T5:
        inputs = {"input_ids": np.repeat(text, 125, 0), "decoder_input_ids": np.pad(new[:, :-1], ((0, 0), (1, 0)))}
    else:
        inputs = {"input_ids": np.concatenate([np.repeat(text, 125, 0), new[:, :-1]], axis=1)}
    logits = jax.jit(lambda inputs: forward(model, variables, inputs)[0]["logits"])(inputs)[:, -3:]
    scores = np.take_along_axis(jax.nn.log_softmax(logits), new[..., None], 2)[..., 0].sum(1) / 3**0.5
    best = np.argsort(-scores)[:10]
    settings = {"longest": 3, "beams": 25, "length_penalty": 0.5}
    actual = beam_search(model, variables, {"input_ids": text}, returned=10, **settings)
    np.testing.assert_array_equal(actual.tokens[0], new[best])
    np.testing.assert_allclose(actual.scores[0], scores[best], atol=1e-5)
    alone = generate(model, variables, {"input_ids": text}, **settings)
    np.testing.assert_array_equal(alone.tokens, actual.tokens[:, 0])


def test_the_side_of_padding_changes_no_beam():
    model, variables = made("llama")
    settings = {"longest": LONGEST, "beams": 3, "returned": 3, "stop": [4, [7, 8]]}
    left, right = (beam_search(model, variables, batch, **settings) for batch in (INPUTS, right_side(INPUTS)))
    np.testing.assert_array_equal(left.tokens, right.tokens)
    np.testing.assert_array_equal(left.scores, right.scores)
    assert (np.diff(left.scores) <= 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beams": 1}, "beams is 1; expected 2 or more"),
        ({"returned": 4}, "returned is 4; expected 1 to 3"),
        ({"early_stopping": "always"}, "early_stopping is 'always'; expected True, False or 'never'"),
        ({"length_penalty": float("nan")}, "length_penalty is nan; expected a finite number"),
        ({"longest": 0}, "longest is 0; expected 1 or more"),
    ],
)
def test_wrong_settings_are_refused_with_one_line(change, message):
    model, variables = made("gpt2")
    with pytest.raises(ValueError, match=message) as error:
        beam_search(model, variables, INPUTS, **({"longest": LONGEST, "beams": 3} | change))
    assert len(str(error.value).splitlines()) == 1


def test_settings_of_a_search_and_of_sampling_are_kept_apart():
    model, variables = made("gpt2")
    for settings, message in (
        ({"beams": 3, "key": jax.random.key(0)}, "pass key=None"),
        ({"length_penalty": 2.0}, "pass beams=4"),
        ({"early_stopping": True}, "pass beams=4"),
    ):
        with pytest.raises(ValueError, match=message):
            generate(model, variables, INPUTS, longest=2, **settings)


# Words that end texts of each model after different numbers of tokens.
STOPS = {"gpt2-words": [5, 7], "llama-3": [22, 6], "t5-words": [13, 4], "t5-gated": [14, 20]}
SETTINGS = [(1.0, False), (-1.0, False), (0.0, "never"), (2.0, "never"), (1.0, True), (2.5, True)]


@pytest.mark.parity
@pytest.mark.parametrize("name", STOPS)
def test_texts_and_scores_are_those_of_transformers(tmp_path, name):
    import torch

    from tests.models import test_parity_decoders, test_parity_t5
    from tests.models.test_parity import reference
    from tlx.weights import load_pretrained

    pair, longest, stop = name in test_parity_t5.CASES, 8, STOPS[name]
    if pair:
        torch_model = test_parity_t5.torch_model(test_parity_t5.CASES[name])
    else:
        torch_model = reference(test_parity_decoders.CASES[name])
    torch_model.save_pretrained(tmp_path)
    loaded = load_pretrained(tmp_path)
    first, lengths = 1 if pair else LEFT.shape[1], []
    # A decoder of `transformers` continues texts with padding on the left only.
    for inputs in [INPUTS] + [right_side(INPUTS)] * pair:
        arguments = {field: torch.tensor(array) for field, array in inputs.items()}
        arguments |= {"max_new_tokens": longest, "do_sample": False, "eos_token_id": stop, "pad_token_id": 1}
        arguments |= {"num_beams": 3, "num_return_sequences": 3, "return_dict_in_generate": True, "output_scores": True}
        for length_penalty, early_stopping in SETTINGS:
            settings = {"length_penalty": length_penalty, "early_stopping": early_stopping}
            wanted = torch_model.generate(**arguments, **settings)
            ranked = {"longest": longest, "beams": 3, "returned": 3, "stop": stop}
            actual = beam_search(loaded.model, loaded.variables, inputs, **ranked, **settings)
            tokens = wanted.sequences[:, first:].numpy().reshape(3, 3, -1)
            ours = np.where(np.arange(longest) < actual.lengths[..., None], actual.tokens, 1)
            np.testing.assert_array_equal(ours[..., : tokens.shape[-1]], tokens, err_msg=str(settings))
            np.testing.assert_allclose(actual.scores.reshape(-1), wanted.sequences_scores.numpy(), rtol=1e-5)
            lengths += actual.lengths.reshape(-1).tolist()
    assert len(set(lengths)) > 2, "the texts should end at different times"
