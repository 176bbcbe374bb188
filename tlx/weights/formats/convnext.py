"""The form of ConvNeXt and ConvNeXt V2 in `transformers`."""

from collections.abc import Iterator

from tlx.models.convnext import ConvNeXt, blocks
from tlx.models.heads import Head
from tlx.models.names import Name, conv_names, dense_names, norm_names
from tlx.trees import Json
from tlx.weights.formats.base import Format
from tlx.weights.formats.images import grouped, image_size, patch_side, written_size

FAMILIES = {"convnext": "convnext", "convnextv2": "convnextv2"}
CLASSES = {"convnext": "ConvNext", "convnextv2": "ConvNextV2"}
FIELDS = {
    "channels": "num_channels",
    "activation": "hidden_act",
    "epsilon": "layer_norm_eps",
    "stochastic_depth": "drop_path_rate",
    "deviation": "initializer_range",
}
TUPLES = {"widths": "hidden_sizes", "depths": "depths"}
SCALE = "layer_scale_init_value"


class ConvNeXtFormat(Format):
    """The form of `transformers` for the family."""

    families = FAMILIES
    unused = (r"classifier\..*",)

    def kind(self, config: ConvNeXt) -> str:
        return "convnextv2" if config.response_norm else "convnext"

    def read(self, document: Json) -> ConvNeXt:
        """Return a `ConvNeXt` from config.json. Raises ValueError for settings that tlx does not cover."""
        values = {field: document[foreign] for field, foreign in FIELDS.items() if document.get(foreign) is not None}
        for field, foreign in TUPLES.items():
            if document.get(foreign) is not None:
                values[field] = tuple(document[foreign])
        second = document["model_type"] == "convnextv2"
        scale = None if second else document.get(SCALE, ConvNeXt.layer_scale)
        values |= {"size": image_size(document), "patch": patch_side(document, ConvNeXt.patch)}
        return ConvNeXt(layer_scale=scale or None, response_norm=second, **values)

    def write(self, config: ConvNeXt, head: Head | None, document: Json) -> Json:
        """Return a config.json for `config`, with other fields from an earlier `document`.

        Raises ValueError for settings without a foreign form: layer scale and response normalisation together.
        """
        if config.response_norm and config.layer_scale is not None:
            raise ValueError(
                f"a ConvNeXt with response_norm=True, layer_scale={config.layer_scale} has no equivalent in "
                "transformers, so it cannot be saved in Hugging Face format; set layer_scale=None"
            )
        kind = self.kind(config)
        values = {foreign: getattr(config, field) for field, foreign in FIELDS.items()}
        values |= {foreign: list(getattr(config, field)) for field, foreign in TUPLES.items()}
        values |= {"image_size": written_size(config.size), "patch_size": config.patch}
        values |= {"num_stages": len(config.depths), "model_type": kind}
        if not config.response_norm:
            values |= {SCALE: config.layer_scale or 0.0}
        end = "Model" if head is None else "ForImageClassification"
        return document | values | {"architectures": [CLASSES[kind] + end]}

    def prefix(self, config: ConvNeXt) -> str:
        return f"{self.kind(config)}."

    def names(self, config: ConvNeXt, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every parameter."""
        yield from conv_names("stem/patch", "embeddings.patch_embeddings")
        yield from norm_names("stem/norm", "embeddings.layernorm")
        for n, (block, (group, place)) in enumerate(zip(blocks(config), grouped(config.depths), strict=True)):
            ours, stage = f"blocks/{n:02d}", f"encoder.stages.{group}"
            foreign = f"{stage}.layers.{place}"
            if block.inputs is not None:
                yield from norm_names(f"{ours}/halve/norm", f"{stage}.downsampling_layer.0")
                yield from conv_names(f"{ours}/halve", f"{stage}.downsampling_layer.1")
            yield from conv_names(f"{ours}/depthwise", f"{foreign}.dwconv")
            yield from norm_names(f"{ours}/norm", f"{foreign}.layernorm")
            yield from dense_names(f"{ours}/mlp/up", f"{foreign}.pwconv1")
            yield from dense_names(f"{ours}/mlp/down", f"{foreign}.pwconv2")
            if config.response_norm:
                yield Name(f"{ours}/mlp/response/scale", f"{foreign}.grn.weight", squeeze=3)
                yield Name(f"{ours}/mlp/response/bias", f"{foreign}.grn.bias", squeeze=3)
            if config.layer_scale is not None:
                yield Name(f"{ours}/scale", f"{foreign}.layer_scale_parameter")
        yield from norm_names("norm", "layernorm")
        if head is not None:
            yield from dense_names("head", "classifier", head=True)
