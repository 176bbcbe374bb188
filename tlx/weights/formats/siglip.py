"""The form of the images' side of SigLIP in `transformers`."""

from collections.abc import Iterator
from typing import Any, ClassVar

from tlx.models.heads import Head, Pooled
from tlx.models.names import Name, conv_names, dense_names, norm_names
from tlx.models.vit import Vit, pooled
from tlx.trees import Json
from tlx.weights.formats.base import Format
from tlx.weights.formats.images import image_size, patch_side

# The images' side alone, and with a classifier or the texts' side.
ALONE, WHOLE = "siglip_vision_model", "siglip"
CLASSES = {ALONE: "SiglipVisionModel", WHOLE: "SiglipForImageClassification"}
FIELDS = {
    "channels": "num_channels",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp": "intermediate_size",
    "activation": "hidden_act",
    "epsilon": "layer_norm_eps",
    "attention_dropout": "attention_dropout",
}
ASSUMED: dict[str, Any] = {"activation": "gelu_pytorch_tanh", "epsilon": 1e-6}
POOLER = "vision_use_head"


class SiglipFormat(Format):
    """The form of `transformers` for the family. The published checkpoints of SigLIP 2 for images of one size have it,
    too."""

    families: ClassVar[dict[str, str]] = {WHOLE: "siglip", ALONE: "siglip"}
    unused = (
        r"text_model\..*",
        r"logit_(scale|bias)",
        r"(vision_model\.)?head\..*",
        r"classifier\..*",
        r".*\.position_ids",
    )

    def kind(self, config: Vit) -> str:
        return ALONE if config.family == "siglip" else config.family

    def read(self, document: Json) -> Vit:
        """Return a `Vit` from config.json. Raises ValueError for settings that tlx does not cover."""
        fields = (document.get("vision_config") or {}) if document["model_type"] == WHOLE else document
        stated = {field: fields[foreign] for field, foreign in FIELDS.items() if fields.get(foreign) is not None}
        pooler = fields.get(POOLER, True) and self.head_in(document) is not Pooled
        size, patch = image_size(fields), patch_side(fields, 16)
        return Vit(family="siglip", pooler=pooler, size=size, patch=patch, **(ASSUMED | stated))

    def write(self, config: Vit, head: Head | None, document: Json) -> Json:
        """Return a config.json for `config`, with other fields from an earlier `document` with the same class.

        The classifier does not read the attention that pools, so a model with a head has none.

        Raises ValueError for settings without a foreign form.
        """
        plain = Vit(family="siglip")
        names = ("qkv_bias", "key_bias", "layer_scale", "gated", "dropout", "stochastic_depth", "deviation")
        if changed := [name for name in names if getattr(config, name) != getattr(plain, name)]:
            raise ValueError(
                f"a siglip with {changed[0]}={getattr(config, changed[0])} has no equivalent in transformers, so it "
                "cannot be saved in Hugging Face format"
            )
        if not isinstance(config.size, int):
            raise ValueError(f"the class of transformers for a siglip reads square images, not {config.size}")
        kind = ALONE if head is None else WHOLE
        values = {foreign: getattr(config, field) for field, foreign in FIELDS.items()}
        values |= {"image_size": config.size, "patch_size": config.patch, "model_type": ALONE}
        values[POOLER] = pooled(config, head)
        if kind == WHOLE:
            values = {"vision_config": values, "model_type": WHOLE}
        kept = document if document.get("model_type") == kind else {}
        return kept | values | {"architectures": [CLASSES[kind]]}

    def prefix(self, config: Vit) -> str:
        return "vision_model."

    def names(self, config: Vit, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every parameter."""
        yield from conv_names("stem/patch", "embeddings.patch_embedding")
        yield Name("stem/positions", "embeddings.position_embedding.weight")
        for n in range(config.depth):
            ours, foreign = f"blocks/{n:02d}", f"encoder.layers.{n}"
            for name in ("query", "key", "value"):
                yield from dense_names(f"{ours}/attention/{name}", f"{foreign}.self_attn.{name[0]}_proj")
            yield from dense_names(f"{ours}/attention/output", f"{foreign}.self_attn.out_proj")
            for number, (part, layer) in enumerate((("attention", "up"), ("mlp", "down")), 1):
                yield from norm_names(f"{ours}/{part}/norm", f"{foreign}.layer_norm{number}")
                yield from dense_names(f"{ours}/mlp/{layer}", f"{foreign}.mlp.fc{number}")
        yield from norm_names("norm", "post_layernorm")
        if pooled(config, head):
            yield Name("pool/query", "head.probe", squeeze=2)
            yield Name("pool/project/kernel", "head.attention.in_proj_weight", "transpose")
            yield Name("pool/project/bias", "head.attention.in_proj_bias")
            yield from dense_names("pool/output", "head.attention.out_proj")
            yield from norm_names("pool/norm", "head.layernorm")
            yield from dense_names("pool/up", "head.mlp.fc1")
            yield from dense_names("pool/down", "head.mlp.fc2")
        if head is not None:
            yield from dense_names("head/output", "classifier", head=True)
