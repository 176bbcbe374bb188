"""Properties of every architecture, and of single ones beside their parity with `transformers`."""

import subprocess
import sys
import zlib
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from tlx.models import (
    T5,
    Albert,
    AlexNet,
    Bart,
    Bert,
    BiT,
    Cnn,
    ConvNeXt,
    DebertaV2,
    DenseNet,
    EfficientNet,
    Gpt2,
    InceptionV3,
    Linen,
    Llama,
    Mlp,
    MobileNetV2,
    MobileNetV3,
    ModernBert,
    MPNet,
    Nnx,
    ResNet,
    Swin,
    Vgg,
    Vit,
    albert,
    architectures,
    build,
    forward,
    initialise,
)
from tlx.trees import flatten, map_named, subtree
from tlx.types import Context, Model, Param, Stage, Variables

pytestmark = pytest.mark.usefixtures("quick")
BATCH, TOKENS, CLASSES = 8, 7, 3
# Six whole patches of side 4, so a ViT has as many tokens as a sentence, and the two share compiled operations.
SHAPE = (9, 13, 2)
# Networks that need larger images.
SIDES = {"alexnet": (63, 64), "inception": (75, 76)}


class Net(nn.Module):
    """A user-defined module."""

    rate: float = 0.5

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(5)(x.reshape(len(x), -1))
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(CLASSES)(nn.Dropout(self.rate, deterministic=not train)(x))


