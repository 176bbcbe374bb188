"""The layouts of timm and torchvision compared with these libraries: names, shapes, numbers, and prepared images."""

import math
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
import torch
from PIL import Image

from tlx import models
from tlx.models import (
    AlexNet,
    BiT,
    ConvNeXt,
    DenseNet,
    InceptionV3,
    MobileNetV2,
    Pooled,
    ResNet,
    Swin,
    Vgg,
    build,
    forward,
)
from tlx.models.efficientnet import VARIANTS
from tlx.models.mobilenet import VARIANTS as SIZES_3
from tlx.models.names import STATS, tensors_of
from tlx.processors.timm_settings import processor_of
from tlx.trees import flatten
from tlx.weights import load_pretrained, save_pretrained
from tlx.weights.formats import formats_of
from tlx.weights.formats.convnext_torch import POINTWISE, sized
from tlx.weights.formats.mobile_layouts import TORCH
from tlx.weights.layouts import kind_in

pytestmark = pytest.mark.parity
CLASSES = 5
BASIC = {"widths": (64, 128, 256, 512), "bottleneck": False}
TORCHVISION = {
    "resnet18": ResNet(depths=(2, 2, 2, 2), **BASIC),
    "resnet101": ResNet(depths=(3, 4, 23, 3)),
    "vgg11": Vgg(depths=(1, 1, 2, 2, 2)),
    "vgg13_bn": Vgg(depths=(2, 2, 2, 2, 2), normed=True),
    "vgg16": Vgg(),
    "vgg19_bn": Vgg(depths=(2, 2, 4, 4, 4), normed=True),
    "alexnet": AlexNet(),
    "densenet121": DenseNet(),
    "densenet161": DenseNet(stem=96, growth=48, depths=(6, 12, 36, 24)),
    "inception_v3": InceptionV3(),
    "efficientnet_b0": replace(VARIANTS["b0"], **TORCH),
    "efficientnet_b7": replace(VARIANTS["b7"], padding="both"),
    "mobilenet_v2": MobileNetV2(**TORCH),
    "resnext50_32x4d": ResNet(widening=2, groups=32),
    "resnext101_64x4d": ResNet(depths=(3, 4, 23, 3), widening=4, groups=64),
    "wide_resnet101_2": ResNet(depths=(3, 4, 23, 3), widening=2),
    "convnext_tiny": sized("tiny"),
    "convnext_large": sized("large"),
    "swin_t": Swin(),
    "swin_b": Swin(width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32)),
    "mobilenet_v3_large": SIZES_3["large"],
    "mobilenet_v3_small": SIZES_3["small"],
}
TIMM = {
    name: (form, config)
    for kind in models.architectures()
    for form in formats_of(kind)
    if form.layout == "timm"
    for name, config in form.architectures.items()
}
SHAPES = {
    "same": lambda shape: shape,
    "transpose": lambda shape: shape[::-1],
    "convolution": lambda shape: (shape[3], shape[2], *shape[:2]),
    "grouped": lambda shape: (shape[3], shape[2], *shape[:2]),
    "pointwise": lambda shape: (*shape[::-1], 1, 1),
}


def shapes(form, config):
    """Return the shape of every tensor that a format writes, by its name."""
    model = build(config, CLASSES)
    ours = flatten(model.params) | {STATS + path: param for path, param in flatten(model.stats).items()}
    names = list(form.names(config, model.head))
    assert sorted(name.ours for name in names) == sorted(ours)
    tensors = {}
    for name in names:
        sides = list(SHAPES[name.layout](ours[name.ours].shape))
        sides[-1] //= math.prod(name.fold)
        sides[0] *= name.part[1]
        tensors[name.foreign] = (*(1,) * name.squeeze, *sides, *name.fold)
    return tensors | {name: array.shape for name, array in form.constants(config, model.head).items()}


def theirs(make, **settings):
    with torch.device("meta"):
        return {
            name: tuple(tensor.shape) for name, tensor in make(num_classes=CLASSES, **settings).state_dict().items()
        }


