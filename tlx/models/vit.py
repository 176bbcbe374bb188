"""Vision transformers: ViT (Dosovitskiy et al., 2021), DeiT (Touvron et al., 2021), DINOv2 (Oquab et al., 2023).

Stages: `stem`, `blocks/00` ..., `norm`, `pool` (where the family has one), `head`. Shapes: B batch, T tokens, W width,
I height, J width of an image, C channels.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from tlx.layers import (
    ACTIVATIONS,
    as_dtype,
    attention,
    bottleneck,
    constant,
    conv,
    declare_attention,
    declare_dense,
    declare_norm,
    dense,
    dropout,
    example,
    layer_norm,
    normal,
    stochastic_depth,
    zeros,
)
from tlx.models.inputs import refuse_unread
from tlx.models.names import Name, dense_names, norm_names
from tlx.models.sizes import check_ranges
from tlx.trees import Tree, near_miss
from tlx.types import Array, Carry, Context, Model, Param, Stage

# The salts of the dense layers' own noise, apart from those of the attention (10 to 13) and of the other dropouts.
UP, DOWN, INNER, OUTER = 14, 15, 16, 18
FAMILIES = {"vit": "vit", "deit": "deit", "dinov2": "dinov2"}
CLASSES = {"vit": "ViT", "deit": "DeiT", "dinov2": "Dinov2"}
POSITIVE = ("size", "patch", "channels", "width", "depth", "heads", "mlp", "epsilon")
UNUSED = (
    r".*\.mask_token",
    r"decoder\..*",
    r"pooler\..*",
    r"((cls|distillation)_)?classifier\..*",
)


@dataclass(frozen=True, kw_only=True)
class Vit:
    """A member of the family. `family` decides the names, the extra tokens, the pooler and the head.

    `size` is the image's side, or (height, width), of which whole patches are read. `distilled` gives a DeiT with a
    head two classifiers, over the class and the distillation token, whose logits are averaged
    (`DeiTForImageClassificationWithTeacher`); without it the head reads the class token alone. `pooler` says whether
    a ViT or DeiT without a head ends in the dense and tanh of `transformers`; `pooled` otherwise is the class token.
    `gated` makes the feed-forward layer SwiGLU with `mlp` units. `layer_scale` is the initial scale of the residual
    branches, None for none. `stochastic_depth` is the last block's rate, which falls linearly to 0 in the first.
    """

    family: str = "vit"
    size: int | tuple[int, int] = 224
    patch: int = 16
    channels: int = 3
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp: int = 3072
    activation: str = "gelu"
    gated: bool = False
    qkv_bias: bool = True
    epsilon: float = 1e-12
    layer_scale: float | None = None
    distilled: bool = False
    pooler: bool = True
    dropout: float = 0.0
    attention_dropout: float = 0.0
    stochastic_depth: float = 0.0
    deviation: float = 0.02

    def __post_init__(self) -> None:
        check_ranges(self, POSITIVE, ("dropout", "attention_dropout", "stochastic_depth"))
        if self.family not in CLASSES:
            raise ValueError(f"no family {self.family!r}{near_miss(self.family, CLASSES)}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"no activation {self.activation!r}{near_miss(self.activation, ACTIVATIONS)}")
        if min(sides(self)) < self.patch:
            raise ValueError(f"an image of size {self.size} holds no patch of side {self.patch}")
        if self.distilled and self.family != "deit":
            raise ValueError(f"distilled belongs to the family 'deit', not {self.family!r}")


def sides(config: Vit) -> tuple[int, int]:
    """(height, width) of an image."""
    return (config.size, config.size) if isinstance(config.size, int) else config.size


def grid(config: Vit) -> tuple[int, int]:
    """How many whole patches lie one below the other, and side by side."""
    height, width = sides(config)
    return height // config.patch, width // config.patch


def extra(config: Vit) -> int:
    """How many tokens stand before those of the patches."""
    return 2 if config.family == "deit" else 1


def pooled(config: Vit, outputs: int | None) -> bool:
    """Whether the chain has a `pool` stage: as in `transformers`, only without a head, and never in DINOv2."""
    return config.pooler and outputs is None and config.family != "dinov2"


def declare(config: Vit, outputs: int | None) -> Tree:
    """The tree of declared parameters."""
    init, width = normal(config.deviation), config.width
    rows, columns = grid(config)
    token = Param((width,), ("width",), init)
    stem: Tree = {
        "patch": {
            "kernel": Param((config.patch, config.patch, config.channels, width), (None, None, None, "width"), init),
            "bias": Param((width,), ("width",), zeros),
        },
        "class": token,
        "positions": Param((extra(config) + rows * columns, width), (None, "width"), init),
    }
    if config.family == "deit":
        stem["distillation"] = token
    block: Tree = {
        "attention": declare_attention(width, config.heads, init, config.qkv_bias) | {"norm": declare_norm(width)},
        "mlp": {
            "up": declare_dense(width, config.mlp * (2 if config.gated else 1), ("width", "mlp"), init),
            "down": declare_dense(config.mlp, width, ("mlp", "width"), init),
            "norm": declare_norm(width),
        },
    }
    if config.layer_scale is not None:
        for branch in block.values():
            branch["scale"] = Param((width,), ("width",), constant(config.layer_scale))
    params: Tree = {"stem": stem, "blocks": {f"{n:02d}": block for n in range(config.depth)}}
    params["norm"] = declare_norm(width)
    if pooled(config, outputs):
        params["pool"] = declare_dense(width, width, ("width", None), init)
    if outputs is not None:
        features = 2 * width if config.family == "dinov2" else width
        heads = ("output", "distillation") if config.distilled else ("output",)
        params["head"] = {name: declare_dense(features, outputs, ("width", None), init) for name in heads}
    return params


def build(config: Vit, outputs: int | None = None) -> Model:
    """The chain of stages; with `outputs` the head of an image classifier of that width."""

    def stem(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        refuse_unread(carry, ("image",))
        image = as_dtype(example(carry, "image", (*sides(config), config.channels)), context)
        patches = conv(params["patch"], image, stride=config.patch, padding="VALID")
        batch, *_, width = patches.shape
        names = ("class", "distillation") if config.family == "deit" else ("class",)
        tokens = [jnp.broadcast_to(as_dtype(params[name], context), (batch, 1, width)) for name in names]
        hidden = jnp.concatenate([*tokens, patches.reshape(batch, -1, width)], axis=1)
        hidden += as_dtype(params["positions"], context)[None]
        if "prompt" in params:
            # After the extra tokens and without a position, as in visual prompt tuning (Jia et al., 2022).
            prompt = as_dtype(params["prompt"]["tokens"], context)
            first, rest = hidden[:, : len(names)], hidden[:, len(names) :]
            hidden = jnp.concatenate([first, jnp.broadcast_to(prompt, (batch, *prompt.shape)), rest], axis=1)
        return {"hidden": dropout(hidden, config.dropout, context, 0)}, stats

    def block(rate: float) -> Any:
        def apply(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
            return carry | {"hidden": encode(config, rate, params, carry["hidden"], context)}, stats

        return apply

    def norm(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        hidden = layer_norm(params, carry["hidden"], config.epsilon)
        return carry | {"hidden": hidden, "pooled": hidden[:, 0]}, stats

    def pool(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        return carry | {"pooled": jnp.tanh(dense(params, carry["pooled"], context, UP))}, stats

    def head(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        return carry | {"logits": classify(config, params, carry["hidden"], context).astype(jnp.float32)}, stats

    rates = np.linspace(0.0, config.stochastic_depth, config.depth)
    stages = [Stage("stem", stem)]
    stages += [Stage(f"blocks/{n:02d}", block(float(rate))) for n, rate in enumerate(rates)]
    stages.append(Stage("norm", norm, joins="before"))
    if pooled(config, outputs):
        stages.append(Stage("pool", pool, "pooled", joins="after"))
    if outputs is not None:
        stages.append(Stage("head", head, "logits"))
    return Model(tuple(stages), declare(config, outputs), {}, config, outputs)


def encode(config: Vit, rate: float, params: Tree, x: Array, context: Context) -> Array:
    """One pre-norm transformer block whose two branches are dropped at `rate`: [B, T, W] -> [B, T, W]."""

    def branch(own: Tree, y: Array, salt: int) -> Array:
        y = dropout(y, config.dropout, context, salt)
        if "adapter" in own:
            y = y + bottleneck(own["adapter"], y, context, INNER)
        y = y * own["scale"].astype(y.dtype) if "scale" in own else y
        return x + stochastic_depth(y, rate, context, salt + 1)

    own = params["attention"]
    normed = layer_norm(own["norm"], x, config.epsilon)
    mixed = attention(own, normed, None, heads=config.heads, rate=config.attention_dropout, context=context, salt=0)
    x = branch(own, mixed, 1)
    own = params["mlp"]
    inner = dense(own["up"], layer_norm(own["norm"], x, config.epsilon), context, UP)
    if config.gated:
        gate, inner = jnp.split(inner, 2, axis=-1)
        inner = ACTIVATIONS["silu"](gate) * inner
    else:
        inner = ACTIVATIONS[config.activation](inner)
    x = branch(own, dense(own["down"], inner, context, DOWN), 3)
    return x + bottleneck(params["adapter"], x, context, OUTER) if "adapter" in params else x


def classify(config: Vit, params: Tree, hidden: Array, context: Context) -> Array:
    """The family's own image classification head: [B, T, W] -> [B, outputs]."""
    if config.family == "dinov2":
        mean = hidden[:, 1:].astype(jnp.float32).mean(1).astype(hidden.dtype)
        return dense(params["output"], jnp.concatenate([hidden[:, 0], mean], axis=-1), context, UP)
    logits = dense(params["output"], hidden[:, 0], context, UP)
    return (logits + dense(params["distillation"], hidden[:, 1], context, DOWN)) / 2 if config.distilled else logits


