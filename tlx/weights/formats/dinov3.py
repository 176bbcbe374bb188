"""The form of the vision transformers of DINOv3 in `transformers`."""

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from tlx.models.heads import Head
from tlx.models.names import Name, conv_names, dense_names, norm_names
from tlx.models.vit import Vit
from tlx.trees import Json
from tlx.weights.formats.base import Format
from tlx.weights.formats.images import image_size, patch_side, written_size

KIND = "dinov3_vit"
FIELDS = {
    "channels": "num_channels",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp": "intermediate_size",
    "activation": "hidden_act",
    "gated": "use_gated_mlp",
    "qkv_bias": "query_bias",
    "key_bias": "key_bias",
    "epsilon": "layer_norm_eps",
    "attention_dropout": "attention_dropout",
    "deviation": "initializer_range",
    "layer_scale": "layerscale_value",
    "stochastic_depth": "drop_path_rate",
    "registers": "num_register_tokens",
    "rotary": "rope_theta",
}
ASSUMED = {"width": 384, "heads": 6, "mlp": 1536, "epsilon": 1e-5, "layer_scale": 1.0, "key_bias": False}
BIASES = ("proj_bias", "mlp_bias")


class Dinov3Format(Format):
    """The form of `transformers` for the family.

    The random rescaling of positions in training (`pos_embed_rescale`), a part of pretraining, is not applied.
    """

    families: ClassVar[dict[str, str]] = {KIND: KIND}
    unused = (r".*mask_token", r".*register_tokens")

    def read(self, document: Json) -> Vit:
        """Return a `Vit` from config.json. Raises ValueError for settings that tlx does not cover."""
        for name in BIASES:
            if not document.get(name, True):
                raise ValueError(f"config.json has {name}=false; tlx supports a DINOv3 with this bias only")
        stated = {field: document[foreign] for field, foreign in FIELDS.items() if document.get(foreign) is not None}
        values = ASSUMED | stated
        query, value = values.get("qkv_bias", True), document.get("value_bias", True)
        if query != value or (values["key_bias"] and not query):
            raise ValueError(
                f"config.json has query_bias={query}, value_bias={value}, key_bias={values['key_bias']}; tlx supports "
                "a bias of query and value together, and one of the key only with them"
            )
        values |= {"size": image_size(document), "patch": patch_side(document, 16)}
        return Vit(family=KIND, **values)

    def write(self, config: Vit, head: Head | None, document: Json) -> Json:
        """Return a config.json for `config`, with other fields from an earlier `document`.

        Raises ValueError for settings without a foreign form: no layer scale, or dropout of hidden states.
        """
        if config.layer_scale is None or config.dropout:
            raise ValueError(
                f"a dinov3_vit with layer_scale={config.layer_scale}, dropout={config.dropout} has no equivalent in "
                "transformers, so it cannot be saved in Hugging Face format"
            )
        values = {foreign: getattr(config, field) for field, foreign in FIELDS.items()}
        values |= {"value_bias": config.qkv_bias, "key_bias": config.qkv_bias and config.key_bias}
        values |= dict.fromkeys(BIASES, True)
        values |= {"image_size": written_size(config.size), "patch_size": config.patch, "model_type": KIND}
        return document | values | {"architectures": ["DINOv3ViTModel"]}

    def unanswered(self, config: Vit, head: Head | None) -> str | None:
        if head is None:
            return None
        return (
            "transformers has no class for a DINOv3 with a classifier. Export the backbone alone, or open this model "
            "with tlx.load_pretrained"
        )

    def names(self, config: Vit, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every parameter."""
        yield Name("stem/class", "embeddings.cls_token", squeeze=2)
        if config.registers:
            yield Name("stem/registers", "embeddings.register_tokens", squeeze=1)
        yield from conv_names("stem/patch", "embeddings.patch_embeddings")
        for n in range(config.depth):
            ours, foreign = f"blocks/{n:02d}", f"layer.{n}"
            for name in ("query", "key", "value"):
                bias = config.qkv_bias and (name != "key" or config.key_bias)
                yield from dense_names(f"{ours}/attention/{name}", f"{foreign}.attention.{name[0]}_proj", bias=bias)
            yield from dense_names(f"{ours}/attention/output", f"{foreign}.attention.o_proj")
            for layer in ("gate", "up", "down") if config.gated else ("up", "down"):
                yield from dense_names(f"{ours}/mlp/{layer}", f"{foreign}.mlp.{layer}_proj")
            for number, part in enumerate(("attention", "mlp"), 1):
                yield from norm_names(f"{ours}/{part}/norm", f"{foreign}.norm{number}")
                yield Name(f"{ours}/{part}/scale", f"{foreign}.layer_scale{number}.lambda1")
        yield from norm_names("norm", "norm")
        if head is not None:
            yield from dense_names("head/output", "classifier", head=True)

    def constants(self, config: Vit, head: Head | None) -> dict[str, np.ndarray]:
        """Return the token of masked patches, which pretraining alone uses, and an empty list of registers."""
        constants = {"embeddings.mask_token": np.zeros((1, 1, config.width), np.float32)}
        if not config.registers:
            constants["embeddings.register_tokens"] = np.zeros((1, 0, config.width), np.float32)
        return constants

    def in_memory(self, config: Vit, module: str) -> str | None:
        return f"model.{module}" if module.startswith("layer.") else module