@pytest.mark.parametrize("name", TORCHVISION)
def test_the_tensors_are_those_of_torchvision(networks, name):
    settings = {"aux_logits": False, "init_weights": False} if name == "inception_v3" else {}
    config = TORCHVISION[name]
    [form] = (form for form in formats_of(type(config)) if form.layout == "torchvision")
    assert shapes(form, config) == theirs(getattr(networks.torchvision.models, name), **settings)


# One of each further form of names is a quick test.
WHOLE = (
    "convnext_tiny",
    "convnextv2_atto",
    "swin_tiny",
    "swinv2_tiny_window8",
    "resnetv2_50x1",
    "resnext50_",
    "wide_resnet50",
)
LARGER = ("convnext", "swin", "resnetv2", "resnext", "wide_resnet")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name.startswith(LARGER) and not name.startswith(WHOLE) else name
        for name in TIMM
    ],
)
def test_the_tensors_and_the_ends_are_those_of_timm(networks, name):
    form, config = TIMM[name]
    assert shapes(form, config) == theirs(lambda **rest: networks.timm.create_model(name, **rest))
    settings = networks.timm.get_pretrained_cfg(name)
    first, last = form.ends_of(config)
    assert first == settings.first_conv and tuple(np.atleast_1d(last)) == tuple(np.atleast_1d(settings.classifier))


def written(networks, folder, name, **settings):
    """Write a directory of timm, with every statistic off its initial value; return the model."""
    torch.manual_seed(0)
    model = networks.timm.create_model(name, num_classes=CLASSES, **settings).eval()
    with torch.no_grad():
        for key, buffer in model.named_buffers():
            if key.endswith("running_mean"):
                buffer.add_(0.1 * torch.randn_like(buffer))
            elif key.endswith("running_var"):
                buffer.mul_(0.8 + 0.4 * torch.rand_like(buffer))
    networks.timm.models.save_for_hf(model, folder, safe_serialization=True)
    return model


def logits(loaded, image):
    # The program runs only once, so compiling it quickly is faster overall.
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    step = jax.jit(lambda variables, x: forward(loaded.model, variables, {"image": x})[0], compiler_options=quick)
    return step(loaded.variables, image)["logits"]


PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (301, 400, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    "name",
    [
        "resnet18d",
        "vit_tiny_patch16_224",
        pytest.param("resnet18", marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", marks=pytest.mark.slow),
        pytest.param("tf_efficientnet_lite0", marks=pytest.mark.slow),
        pytest.param("mobilenetv2_050", marks=pytest.mark.slow),
        pytest.param("mobilenetv3_small_100", marks=pytest.mark.slow),
        pytest.param("deit_tiny_distilled_patch16_224", marks=pytest.mark.slow),
        pytest.param("swinv2_tiny_window16_256", marks=pytest.mark.slow),
    ],
)
def test_timm_and_tlx_open_the_directories_of_each_other(networks, tmp_path, name):
    timm = networks.timm
    model = written(networks, tmp_path / name, name)
    loaded = load_pretrained(tmp_path / name)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    batch = transform(PICTURE)[None]
    image = loaded.processor({"image": np.asarray(PICTURE)})["image"]
    np.testing.assert_array_equal(image.transpose(2, 0, 1), batch[0])
    wanted = model(batch).detach().numpy()
    np.testing.assert_allclose(logits(loaded, image[None]), wanted, rtol=0, atol=1e-5 * max(1.0, np.abs(wanted).max()))
    save_pretrained(loaded, tmp_path / "ours", layout="timm")
    opened = timm.create_model(f"local-dir:{tmp_path / 'ours'}", pretrained=True).eval()
    assert opened.state_dict().keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, opened.state_dict()[key]), key
    resolved = timm.data.resolve_model_data_config(opened)
    assert torch.equal(timm.data.create_transform(**resolved)(PICTURE), batch[0])
    assert torch.equal(opened(batch), model(batch))