class OtherNet(nnx.Module):
    """The same module in NNX, with layers in a list."""

    def __init__(self, rngs: nnx.Rngs, rate: float = 0.5):
        flat = SHAPE[0] * SHAPE[1] * SHAPE[2]
        self.layers = nnx.List([nnx.Linear(flat, 5, rngs=rngs), nnx.BatchNorm(5, rngs=rngs)])
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.out = nnx.Linear(5, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = x.reshape(len(x), -1)
        for layer in self.layers:
            x = layer(x)
        return self.out(self.dropout(nnx.relu(x)))


TEXT: dict[str, Any] = {"vocabulary": 23, "width": 15, "depth": 3, "heads": 3, "mlp": 13, "positions": 17, "types": 3}
WORDS = {field: value for field, value in TEXT.items() if field != "types"}
DISTANCES: dict[str, Any] = {"relative": True, "terms": ("c2p", "p2c")}
# Rotary positions need heads of an even size.
EVEN: dict[str, Any] = WORDS | {"width": 12, "depth": 2, "mlp": 7}
IMAGE: dict[str, Any] = {"size": SHAPE[:2], "patch": 4, "channels": 2, "width": 15, "depth": 3, "heads": 3, "mlp": 13}
# ResNet-D, whose stem has several layers.
DEEP: dict[str, Any] = {"deep_stem": True, "average_shortcut": True}
GROUPS: dict[str, Any] = {"size": SHAPE[:2], "patch": 2, "channels": 2, "stochastic_depth": 0.5}
DROPOUT: dict[str, Any] = {"dropout": 0.2, "attention_dropout": 0.2}
NOISE = DROPOUT | {"stochastic_depth": 0.5}
SCALED: dict[str, Any] = {"stem": 4, "divisor": 2, "top": 12, "widths": (6, 8), "depths": (1, 1), "kernels": (3, 5)}
SCALED |= {"strides": (1, 2), "expansions": (1, 2)}
MOBILE: dict[str, Any] = {"stem": 4, "divisor": 2, "top": 12, "widths": (4, 6), "strides": (1, 2)}

CONFIGS: dict[str, Any] = {
    "bert": Bert(**TEXT),
    "roberta": Bert(family="roberta", pad=1, **TEXT),
    "distilbert": Bert(family="distilbert", **(TEXT | {"types": 0})),
    "electra": Bert(family="electra", embedding=9, **TEXT),
    "mpnet": MPNet(**WORDS),
    "albert": Albert(embedding=9, groups=2, **TEXT, **DROPOUT),
    "modernbert": ModernBert(window=4, pad=1, mlp_dropout=0.2, head_dropout=0.2, **EVEN, **DROPOUT),
    "deberta": DebertaV2(kernel=3, buckets=4, **DISTANCES, **TEXT, **DROPOUT),
    "t5": T5(vocabulary=23, width=15, depth=3, decoder_depth=2, heads=3, size=4, mlp=13, head_dropout=0.2),
    "bart": Bart(decoder_depth=1, decoder_heads=5, decoder_mlp=7, **(WORDS | {"depth": 2}), **DROPOUT),
    "gpt2": Gpt2(pad=1, residual_dropout=0.2, **(WORDS | {"depth": 2}), **DROPOUT),
    "llama": Llama(
        pad=1,
        key_heads=1,
        head_size=6,
        head_norm=True,
        shifted=True,
        embeddings_scaled=True,
        after_norms=True,
        window=3,
        local=(1,),
        local_base=9.0,
        attention_cap=5.0,
        attention_dropout=0.2,
        **(WORDS | {"depth": 2}),
    ),
    "vit": Vit(**IMAGE, **NOISE),
    "deit": Vit(family="deit", distilled=True, **IMAGE, **NOISE),
    "dinov2": Vit(family="dinov2", layer_scale=0.1, gated=True, **IMAGE, **NOISE),
    "mlp": Mlp(inputs=SHAPE, widths=(7, 5, 6), dropout=0.2),
    "cnn": Cnn(size=9, channels=2, widths=(3, 5), dense=7),
    "cnn-average": Cnn(size=9, channels=2, widths=(3, 5), dense=None),
    "resnet": ResNet(size=SHAPE[:2], channels=2, stem=4, widths=(8, 12), depths=(1, 2), stochastic_depth=0.5, **DEEP),
    "bit": BiT(size=SHAPE[:2], channels=2, stem=8, widths=(8,), depths=(2,), groups=4, stochastic_depth=0.5),
    "convnext": ConvNeXt(layer_scale=0.5, response_norm=True, **GROUPS, widths=(6,), depths=(2,)),
    "swin": Swin(family="swinv2", window=2, width=6, heads=(3,), depths=(2,), **GROUPS, **DROPOUT),
    "vgg": Vgg(size=SHAPE[:2], channels=2, widths=(4, 5), depths=(1, 2), normed=True, grid=2, hidden=(7,)),
    "alexnet": AlexNet(size=SIDES["alexnet"], channels=2, widths=(4, 3, 5, 3, 4), grid=2, hidden=(7, 6)),
    "densenet": DenseNet(size=SHAPE[:2], channels=2, stem=4, growth=3, bottleneck=2, depths=(1, 1), dropout=0.3),
    "inception": InceptionV3(size=SIDES["inception"], channels=2, unit=1),
    "efficientnet": EfficientNet(size=SHAPE[:2], channels=2, stochastic_depth=0.6, **SCALED),
    "mobilenet-v2": MobileNetV2(size=SHAPE[:2], channels=2, **(MOBILE | {"depths": (2, 1)})),
    "mobilenet-v3": MobileNetV3(
        size=SHAPE[:2],
        channels=2,
        kernels=(3, 5),
        inner=(4, 8),
        squeezed=(True, False),
        hard=(False, True),
        hidden=10,
        **MOBILE,
    ),
    "linen": Linen(module=Net(), shape=SHAPE),
    "nnx": Nnx(make=OtherNet, shape=SHAPE),
}
# Inception has 94 convolutions, too many to compile one by one; test_parity_images.py compares them as one program.
LARGE = ("inception",)
DECODERS = ("gpt2", "llama")
# Families whose programs take longest to compile; the parity tests compare all of them in the quick tests too.
LONG = (
    "albert", "bart", "bit", "convnext", "deberta", "deit", "densenet", "efficientnet", "electra", "llama",
    "mobilenet-v2", "mobilenet-v3", "modernbert", "resnet", "swin", "t5",
)  # fmt: skip


def cases(*without: str) -> Any:
    """Return the families as cases; those of `LONG` are slow tests."""
    names = [name for name in CONFIGS if name not in (*without, *LARGE)]
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in names]
    )


EVERY, OURS = cases(), cases("linen", "nnx")
FAMILY = pytest.mark.parametrize("name", [name for name in CONFIGS if "input_ids" in CONFIGS[name].input_fields()])


class Made(NamedTuple):
    model: Model
    variables: Variables
    inputs: dict[str, np.ndarray]


