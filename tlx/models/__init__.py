"""Architectures: one file each, a frozen dataclass of sizes and rates that builds a chain of stages.

An architecture derives from `Architecture`, which explains how to write a new one. The names and layouts of its
parameters in other libraries are in `tlx.weights.formats`.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax

from tlx.models import (
    albert,
    alexnet,
    bart,
    bert,
    bit,
    bridge,
    cnn,
    convnext,
    deberta_v2,
    densenet,
    efficientnet,
    gpt2,
    inception,
    llama,
    mlp,
    mobilenet,
    modernbert,
    mpnet,
    resnet,
    sizes,
    swin,
    t5,
    vgg,
    vit,
)
from tlx.models.albert import Albert
from tlx.models.alexnet import AlexNet
from tlx.models.bart import Bart
from tlx.models.base import Architecture, as_head, build, count, example_inputs, image_shape
from tlx.models.bert import Bert
from tlx.models.bit import BiT
from tlx.models.bridge import Linen, Nnx
from tlx.models.chain import beside, features, forward, initialise, prefix_length, prompt_length, summary
from tlx.models.cnn import Cnn
from tlx.models.convnext import ConvNeXt
from tlx.models.deberta_v2 import DebertaV2
from tlx.models.densenet import DenseNet
from tlx.models.efficientnet import EfficientNet
from tlx.models.generation import Generated, Ranked, beam_search, generate
from tlx.models.gpt2 import Gpt2
from tlx.models.heads import Head, Neck, PerToken, Pooled, Span, Vocabulary
from tlx.models.inception import InceptionV3
from tlx.models.inputs import check_length
from tlx.models.llama import Llama
from tlx.models.maps import attention_scores, attention_stages
from tlx.models.mlp import Mlp
from tlx.models.mobilenet import MobileNetV2, MobileNetV3
from tlx.models.modernbert import ModernBert
from tlx.models.mpnet import MPNet
from tlx.models.resnet import ResNet
from tlx.models.swin import Swin
from tlx.models.t5 import T5
from tlx.models.vgg import Vgg
from tlx.models.vit import Vit
from tlx.trees import Tree
from tlx.types import ArrayMap, Model

__all__ = [
    "T5",
    "Albert",
    "AlexNet",
    "Architecture",
    "Bart",
    "Bert",
    "BiT",
    "Cnn",
    "ConvNeXt",
    "DebertaV2",
    "DenseNet",
    "EfficientNet",
    "Generated",
    "Gpt2",
    "Head",
    "InceptionV3",
    "Linen",
    "Llama",
    "MPNet",
    "Mlp",
    "MobileNetV2",
    "MobileNetV3",
    "ModernBert",
    "Neck",
    "Nnx",
    "PerToken",
    "Pooled",
    "Ranked",
    "ResNet",
    "Span",
    "Swin",
    "Vgg",
    "Vit",
    "Vocabulary",
    "albert",
    "alexnet",
    "architectures",
    "as_head",
    "attention_scores",
    "attention_stages",
    "bart",
    "beam_search",
    "bert",
    "beside",
    "bit",
    "bridge",
    "build",
    "check_tokens",
    "cnn",
    "convnext",
    "count",
    "deberta_v2",
    "densenet",
    "efficientnet",
    "example_inputs",
    "features",
    "forward",
    "generate",
    "gpt2",
    "image_shape",
    "inception",
    "initialise",
    "llama",
    "mlp",
    "mobilenet",
    "modernbert",
    "mpnet",
    "resnet",
    "sizes",
    "summary",
    "swin",
    "t5",
    "tap_shapes",
    "text_room",
    "vgg",
    "vit",
]  # fmt: skip


def architectures() -> tuple[type[Architecture], ...]:
    """Return the architectures that come with tlx: the classes that this package exports."""
    exports = (globals()[name] for name in __all__)
    return tuple(
        kind
        for kind in exports
        if isinstance(kind, type) and issubclass(kind, Architecture) and kind is not Architecture
    )


def tap_shapes(model: Model, params: Tree | None = None, inputs: ArrayMap | None = None) -> dict[str, Any]:
    """Return the shapes of the taps of a forward pass.

    Args:
        model: The model.
        params: The parameters, with adapters; None for the declared parameters.
        inputs: The inputs, or their shapes; None for two examples.
    """
    declared = jax.eval_shape(partial(initialise, model), jax.random.key(0))
    variables = declared if params is None else declared._replace(params=params)
    inputs = example_inputs(model.config) if inputs is None else inputs
    return jax.eval_shape(lambda leaves, arrays: forward(model, leaves, arrays)[0], variables, inputs)


def text_room(model: Model, params: Tree) -> int | None:
    """Return the number of text tokens that the model has positions for; None if it reads no text.

    The positions of tokens that a tuning puts before the text are not counted.
    """
    if (room := model.config.longest_text()) is None:
        return None
    return int(room) - prompt_length(model, params) - prefix_length(model, params)


def check_tokens(model: Model, params: Tree, tokens: int) -> None:
    """Raise ValueError if a text of `tokens` tokens, with those that a tuning puts before it, is too long."""
    if (room := text_room(model, params)) is not None:
        longest = model.config.longest_text()
        check_length(longest, tokens + longest - room)