def test_a_hub_id_is_read_from_the_cache(networks, tmp_path, monkeypatch):
    """The cache of the hub has a snapshot of each model, under the name of its id."""
    from huggingface_hub import constants

    snapshot = tmp_path / "models--timm--resnet18.a1_in1k" / "snapshots" / ("0" * 40)
    written(networks, snapshot, "resnet18")
    (tmp_path / "models--timm--resnet18.a1_in1k" / "refs").mkdir()
    (tmp_path / "models--timm--resnet18.a1_in1k" / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert load_pretrained("timm/resnet18.a1_in1k").model.config == TIMM["resnet18"][1]


@pytest.mark.parametrize(
    ("side", "share", "mode", "interpolation", "sides"),
    [
        (224, 0.95, "center", "bicubic", (301, 400)),
        (224, 0.875, "center", "bilinear", (333, 257)),
        (63, 1.0, "center", "lanczos", (64, 91)),
        (64, 0.9, "squash", "nearest", (90, 71)),
        (97, 0.7, "center", "bicubic", (40, 31)),
    ],
)
def test_images_are_prepared_as_in_timm_bit_for_bit(networks, tmp_path, side, share, mode, interpolation, sides):
    settings = {"input_size": (3, side, side), "crop_pct": share, "crop_mode": mode, "interpolation": interpolation}
    settings |= {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    picture = np.random.default_rng(0).integers(0, 256, (*sides, 3), dtype=np.uint8)
    wanted = networks.timm.data.create_transform(**settings)(Image.fromarray(picture))
    image = processor_of(settings, tmp_path)({"image": picture})["image"]
    np.testing.assert_array_equal(image.transpose(2, 0, 1), wanted)


def test_torchvision_opens_a_state_dict_of_tlx(networks, tmp_path):
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    model = networks.torchvision.models.DenseNet(4, (1, 2, 1, 1), 6, 2, num_classes=CLASSES).eval()
    config = DenseNet(size=61, growth=4, depths=(1, 2, 1, 1), stem=6, bottleneck=2)
    file = tmp_path / "densenet.safetensors"
    save_file(model.state_dict(), file)
    loaded = load_pretrained(file, model=config)
    assert loaded.model.head == Pooled(CLASSES) and kind_in(loaded, "torchvision") == "torchvision.densenet"
    again = save_pretrained(loaded, tmp_path / "ours", layout="torchvision") / "model.safetensors"
    tensors = load_file(again)
    assert tensors.keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, tensors[key]), key
    model.load_state_dict(tensors)
    image = np.random.default_rng(0).normal(size=(2, 61, 61, 3)).astype(np.float32)
    wanted = model(torch.tensor(image.transpose(0, 3, 1, 2))).detach().numpy()
    np.testing.assert_allclose(logits(loaded, image), wanted, atol=1e-5)


def small_network(networks, name):
    """Return a small network of timm or torchvision, and its architecture in tlx."""
    import timm.layers
    from timm.models.resnetv2 import ResNetV2
    from torchvision.models.convnext import CNBlockConfig

    library, family = name.split(".")
    timm_models, vision = networks.timm.models, networks.torchvision.models
    widths, depths = (8, 12, 16, 20), (1, 2, 1, 1)
    convnext = ConvNeXt(size=45, widths=widths, depths=depths, epsilon=1e-6, layer_scale=0.3)
    swin = Swin(size=52, width=8, depths=(2, 2), heads=(2, 4), window=3)
    if library == "torchvision" and family == "convnext":
        groups = [CNBlockConfig(*sides) for sides in zip(widths, (*widths[1:], None), depths, strict=True)]
        return vision.ConvNeXt(groups, num_classes=CLASSES, layer_scale=0.3), convnext
    if library == "torchvision":
        return vision.SwinTransformer([4, 4], 8, [2, 2], [2, 4], [3, 3], num_classes=CLASSES), swin
    if family.startswith("convnext"):
        second = {"layer_scale": None, "response_norm": True, "widths": (POINTWISE[0], *widths[1:])}
        config = replace(convnext, **(second if family == "convnextv2" else {}))
        settings = {"use_grn": config.response_norm, "ls_init_value": config.layer_scale, "depths": depths}
        settings |= {"dims": config.widths, "conv_mlp": config.response_norm}
        return timm_models.ConvNeXt(num_classes=CLASSES, **settings), config
    if family.startswith("swin"):
        settings = {"num_classes": CLASSES, "embed_dim": 8, "depths": (2, 2), "num_heads": (2, 4)}
        if family == "swin":
            return timm_models.SwinTransformer(48, window_size=3, **settings), replace(swin, size=48)
        # The last group is smaller than a window.
        settings |= {"depths": (2, 1, 1), "num_heads": (2, 4, 8)}
        windows = {"window": 8, "pretrained_windows": (6, 6, 3), "depths": (2, 1, 1), "heads": (2, 4, 8)}
        net = timm_models.SwinTransformerV2(64, window_size=8, pretrained_window_sizes=(6, 6, 3), **settings)
        return net, replace(swin, size=64, family="swinv2", **windows)
    if family == "bit":
        layers = {
            "conv_layer": partial(timm.layers.StdConv2d, eps=1e-8),
            "norm_layer": partial(timm.layers.GroupNormAct, num_groups=8),
        }
        config = BiT(size=45, stem=32, widths=(32, 64), depths=(1, 2), padding="even", padded_pool=False, groups=8)
        return ResNetV2([1, 2], (32, 64), CLASSES, stem_chs=32, stem_type="fixed", **layers), config
    settings = {"cardinality": 4, "base_width": 32, "channels": (16, 32, 32, 32)}
    net = timm_models.ResNet(timm_models.resnet.Bottleneck, [1, 2, 1, 1], CLASSES, **settings)
    return net, ResNet(size=45, widths=(64, 128, 128, 128), depths=(1, 2, 1, 1), widening=2, groups=4)


def moved(model):
    """Return a network in evaluation, with every parameter and statistic off its initial value."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for key, buffer in model.named_buffers():
            if key.endswith("running_var"):
                buffer.mul_(0.8 + 0.4 * torch.rand_like(buffer))
            elif key.endswith("running_mean"):
                buffer.add_(0.1 * torch.randn_like(buffer))
    return model.eval()


@pytest.mark.parametrize(
    "name",
    ["timm.convnext", "timm.convnextv2", "timm.swin", "timm.swinv2", "timm.bit", "timm.resnext",
     "torchvision.convnext", "torchvision.swin"],
)  # fmt: skip
def test_a_small_network_has_the_numbers_of_its_library(networks, tmp_path, name):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    net, config = small_network(networks, name)
    model, file = moved(net), tmp_path / "model.safetensors"
    save_file(model.state_dict(), file)
    loaded = load_pretrained(file, model=config)
    assert loaded.model.head == Pooled(CLASSES) and not [e for e in loaded.manifest.entries if e.action == "reset"]
    sides = (2, *np.broadcast_to(config.size, 2), 3)
    image = np.random.default_rng(0).normal(size=sides).astype(np.float32)
    wanted = model(torch.tensor(image.transpose(0, 3, 1, 2))).detach().numpy()
    np.testing.assert_allclose(logits(loaded, image), wanted, rtol=0, atol=1e-5 * max(1.0, np.abs(wanted).max()))
    [form] = (form for form in formats_of(type(config)) if form.layout == name.split(".")[0])
    arrays = flatten(loaded.variables.params) | {STATS + n: leaf for n, leaf in flatten(loaded.variables.stats).items()}
    tensors = tensors_of(form.names(config, loaded.model.head), arrays) | form.constants(config, loaded.model.head)
    assert tensors.keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensors[key], tensor.numpy(), err_msg=key)
