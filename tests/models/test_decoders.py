"""Decoders beside their parity with `transformers`: what a token sees, learned prompts, positions, the last token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.test_chain import CONFIGS, equal, made
from tlx import models, tuning
from tlx.models import PerToken, Vocabulary, build, features, forward
from tlx.models.decoder_stages import last_place
from tlx.trees import flatten, nest
from tlx.types import Variables

pytestmark = pytest.mark.usefixtures("quick")
DECODERS = pytest.mark.parametrize("name", ["gpt2", "llama"])
IDS = np.random.default_rng(0).integers(2, 23, (2, 7))


@DECODERS
def test_a_token_sees_no_later_token(name):
    model, variables, _ = made(name)
    changed = np.concatenate([IDS[:, :5], (IDS[:, 5:] + 1) % 21 + 2], axis=1)
    one, two = (forward(model, variables, {"input_ids": ids})[0]["hidden"] for ids in (IDS, changed))
    assert equal(one[:, :5], two[:, :5])
    assert float(abs(one[:, 5:] - two[:, 5:]).min()) > 0


@DECODERS
@pytest.mark.parametrize("head", [3, PerToken(3), Vocabulary()])
def test_a_learned_prompt_is_text_before_the_text(name, head):
    _, variables, _ = made(name)
    model = build(CONFIGS[name], head)
    leaves = {path: leaf for path, leaf in flatten(variables.params).items() if not path.startswith("head/")}
    leaves |= {path: jnp.full(param.shape, 0.1) for path, param in flatten(model.params).items() if path not in leaves}
    params = nest(leaves)
    mask = np.array([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]])
    ids = np.where(mask == 1, IDS, CONFIGS[name].pad)
    first = np.array([[4, 9]] * 2)
    whole = {
        "input_ids": np.concatenate([first, ids], axis=1),
        "attention_mask": np.concatenate([np.ones_like(first), mask], axis=1),
    }
    wanted = forward(model, Variables(params, {}), whole)[0]["logits"]
    prompted = flatten(tuning.Prompt(tokens=2).insert(model, params, jax.random.key(0)))
    prompted |= {"stem/prompt/tokens": leaves["stem/words/embedding"][first[0]]}
    inputs = {"input_ids": ids, "attention_mask": mask}
    logits = forward(model, Variables(nest(prompted), {}), inputs)[0]["logits"]
    np.testing.assert_allclose(logits, wanted if wanted.ndim == 2 else wanted[:, 2:], atol=1e-5)
    with pytest.raises(ValueError, match="does not accept position_ids"):
        forward(model, Variables(nest(prompted), {}), inputs | {"position_ids": np.arange(7)})


@DECODERS
def test_position_ids_replace_the_positions(name):
    model, variables, _ = made(name)
    plain, same, moved = (
        forward(model, variables, {"input_ids": IDS} | more)[0]["logits"]
        for more in ({}, {"position_ids": np.arange(7)}, {"position_ids": np.arange(7) * 2})
    )
    assert equal(plain, same)
    assert float(abs(plain - moved).max()) > 1e-3


@DECODERS
def test_the_features_of_a_text_are_those_of_its_last_token(name):
    _, variables, _ = made(name)
    mask = np.array([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]])
    params = {key: tree for key, tree in variables.params.items() if key != "head"}
    taps, _ = forward(build(CONFIGS[name]), Variables(params, {}), {"input_ids": IDS, "attention_mask": mask})
    assert equal(features(taps), taps["hidden"][np.arange(2), [6, 3]])


def test_the_last_token_is_neither_masked_nor_padding():
    ids = np.array([[5, 6, 1, 1], [1, 1, 5, 6], [1, 1, 1, 1], [5, 1, 6, 7]])
    mask = np.array([[1, 1, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0]])
    assert last_place(ids, mask, 1).tolist() == [1, 3, 0, 2]
    assert last_place(ids, mask, None).tolist() == [3, 3, 3, 2]


def test_a_window_hides_earlier_tokens():
    config = models.Llama(
        vocabulary=23, width=12, depth=1, heads=3, key_heads=1, head_size=4, mlp=8, positions=16, window=3, local=(0,)
    )
    model = build(config)
    variables = models.initialise(model, jax.random.key(0))
    changed = IDS.copy()
    changed[:, 1] = (IDS[:, 1] - 1) % 21 + 2
    one, two = (forward(model, variables, {"input_ids": ids})[0]["hidden"] for ids in (IDS, changed))
    seen = (abs(one - two).max((0, 2)) > 0).tolist()
    assert seen == [False, True, True, True, False, False, False]


def test_norms_without_a_bias_are_norms_and_a_model_without_biases_has_none_to_train():
    model, _, _ = made("llama")
    for value in (tuning.NormTuning(), tuning.Adapter(width=2, placement="houlsby")):
        rule = next(rule for rule, _ in value.phases(model)[0].rules if "norm" in rule)
        assert {"blocks/00/attention/norm/scale", "blocks/01/mlp/after/scale"} <= set(rule.split("|"))
    with pytest.raises(ValueError, match=r"BitFit\(\) requires biases; Llama has none"):
        tuning.BitFit().phases(model)
