"""The real EfficientNet-Lite0: its numbers are those of its file, and it names two photographs."""

import jax
import numpy as np
import pytest

from tlx import assets
from tlx.models import forward
from tlx.processors import ImageProcessor
from tlx.trees import flatten
from tlx.weights import load_pretrained
from tlx.weights.pinned import LITE, LITE_FILE, LITE_PROCESSOR, imagenet_names
from tlx.weights.torch_files import read_torch

# The stride of the first block of each group, the expansion of its blocks, and their number.
GROUPS = ((1, 1, 1), (2, 6, 2), (2, 6, 2), (2, 6, 3), (1, 6, 3), (2, 6, 4), (1, 6, 1))


@pytest.fixture(scope="module")
def lite():
    return load_pretrained(LITE)


@pytest.fixture(scope="module")
def photographs():
    """A palace in China, and a flower with a bee."""
    from sklearn.datasets import load_sample_images

    return load_sample_images().images


@pytest.fixture(scope="module")
def tensors():
    return read_torch(assets.extract(LITE) / LITE_FILE)


def test_every_tensor_of_the_file_is_in_the_model(lite, tensors):
    leaves = flatten(lite.variables.params) | {f"stats:{n}": leaf for n, leaf in flatten(lite.variables.stats).items()}
    stored = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    assert sum(leaf.size for leaf in leaves.values()) == sum(tensor.size for tensor in stored.values())
    sums = {round(float(np.asarray(leaf, np.float64).sum()), 4) for leaf in leaves.values()}
    assert sums == {round(float(tensor.astype(np.float64).sum()), 4) for tensor in stored.values()}


def test_the_classes_of_imagenet_have_different_names():
    names = imagenet_names()
    assert len(set(names)) == 1000
    assert (names[134], names[517], names[985]) == ("crane (134)", "crane (517)", "daisy")


@pytest.mark.slow
@pytest.mark.parity
def test_the_photographs_have_the_logits_of_torch_and_the_right_names(lite, photographs, tensors):
    images = np.stack([lite.processor({"image": image})["image"] for image in photographs])
    logits = np.asarray(
        jax.jit(lambda leaves: forward(lite.model, leaves, {"image": images})[0]["logits"])(lite.variables)
    )
    wanted = by_torch(tensors, images)
    assert np.abs(np.asarray(logits) - wanted).max() <= 1e-5 * np.abs(wanted).max()
    best = [[lite.task.names[n].partition(",")[0] for n in np.argsort(-row)[:3]] for row in np.asarray(logits)]
    assert best[0] == ["palace", "bell cote", "monastery"]
    assert best[1][0] == "daisy"


def by_torch(tensors, images):
    """The network written down in torch, from the names and numbers of the file alone."""
    import torch
    from torch.nn import functional

    weights = {name: torch.tensor(tensor) for name, tensor in tensors.items()}

    def conv(x, name, stride=1, groups=1):
        kernel = weights[f"{name}.weight"]
        zeros = []
        for side in reversed(x.shape[2:]):
            total = max((-(-side // stride) - 1) * stride + kernel.shape[-1] - side, 0)
            zeros += [total // 2, total - total // 2]
        return functional.conv2d(functional.pad(x, zeros), kernel, stride=stride, groups=groups)

    def norm(x, name):
        mean, variance = (weights[f"{name}.running_{moment}"] for moment in ("mean", "var"))
        return functional.batch_norm(x, mean, variance, weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-3)

    x = torch.tensor(images.transpose(0, 3, 1, 2))
    x = functional.relu6(norm(conv(x, "_conv_stem", 2), "_bn0"))
    number = 0
    for stride, expansion, depth in GROUPS:
        for n in range(depth):
            block, y = f"_blocks.{number}", x
            if expansion > 1:
                y = functional.relu6(norm(conv(y, f"{block}._expand_conv"), f"{block}._bn0"))
            y = conv(y, f"{block}._depthwise_conv", stride if n == 0 else 1, y.shape[1])
            y = norm(conv(functional.relu6(norm(y, f"{block}._bn1")), f"{block}._project_conv"), f"{block}._bn2")
            x, number = (x + y if n else y), number + 1
    x = functional.relu6(norm(conv(x, "_conv_head"), "_bn1")).mean((2, 3))
    return functional.linear(x, weights["_fc.weight"], weights["_fc.bias"]).numpy()


def test_the_normalisation_is_that_of_the_training(lite, photographs):
    """The running variances of the first batch norm were measured on the inputs of the training.

    On the two photographs the variances of the first convolution are 1.3 times these with (pixel - 127) / 128, the
    input of TensorFlow's EfficientNet-Lite; with the mean and deviation of ImageNet they are 6.6 times, and with pixels
    from 0 to 1 a third of these. (A mean of 127.5 cannot be distinguished; its inputs differ by 0.004.)
    """
    from tlx.layers import conv

    inputs = {
        "lite": LITE_PROCESSOR,
        "imagenet": ImageProcessor(
            size=256, crop=(224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resample="bicubic"
        ),
        "unit": ImageProcessor(size=256, crop=(224, 224), mean=(0.0,), std=(1.0,), resample="bicubic"),
    }
    stored = np.asarray(lite.variables.stats["stem"]["norm"]["variance"])
    # Some filters are 0.
    used = stored > 1e-6
    kernel, ratios = lite.variables.params["stem"]["kernel"], {}
    for name, processor in inputs.items():
        images = np.stack([processor({"image": image})["image"] for image in photographs])
        variances = np.asarray(conv({"kernel": kernel}, images, stride=2).var((0, 1, 2)))
        ratios[name] = float(np.median(variances[used] / stored[used]))
    assert 1.0 < ratios["lite"] < 1.6 and ratios["imagenet"] > 4 and ratios["unit"] < 0.5, ratios
