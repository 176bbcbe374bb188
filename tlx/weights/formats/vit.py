"""The form of ViT, DeiT and DINOv2, with and without registers, in `transformers`."""

from collections.abc import Iterator

import numpy as np

from tlx.models.heads import Head
from tlx.models.names import Name, dense_names, norm_names
from tlx.models.vit import Vit, pooled
from tlx.trees import Json
from tlx.weights.formats.base import Format
from tlx.weights.formats.images import image_size, patch_side, written_size

CLASSES = {"vit": "ViT", "deit": "DeiT", "dinov2": "Dinov2", "dinov2_with_registers": "Dinov2WithRegisters"}
FAMILIES = {family: family for family in CLASSES}
REGISTERS = "dinov2_with_registers"
UNUSED = (
    r".*\.mask_token",
    r".*\.register_tokens",
    r"decoder\..*",
    r"pooler\..*",
    r"((cls|distillation)_)?classifier\..*",
)
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
IN_MEMORY = {f"attention.attention.{name}": f"attention.{name[0]}_proj" for name in ("query", "key", "value")} | {
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "mlp.weights_out": "mlp.down_proj",
}


class VitFormat(Format):
    """The form of `transformers` for the family."""

    families = FAMILIES
    unused = UNUSED

    def read(self, document: Json) -> Vit:
        """Return a `Vit` from config.json. Raises ValueError for settings that tlx does not cover."""
        family = FAMILIES[document["model_type"]]
        dino = family.startswith("dinov2")
        fields = DINOV2_FIELDS if dino else FIELDS
        values = {field: document[foreign] for field, foreign in fields.items() if document.get(foreign) is not None}
        values |= {"size": image_size(document), "patch": patch_side(document, 14 if family == "dinov2" else 16)}
        if dino:
            if family == REGISTERS:
                values["registers"] = document.get("num_register_tokens", 4)
            values = {"epsilon": 1e-6, "layer_scale": 1.0} | values
            ratio, gated = document.get("mlp_ratio", 4), values.get("gated", False)
            return Vit(family=family, mlp=units(values.get("width", Vit.width), ratio, gated), **values)
        if (act := document.get("pooler_act", "tanh")) != "tanh":
            raise ValueError(f"config.json has the pooler activation {act!r}; tlx supports 'tanh' only")
        if (outputs := document.get("pooler_output_size")) not in (None, values.get("width", Vit.width)):
            raise ValueError(
                f"config.json has {outputs} pooler outputs; tlx supports only as many outputs as hidden_size"
            )
        architectures = document.get("architectures") or [f"{CLASSES[family]}Model"]
        # A checkpoint saved with a head holds no pooler, and config.json says so by the class alone.
        pooler = any(name.endswith("Model") for name in architectures)
        distilled = any(name.endswith("WithTeacher") for name in architectures)
        return Vit(family=family, pooler=pooler, distilled=distilled, **values)

    def write(self, config: Vit, head: Head | None, document: Json) -> Json:
        """Return a config.json for `config`, with other fields from an earlier `document`.

        Raises ValueError for settings without a foreign form: DINOv2 always has layer scale, the other families have
        neither layer scale nor gates, and `mlp` of DINOv2 is a whole multiple of its width.
        """
        dino = config.family.startswith("dinov2")
        if (config.layer_scale is not None) != dino or (config.gated and not dino) or not config.key_bias:
            raise ValueError(
                f"a {config.family} with layer_scale={config.layer_scale}, gated={config.gated}, key_bias="
                f"{config.key_bias} has no equivalent in transformers, so it cannot be saved in Hugging Face format"
            )
        values = {foreign: getattr(config, field) for field, foreign in (DINOV2_FIELDS if dino else FIELDS).items()}
        values["image_size"] = written_size(config.size)
        if dino:
            ratios = [ratio for ratio in range(1, 65) if units(config.width, ratio, config.gated) == config.mlp]
            if not ratios:
                raise ValueError(
                    f"mlp {config.mlp} is not a whole multiple of width {config.width}; config.json of a DINOv2 "
                    "requires this"
                )
            values["mlp_ratio"] = ratios[0]
            values |= (
                {"num_register_tokens": config.registers} if config.family == REGISTERS else {"use_mask_token": False}
            )
        end = "Model" if head is None else "ForImageClassification" + ("WithTeacher" if config.distilled else "")
        values |= {"patch_size": config.patch, "model_type": config.family}
        return document | values | {"architectures": [CLASSES[config.family] + end]}

    def prefix(self, config: Vit) -> str:
        return f"{config.family}."

    def names(self, config: Vit, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every parameter."""
        yield Name("stem/patch/kernel", "embeddings.patch_embeddings.projection.weight", "convolution")
        yield Name("stem/patch/bias", "embeddings.patch_embeddings.projection.bias")
        yield Name("stem/class", "embeddings.cls_token", squeeze=2)
        yield Name("stem/positions", "embeddings.position_embeddings", squeeze=1)
        if config.registers:
            yield Name("stem/registers", "embeddings.register_tokens", squeeze=1)
        if config.family == "deit":
            yield Name("stem/distillation", "embeddings.distillation_token", squeeze=2)
        for n in range(config.depth):
            yield from block_names(config, f"blocks/{n:02d}", f"encoder.layer.{n}")
        yield from norm_names("norm", "layernorm")
        if pooled(config, head):
            yield from dense_names("pool", "pooler.dense")
        if head is None:
            return
        yield from dense_names("head/output", "cls_classifier" if config.distilled else "classifier", head=True)
        if config.distilled:
            yield from dense_names("head/distillation", "distillation_classifier", head=True)

    def constants(self, config: Vit, head: Head | None) -> dict[str, np.ndarray]:
        """Return the token of masked patches of a DINOv2 with registers, which pretraining alone uses, and an empty
        list of registers."""
        if config.family != REGISTERS:
            return {}
        prefix = "" if head is None else self.prefix(config)
        constants = {f"{prefix}embeddings.mask_token": np.zeros((1, config.width), np.float32)}
        if not config.registers:
            constants[f"{prefix}embeddings.register_tokens"] = np.zeros((1, 0, config.width), np.float32)
        return constants

    def in_memory(self, config: Vit, module: str) -> str | None:
        place, dot, block = module.partition("encoder.layer.")
        if not dot:
            return module
        number, _, name = block.partition(".")
        stem = "encoder.layer" if config.family.startswith("dinov2") else "layers"
        return None if name == "mlp.weights_in" else f"{place}{stem}.{number}.{IN_MEMORY.get(name, name)}"


def units(width: int, ratio: float, gated: bool) -> int:
    """Return the feed-forward width that DINOv2 derives from `mlp_ratio`; gated, 2/3 of it, a multiple of 8."""
    return (int(int(width * ratio) * 2 / 3) + 7) // 8 * 8 if gated else int(width * ratio)


def block_names(config: Vit, ours: str, foreign: str) -> Iterator[Name]:
    for name in ("query", "key", "value"):
        module = f"{foreign}.attention.attention.{name}"
        yield from dense_names(f"{ours}/attention/{name}", module, bias=config.qkv_bias)
    yield from dense_names(f"{ours}/attention/output", f"{foreign}.attention.output.dense")
    if config.family.startswith("dinov2"):
        mlp = ("mlp.weights_in", "mlp.weights_out") if config.gated else ("mlp.fc1", "mlp.fc2")
        norms = ("norm1", "norm2")
    else:
        mlp, norms = ("intermediate.dense", "output.dense"), ("layernorm_before", "layernorm_after")
    for branch, norm in zip(("attention", "mlp"), norms, strict=True):
        yield from norm_names(f"{ours}/{branch}/norm", f"{foreign}.{norm}")
    for layer, module_name in zip(("up", "down"), mlp, strict=True):
        yield from dense_names(f"{ours}/mlp/{layer}", f"{foreign}.{module_name}")
    if config.layer_scale is not None:
        yield Name(f"{ours}/attention/scale", f"{foreign}.layer_scale1.lambda1")
        yield Name(f"{ours}/mlp/scale", f"{foreign}.layer_scale2.lambda1")
