"""The form of BiT in `transformers`."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from tlx.models.bit import LAYERS, BiT, blocks
from tlx.models.heads import Head
from tlx.models.names import Name, conv_names, dense_names, norm_names
from tlx.trees import Json
from tlx.weights.formats.base import Format
from tlx.weights.formats.images import grouped, image_size, written_size

FIELDS = {
    "channels": "num_channels",
    "stem": "embedding_size",
    "groups": "num_groups",
    "activation": "hidden_act",
    "stochastic_depth": "drop_path_rate",
    "padded_pool": "embedding_dynamic_padding",
}
TUPLES = {"widths": "hidden_sizes", "depths": "depths"}
KINDS = {"preactivation": True, "bottleneck": False}
# The only values for which the class of `transformers` computes a network of these widths.
FIXED = {"output_stride": 32, "width_factor": 1}


class BitFormat(Format):
    """The form of `transformers` for the family."""

    families: ClassVar[dict[str, str]] = {"bit": "bit"}
    unused = (r"classifier\..*",)

    def kind(self, config: BiT) -> str:
        return "bit"

    def read(self, document: Json) -> BiT:
        """Return a `BiT` from config.json. Raises ValueError for settings that tlx does not cover."""
        for name, value in FIXED.items():
            if (stated := document.get(name, value)) != value:
                raise ValueError(f"config.json has {name}={stated}; tlx supports {value} only")
        if str(padding := document.get("global_padding")).upper() == "VALID":
            raise ValueError(
                f"config.json has global_padding={padding!r}, with which the two ways of a block have different sizes; "
                "expected 'SAME' or null"
            )
        values = {field: document[foreign] for field, foreign in FIELDS.items() if document.get(foreign) is not None}
        for field, foreign in TUPLES.items():
            if document.get(foreign) is not None:
                values[field] = tuple(document[foreign])
        values = {"padded_pool": False} | values
        kind = KINDS[document.get("layer_type") or "preactivation"]
        form: Literal["same", "even"] = "same" if padding is not None else "even"
        return BiT(preactivation=kind, padding=form, size=image_size(document), **values)

    def write(self, config: BiT, head: Head | None, document: Json) -> Json:
        """Return a config.json for `config`, with other fields from an earlier `document`."""
        values = {foreign: getattr(config, field) for field, foreign in FIELDS.items()}
        values |= {foreign: list(getattr(config, field)) for field, foreign in TUPLES.items()}
        values |= {"layer_type": next(name for name, value in KINDS.items() if value == config.preactivation)}
        values |= {"global_padding": "SAME" if config.padding == "same" else None, "model_type": "bit"}
        values |= FIXED | {"image_size": written_size(config.size)}
        end = "BitModel" if head is None else "BitForImageClassification"
        return document | values | {"architectures": [end]}

    def prefix(self, config: BiT) -> str:
        return "bit."

    def names(self, config: BiT, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every parameter."""
        yield from conv_names("stem", "embedder.convolution", bias=False)
        if not config.preactivation:
            yield from norm_names("stem/norm", "embedder.norm")
        for n, (block, (group, place)) in enumerate(zip(blocks(config), grouped(config.depths), strict=True)):
            ours, foreign = f"blocks/{n:02d}", f"encoder.stages.{group}.layers.{place}"
            for number, layer in enumerate(LAYERS, 1):
                yield from conv_names(f"{ours}/{layer}", f"{foreign}.conv{number}", bias=False)
                yield from norm_names(f"{ours}/{layer}/norm", f"{foreign}.norm{number}")
            if block.first:
                yield from conv_names(f"{ours}/shortcut", f"{foreign}.downsample.conv", bias=False)
                if not config.preactivation:
                    yield from norm_names(f"{ours}/shortcut/norm", f"{foreign}.downsample.norm")
        if config.preactivation:
            yield from norm_names("norm", "norm")
        if head is not None:
            yield from dense_names("head", "classifier.1", head=True)
