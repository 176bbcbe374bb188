"""The convolutional networks of tlx compared with `transformers`, torchvision and timm: outputs, gradients,
and statistics.

Every parameter and statistic of torch is moved off its initial value. The images have odd sides and odd numbers of
channels. In evaluation and in training, values and statistics must agree to a maximal absolute difference of 1e-5 of
their size, and gradients to a relative difference of 1e-5 in the Euclidean norm. In training both sides compute in
float64: the gradients of batch norm over a few examples are so ill conditioned that float32 gradients of torch differ
from its float64 gradients by up to 2.7e-5 here. The same holds for cosine attention, with up to 1.4e-5. The logits are
float32 in any case.
"""

import json
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from transformers.core_model_loading import revert_weight_conversion
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil

from tlx.models import AlexNet, DenseNet, InceptionV3, Pooled, ResNet, Vgg, build, forward, image_shape
from tlx.models.names import STATS, inward
from tlx.tasks import Classification
from tlx.trees import flatten, nest
from tlx.types import Variables
from tlx.weights import load_pretrained, save_pretrained
from tlx.weights.formats import foreign

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("networks")]
TOLERANCE = 1e-5
NEGLIGIBLE = 1e-5
CLASSES = 3


class Case(NamedTuple):
    """The fields of a configuration of `transformers`, (height, width) of an image, and the class."""

    fields: dict[str, Any]
    sides: tuple[int, int]
    kind: str = "ResNet"

    # Whether gradients in evaluation are compared too; one family is enough for batch norm with fixed statistics.
    evaluated = True

    @property
    def channels(self) -> int:
        return self.fields["num_channels"]

    def network(self) -> Any:
        kind = getattr(transformers, f"{self.kind}ForImageClassification")
        fields = self.fields | ({"image_size": list(self.sides)} if "patch_size" in self.fields else {})
        return kind(kind.config_class(**fields, num_labels=CLASSES))

    def ours(self, model: Any) -> tuple[Any, Any]:
        """Return the format and the architecture of tlx."""
        document = model.config.to_dict()
        module = foreign(document["model_type"])
        return module, module.read(document | {"image_size": list(self.sides)})


class Classic(NamedTuple):
    """An architecture of tlx, the same network of torchvision, and the `model_type` of its names."""

    config: Any
    make: Callable[[Any, Any], Any]
    kind: str

    evaluated = False

    @property
    def channels(self) -> int:
        return self.config.channels

    @property
    def sides(self) -> tuple[int, int]:
        return self.config.size

    def network(self) -> Any:
        return self.make(models_of_torchvision(), self.config)

    def ours(self, model: Any) -> tuple[Any, Any]:
        return foreign(self.kind), self.config


def models_of_torchvision() -> Any:
    import torchvision

    return torchvision.models


def narrow(kind: Any, features: list[Any], config: Any) -> Any:
    """Return a network of torchvision with fewer channels; its own constructor allows the usual ones only."""
    with torch.device("meta"):
        model = kind()
    model.features = torch.nn.Sequential(*features)
    widths = [config.widths[-1] * config.grid**2, *config.hidden, CLASSES]
    dense = [n for n, layer in enumerate(model.classifier) if isinstance(layer, torch.nn.Linear)]
    for n, number in enumerate(dense):
        model.classifier[number] = torch.nn.Linear(widths[n], widths[n + 1])
    for layer in model.classifier:
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    return model


def vgg(theirs: Any, config: Any) -> Any:
    plan = [
        entry for width, depth in zip(config.widths, config.depths, strict=True) for entry in [width] * depth + ["M"]
    ]
    features = list(theirs.vgg.make_layers(plan, config.normed))
    features[0] = torch.nn.Conv2d(config.channels, config.widths[0], 3, padding=1)
    return narrow(theirs.vgg11, features, config)


def alexnet(theirs: Any, config: Any) -> Any:
    with torch.device("meta"):
        features = list(theirs.alexnet().features)
    widths = iter((config.channels, *config.widths))
    inputs = next(widths)
    for n, layer in enumerate(features):
        if isinstance(layer, torch.nn.Conv2d):
            outputs = next(widths)
            features[n] = torch.nn.Conv2d(inputs, outputs, layer.kernel_size, layer.stride, layer.padding)
            inputs = outputs
    return narrow(theirs.alexnet, features, config)