def resize_positions(config: Vit, array: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Position embeddings [T, W] of `config` for images of another `size`, float32 [T', W].

    The extra tokens keep theirs. Bicubic over the grid as `torch` does it (Keys, 1981, with a = -0.75, edges repeated,
    half-pixel centres, no smoothing), which is what `transformers` does on images of another size.
    """
    other = grid(replace(config, size=size))
    rows, columns = (bicubic(old, new) for old, new in zip(grid(config), other, strict=True))
    array = np.asarray(array, np.float64)
    kept, places = array[: extra(config)], array[extra(config) :].reshape(*grid(config), -1)
    places = np.einsum("iI,jJ,IJW->ijW", rows, columns, places)
    return np.concatenate([kept, places.reshape(-1, array.shape[1])]).astype(np.float32)


def bicubic(old: int, new: int, a: float = -0.75) -> np.ndarray:
    """The matrix [new, old] that resamples a line of `old` points at `new` points."""
    centre = (np.arange(new) + 0.5) * old / new - 0.5
    left = np.floor(centre).astype(int)
    matrix = np.zeros((new, old))
    for step in (-1, 0, 1, 2):
        x = np.abs(centre - left - step)
        near, far = ((a + 2) * x - (a + 3)) * x * x + 1, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        matrix[np.arange(new), np.clip(left + step, 0, old - 1)] += np.where(x <= 1, near, far)
    return matrix


FIELDS = {
    "channels": "num_channels",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp": "intermediate_size",
    "activation": "hidden_act",
    "qkv_bias": "qkv_bias",
    "epsilon": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "deviation": "initializer_range",
}
DINOV2_FIELDS = {ours: theirs for ours, theirs in FIELDS.items() if ours != "mlp"} | {
    "gated": "use_swiglu_ffn",
    "layer_scale": "layerscale_value",
    "stochastic_depth": "drop_path_rate",
}


def units(width: int, ratio: float, gated: bool) -> int:
    """The feed-forward width that DINOv2 derives from `mlp_ratio`; gated, two thirds of it in whole eights."""
    return (int(int(width * ratio) * 2 / 3) + 7) // 8 * 8 if gated else int(width * ratio)


def read(document: dict[str, Any]) -> Vit:
    """A `Vit` from a Hugging Face `config.json`; ValueError for what this form does not cover."""
    family = FAMILIES[document["model_type"]]
    fields = DINOV2_FIELDS if family == "dinov2" else FIELDS
    values = {ours: document[theirs] for ours, theirs in fields.items() if document.get(theirs) is not None}
    size, patch = document.get("image_size", 224), document.get("patch_size", 14 if family == "dinov2" else 16)
    height, width = (size, size) if isinstance(size, int) else size
    rows, columns = (patch, patch) if isinstance(patch, int) else patch
    if rows != columns:
        raise ValueError(f"config.json asks for patches of {rows}x{columns}; tlx knows square ones")
    values |= {"size": height if height == width else (height, width), "patch": rows}
    if family == "dinov2":
        values = {"epsilon": 1e-6, "layer_scale": 1.0} | values
        ratio, gated = document.get("mlp_ratio", 4), values.get("gated", False)
        return Vit(family=family, mlp=units(values.get("width", Vit.width), ratio, gated), **values)
    if (act := document.get("pooler_act", "tanh")) != "tanh":
        raise ValueError(f"config.json asks for {act!r} in the pooler; tlx knows 'tanh'")
    if (own := document.get("pooler_output_size")) not in (None, values.get("width", Vit.width)):
        raise ValueError(f"config.json asks for {own} outputs of the pooler; tlx knows as many as hidden_size")
    architectures = document.get("architectures") or [f"{CLASSES[family]}Model"]
    # A checkpoint saved with a head holds no pooler, and config.json says so by the class alone.
    pooler = any(name.endswith("Model") for name in architectures)
    distilled = any(name.endswith("WithTeacher") for name in architectures)
    return Vit(family=family, pooler=pooler, distilled=distilled, **values)


def write(config: Vit, outputs: int | None, document: dict[str, Any]) -> dict[str, Any]:
    """A Hugging Face `config.json` for `config`, over what an earlier `document` says.

    Raises ValueError for what has no foreign form: layer scale and gates belong to DINOv2 alone, which has no rest.
    """
    dino = config.family == "dinov2"
    if (config.layer_scale is not None) != dino or (config.gated and not dino):
        raise ValueError(
            f"a {config.family} with layer_scale={config.layer_scale}, gated={config.gated} has no Hugging Face form"
        )
    values = {theirs: getattr(config, ours) for ours, theirs in (DINOV2_FIELDS if dino else FIELDS).items()}
    values |= {"image_size": config.size if isinstance(config.size, int) else list(config.size)}
    if dino:
        ratios = [ratio for ratio in range(1, 65) if units(config.width, ratio, config.gated) == config.mlp]
        if not ratios:
            raise ValueError(
                f"mlp {config.mlp} is no whole multiple of width {config.width}, as a DINOv2's config.json needs"
            )
        values |= {"mlp_ratio": ratios[0], "use_mask_token": False}
    end = "Model" if outputs is None else "ForImageClassification" + ("WithTeacher" if config.distilled else "")
    architectures = [CLASSES[config.family] + end]
    return document | values | {"patch_size": config.patch, "model_type": config.family, "architectures": architectures}


def prefix(config: Vit) -> str:
    """What the backbone's tensors are prefixed with in a checkpoint that has a head."""
    return f"{config.family}."


def names(config: Vit, outputs: int | None) -> Iterator[Name]:
    """Every parameter's foreign name."""
    yield Name("stem/patch/kernel", "embeddings.patch_embeddings.projection.weight", "convolution")
    yield Name("stem/patch/bias", "embeddings.patch_embeddings.projection.bias")
    yield Name("stem/class", "embeddings.cls_token", squeeze=2)
    yield Name("stem/positions", "embeddings.position_embeddings", squeeze=1)
    if config.family == "deit":
        yield Name("stem/distillation", "embeddings.distillation_token", squeeze=2)
    for n in range(config.depth):
        yield from block_names(config, f"blocks/{n:02d}", f"encoder.layer.{n}")
    yield from norm_names("norm", "layernorm")
    if pooled(config, outputs):
        yield from dense_names("pool", "pooler.dense")
    if outputs is None:
        return
    yield from dense_names("head/output", "cls_classifier" if config.distilled else "classifier", head=True)
    if config.distilled:
        yield from dense_names("head/distillation", "distillation_classifier", head=True)


def block_names(config: Vit, ours: str, foreign: str) -> Iterator[Name]:
    for name in ("query", "key", "value"):
        own = f"{foreign}.attention.attention.{name}"
        yield from dense_names(f"{ours}/attention/{name}", own, bias=config.qkv_bias)
    yield from dense_names(f"{ours}/attention/output", f"{foreign}.attention.output.dense")
    if config.family == "dinov2":
        mlp = ("mlp.weights_in", "mlp.weights_out") if config.gated else ("mlp.fc1", "mlp.fc2")
        norms = ("norm1", "norm2")
    else:
        mlp, norms = ("intermediate.dense", "output.dense"), ("layernorm_before", "layernorm_after")
    for branch, norm in zip(("attention", "mlp"), norms, strict=True):
        yield from norm_names(f"{ours}/{branch}/norm", f"{foreign}.{norm}")
    for layer, theirs in zip(("up", "down"), mlp, strict=True):
        yield from dense_names(f"{ours}/mlp/{layer}", f"{foreign}.{theirs}")
    if config.layer_scale is not None:
        yield Name(f"{ours}/attention/scale", f"{foreign}.layer_scale1.lambda1")
        yield Name(f"{ours}/mlp/scale", f"{foreign}.layer_scale2.lambda1")


IN_MEMORY = {f"attention.attention.{name}": f"attention.{name[0]}_proj" for name in ("query", "key", "value")} | {
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "mlp.weights_out": "mlp.down_proj",
}


def in_memory(config: Vit, module: str) -> str | None:
    """What `transformers` calls a `module` of a file once it is in memory, as peft sees it; None where it splits it."""
    place, dot, block = module.partition("encoder.layer.")
    if not dot:
        return module
    number, _, name = block.partition(".")
    stem = "encoder.layer" if config.family == "dinov2" else "layers"
    return None if name == "mlp.weights_in" else f"{place}{stem}.{number}.{IN_MEMORY.get(name, name)}"