@cache
def made(name: str) -> Made:
    """Return the model with a head, every parameter off its initial value, and a batch for it."""
    config, rng = CONFIGS[name], np.random.default_rng(0)
    model = build(config, CLASSES)

    def moved(path: str, leaf: jax.Array) -> jax.Array:
        noise = 0.2 * rng.normal(size=leaf.shape).astype(np.float32)
        return leaf + (abs(noise) if "var" in path else noise)

    fresh = initialise(model, jax.random.key(0))
    variables = Variables(map_named(moved, fresh.params), map_named(moved, fresh.stats))
    if "input_ids" in config.input_fields():
        mask = np.ones((BATCH, TOKENS), int)
        mask[1::2, 4:] = 0
        kinds = rng.integers(0, max(getattr(config, "types", 0), 1), mask.shape)
        ids = np.where(mask == 1, rng.integers(2, 23, mask.shape), config.pad)
        return Made(model, variables, {"input_ids": ids, "attention_mask": mask, "token_type_ids": kinds})
    shape = (9, 9, 2) if isinstance(config, Cnn) else (*SIDES[name], 2) if name in SIDES else SHAPE
    return Made(model, variables, {"image": rng.normal(size=(BATCH, *shape)).astype(np.float32)})


def equal(a: Any, b: Any) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def test_the_table_has_every_architecture():
    assert {type(config) for config in CONFIGS.values()} == set(architectures())


def test_importing_the_models_does_not_import_flax():
    probe = "import sys, tlx.models; sys.exit('flax' in sys.modules)"
    subprocess.run([sys.executable, "-c", probe], check=True)


@EVERY
def test_a_chain_in_two_parts_equals_the_whole_chain(name):
    model, variables, inputs = made(name)
    key = jax.random.key(1)
    taps, stats = forward(model, variables, inputs, key=key, train=True)
    for stage in model.stages[1:]:
        before, half = forward(model, variables, inputs, key=key, train=True, stop=stage.name)
        after, rest = forward(
            model, Variables(variables.params, half), before["carry"], key=key, train=True, start=stage.name
        )
        assert equal(after["logits"], taps["logits"])
        assert equal(rest, stats)
        assert stage.name not in before
        assert stage.name in after


@EVERY
def test_every_stage_has_a_tap(name):
    model, variables, inputs = made(name)
    taps, _ = forward(model, variables, inputs)
    stages = {stage.name for stage in model.stages}
    named = {f"{stage.name}/{name}" for stage in model.stages for name in (stage.output, *stage.others)}
    last = {name for stage in model.stages for name in stage.others} | {"hidden", "pooled", "logits", "mask", "carry"}
    assert stages | named <= taps.keys() <= stages | named | last
    assert all(equal(taps[stage.name], taps[f"{stage.name}/{stage.output}"]) for stage in model.stages)
    assert taps["logits"].shape == (BATCH, CLASSES)
    assert taps["logits"].dtype == jnp.float32
    assert equal(taps[model.stages[-1].name], taps["logits"])


@pytest.mark.parametrize("outputs", [None, CLASSES])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_is_fully_declared(name, outputs):
    model = build(CONFIGS[name], outputs)
    declared = flatten(model.params) | flatten(model.stats)
    for param in declared.values():
        assert len(param.axes) == len(param.shape)
    shapes = jax.eval_shape(lambda key: initialise(model, key), jax.random.key(0))
    fresh = flatten(shapes.params) | flatten(shapes.stats)
    assert {path: (leaf.shape, leaf.dtype) for path, leaf in fresh.items()} == {
        path: (param.shape, jnp.float32) for path, param in declared.items()
    }
    stages = {stage.name for stage in model.stages}
    assert all(any(path.startswith(f"{stage}/") for stage in stages) for path in declared)


@EVERY
def test_the_initial_value_of_a_parameter_does_not_depend_on_other_parameters(name):
    model = build(CONFIGS[name], CLASSES)
    first = initialise(model, jax.random.key(0))
    added = {"aaa": Param((2,), (None,), jax.random.normal)}
    second = initialise(model._replace(params=model.params | added), jax.random.key(0))
    assert equal({k: v for k, v in second.params.items() if k != "aaa"}, first.params)
    other = flatten(initialise(model, jax.random.key(1)).params)
    kernels = {path: leaf for path, leaf in flatten(first.params).items() if path.endswith("kernel")}
    assert kernels
    assert not any(equal(leaf, other[path]) for path, leaf in kernels.items())
    assert len({leaf.tobytes() for leaf in map(np.asarray, kernels.values())}) == len(kernels)


