"""T5 beside its parity with `transformers`: inputs, depths of both stacks, shared tables, and decoding with a cache."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx import tuning
from tlx.layers import empty_cache
from tlx.models import T5, PerToken, Pooled, Vocabulary, build, forward, initialise
from tlx.models.encoder_decoder import shift_right
from tlx.models.repeated import repeated_runs
from tlx.models.t5_blocks import memory_keys
from tlx.partition import frozen_stages, partition
from tlx.trees import flatten, map_named, subtree
from tlx.types import Variables

pytestmark = pytest.mark.usefixtures("quick")
CONFIG = T5(vocabulary=23, width=12, depth=3, decoder_depth=2, heads=2, size=4, mlp=9, buckets=6, furthest=5)


@pytest.fixture(scope="module")
def variables():
    """Parameters off their initial values, for the largest model."""
    rng = np.random.default_rng(0)
    params = initialise(build(CONFIG, Vocabulary()), jax.random.key(0)).params
    return Variables(map_named(lambda path, leaf: leaf + 0.2 * rng.normal(size=leaf.shape).astype("f"), params), {})


def texts():
    rng = np.random.default_rng(1)
    mask = np.array([[1] * 6, [0] * 2 + [1] * 4])
    return {
        "input_ids": rng.integers(2, 23, mask.shape),
        "attention_mask": mask,
        "decoder_input_ids": rng.integers(2, 23, (2, 5)),
        "decoder_attention_mask": np.array([[1] * 5, [0] + [1] * 4]),
    }


def test_a_step_with_a_cache_equals_the_whole_decoder(variables):
    model, inputs = build(CONFIG, Vocabulary()), texts()
    blocks = [f"decoder/{n:02d}" for n in range(CONFIG.decoder_depth)]

    @jax.jit
    def both(inputs):
        whole, _ = forward(model, variables, inputs)
        memory = whole["memory"]
        keys = {name: memory_keys(CONFIG, subtree(variables.params, name), memory) for name in blocks}
        return whole["logits"], {"memory_mask": inputs["attention_mask"]}, keys

    @jax.jit
    def step(carry, caches, keys):
        carry = forward(model, variables, carry, start="decoder_stem", stop=blocks[0])[0]["carry"]
        after = {}
        for name, following in zip(blocks, [*blocks[1:], "norm"], strict=True):
            entries = {"cache": caches[name], "memory_keys": keys[name]}
            carry = forward(model, variables, carry | entries, start=name, stop=following)[0]["carry"]
            after[name] = carry.pop("cache")
        return forward(model, variables, carry, start="norm")[0]["logits"], after

    wanted, memory, keys = both(inputs)
    caches = {name: empty_cache(2, 8, CONFIG.heads, CONFIG.size) for name in blocks}
    mask = np.pad(inputs["decoder_attention_mask"], ((0, 0), (0, 3)))
    # Three tokens at first, then one at a time.
    for begin, end in ((0, 3), (3, 4), (4, 5)):
        words = {"decoder_input_ids": inputs["decoder_input_ids"][:, begin:end], "decoder_attention_mask": mask}
        logits, caches = step(memory | words, caches, keys)
        real = inputs["decoder_attention_mask"][:, begin:end] > 0
        np.testing.assert_allclose(logits[real], wanted[:, begin:end][real], atol=1e-5)


def test_the_blocks_of_both_stacks_unfreeze_together_from_their_tops():
    model = build(CONFIG, 3)
    stages = [stage.name for stage in model.stages if subtree(model.params, stage.name)]
    parts = [partition(model.params, phase.rules) for phase in tuning.Gradual(factor=2.0).phases(model)]
    learning = [
        {stage for stage in stages if all(part[path] for path in part if path.startswith(f"{stage}/"))}
        for part in parts
    ]
    added = [after - before for before, after in zip([set(), *learning], learning, strict=False)]
    assert added == [
        {"head"},
        {"norm", "encoder_norm"},
        {"encoder/02", "decoder/01"},
        {"encoder/01", "decoder/00"},
        {"encoder/00"},
        {"stem"},
    ]
    rates = {path.split("/mlp")[0].split("/scale")[0]: learn.lr for path, learn in parts[-1].items()}
    # The norms count with the last blocks.
    assert {rates[name] for name in ("norm", "encoder_norm", "encoder/02", "decoder/01")} == {0.5}
    assert rates["encoder/00"] == 0.125 and rates["stem/words/embedding"] == 0.0625


def test_one_table_of_distances_serves_all_blocks_of_a_stack(variables):
    """The gradients of the tables are compared in test_parity_t5.py."""
    tables = sorted(path for path in flatten(variables.params) if "relative" in path)
    assert tables == [f"{stack}/00/attention/relative/embedding" for stack in ("decoder", "encoder")]
    reads = {stage.name: stage.reads for stage in build(CONFIG, Vocabulary()).stages}
    assert reads["encoder/02"] == ("encoder/00/attention/relative",) and reads["encoder/00"] == ()
    assert reads["decoder/01"] == ("decoder/00/attention/relative",) and reads["decoder_stem"] == ("stem/words",)


@pytest.mark.slow
def test_blocks_in_a_loop_read_the_table_of_the_first_one(variables):
    model = build(replace(CONFIG, depth=3), Vocabulary())
    marks = {stage.name: None for stage in model.stages}
    runs = [
        [stage.name for stage in run] for run in repeated_runs(model, variables, model.stages, marks) if len(run) > 1
    ]
    assert runs == [["encoder/01", "encoder/02"]]

    def gradient(loop):
        def loss(params):
            return (forward(model, Variables(params, {}), texts(), loop=loop)[0]["logits"] ** 2).sum()

        return jax.jit(jax.grad(loss))(variables.params)

    alone, looped = (flatten(gradient(loop)) for loop in (None, {}))
    for path, leaf in alone.items():
        np.testing.assert_allclose(looped[path], leaf, atol=1e-5 * float(abs(leaf).max()), err_msg=path)


def test_a_trained_head_has_all_stages_below_it_frozen():
    model = build(CONFIG, 3)
    (phase,) = tuning.Probe().phases(model)
    names = [stage.name for stage in model.stages]
    reads = {stage.name: stage.reads for stage in model.stages}
    frozen = frozen_stages(names, partition(model.params, phase.rules), reads)
    # The pooling has no parameters and no noise.
    assert frozen == {*names} - {"pool", "head"}
    # The head computes with cached features alone.
    params = initialise(model, jax.random.key(0))
    logits = forward(model, params, {"pooled": np.ones((2, CONFIG.width), "f")}, start="head")[0]["logits"]
    assert logits.shape == (2, 3)


def test_without_words_for_the_decoder_it_reads_the_text_shifted_right(variables):
    model, inputs = build(CONFIG, Vocabulary()), texts()
    ids = inputs["input_ids"]
    text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    shifted = np.concatenate([np.full((2, 1), CONFIG.start), ids[:, :-1]], axis=1)
    taps = [forward(model, variables, text | more)[0] for more in ({}, {"decoder_input_ids": shifted})]
    np.testing.assert_array_equal(taps[0]["logits"], taps[1]["logits"])
    labels = jnp.array([[5, 6, -100], [7, -100, -100]])
    np.testing.assert_array_equal(shift_right(labels, 3, 0), [[3, 5, 6], [3, 7, 0]])


def test_a_head_on_the_text_reads_the_decoder_at_the_last_end():
    model, inputs = build(CONFIG, 3), {name: array for name, array in texts().items() if "decoder" not in name}
    variables = initialise(model, jax.random.key(0))
    inputs["input_ids"][0, [2, 4]] = CONFIG.end
    # A text without an end, of which the last token is read.
    inputs["input_ids"][1, 1] = CONFIG.end
    taps, _ = forward(model, variables, inputs)
    np.testing.assert_array_equal(taps["pooled"], taps["hidden"][[0, 1], [4, 5]])


def test_the_encoder_alone_has_a_head_on_every_token_and_no_other():
    alone = replace(CONFIG, encoder_only=True)
    names = [stage.name for stage in build(alone).stages]
    assert names == ["stem", "encoder/00", "encoder/01", "encoder/02", "encoder_norm"]
    assert [stage.name for stage in build(CONFIG, PerToken(3)).stages] == [*names, "head"]
    for head in (Pooled(3), Vocabulary()):
        with pytest.raises(ValueError, match="encoder_only"):
            build(alone, head)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"family": "umt5"}, "mt5"),
        ({"family": "mt5"}, "tied=False"),
        ({"activation": "gelu_nw"}, "gelu_new"),
        ({"buckets": 3}, "at least 4 buckets"),
        ({"buckets": 32, "furthest": 16}, "above half"),
    ],
)
def test_settings_that_cannot_work_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder_input_ids": np.full((2, 5), 23)}, "decoder_input_ids contains 23"),
        ({"decoder_attention_mask": np.ones((2, 4), int)}, "shape of decoder_input_ids"),
        ({"encoder_hidden_states": np.ones((2, 6, 12))}, "encoder_hidden_states"),
    ],
)
def test_inputs_of_the_decoder_are_checked(change, message, variables):
    with pytest.raises(ValueError, match=message):
        forward(build(CONFIG, Vocabulary()), variables, texts() | change)


def test_a_head_on_the_text_refuses_another_text_for_the_decoder():
    model = build(CONFIG, 3)
    with pytest.raises(ValueError, match="remove decoder_input_ids"):
        forward(model, initialise(model, jax.random.key(0)), texts())


@pytest.mark.slow
def test_every_adapter_reaches_both_stacks_and_both_attentions(variables):
    """All are inserted at once, so that one program shows that each of their parameters has an effect."""
    model, params = build(CONFIG, Vocabulary()), variables.params
    hows = [
        tuning.Lora(rank=2, on=r".*/attention/(query|output)|.*/mlp/up"),
        tuning.Ia3(),
        tuning.Adapter(width=3, placement="houlsby"),
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
        return (forward(model, Variables(params, {}), texts())[0]["logits"] ** 2).sum()

    gradient = flatten(jax.jit(jax.grad(loss))(map_named(moved, params)))
    assert [path for path in sorted(trained) if float(abs(gradient[path]).max()) == 0] == []
    blocks = [f"encoder/{n:02d}" for n in range(3)] + [f"decoder/{n:02d}" for n in range(2)]
    wanted = {f"{block}/{place}/adapter/up/bias" for block in blocks for place in ("attention", "mlp")}
    wanted |= {f"{block}/{name}/scale" for block in blocks for name in ("attention/norm", "mlp/norm")}
    wanted |= {f"{block}/attention/query/lora/b" for block in blocks} | {
        f"{block}/mlp/down/ia3/input" for block in blocks
    }
    wanted |= {f"{block}/cross/attention/value/ia3/output" for block in blocks[3:]}
    wanted |= {f"{block}/attention/prefix/key" for block in blocks} | {"stem/prompt/tokens"}
    assert wanted <= trained