def densenet(theirs: Any, config: Any) -> Any:
    model = theirs.DenseNet(config.growth, config.depths, config.stem, config.bottleneck, num_classes=CLASSES)
    model.features.conv0 = torch.nn.Conv2d(config.channels, config.stem, 7, stride=2, padding=3, bias=False)
    return model


def resnet_d(theirs: Any, config: Any) -> Any:
    from timm.models.resnet import BasicBlock, ResNet

    stem = {"stem_type": "deep", "stem_width": config.stem // 2, "avg_down": True}
    return ResNet(BasicBlock, config.depths, CLASSES, config.channels, channels=config.widths, **stem)


def inception(theirs: Any, config: Any) -> Any:
    """Return an Inception v3 with 1/16 of the channels."""

    class Narrow(theirs.inception.BasicConv2d):
        def __init__(self, inputs: int, outputs: int, **rest: Any):
            super().__init__(inputs if inputs == 3 else inputs // 16, outputs // 16, **rest)

    kinds = (getattr(theirs.inception, f"Inception{letter}") for letter in "ABCDE")
    every = [Narrow, *(partial(kind, conv_block=Narrow) for kind in kinds), SimpleNamespace()]
    settings = {"aux_logits": False, "transform_input": config.transform_input, "init_weights": False, "dropout": 0.0}
    model = theirs.Inception3(CLASSES, inception_blocks=every, **settings)
    model.fc = torch.nn.Linear(2048 // 16, CLASSES)
    return model


SMALL = {"num_channels": 2, "embedding_size": 6, "hidden_sizes": [8, 12], "depths": [2, 2]}
NEXT = {"num_channels": 2, "hidden_sizes": [6, 10], "depths": [2, 2], "num_stages": 2}
SWIN = {"num_channels": 2, "embed_dim": 6, "depths": [2, 1], "num_heads": [2, 3], "window_size": 3}
SWIN |= {"patch_size": 2, "drop_path_rate": 0.0}
BIT = {"num_channels": 2, "embedding_size": 8, "hidden_sizes": [8, 24], "depths": [2, 1], "num_groups": 4}
# No random noise: the reference draws other numbers.
INVERTED = {
    "num_channels": 5, "width_coefficient": 0.1, "depth_coefficient": 1.0, "hidden_dim": 128, "in_channels": [32, 90],
    "out_channels": [90, 120], "kernel_sizes": [3, 5], "strides": [1, 2], "num_block_repeats": [1, 2],
    "expand_ratios": [1, 3], "dropout_rate": 0.0, "drop_connect_rate": 0.0, "squeeze_expansion_ratio": 0.3,
}  # fmt: skip
DEEP = INVERTED | {"depth_coefficient": 1.3, "depthwise_padding": [1, 3], "hidden_act": "relu6"}
MOBILE = {
    "num_channels": 5, "depth_multiplier": 0.05, "depth_divisible_by": 2, "min_depth": 4, "expand_ratio": 1.6,
    "classifier_dropout_prob": 0.0,
}  # fmt: skip
DILATED = {"output_stride": 8, "tf_padding": False, "finegrained_output": False, "first_layer_is_expansion": False}
VGG = {"channels": 2, "widths": (4, 6), "depths": (1, 2), "hidden": (7, 5), "dropout": 0.0}
CASES = {
    "basic": Case(SMALL | {"layer_type": "basic"}, (33, 26)),
    "basic-equal": Case(SMALL | {"layer_type": "basic", "hidden_sizes": [6, 10]}, (19, 35)),
    "bottleneck": Case(SMALL, (35, 22)),
    "early": Case(SMALL | {"downsample_in_bottleneck": True, "downsample_in_first_stage": True}, (41, 37)),
    "silu": Case(SMALL | {"hidden_act": "silu", "depths": [1, 3], "num_channels": 5}, (20, 21)),
    "convnext": Case(NEXT | {"layer_scale_init_value": 0.3}, (37, 26), "ConvNext"),
    "convnext-plain": Case(NEXT | {"layer_scale_init_value": 0.0, "hidden_act": "silu"}, (17, 22), "ConvNext"),
    "convnext-2": Case(NEXT | {"patch_size": 3, "num_channels": 3}, (20, 41), "ConvNextV2"),
    "swin": Case(SWIN | {"qkv_bias": False}, (30, 42), "Swin"),
    "swin-padded": Case(SWIN | {"hidden_act": "relu", "mlp_ratio": 2.5}, (29, 37), "Swin"),
    "swinv2": Case(SWIN | {"window_size": 4, "pretrained_window_sizes": [3, 0]}, (23, 29), "Swinv2"),
    "swinv2-small": Case(SWIN | {"hidden_act": "gelu_new"}, (14, 21), "Swinv2"),
    "bit": Case(BIT | {"global_padding": "SAME", "embedding_dynamic_padding": True}, (33, 46), "Bit"),
    "bit-even": Case(BIT | {"hidden_act": "silu"}, (38, 27), "Bit"),
    "bit-after": Case(BIT | {"layer_type": "bottleneck", "embedding_dynamic_padding": True}, (31, 40), "Bit"),
    "efficientnet": Case(INVERTED, (33, 26), "EfficientNet"),
    "efficientnet-deep": Case(DEEP, (20, 21), "EfficientNet"),
    "mobilenet-v2": Case(MOBILE, (33, 26), "MobileNetV2"),
    "mobilenet-v2-dilated": Case(MOBILE | DILATED, (24, 41), "MobileNetV2"),
    "vgg": Classic(Vgg(size=(33, 26), **VGG), vgg, "torchvision.vgg"),
    "vgg-norm": Classic(Vgg(size=(21, 30), normed=True, **(VGG | {"depths": (1, 1)})), vgg, "torchvision.vgg"),
    "alexnet": Classic(
        AlexNet(size=(71, 127), channels=2, widths=(4, 5, 6, 5, 3), hidden=(7, 5), dropout=0),
        alexnet,
        "torchvision.alexnet",
    ),
    "resnet-d": Classic(
        ResNet(
            size=(67, 54),
            channels=2,
            stem=6,
            widths=(6, 8, 7, 5),
            depths=(1, 1, 1, 1),
            bottleneck=False,
            deep_stem=True,
            average_shortcut=True,
        ),
        resnet_d,
        "timm.resnet",
    ),
    "densenet": Classic(
        DenseNet(size=(37, 41), channels=2, stem=6, growth=3, bottleneck=2, depths=(2, 1)),
        densenet,
        "torchvision.densenet",
    ),
}
# Networks with running statistics are compared in training, too. Swin V2 has no noise here: one comparison is enough.
ONCE = {"ConvNext": False, "ConvNextV2": False, "Swin": False, "Swinv2": True, "Bit": False}
RUNS = [(name, train) for name, case in CASES.items() for train in (False, True) if ONCE.get(case.kind, train) == train]
INCEPTION = Classic(
    InceptionV3(size=(79, 90), unit=1, transform_input=True, dropout=0.0), inception, "torchvision.inception"
)


def reference(case: Any) -> Any:
    """Return the torch model, with every parameter and statistic off its initial value."""
    torch.manual_seed(0)
    model = case.network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.3 * torch.randn_like(buffer))
            elif name.endswith("running_var"):
                buffer.mul_(0.5 + torch.rand_like(buffer))
    return model


def read(
    module: Any, config: Any, model: Any, tensors: dict[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the parameters and the statistics by path from tensors named as in the memory of torch's `model`."""
    head = Pooled(CLASSES)
    if isinstance(model, transformers.PreTrainedModel):
        tensors = revert_weight_conversion(model, tensors)
    named = {(n.foreign if n.head else module.prefix(config) + n.foreign): n for n in module.names(config, head)}
    assert {key for key in tensors if not key.endswith("num_batches_tracked")} <= named.keys()
    # Copies, because torch moves its statistics in place.
    arrays = {named[k].ours: inward(named[k], t.detach().numpy().copy()) for k, t in tensors.items() if k in named}
    stats = {path.removeprefix(STATS): array for path, array in arrays.items() if path.startswith(STATS)}
    return {path: array for path, array in arrays.items() if not path.startswith(STATS)}, stats


def norm(array: Any) -> float:
    return float(np.linalg.norm(np.asarray(array, np.float64)))


def compare(case: Any, model: Any, images: np.ndarray, train: bool, wide: bool) -> dict[str, float]:
    """Return the largest differences of the logits, the loss's gradients, and the statistics after one pass, in float64
    if `wide`."""
    model.train(train).to(torch.float64 if wide else torch.float32)
    images = images.astype(np.float64 if wide else np.float32)
    module, config = case.ours(model)
    built = build(config, Pooled(CLASSES))
    params, stats = read(module, config, model, model.state_dict())
    assert {p: a.shape for p, a in params.items()} == {p: a.shape for p, a in flatten(built.params).items()}
    assert {p: a.shape for p, a in stats.items()} == {p: a.shape for p, a in flatten(built.stats).items()}
    labels = np.arange(len(images)) % CLASSES
    result = model(torch.tensor(images.transpose(0, 3, 1, 2)))
    wanted = getattr(result, "logits", result)
    torch.nn.functional.cross_entropy(wanted, torch.tensor(labels)).backward()

    def loss(leaves: Any) -> Any:
        variables = Variables(leaves, nest(stats))
        rest = {"train": train, "key": jax.random.key(0), "dtype": images.dtype}
        taps, new = forward(built, variables, {"image": images}, **rest)
        scores = jax.nn.log_softmax(taps["logits"].astype(images.dtype))
        return -jnp.take_along_axis(scores, labels[:, None], 1).mean(), (taps["logits"], new)

    def backward(leaves: Any) -> Any:
        return jax.value_and_grad(loss, has_aux=True)(leaves) if train or case.evaluated else (loss(leaves), leaves)

    (_, (logits, new)), gradient = jax.jit(backward)(nest(params))
    slopes, _ = read(module, config, model, {name: p.grad for name, p in model.named_parameters()})
    slopes = slopes if train or case.evaluated else {}
    _, moved = read(module, config, model, model.state_dict())
    wanted = wanted.detach().numpy()
    got = flatten(gradient)
    # The gradients of the bias of a key and of a bias before batch norm are 0 except for rounding.
    whole = NEGLIGIBLE * norm([norm(slope) for slope in slopes.values()])
    yardstick = {path: max(norm(slopes[path.replace("/key/bias", "/key/kernel")]), whole) for path in slopes}
    return {
        "logits": float(np.abs(np.asarray(logits) - wanted).max() / max(1.0, np.abs(wanted).max())),
        "gradients": max((norm(got[path] - slope) / yardstick[path] for path, slope in slopes.items()), default=0.0),
        "statistics": max(
            (float(np.abs(np.asarray(leaf) - moved[path]).max()) for path, leaf in flatten(new).items()), default=0.0
        ),
    }


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("name", "train"), RUNS)
def test_small_networks_agree(name, train):
    check(CASES[name], train)


@pytest.mark.slow
@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])
def test_an_inception_agrees(train):
    check(INCEPTION, train)


def check(case: Any, train: bool) -> None:
    images = np.random.default_rng(0).normal(size=(5, *case.sides, case.channels)).astype(np.float32)
    # In float32 both gradients of this BiT are up to 1e-5 away from those in float64, on some processors.
    wide = train or case is CASES["bit-after"]
    with jax.enable_x64(wide):
        actual = compare(case, reference(case), images, train, wide)
    assert max(actual.values()) <= TOLERANCE, actual


def test_a_round_trip_is_exact(tmp_path):
    """The checkpoint states no size of its images, except by its processor."""
    model = reference(CASES["early"]._replace(fields=CASES["early"].fields | {"num_channels": 3}))
    model.eval().save_pretrained(tmp_path / "theirs")
    settings = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 41}, "resample": 3}
    (tmp_path / "theirs" / "preprocessor_config.json").write_text(json.dumps(settings))
    task = Classification(classes=CLASSES)
    pretrained = load_pretrained(tmp_path / "theirs", task)
    save_pretrained(pretrained, tmp_path / "ours")
    assert image_shape(load_pretrained(tmp_path / "ours", task).model.config) == (41, 41, 3)
    picture = np.random.default_rng(0).integers(0, 256, (60, 70, 3), dtype=np.uint8)
    image = pretrained.processor({"image": picture})["image"]
    wanted = ConvNextImageProcessorPil.from_pretrained(tmp_path / "theirs")(picture, return_tensors="pt")
    np.testing.assert_allclose(image.transpose(2, 0, 1), wanted["pixel_values"][0], atol=1e-5)
    logits = forward(pretrained.model, pretrained.variables, {"image": image[None]})[0]["logits"]
    np.testing.assert_allclose(logits, model(**wanted).logits.detach(), atol=1e-5)
    again, info = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(info.values()), info
    for name, tensor in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, again.state_dict()[name]), name


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.kind in ONCE])
def test_weights_return_as_they_came(tmp_path, name):
    model = reference(CASES[name])
    model.save_pretrained(tmp_path / "theirs")
    save_pretrained(load_pretrained(tmp_path / "theirs"), tmp_path / "ours")
    kind = transformers.AutoModelForImageClassification
    again, info = kind.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert type(again) is type(model) and not any(info.values()), info
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key