@EVERY
def test_noise_follows_the_key_and_is_off_in_evaluation(name):
    model, variables, inputs = made(name)
    one, same, two = (
        forward(model, variables, inputs, key=jax.random.key(n), train=True)[0]["logits"] for n in (1, 1, 2)
    )
    assert equal(one, same)
    assert float(abs(one - two).max()) > 1e-3
    unchanged, _ = forward(model, variables, inputs)
    keyed, _ = forward(model, variables, inputs, key=jax.random.key(1))
    assert equal(unchanged["logits"], keyed["logits"])


@pytest.mark.parametrize(
    ("name", "rate", "stage"),
    [
        ("bert", "dropout", "stem"),
        ("bert", "dropout", "blocks/01"),
        ("bert", "attention_dropout", "blocks/01"),
        *((name, "head_dropout", "head") for name in ("bert", "roberta", "distilbert", "electra")),
        ("mpnet", "dropout", "head"),
        ("deberta", "dropout", "stem"),
        ("deberta", "dropout", "blocks/00"),
        ("deberta", "attention_dropout", "blocks/01"),
        ("deberta", "pooler_dropout", "head"),
        ("deberta", "head_dropout", "head"),
        ("modernbert", "dropout", "stem"),
        ("modernbert", "attention_dropout", "blocks/01"),
        ("modernbert", "mlp_dropout", "blocks/01"),
        ("modernbert", "head_dropout", "head"),
        ("gpt2", "dropout", "stem"),
        ("gpt2", "attention_dropout", "blocks/01"),
        ("gpt2", "residual_dropout", "blocks/01"),
        ("llama", "attention_dropout", "blocks/00"),
        ("mpnet", "attention_dropout", "blocks/01"),
        *(("t5", "dropout", stage) for stage in ("stem", "encoder/01", "encoder_norm", "decoder_stem", "decoder/01")),
        ("t5", "head_dropout", "head"),
        ("albert", "dropout", "blocks/01"),
        ("albert", "attention_dropout", "blocks/00"),
        ("albert", "head_dropout", "head"),
        ("vit", "dropout", "stem"),
        ("vit", "dropout", "blocks/01"),
        ("vit", "attention_dropout", "blocks/01"),
        ("vit", "stochastic_depth", "blocks/01"),
        ("swin", "dropout", "stem"),
        ("swin", "dropout", "blocks/01"),
        ("swin", "attention_dropout", "blocks/01"),
        ("mlp", "dropout", "stem"),
        ("mlp", "dropout", "blocks/01"),
        ("cnn", "dropout", "pool"),
        ("vgg", "dropout", "hidden/00"),
        ("alexnet", "dropout", "hidden/01"),
        ("efficientnet", "dropout", "head"),
        ("mobilenet-v3", "dropout", "head"),
    ],
)
def test_each_dropout_rate_acts_at_its_place(name, rate, stage):
    _, variables, inputs = made(name)
    rates = {field: 0.0 for field in vars(CONFIGS[name]) if "dropout" in field or field == "stochastic_depth"}
    model = build(replace(CONFIGS[name], **(rates | {rate: 0.5})), CLASSES)
    # In this stage only, so no other stage can have the effect.
    rest = {other.name for other in model.stages} - {stage}
    taps, _ = forward(model, variables, inputs, key=jax.random.key(1), train=True, still=rest)
    assert not equal(taps[stage], forward(model, variables, inputs)[0][stage])
    silent = build(replace(CONFIGS[name], **rates), CLASSES)
    taps, _ = forward(silent, variables, inputs, key=jax.random.key(1), train=True, still=rest)
    assert equal(taps[stage], forward(silent, variables, inputs)[0][stage])


@EVERY
def test_a_frozen_stage_runs_as_in_evaluation(name):
    model, variables, inputs = made(name)
    every = {stage.name for stage in model.stages}
    taps, stats = forward(model, variables, inputs, key=jax.random.key(1), train=True, still=every)
    assert equal(taps["logits"], forward(model, variables, inputs)[0]["logits"])
    assert equal(stats, variables.stats)


def test_the_passes_through_shared_layers_have_different_noise():
    config, key = Albert(embedding=9, **TEXT), jax.random.key(1)
    contexts = [albert.pass_context(Context(key=key, train=True), number) for number in range(config.depth)]
    assert len({tuple(jax.random.key_data(context.key).tolist()) for context in contexts}) == config.depth
    assert albert.pass_context(Context(), 1) == Context()


