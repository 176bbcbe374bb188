"""Architectures: one file each, a frozen dataclass of its numbers and a chain of stages.

An architecture's file holds its dataclass and `build(config, outputs) -> Model`. One that has a foreign (Hugging Face)
form also holds `read(document) -> config`, `write(config, outputs, document) -> document`, `prefix(config)`,
`names(config, outputs)` and `UNUSED`: the patterns of foreign tensors that may stay unread.
"""

from collections.abc import Mapping
from functools import partial
from types import ModuleType
from typing import Any

import jax

from tlx.models import bert, bridge, cnn, mlp, sizes, vit
from tlx.models.bert import Bert
from tlx.models.bridge import Linen, Nnx
from tlx.models.chain import beside, features, forward, initialise, prefix_length, summary
from tlx.models.cnn import Cnn
from tlx.models.maps import attention_scores, attention_stages
from tlx.models.mlp import Mlp
from tlx.models.vit import Vit
from tlx.trees import Tree, near_miss, subtree
from tlx.types import Model

ARCHITECTURES: dict[type, ModuleType] = {Bert: bert, Vit: vit, Cnn: cnn, Mlp: mlp, Linen: bridge, Nnx: bridge}
FOREIGN: dict[str, ModuleType] = {kind: module for module in (bert, vit) for kind in module.FAMILIES}

__all__ = [
    "ARCHITECTURES", "FOREIGN", "Bert", "Cnn", "Linen", "Mlp", "Nnx", "Vit",
    "architecture", "attention_scores", "attention_stages", "beside", "build", "check_tokens", "count",
    "example_inputs", "features", "foreign", "forward", "image_shape", "initialise", "summary", "tap_shapes",
    "text_room",
]  # fmt: skip


def architecture(config: Any) -> ModuleType:
    """The file of the architecture that `config` belongs to; TypeError where it is none of ours."""
    if type(config) not in ARCHITECTURES:
        known = ", ".join(kind.__name__ for kind in ARCHITECTURES)
        raise TypeError(f"{type(config).__name__} is not an architecture; known: {known}")
    return ARCHITECTURES[type(config)]


def build(config: Any, outputs: int | None = None) -> Model:
    """The model of `config`; with `outputs`, its head of that width."""
    return architecture(config).build(config, outputs)


def foreign(kind: str) -> ModuleType:
    """The file that reads checkpoints of the Hugging Face `model_type` `kind`; ValueError names the near misses."""
    if kind not in FOREIGN:
        raise ValueError(f"no architecture for model_type {kind!r}{near_miss(kind, FOREIGN)}")
    return FOREIGN[kind]


def count(config: Any, outputs: int | None = None) -> int:
    """Count the parameters that the model of `config` has, without building it."""
    file = architecture(config)
    declare = getattr(file, "declare", None) or (lambda c, n: file.build(c, n).params)
    return sizes.count(declare, config, outputs)


def image_shape(config: Any) -> tuple[int, int, int] | None:
    """(height, width, channels) of the images that a model reads; None where it reads something else."""
    if isinstance(config, Vit):
        return (*vit.sides(config), config.channels)
    if isinstance(config, Cnn):
        return config.size, config.size, config.channels
    shape = config.inputs if isinstance(config, Mlp) else getattr(config, "shape", ())
    if len(shape) != 3 or config.input != "image":
        return None
    height, width, channels = shape
    return height, width, channels


def example_inputs(config: Any, batch: int = 2, tokens: int = 8) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of inputs that the model of `config` reads: what it is traced with where there are no data. A text has so
    many `tokens`, or as many as there are positions for."""
    if isinstance(config, Bert):
        return {"input_ids": jax.ShapeDtypeStruct((batch, min(tokens, config.positions - 2)), "int32")}
    if isinstance(config, Vit | Cnn):
        return {"image": jax.ShapeDtypeStruct((batch, *(image_shape(config) or ())), "float32")}
    shape = config.inputs if isinstance(config, Mlp) else config.shape
    return {config.input: jax.ShapeDtypeStruct((batch, *shape), getattr(config, "dtype", "float32"))}


def tap_shapes(model: Model, params: Tree | None = None, inputs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The taps of a forward pass as shapes: with the `params` of the model and what is inserted among them (None:
    nothing is), of `inputs` (None: two examples of it)."""
    declared = jax.eval_shape(partial(initialise, model), jax.random.key(0))
    variables = declared if params is None else declared._replace(params=params)
    inputs = example_inputs(model.config) if inputs is None else inputs
    return jax.eval_shape(lambda v, x: forward(model, v, x)[0], variables, inputs)


def text_room(model: Model, params: Tree) -> int | None:
    """How many tokens of a text the model has positions for, beside those that a tuning puts before them; None where
    it reads no text."""
    if not isinstance(model.config, Bert):
        return None
    prompt = subtree(params, "stem/prompt").get("tokens", ())
    return bert.room(model.config) - len(prompt) - prefix_length(model, params)


def check_tokens(model: Model, params: Tree, tokens: int) -> None:
    """ValueError where a text of so many `tokens`, with what a tuning put before them, is too long for the model."""
    if (room := text_room(model, params)) is not None:
        bert.check_length(model.config, tokens + bert.room(model.config) - room)
