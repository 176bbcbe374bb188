"""EfficientNet and the MobileNets: their published sizes, zeros at any size, and the layers of MobileNetV3."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from tlx import models
from tlx.models import EfficientNet, MobileNetV2, MobileNetV3, Pooled, build, count, forward
from tlx.models.efficientnet import VARIANTS
from tlx.models.mobilenet import VARIANTS as SIZES_3
from tlx.models.names import outward
from tlx.trees import flatten, map_named
from tlx.types import Variables
from tlx.weights.formats import efficientnet, mobilenet
from tlx.weights.formats.efficientnet import EfficientNetFormat
from tlx.weights.formats.mobilenet import MobileNetV2Format, torchvision_names_3

# The numbers of torchvision's networks, and of timm's efficientnet_lite0 to 4.
COUNTS = {
    "b0": 5_288_548, "b1": 7_794_184, "b2": 9_109_994, "b3": 12_233_232, "b4": 19_341_616, "b5": 30_389_784,
    "b6": 43_040_704, "b7": 66_347_960, "lite0": 4_652_008, "lite1": 5_416_680, "lite2": 6_092_072,
    "lite3": 8_197_096, "lite4": 13_006_568,
}  # fmt: skip
# Most of the time is compilation.
QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
SMALL = {"width_multiplier": 0.1, "widths": (90, 120), "depths": (1, 2), "kernels": (3, 5), "strides": (1, 2)}
SMALL |= {"expansions": (1, 3)}
TINY_3 = MobileNetV3(
    size=(19, 14), channels=2, stem=4, divisor=2, kernels=(3, 5, 3), inner=(4, 10, 8), widths=(4, 6, 6),
    squeezed=(False, True, True), hard=(False, True, False), strides=(1, 2, 1), top=8, hidden=10,
)  # fmt: skip


def test_the_networks_have_the_published_numbers_of_parameters():
    assert {name: count(config, 1000) for name, config in VARIANTS.items()} == COUNTS
    assert count(MobileNetV2(), 1000) == 3_504_872
    assert {name: count(config, 1000) for name, config in SIZES_3.items()} == {"large": 5_483_032, "small": 2_542_856}


@pytest.mark.parametrize(
    ("config", "tables"),
    [
        *((config, (efficientnet.package_names, efficientnet.timm_names, efficientnet.torchvision_names)) for config in
          (VARIANTS["b0"], VARIANTS["b7"], VARIANTS["lite4"])),
        (MobileNetV2(expand_first=True), (mobilenet.timm_names_2, mobilenet.torchvision_names_2)),
        *((config, (mobilenet.timm_names_3, mobilenet.torchvision_names_3)) for config in SIZES_3.values()),
    ],
    ids=("b0", "b7", "lite4", "v2", *SIZES_3),
)  # fmt: skip
def test_a_table_names_every_parameter_once(config, tables):
    for head in (None, Pooled(3)):
        model = build(config, head)
        declared = {*flatten(model.params), *(f"stats:{path}" for path in flatten(model.stats))}
        for names in (list(table(config, head)) for table in tables):
            assert {name.ours for name in names} == declared
            assert len({name.foreign for name in names}) == len(names) == len(declared)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EfficientNet(widths=(1, 2)), "widths 2, depths 7"),
        (lambda: EfficientNet(activation="relu7"), "activation 'relu7'; close: .*'relu6'"),
        (lambda: EfficientNet(padding="valid"), "padding is 'valid'; expected one of 'same', 'even', 'both'"),
        (lambda: EfficientNet(odd=(1,)), r"odd=\(1,\) is for padding='even'"),
        (lambda: EfficientNet(kernels=(3, 3, 4, 3, 5, 5, 3)), "expected odd numbers, not 4"),
        (lambda: EfficientNet(squeeze=0.0), "squeeze=0.0; expected a number above 0"),
        (lambda: MobileNetV2(expansion=0.0), "expansion=0.0; expected a number above 0"),
        (lambda: MobileNetV3(hard=(True,)), "hard 1"),
    ],
)
def test_invalid_settings_are_refused(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


@pytest.mark.parametrize(
    ("config", "part"),
    [
        (VARIANTS["lite0"], "squeeze=None"),
        (EfficientNet(padding="both"), "padding='both'"),
        (EfficientNet(stem=16), "stem=16"),
        (EfficientNet(size=(224, 225)), "odd size"),
        (EfficientNet(size=(224, 210)), "do not become odd in the same blocks"),
        (EfficientNet(fixed_ends=True, width_multiplier=2.0), "fixed_ends=True"),
        (MobileNetV2(depths=(1, 2, 3, 4, 3, 3, 2)), "depths="),
        (MobileNetV2(padding="even"), "padding=even"),
    ],
)
def test_a_network_without_a_class_in_transformers_is_not_written(config, part):
    form = EfficientNetFormat() if isinstance(config, EfficientNet) else MobileNetV2Format()
    with pytest.raises(ValueError, match="no equivalent in transformers") as error:
        form.write(config, None, {})
    assert part in str(error.value)


@pytest.mark.parametrize("head", [None, Pooled(3)])
@pytest.mark.parametrize(
    "config",
    [
        *(config for name, config in VARIANTS.items() if name.startswith("b")),
        EfficientNet(padding="even", odd=(2, 5), momentum=0.01, expand_momentum=0.9),
        MobileNetV2(),
        MobileNetV2(output_stride=16, padding="both", stochastic_depth=0.1, momentum=0.003, size=(96, 64)),
    ],
    ids=repr,
)
def test_config_json_keeps_every_setting(config, head):
    form = EfficientNetFormat() if isinstance(config, EfficientNet) else MobileNetV2Format()
    read = form.read(form.write(config, head, {}))
    full = config if config.__dict__.get("expand_momentum", 0) is not None else replace(config, expand_momentum=0.99)
    assert read == full


def test_settings_of_another_network_are_refused():
    document = EfficientNetFormat().write(EfficientNet(), None, {})
    for change, part in (
        ({"pooling_type": "max"}, "pooling_type 'max'"),
        ({"hidden_dim": 12}, "hidden_dim 12; expected 1280"),
        ({"in_channels": [1, 2]}, "in_channels [1, 2]"),
    ):
        with pytest.raises(ValueError) as error:
            EfficientNetFormat().read(document | change)
        assert part in str(error.value)


def random_variables(model):
    """Random variables; scales and variances are positive."""
    rng = np.random.default_rng(0)

    def drawn(path, param):
        noise = rng.normal(0, 0.3, param.shape).astype(np.float32)
        return 1 + abs(noise) if path.endswith(("scale", "variance")) else noise

    return Variables(map_named(drawn, model.params), map_named(drawn, model.stats))


def logits_of(model, variables, inputs):
    compiled = jax.jit(lambda leaves, arrays: forward(model, leaves, arrays)[0]["logits"], compiler_options=QUICK)
    return np.asarray(compiled(variables, inputs))


def test_equal_zeros_in_the_blocks_of_odd_sides_are_those_of_any_size():
    """The rule of TensorFlow, and that of `transformers` with the blocks that it lists for a size."""
    same = EfficientNet(size=26, channels=2, **SMALL)
    model = build(same, 3)
    variables = random_variables(model)
    image = {"image": np.random.default_rng(1).normal(size=(2, 26, 26, 2)).astype(np.float32)}
    logits = {
        odd: logits_of(build(config, 3), variables, image)
        for odd, config in ((None, same), *((odd, replace(same, padding="even", odd=odd)) for odd in ((), (1,))))
    }
    # The stem halves 26 to 13, so the first block of the second group reads an odd side.
    assert EfficientNetFormat().write(same, None, {})["depthwise_padding"] == [1]
    np.testing.assert_array_equal(logits[None], logits[(1,)])
    assert np.abs(logits[None] - logits[()]).max() > 1e-3


@pytest.mark.parity
def test_mobilenet_v3_computes_as_its_layers_in_torch():
    """The tensors have the names of torchvision, whose networks give the same logits to 1e-7 in float64."""
    import torch
    from torch.nn import functional

    model = build(TINY_3, 3)
    variables = random_variables(model)
    leaves = flatten(variables.params) | {f"stats:{path}": leaf for path, leaf in flatten(variables.stats).items()}
    weights = {n.foreign: torch.tensor(outward(n, leaves[n.ours])) for n in torchvision_names_3(TINY_3, Pooled(3))}

    def layer(x, name, stride=1, groups=1):
        kernel = weights[f"{name}.0.weight"]
        x = functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2, groups=groups)
        norm = [weights[f"{name}.1.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(x, *norm, eps=1e-3)

    def squeezed(x, name):
        mean = x.mean((2, 3), keepdim=True)
        inner = functional.relu(functional.conv2d(mean, weights[f"{name}.fc1.weight"], weights[f"{name}.fc1.bias"]))
        return x * functional.hardsigmoid(
            functional.conv2d(inner, weights[f"{name}.fc2.weight"], weights[f"{name}.fc2.bias"])
        )

    images = np.random.default_rng(0).normal(size=(3, 19, 14, 2)).astype(np.float32)
    x = functional.hardswish(layer(torch.tensor(images.transpose(0, 3, 1, 2)), "features.0", 2))
    x = x + layer(functional.relu(layer(x, "features.1.block.0", 1, 4)), "features.1.block.1")
    y = functional.hardswish(layer(functional.hardswish(layer(x, "features.2.block.0")), "features.2.block.1", 2, 10))
    x = layer(squeezed(y, "features.2.block.2"), "features.2.block.3")
    y = functional.relu(layer(functional.relu(layer(x, "features.3.block.0")), "features.3.block.1", 1, 8))
    x = x + layer(squeezed(y, "features.3.block.2"), "features.3.block.3")
    x = functional.hardswish(layer(x, "features.4")).mean((2, 3))
    x = functional.hardswish(functional.linear(x, weights["classifier.0.weight"], weights["classifier.0.bias"]))
    wanted = functional.linear(x, weights["classifier.3.weight"], weights["classifier.3.bias"]).numpy()
    logits = logits_of(model, variables, {"image": images})
    np.testing.assert_allclose(logits, wanted, atol=1e-5 * np.abs(wanted).max(), rtol=0)


@pytest.mark.parametrize("config", [VARIANTS["b1"], MobileNetV2(), TINY_3], ids=lambda config: type(config).__name__)
def test_the_size_changes_no_parameter(config):
    resized = config.resized(33)
    assert models.image_shape(resized) == (33, 33, config.channels)
    assert flatten(build(resized, 3).params).keys() == flatten(build(config, 3).params).keys()
    assert count(resized, 3) == count(config, 3)