def test_a_stage_keeps_its_noise_when_another_is_added():
    model, variables, inputs = made("bert")
    idle = Stage("idle", lambda params, stats, carry, context: (carry, stats))
    longer = model._replace(stages=(model.stages[0], idle, *model.stages[1:]))
    key = jax.random.key(1)
    before, after = (forward(one, variables, inputs, key=key, train=True)[0] for one in (model, longer))
    assert equal(before["logits"], after["logits"])
    assert not equal(before["logits"], forward(model, variables, inputs)[0]["logits"])


@pytest.mark.parametrize("name", [n for n in CONFIGS if not build(CONFIGS[n], CLASSES).stats])
def test_noise_does_not_depend_on_the_division_of_the_batch(name):
    model, variables, inputs = made(name)

    def run(rows: slice) -> jax.Array:
        part = {key: value[rows] for key, value in inputs.items()}
        taps, _ = forward(model, variables, part, key=jax.random.key(1), train=True, offset=rows.start)
        return taps["logits"]

    halves = jnp.concatenate([run(slice(0, 4)), run(slice(4, 8))])
    np.testing.assert_allclose(halves, run(slice(0, 8)), atol=1e-6)


@OURS
def test_bfloat16_stays_near_float32(name):
    """A bfloat16 has 8 bits: every operation rounds by up to 1 part in 256; a few blocks add up to hundredths.

    A tighter limit would test the rounding only. A wrong cast of moments or scores has a larger effect.
    """
    model, variables, inputs = made(name)
    wide, _ = forward(model, variables, inputs)
    narrow, stats = forward(model, variables, inputs, dtype="bfloat16")
    assert narrow["hidden"].dtype == jnp.bfloat16
    assert narrow["logits"].dtype == jnp.float32
    assert equal(stats, variables.stats)
    difference = jnp.linalg.norm(narrow["logits"] - wide["logits"])
    assert 0 < difference < 0.05 * jnp.linalg.norm(wide["logits"])


@FAMILY
def test_masked_tokens_affect_no_other_token(name):
    model, variables, inputs = made(name)
    mask = inputs["attention_mask"]
    ids = np.where(mask == 1, inputs["input_ids"], (inputs["input_ids"] + 1) % 23)
    before, after = (forward(model, variables, inputs | {"input_ids": i})[0] for i in (inputs["input_ids"], ids))
    assert equal(before["hidden"][mask == 1], after["hidden"][mask == 1])
    # The embeddings of padding are 0 in DeBERTa.
    assert equal(before["hidden"], after["hidden"]) == (name == "deberta")
    assert equal(before["logits"], after["logits"])


@FAMILY
def test_without_a_mask_all_tokens_are_read_and_have_type_0(name):
    model, variables, inputs = made(name)
    ids = {"input_ids": inputs["input_ids"]}
    complete = ids | {"attention_mask": np.ones((BATCH, TOKENS), int), "token_type_ids": np.zeros((BATCH, TOKENS), int)}
    bare, full = (forward(model, variables, arguments)[0]["logits"] for arguments in (ids, complete))
    assert equal(bare, full)
    # A decoder reads the last token that is not padding, which sees nothing after it.
    assert equal(full, forward(model, variables, inputs)[0]["logits"]) == (name in DECODERS)


