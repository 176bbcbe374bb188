"""BART beside its parity with `transformers`: forced words, rotated words, depths of both stacks, wrong settings."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx import tuning
from tlx.models import Bart, Pooled, Vocabulary, beam_search, build, forward, generate, initialise
from tlx.models.bart import rotate_right
from tlx.models.decoding import first_pass, next_pass, with_forced
from tlx.models.encoder_decoder import shift_right
from tlx.partition import partition
from tlx.trees import flatten, map_named, subtree
from tlx.types import Variables

pytestmark = pytest.mark.usefixtures("quick")
SIZES = {"vocabulary": 23, "width": 12, "depth": 2, "heads": 3, "mlp": 9, "positions": 9}
SIZES |= {"decoder_depth": 1, "decoder_heads": 2, "decoder_mlp": 7}
CONFIG, MANY = Bart(**SIZES), Bart(family="mbart", start=4, **SIZES)
MASK = np.array([[1] * 6, [1] * 4 + [0] * 2])
IDS = np.where(MASK == 1, np.random.default_rng(1).integers(3, 23, MASK.shape), 1)
INPUTS = {"input_ids": IDS, "attention_mask": MASK}


def made(config, head=Vocabulary()):
    """A model, with parameters and the bias of the words off their initial values."""
    model, rng = build(config, head), np.random.default_rng(0)
    variables = jax.jit(lambda: initialise(model, jax.random.key(0)))()
    return model, jax.tree.map(lambda leaf: leaf + 0.2 * rng.normal(size=leaf.shape).astype("f"), variables)


def logits_of(model, variables, inputs):
    return jax.jit(lambda variables: forward(model, variables, inputs)[0]["logits"])(variables)


@pytest.mark.parametrize("config", [CONFIG, MANY], ids=["bart", "mbart"])
def test_a_step_with_a_cache_equals_the_whole_decoder(config):
    model, variables = made(config)
    words = np.array([[config.start, 5, 9, 2], [config.start, 7, 7, 20]])

    @jax.jit
    def both(variables):
        whole = forward(model, variables, INPUTS | {"decoder_input_ids": words})[0]["logits"]
        logits, state = first_pass(model, variables, IDS, MASK, 4, "float32")
        steps = [logits]
        for place in range(1, 4):
            logits, state = next_pass(model, variables, words[:, place], state, "float32")
            steps.append(logits)
        return whole, jnp.stack(steps, axis=1)

    whole, steps = both(variables)
    np.testing.assert_allclose(steps, whole, atol=1e-5)


def test_the_forced_words_are_written_and_the_others_are_free():
    model, variables = made(replace(CONFIG, forced_first=21, forced_last=20))
    for key in (jax.random.key(1), None):
        tokens = generate(model, variables, INPUTS, longest=4, key=key).tokens
        assert tokens[:, 0].tolist() == [21, 21] and tokens[:, 3].tolist() == [20, 20]
    # The words between them are the likeliest ones after the forced word.
    text = np.concatenate([np.full((2, 1), 2), tokens[:, :3]], axis=1)
    best = logits_of(model, variables, INPUTS | {"decoder_input_ids": text}).argmax(-1)
    np.testing.assert_array_equal(best[:, 1:3], tokens[:, 1:3])
    # The only place is the last one, too.
    assert with_forced(jnp.eye(22)[3:5], (21, 20), jnp.int32(0), 1).argmax(-1).tolist() == [20, 20]


def test_a_forced_word_has_the_probability_one_for_every_beam():
    logs = jax.nn.log_softmax(np.random.default_rng(0).normal(size=(4, 5)).astype("f"))
    certain = [-np.inf, -np.inf, 0.0, -np.inf, -np.inf]
    for number in range(4):
        actual = with_forced(logs, (2, None), number, 4)
        np.testing.assert_array_equal(actual, [certain] * 4 if number == 0 else logs)
        actual = with_forced(logs, (None, 2), number, 4)
        np.testing.assert_array_equal(actual, [certain] * 4 if number == 3 else logs)


def test_without_words_for_the_decoder_bart_shifts_the_text_and_mbart_rotates_it():
    for config, words in ((CONFIG, shift_right(IDS, 2, 1)), (MANY, rotate_right(IDS, 1))):
        model, variables = made(config)
        alone, both = (logits_of(model, variables, INPUTS | more) for more in ({}, {"decoder_input_ids": words}))
        np.testing.assert_array_equal(alone, both)
    text = jnp.array([[5, 6, 2, 9], [7, 2, 8, 1], [7, 2, -100, -100]])
    np.testing.assert_array_equal(rotate_right(text, 1), [[9, 5, 6, 2], [8, 7, 2, 8], [2, 7, 2, 1]])


def test_a_head_on_the_text_reads_the_decoder_at_the_last_end():
    model, variables = made(CONFIG, Pooled(3))
    ids = IDS.copy()
    ids[0, [2, 4]] = ids[1, 3] = CONFIG.end
    taps, _ = forward(model, variables, INPUTS | {"input_ids": ids})
    np.testing.assert_array_equal(taps["pooled"], taps["hidden"][[0, 1], [4, 3]])


def test_the_bias_of_the_words_is_no_parameter():
    """As in `transformers`, no training moves it."""
    model, variables = made(CONFIG)
    assert "head" not in model.params and flatten(model.stats).keys() == {"head/bias"}
    taps, stats = forward(model, variables, INPUTS, key=jax.random.key(0), train=True)
    np.testing.assert_array_equal(stats["head"]["bias"], variables.stats["head"]["bias"])
    words = subtree(variables.params, "stem/words")["embedding"]
    np.testing.assert_allclose(taps["logits"], taps["hidden"] @ words.T + stats["head"]["bias"], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="requires batch norm"):
        tuning.AdaBN().phases(model)


@pytest.mark.parametrize("config", [CONFIG, MANY], ids=["bart", "mbart"])
def test_the_blocks_of_both_stacks_unfreeze_together_from_their_tops(config):
    model = build(config, 3)
    stages = [stage.name for stage in model.stages if subtree(model.params, stage.name)]
    parts = [partition(model.params, phase.rules) for phase in tuning.Gradual(factor=2.0).phases(model)]
    learning = [
        {stage for stage in stages if all(part[path] for path in part if path.startswith(f"{stage}/"))}
        for part in parts
    ]
    added = [after - before for before, after in zip([set(), *learning], learning, strict=False)]
    norms = [{"norm", "encoder_norm"}] if config is MANY else []
    tops = [{"encoder/01", "decoder/00"}, {"encoder/00"}, {"stem", "decoder_stem"}]
    assert [stages for stages in added if stages] == [{"head"}, *norms, *tops]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"family": "marian"}, "mbart"),
        ({"start": None}, "start=2"),
        ({"decoder_heads": 5}, "width 12 is not a multiple of decoder_heads 5"),
        ({"activation": "gelu_nw"}, "gelu_new"),
        ({"forced_first": 23}, "forced_first contains 23, but the model has 23 words"),
        ({"mlp_dropout": 1.5}, "mlp_dropout=1.5"),
    ],
)
def test_settings_that_cannot_work_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **fields)


def test_wrong_inputs_and_a_language_that_is_not_chosen_are_refused():
    model, variables = made(CONFIG)
    for change, message in (
        ({"decoder_input_ids": np.full((2, 5), 23)}, "decoder_input_ids contains 23"),
        ({"decoder_input_ids": np.ones((2, 10), int)}, "10 tokens, but the model has positions for 9"),
        ({"input_ids": np.ones((2, 10), int), "attention_mask": None}, "10 tokens, but the model has positions for 9"),
        ({"position_ids": IDS}, "position_ids"),
    ):
        with pytest.raises(ValueError, match=message):
            forward(model, variables, INPUTS | change)
    with pytest.raises(ValueError, match="longest is 10, but the model has positions for 9"):
        generate(model, variables, INPUTS, longest=10)
    with pytest.raises(ValueError, match=r"start=None.*decoder_start_token_id"):
        beam_search(build(replace(MANY, start=None), Vocabulary()), variables, INPUTS, longest=2, beams=2)


def test_positions_resize_without_the_rows_that_no_token_reads():
    rows = np.arange(11.0)[:, None] * np.ones(12)
    resized = CONFIG.resize_positions("decoder_stem/positions/embedding", rows, 4)
    assert resized.shape == (6, 12) and CONFIG.resized(4).positions == 4
    np.testing.assert_array_equal(resized[:2], rows[:2])
    assert CONFIG.resize_positions("stem/words/embedding", rows, 4) is None


@pytest.mark.slow
@pytest.mark.parametrize("config", [CONFIG, MANY], ids=["bart", "mbart"])
def test_every_adapter_reaches_both_stacks_and_both_attentions(config):
    """All are inserted at once, so that one program shows that each of their parameters has an effect."""
    model, variables = made(config)
    params = variables.params
    hows = [
        tuning.Lora(rank=2, on=r".*/attention/(query|output)|.*/mlp/up"),
        tuning.Ia3(),
        tuning.Adapter(width=3, placement="houlsby"),
        tuning.Adapter(width=3),
        tuning.Prefix(tokens=2),
        tuning.Prompt(tokens=2),
    ]
    trained: set[str] = set()
    for number, how in enumerate(hows):
        params = how.insert(model, params, jax.random.key(number))
        (phase,) = how.phases(model)
        part = partition(how.insert(model, variables.params, jax.random.key(0)), phase.rules)
        trained |= {path for path, learn in part.items() if learn is not None}
    rng = np.random.default_rng(2)

    def moved(path, leaf):
        # A product with zeros has no gradient.
        fixed = "lora" in path and path.endswith("scale")
        return leaf if fixed else leaf + 0.1 * rng.normal(size=leaf.shape).astype("f")

    def loss(params):
        return (forward(model, Variables(params, variables.stats), INPUTS)[0]["logits"] ** 2).sum()

    gradient = flatten(jax.jit(jax.grad(loss))(map_named(moved, params)))
    assert [path for path in sorted(trained) if float(abs(gradient[path]).max()) == 0] == []
    blocks = ["encoder/00", "encoder/01", "decoder/00"]
    wanted = {f"{block}/{place}adapter/up/bias" for block in blocks for place in ("attention/", "mlp/", "")}
    wanted |= {f"{block}/{name}/scale" for block in blocks for name in ("attention/norm", "mlp/norm")}
    wanted |= {f"{block}/attention/query/lora/b" for block in blocks} | {
        f"{block}/mlp/down/ia3/input" for block in blocks
    }
    wanted |= {"decoder/00/cross/attention/value/ia3/output", "decoder/00/cross/attention/norm/bias"}
    wanted |= {f"{block}/attention/prefix/key" for block in blocks} | {"stem/prompt/tokens"}
    assert wanted <= trained
