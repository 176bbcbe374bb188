"""The computation of tunings that insert parameters, and what they refuse."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from tlx import Data, Recipe, models, tasks, tuning
from tlx.layers import attention, bottleneck, dense, gelu_exact, layer_norm
from tlx.partition import partition
from tlx.training.prepare import prepare
from tlx.trees import flatten, nest, subtree
from tlx.types import Context, Variables

BERT = models.build(models.Bert(vocabulary=11, width=6, depth=2, heads=2, mlp=10, positions=9), 3)
CNN = models.build(models.Cnn(size=4, widths=(2, 2), dense=4), 3)
SMALL = {"widths": (6, 8), "depths": (1, 1), "kernels": (3, 3), "strides": (1, 2), "expansions": (1, 2)}
MOBILE = models.build(models.EfficientNet(size=8, stem=4, divisor=2, top=12, **SMALL), 3)
MLP = models.build(models.Mlp(inputs=(4,), widths=(3, 3), input="x"), 3)
LINEN = models.build(models.Linen(module=linen.Dense(3), shape=(4,), input="x"), 3)
KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(5, 7, 6)).astype(np.float32)


def params(how, model=BERT):
    variables = jax.jit(lambda key: models.initialise(model, key))(KEY)
    return how.insert(model, variables.params, jax.random.key(1))


def layer(**entries):
    """A dense layer with 6 inputs and 4 outputs, and its inserted parameters."""
    random = np.random.default_rng(1)
    return {"kernel": random.normal(size=(6, 4)).astype("f4"), "bias": random.normal(size=4).astype("f4")} | entries


def random_arrays(seed, **shapes):
    random = np.random.default_rng(seed)
    return {name: random.normal(size=shape).astype("f4") for name, shape in shapes.items()}


def test_lora_by_hand():
    lora = random_arrays(2, a=(6, 2), b=(2, 4)) | {"scale": np.float32(1.5)}
    value = layer(lora=lora)
    kernel = value["kernel"].astype(float) + 1.5 * lora["a"].astype(float) @ lora["b"]
    np.testing.assert_allclose(dense(value, X), X @ kernel + value["bias"], atol=2e-5)


def test_dora_by_hand():
    lora = random_arrays(2, a=(6, 2), b=(2, 4)) | {"scale": np.float32(1.5), "magnitude": np.arange(1, 5, dtype="f4")}
    value = layer(lora=lora)
    kernel = value["kernel"].astype(float) + 1.5 * lora["a"].astype(float) @ lora["b"]
    kernel *= lora["magnitude"] / np.linalg.norm(kernel, axis=0)
    np.testing.assert_allclose(dense(value, X), X @ kernel + value["bias"], atol=2e-5)


@pytest.mark.slow
def test_a_column_of_zeros_has_a_direction_too():
    plain = params(tuning.Full())
    kernel = plain["blocks"]["00"]["attention"]["query"]["kernel"].at[:, 2].set(0.0)
    plain["blocks"]["00"]["attention"]["query"]["kernel"] = kernel
    lora = tuning.Dora(rank=2).insert(BERT, plain, KEY)["blocks"]["00"]["attention"]["query"]
    np.testing.assert_allclose(dense(lora, X), X @ lora["kernel"] + lora["bias"], atol=1e-6)
    slope = jax.grad(lambda own: (dense(own, jnp.asarray(X)) ** 2).sum())(lora)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


def test_vera_by_hand():
    vera = random_arrays(3, a=(6, 3), b=(3, 4), inner=3, outer=4)
    value = layer(vera=vera)
    kernel = value["kernel"] + vera["a"] @ np.diag(vera["inner"]) @ vera["b"] @ np.diag(vera["outer"])
    np.testing.assert_allclose(dense(value, X), X @ kernel + value["bias"], atol=2e-5)


def test_ia3_by_hand():
    value = layer(ia3=random_arrays(4, input=6, output=4))
    expected = ((X * value["ia3"]["input"]) @ value["kernel"] + value["bias"]) * value["ia3"]["output"]
    np.testing.assert_allclose(dense(value, X), expected, atol=2e-5)


def test_an_adapter_by_hand():
    value = {"down": layer(), "up": random_arrays(5, kernel=(4, 6), bias=6)}
    inner = X @ value["down"]["kernel"] + value["down"]["bias"]
    from scipy.stats import norm

    expected = (inner * norm.cdf(inner)) @ value["up"]["kernel"] + value["up"]["bias"]
    np.testing.assert_allclose(bottleneck(value, X), expected, atol=2e-5)


@pytest.mark.parametrize(
    "model",
    [pytest.param(BERT, marks=pytest.mark.slow), pytest.param(CNN, marks=pytest.mark.slow), MLP],
    ids=["bert", "cnn", "mlp"],
)
def test_a_bottleneck_is_between_the_features_and_the_head(model):
    """Terms read the input of the head, and the bottleneck works above a feature cache."""
    inputs = {
        name: jnp.asarray(np.random.default_rng(0).normal(size=arguments.shape) if arguments.dtype == "float32"
                          else np.ones(arguments.shape), arguments.dtype)
        for name, arguments in models.example_inputs(model.config).items()
    }  # fmt: skip
    arguments, stats = params(tuning.Bottleneck(width=3), model), models.initialise(model, KEY).stats
    before, _ = models.forward(model, Variables(params(tuning.Full(), model), stats), inputs)
    at_first, _ = models.forward(model, Variables(arguments, stats), inputs)
    np.testing.assert_array_equal(before["logits"], at_first["logits"])
    leaves = {path: leaf + 0.1 if "/neck/" in path else leaf for path, leaf in flatten(arguments).items()}
    moved = Variables(nest(leaves), stats)
    taps, _ = models.forward(model, moved, inputs)
    neck = subtree(moved.params, "head/neck")
    if "pooled" in before:
        expected = before["pooled"] + bottleneck(neck, before["pooled"])
        np.testing.assert_allclose(taps["pooled"], expected, atol=1e-6)
        np.testing.assert_allclose(models.features(taps), expected, atol=1e-6)
    assert np.abs(models.features(taps) - models.features(before)).max() > 0.05
    below, _ = models.forward(model, moved, inputs, stop="head")
    second, _ = models.forward(model, moved, below["carry"], start="head")
    np.testing.assert_allclose(second["logits"], taps["logits"], atol=1e-6)


@pytest.mark.parametrize("placement", [pytest.param("houlsby", marks=pytest.mark.slow), "pfeiffer"])
def test_an_adapter_is_at_the_place_of_its_paper(placement):
    block = params(tuning.Adapter(width=3, placement=placement))["blocks"]["00"]
    block = nest({path: leaf + random_arrays(7, x=leaf.shape)["x"] for path, leaf in flatten(block).items()})
    x, mask, both = jnp.asarray(X), jnp.ones((5, 7)), {"heads": 2, "rate": 0.0, "context": Context(), "salt": 0}
    attended = attention(block["attention"], x, mask, **both)

    def norm(value, hidden):
        return layer_norm(value["norm"], hidden, BERT.config.epsilon)

    def feed(hidden):
        return dense(block["mlp"]["down"], gelu_exact(dense(block["mlp"]["up"], hidden)))

    if placement == "houlsby":
        # Figure 2 there: after the last projection of each of the two layers, before the existing skip connection.
        attended = attended + bottleneck(block["attention"]["adapter"], attended)
        hidden = norm(block["attention"], x + attended)
        fed = feed(hidden)
        expected = norm(block["mlp"], hidden + fed + bottleneck(block["mlp"]["adapter"], fed))
    else:
        # "pfeiffer" of AdapterHub: it reads the norm of the sum and is added to the sum, which is normalised again.
        hidden = norm(block["attention"], x + attended)
        total = hidden + feed(hidden)
        expected = norm(block["mlp"], total + bottleneck(block["adapter"], norm(block["mlp"], total)))
    np.testing.assert_allclose(models.bert.encode(BERT.config, block, x, mask, Context()), expected, atol=1e-5)


def test_the_dropout_of_lora_is_on_in_training_only_and_keeps_the_mean():
    lora = random_arrays(2, a=(6, 2), b=(2, 4)) | {"scale": jnp.float32(1.5), "dropout": jnp.float32(0.5)}
    value, x = layer(lora=lora), jnp.asarray(np.tile(X[:1], (2000, 1, 1)))
    unchanged = dense(value, x)
    noisy = dense(value, x, Context(KEY, True))
    assert np.abs(noisy - unchanged).max() > 0.1
    np.testing.assert_allclose(noisy.mean(0), unchanged[0], atol=0.6)
    np.testing.assert_array_equal(unchanged, dense(value, x, Context(KEY, False)))
    other = dense(value, x, Context(KEY, True), 1)
    assert np.abs(noisy - other).max() > 0.1


@pytest.mark.parametrize(("stabilised", "scale"), [(False, 6 / 4), (True, 6 / 2)])
def test_the_scale_of_lora(stabilised, scale):
    how = tuning.Lora(rank=4, alpha=6.0, rank_stabilised=stabilised)
    actual = flatten(params(how))
    assert actual["blocks/00/attention/query/lora/scale"] == scale
    assert actual["blocks/00/attention/query/lora/a"].shape == (6, 4)
    assert not np.any(actual["blocks/01/attention/value/lora/b"])
    assert {path.split("/")[3] for path in actual if "/lora/" in path} == {"query", "value"}


def test_b_may_have_a_larger_learning_rate_than_a():
    how = tuning.Lora(rank=2, plus=16.0, weight_decay=0.1)
    claimed = partition(params(how), how.phases(BERT)[0].rules)
    a, b = (claimed[f"blocks/00/attention/query/lora/{name}"] for name in ("a", "b"))
    assert (a.lr, b.lr, a.weight_decay) == (1.0, 16.0, 0.1)
    assert claimed["blocks/00/attention/query/lora/scale"] is None
    assert claimed["blocks/00/attention/query/kernel"] is None
    assert claimed["head/output/kernel"] is not None


LANGUAGE = {"vocabulary": 11, "width": 6, "depth": 2, "heads": 2, "mlp": 10}


@pytest.mark.parametrize(
    ("config", "how"),
    [
        (models.T5(buckets=4, **LANGUAGE), tuning.Lora(rank=2)),
        (models.T5(buckets=4, tied=False, **LANGUAGE), tuning.Ia3()),
        (models.Bart(positions=9, decoder_heads=2, decoder_mlp=5, **LANGUAGE), tuning.Adapter(width=3)),
        (models.Bert(positions=9, **LANGUAGE), tuning.Lora(rank=2)),
        (models.Bert(positions=9, **LANGUAGE), tuning.Prompt(tokens=2)),
    ],
)
def test_a_head_over_the_words_is_frozen_beside_what_a_tuning_inserts(config, how):
    model = models.build(config, models.Vocabulary())
    (phase,) = how.phases(model)
    trainable = {path for path, learn in partition(params(how, model), phase.rules).items() if learn is not None}
    assert trainable
    assert all(any(name in path for name in ("lora", "ia3", "prompt", "adapter")) for path in trainable)


@pytest.mark.parametrize("how", [tuning.Lora(rank=2, on="head/dense", dropout=0.5), tuning.Vera(on="head/dense")])
def test_fixed_parameters_stay_fixed_in_a_trainable_head(how):
    model = models.build(models.Bert(family="electra", vocabulary=11, width=6, depth=1, heads=2, mlp=8, positions=9), 3)
    actual = params(how, model)
    claimed = partition(actual, how.phases(model)[0].rules)
    learning = {path for path, learn in claimed.items() if learn is not None}
    inserted = {path for path in claimed if "lora" in path or "vera" in path}
    value = {"lora": {"a", "b"}, "vera": {"inner", "outer"}}
    assert {path.split("/")[-1] for path in learning & inserted} == value["lora" if "lora" in min(inserted) else "vera"]
    assert learning - inserted == {path for path in flatten(model.params) if path.startswith("head/")}


@pytest.mark.slow
def test_a_dropout_rate_is_not_a_parameter():
    lora = random_arrays(2, a=(6, 2), b=(2, 4)) | {"scale": jnp.float32(1.5), "dropout": jnp.float32(0.5)}
    slope = jax.grad(lambda own: (dense(own, jnp.asarray(X), Context(KEY, True)) ** 2).sum())(layer(lora=lora))
    assert slope["lora"]["dropout"] == 0
    assert slope["lora"]["scale"] != 0


def test_vera_initialises_its_matrices_like_kaiming():
    actual = subtree(params(tuning.Vera(rank=64)), "blocks/00/attention/query/vera")
    for name, fan in (("a", 6), ("b", 64)):
        assert 0.9 * (6 / fan) ** 0.5 < np.abs(actual[name]).max() <= (6 / fan) ** 0.5
    assert actual["inner"].tolist() == [np.float32(0.1)] * 64


def test_vera_shares_its_matrices():
    actual = params(tuning.Vera(rank=3, on=r"blocks/\d+/(attention/query|mlp/up)"))
    query, up = subtree(actual, "blocks/00/attention/query/vera"), subtree(actual, "blocks/01/mlp/up/vera")
    np.testing.assert_array_equal(query["b"], up["b"][:, :6])
    np.testing.assert_array_equal(query["a"], up["a"])


def test_the_initial_value_at_a_place_depends_on_the_place_only():
    few = flatten(params(tuning.Lora(rank=2, on="blocks/01/attention/query")))
    many = flatten(params(tuning.Lora(rank=2)))
    for path in few:
        np.testing.assert_array_equal(few[path], many[path])


ATTENTION = r".*/attention/(query|value)"
REFUSED = [
    (lambda: tuning.Lora(rank=0), "rank is 0 ... 1 or more"),
    (lambda: tuning.Lora(dropout=1.0), "dropout is 1.0 ... share in [0, 1)"),
    (lambda: tuning.Lora(plus=0.0), "plus is 0.0 ... ratio ... rates"),
    (lambda: params(tuning.Lora(rank=7)),
     "rank 7 ... matrix 'blocks/00/attention/query/kernel', 6x6 ... 6"),
    (lambda: params(tuning.Lora(on=r"block/\d+/attention/query")),
     "Lora(on='block/\\\\d+/attention/query') matches no layer; close: "
     "'blocks/\\\\d+/attention/query'"),
    (lambda: params(tuning.Lora(on="query")), "Lora(on='query') matches no layer; ... whole path: write '.*/query' ... "
     "'blocks/00/attention/query'"),
    (lambda: params(tuning.Ia3(inputs="mlp/dwn")), "Ia3(inputs='mlp/dwn') matches no layer"),
    (lambda: params(tuning.Lora(on="stem/words")),
     "Lora(on='stem/words') matches 'stem/words' ... dense layer or a convolution: it has no kernel"),
    (lambda: params(tuning.Vera(on="stem"), CNN),
     "Vera(on='stem') matches 'stem' ... dense layer: its kernel is (3, 3, 1, 2)"),
    (lambda: params(tuning.Ia3(on=None, inputs="blocks/.*/middle"), MOBILE), "Ia3(inputs=...) matches "
     "'blocks/00/middle', a convolution with groups of channels; scale its outputs"),
    (lambda: params(tuning.Lora(rank=10, on="blocks/.*/middle"), MOBILE), "rank 10 is too large ... 9x4"),
    (lambda: params(tuning.Lora(on="("), CNN), "rule '(' is not a regular expression: missing ), unterminated "
     "subpattern at position 0"),
    (lambda: params(tuning.Lora(), LINEN),
     "Lora adds ... bridged module (Linen) does not read; use Rules(...)"),
    (lambda: tuning.Ia3(on=None, inputs=None), "Ia3(on=None, inputs=None) scales ... one"),
    (lambda: tuning.Vera(rank=0), "rank is 0 ... 1 or more"),
    (lambda: tuning.Vera(start=0.0),
     "start is 0.0"),
    (lambda: tuning.Adapter(width=0), "width is 0 ... 1 or more"),
    (lambda: tuning.Adapter(placement="pfeifer"), "placement is 'pfeifer' ... close: 'pfeiffer'"),
    (lambda: params(tuning.Adapter(), CNN), "Adapter ... transformer blocks ... Cnn has none"),
    (lambda: params(tuning.Prefix(), MLP), "Prefix ... transformer blocks ... Mlp has none"),
    (lambda: tuning.Prefix(tokens=0), "tokens is 0 ... 1 or more"),
    (lambda: tuning.Prompt(tokens=0), "tokens is 0 ... 1 or more"),
    (lambda: params(tuning.Prompt(), CNN), "Prompt ... model ... tokens; Cnn ... tokens"),
    (lambda: tuning.NormTuning().phases(MLP), "NormTuning() ... norm ... perhaps a bias); Mlp"),
    (lambda: tuning.BitFit().phases(LINEN),
     "BitFit() ... stage below the head ... this model ... ['module']; use Rules(...)"),
    (lambda: tuning.Lora(rank=2).insert(BERT, params(tuning.Lora(rank=2)), KEY),
     "Lora adds 'blocks/00/attention/query/lora/a' ... model already ... once"),
    (lambda: tuning.Lora(alpha=0.0), "alpha is 0.0"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=range(len(REFUSED)))
def test_invalid_settings_are_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    for part in message.split(" ... "):
        assert part in str(error.value)


@pytest.mark.slow
def test_a_text_too_long_for_its_positions_is_refused_with_inserted_tokens():
    how, ids = tuning.Prompt(tokens=3), np.ones((1, 7), np.int32)
    variables = models.initialise(BERT, KEY)
    models.forward(BERT, variables, {"input_ids": ids})
    with pytest.raises(ValueError) as error:
        models.forward(BERT, variables._replace(params=params(how)), {"input_ids": ids})
    assert "10 tokens, but the model has positions for 9" in str(error.value)


@pytest.mark.parametrize(
    ("how", "count"), [(tuning.Full(), 0), (tuning.Prompt(tokens=3), 3), (tuning.Prefix(tokens=2), 2)]
)
def test_a_text_that_is_too_long_is_refused_before_training(how, count):
    recipe = Recipe(
        data=Data(target="sentiment/movies", tokens=9 - count),
        task=tasks.Classification(classes=2),
        model=BERT.config,
        tuning=how,
    )
    prepare(recipe)
    with pytest.raises(ValueError) as error:
        prepare(dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, tokens=10 - count)))
    assert "10 tokens, but the model has positions for 9" in str(error.value)