def test_batch_statistics_move_in_training_only():
    model, variables, inputs = made("cnn")
    _, stats = forward(model, variables, inputs, key=jax.random.key(1), train=True)
    x = inputs["image"]
    convolved = jax.lax.conv_general_dilated(
        x, variables.params["stem"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    before, after = variables.stats["stem"]["norm"], stats["stem"]["norm"]
    np.testing.assert_allclose(after["mean"], 0.9 * before["mean"] + 0.1 * convolved.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(after["variance"], 0.9 * before["variance"] + 0.1 * convolved.var((0, 1, 2)), atol=1e-5)
    _, partly = forward(model, variables, inputs, key=jax.random.key(1), train=True, still=("stem",))
    assert equal(partly["stem"], variables.stats["stem"])
    assert not equal(partly["blocks"], variables.stats["blocks"])
    assert equal(forward(model, variables, inputs)[1], variables.stats)


def test_linen_equals_the_module():
    model, variables, inputs = made("linen")
    value = {"params": variables.params["module"], "batch_stats": variables.stats["module"]}
    taps, _ = forward(model, variables, inputs)
    assert equal(taps["logits"], Net().apply(value, inputs["image"]))
    key = jax.random.key(1)
    taps, stats = forward(model, variables, inputs, key=key, train=True)
    rngs = {"dropout": jax.random.fold_in(key, zlib.crc32(b"module"))}
    logits, moved = Net().apply(value, inputs["image"], train=True, rngs=rngs, mutable=["batch_stats"])
    assert equal(taps["logits"], logits)
    assert equal(stats["module"], moved["batch_stats"])
    assert not equal(stats, variables.stats)


def test_nnx_equals_the_module():
    config = Nnx(make=lambda rngs: OtherNet(rngs, rate=0.0), shape=SHAPE)
    _, variables, inputs = made("nnx")
    model = build(config, CLASSES)
    module = config.make(nnx.Rngs(5))
    for path, leaf in (flatten(variables.params["module"]) | flatten(variables.stats["module"])).items():
        node = module
        for part in path.split("/"):
            node = node[int(part)] if part.isdigit() else getattr(node, part)
        node[...] = leaf
    module.eval()
    assert equal(forward(model, variables, inputs)[0]["logits"], module(inputs["image"]))
    module.train()
    taps, stats = forward(model, variables, inputs, key=jax.random.key(1), train=True)
    assert equal(taps["logits"], module(inputs["image"]))
    moved = stats["module"]["layers"]["1"]
    assert equal(moved, {"mean": module.layers[1].mean[...], "var": module.layers[1].var[...]})
    assert not equal(stats, variables.stats)


def test_a_bridged_parameter_has_the_initial_value_of_the_module():
    key = jax.random.key(4)
    image = jnp.zeros((2, *SHAPE))
    wanted = flatten(Net().init(key, image)["params"])
    declared = flatten(subtree(made("linen").model.params, "module"))
    np.testing.assert_allclose(
        declared["Dense_0/kernel"].init(key, declared["Dense_0/kernel"].shape), wanted["Dense_0/kernel"], atol=1e-7
    )
    kernel = flatten(subtree(made("nnx").model.params, "module"))["out/kernel"]
    np.testing.assert_allclose(kernel.init(key, kernel.shape), OtherNet(nnx.Rngs(key)).out.kernel[...], atol=1e-7)
    inside = jax.jit(lambda key: kernel.init(key, kernel.shape))(key)
    np.testing.assert_allclose(inside, kernel.init(key, kernel.shape), atol=1e-7)


@pytest.mark.parametrize("name", ["linen", "nnx"])
def test_a_bridge_of_another_width_is_refused(name):
    with pytest.raises(ValueError, match=r"logits of shape \('batch', 3\), .* \('batch', 4\)"):
        build(CONFIGS[name], 4)


@pytest.mark.parametrize(
    ("config", "inputs", "message"),
    [
        (CONFIGS["mlp"], {"input_ids": np.ones((2, 3))}, r"the model reads 'image', .* \['input_ids'\]"),
        (CONFIGS["vit"], {"image": np.ones((2, 8, 8, 2))}, r"'image' .*\(2, 8, 8, 2\); expected \[batch, 9, 13, 2\]"),
    ],
)
def test_inputs_are_checked_before_tracing(config, inputs, message):
    model = build(config)
    with pytest.raises(ValueError, match=message):
        forward(model, initialise(model, jax.random.key(0)), inputs)


def test_a_missing_stage_names_the_nearest_ones():
    model, variables, inputs = made("mlp")
    with pytest.raises(ValueError, match="no stage 'block/00'; close: 'blocks/00'"):
        forward(model, variables, inputs, stop="block/00")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mlp(widths=()), "widths is empty; expected at least one"),
        (lambda: Mlp(activation="rele"), "activation 'rele'; close: 'relu'"),
        (lambda: Cnn(size=7), "size 7 cannot be halved 3 times"),
        (lambda: Vgg(size=(224, 31)), r"size=\(224, 31\), .* at least 32 x 32"),
        (lambda: AlexNet(size=62), "size=62, .* at least 63 x 63"),
        (lambda: DenseNet(size=28), "size=28, .* at least 29 x 29"),
        (lambda: InceptionV3(size=74), "size=74, .* at least 75 x 75"),
        (lambda: Vgg(depths=(1, 1)), "differ in length"),
        (lambda: InceptionV3(channels=1, transform_input=True), "transform_input is for images with 3 channels"),
    ],
)
def test_invalid_configs_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
