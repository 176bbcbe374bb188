"""The convolutional networks of tlx compared with `transformers` on torch: outputs, gradients, and running statistics.

Every parameter and statistic of torch is moved off its initial value. The images have odd sides and odd numbers of
channels. In evaluation and in training, values and statistics must agree to a maximal absolute difference of 1e-5 of
their size, and gradients to a relative difference of 1e-5 in the Euclidean norm. In training both sides compute in
float64: the gradients of batch norm over a few examples are so ill conditioned that float32 gradients of torch differ
from its float64 gradients by up to 2.7e-5 here. The logits are float32 in any case.
"""

import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil

from tlx.models import Pooled, build, forward, image_shape
from tlx.models.names import STATS, inward
from tlx.tasks import Classification
from tlx.trees import flatten, nest
from tlx.types import Variables
from tlx.weights import load_pretrained, save_pretrained
from tlx.weights.formats import foreign

pytestmark = pytest.mark.parity
TOLERANCE = 1e-5
# Most of the time is compilation.
QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
CLASSES = 3


class Case(NamedTuple):
    """The fields of a configuration of `transformers`, (height, width) of an image, and the family."""

    fields: dict[str, Any]
    sides: tuple[int, int]
    family: str = "ResNet"


SMALL = {"num_channels": 2, "embedding_size": 6, "hidden_sizes": [8, 12], "depths": [2, 2]}
# No random noise: the reference draws other numbers.
INVERTED = {
    "num_channels": 5, "width_coefficient": 0.1, "depth_coefficient": 1.0, "hidden_dim": 128, "in_channels": [32, 90],
    "out_channels": [90, 120], "kernel_sizes": [3, 5], "strides": [1, 2], "num_block_repeats": [1, 2],
    "expand_ratios": [1, 3], "dropout_rate": 0.0, "drop_connect_rate": 0.0, "squeeze_expansion_ratio": 0.3,
}  # fmt: skip
MOBILE = {
    "num_channels": 5, "depth_multiplier": 0.05, "depth_divisible_by": 2, "min_depth": 4, "expand_ratio": 1.6,
    "classifier_dropout_prob": 0.0,
}  # fmt: skip
CASES = {
    "basic": Case(SMALL | {"layer_type": "basic"}, (33, 26)),
    "basic-equal": Case(SMALL | {"layer_type": "basic", "hidden_sizes": [6, 10]}, (19, 35)),
    "bottleneck": Case(SMALL, (35, 22)),
    "early": Case(SMALL | {"downsample_in_bottleneck": True, "downsample_in_first_stage": True}, (41, 37)),
    "silu": Case(SMALL | {"hidden_act": "silu", "depths": [1, 3], "num_channels": 5}, (20, 21)),
    "efficientnet": Case(INVERTED, (33, 26), "EfficientNet"),
    "efficientnet-deep": Case(
        INVERTED | {"depth_coefficient": 1.3, "depthwise_padding": [1, 3], "hidden_act": "relu6"},
        (20, 21),
        "EfficientNet",
    ),
    "mobilenet-v2": Case(MOBILE, (33, 26), "MobileNetV2"),
    "mobilenet-v2-dilated": Case(
        MOBILE
        | {"output_stride": 8, "tf_padding": False, "finegrained_output": False}
        | {"first_layer_is_expansion": False},
        (24, 41),
        "MobileNetV2",
    ),
}


def reference(case: Case) -> Any:
    """Return the torch model, with every parameter and statistic off its initial value."""
    torch.manual_seed(0)
    kind = getattr(transformers, f"{case.family}ForImageClassification")
    model = kind(kind.config_class(**case.fields, num_labels=CLASSES))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.3 * torch.randn_like(buffer))
            elif name.endswith("running_var"):
                buffer.mul_(0.5 + torch.rand_like(buffer))
    return model


def read(module: Any, config: Any, tensors: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the parameters and the statistics by path from tensors with foreign names."""
    head = Pooled(CLASSES)
    named = {(n.foreign if n.head else module.prefix(config) + n.foreign): n for n in module.names(config, head)}
    assert {key for key in tensors if not key.endswith("num_batches_tracked")} <= named.keys()
    # Copies, because torch moves its statistics in place.
    arrays = {named[k].ours: inward(named[k], t.detach().numpy().copy()) for k, t in tensors.items() if k in named}
    stats = {path.removeprefix(STATS): array for path, array in arrays.items() if path.startswith(STATS)}
    return {path: array for path, array in arrays.items() if not path.startswith(STATS)}, stats


def norm(array: Any) -> float:
    return float(np.linalg.norm(np.asarray(array, np.float64)))


def compare(model: Any, images: np.ndarray, train: bool) -> dict[str, float]:
    """Return the largest differences of the logits, the loss's gradients, and the statistics after one pass."""
    model.train(train).to(torch.float64 if train else torch.float32)
    images = images.astype(np.float64 if train else np.float32)
    document = model.config.to_dict()
    module = foreign(document["model_type"])
    config = module.read(document | {"image_size": list(images.shape[1:3])})
    built = build(config, Pooled(CLASSES))
    params, stats = read(module, config, model.state_dict())
    assert {p: a.shape for p, a in params.items()} == {p: a.shape for p, a in flatten(built.params).items()}
    assert {p: a.shape for p, a in stats.items()} == {p: a.shape for p, a in flatten(built.stats).items()}
    labels = np.arange(len(images)) % CLASSES
    result = model(torch.tensor(images.transpose(0, 3, 1, 2)))
    torch.nn.functional.cross_entropy(result.logits, torch.tensor(labels)).backward()

    def loss(leaves: Any) -> Any:
        variables = Variables(leaves, nest(stats))
        rest = {"train": train, "key": jax.random.key(0), "dtype": images.dtype}
        taps, new = forward(built, variables, {"image": images}, **rest)
        scores = jax.nn.log_softmax(taps["logits"].astype(images.dtype))
        return -jnp.take_along_axis(scores, labels[:, None], 1).mean(), (taps["logits"], new)

    differentiate = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=QUICK)
    (_, (logits, new)), gradient = differentiate(nest(params))
    slopes, _ = read(module, config, {name: p.grad for name, p in model.named_parameters()})
    _, moved = read(module, config, model.state_dict())
    wanted = result.logits.detach().numpy()
    got = flatten(gradient)
    # The bias of a norm before a convolution of one pixel and another norm has no effect in training: its gradient is
    # rounding alone, which no tolerance of its size holds for.
    smallest = 1e-6 * max(map(norm, slopes.values()))
    return {
        "logits": float(np.abs(np.asarray(logits) - wanted).max() / max(1.0, np.abs(wanted).max())),
        "gradients": max(norm(got[path] - slope) / max(norm(slope), smallest) for path, slope in slopes.items()),
        "statistics": max(float(np.abs(np.asarray(leaf) - moved[path]).max()) for path, leaf in flatten(new).items()),
    }


# A MobileNetV2 of `transformers` has 17 blocks, however small they are.
LONG = [pytest.param("mobilenet-v2", False, marks=pytest.mark.slow)]
LONG += [pytest.param("mobilenet-v2-dilated", True, marks=pytest.mark.slow)]


@pytest.mark.parametrize(
    ("name", "train"),
    [(name, train) for name in CASES if CASES[name].family != "MobileNetV2" for train in (False, True)] + LONG,
)
def test_small_networks_agree(name, train):
    case = CASES[name]
    images = np.random.default_rng(0).normal(size=(5, *case.sides, case.fields["num_channels"])).astype(np.float32)
    with jax.enable_x64(train):
        actual = compare(reference(case), images, train)
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
