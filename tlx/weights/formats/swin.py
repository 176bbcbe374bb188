"""The form of Swin and Swin V2 in `transformers`."""

from collections.abc import Iterator

from tlx.models.heads import Head
from tlx.models.names import Name, conv_names, dense_names, norm_names
from tlx.models.swin import Swin, blocks
from tlx.trees import Json
from tlx.weights.formats.base import Format
from tlx.weights.formats.images import grouped, image_size, patch_side, written_size

FAMILIES = {"swin": "swin", "swinv2": "swinv2"}
CLASSES = {"swin": "Swin", "swinv2": "Swinv2"}
FIELDS = {
    "channels": "num_channels",
    "width": "embed_dim",
    "window": "window_size",
    "mlp_ratio": "mlp_ratio",
    "activation": "hidden_act",
    "qkv_bias": "qkv_bias",
    "epsilon": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "stochastic_depth": "drop_path_rate",
    "deviation": "initializer_range",
}
TUPLES = {"depths": "depths", "heads": "num_heads"}
PRETRAINED = "pretrained_window_sizes"
IN_MEMORY = {f"attention.self.{name}": f"attention.{name[0]}_proj" for name in ("query", "key", "value")} | {
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}


class SwinFormat(Format):
    """The form of `transformers` for the family."""

    families = FAMILIES
    # Indices and distances follow from the size of the windows.
    unused = (
        r".*\.mask_token",
        r".*\.relative_position_index",
        r".*\.relative_coords_table",
        r"decoder\..*",
        r"classifier\..*",
    )

    def read(self, document: Json) -> Swin:
        """Return a `Swin` from config.json. Raises ValueError for settings that tlx does not cover."""
        if document.get("use_absolute_embeddings"):
            raise ValueError(
                "config.json has use_absolute_embeddings=true; tlx supports Swin without absolute positions only, "
                "as all published checkpoints are"
            )
        family = FAMILIES[document["model_type"]]
        values = {field: document[foreign] for field, foreign in FIELDS.items() if document.get(foreign) is not None}
        for field, foreign in TUPLES.items():
            if document.get(foreign) is not None:
                values[field] = tuple(document[foreign])
        windows = tuple(document.get(PRETRAINED) or ()) if family == "swinv2" else ()
        values |= {"size": image_size(document), "patch": patch_side(document, Swin.patch)}
        return Swin(family=family, pretrained_windows=windows if any(windows) else (), **values)

    def write(self, config: Swin, head: Head | None, document: Json) -> Json:
        """Return a config.json for `config`, with other fields from an earlier `document`."""
        values = {foreign: getattr(config, field) for field, foreign in FIELDS.items()}
        values |= {foreign: list(getattr(config, field)) for field, foreign in TUPLES.items()}
        values |= {"image_size": written_size(config.size), "patch_size": config.patch, "model_type": config.family}
        values |= {"mlp_ratio": float(config.mlp_ratio), "use_absolute_embeddings": False}
        if config.family == "swinv2":
            values |= {PRETRAINED: list(config.pretrained_windows or (0,) * len(config.depths))}
        end = "Model" if head is None else "ForImageClassification"
        return document | values | {"architectures": [CLASSES[config.family] + end]}

    def prefix(self, config: Swin) -> str:
        return f"{config.family}."

    def names(self, config: Swin, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every parameter."""
        yield from conv_names("stem/patch", "embeddings.patch_embeddings.projection")
        yield from norm_names("stem/norm", "embeddings.norm")
        for n, (block, (group, place)) in enumerate(zip(blocks(config), grouped(config.depths), strict=True)):
            ours, layers = f"blocks/{n:02d}", "encoder.layers"
            if block.halves:
                # A layer that halves the image is the end of the group before it.
                yield from norm_names(f"{ours}/halve/norm", f"{layers}.{group - 1}.downsample.norm")
                yield from dense_names(f"{ours}/halve", f"{layers}.{group - 1}.downsample.reduction", bias=False)
            yield from block_names(config, ours, f"{layers}.{group}.blocks.{place}")
        yield from norm_names("norm", "layernorm")
        if head is not None:
            yield from dense_names("head", "classifier", head=True)

    def in_memory(self, config: Swin, module: str) -> str | None:
        place, dot, rest = module.partition(".blocks.")
        number, _, name = rest.partition(".")
        if not dot or config.family == "swinv2":
            return module
        return f"{place}{dot}{number}.{IN_MEMORY.get(name, name)}"


def block_names(config: Swin, ours: str, foreign: str) -> Iterator[Name]:
    """Yield the foreign names of a transformer block."""
    second = config.family == "swinv2"
    layer, inner = f"{ours}/attention", f"{foreign}.attention.self"
    for name in ("query", "key", "value"):
        bias = config.qkv_bias and not (second and name == "key")
        yield from dense_names(f"{layer}/{name}", f"{inner}.{name}", bias=bias)
    if second:
        yield Name(f"{layer}/factor", f"{inner}.logit_scale")
        yield from dense_names(f"{layer}/positions/up", f"{inner}.continuous_position_bias_mlp.0")
        yield from dense_names(f"{layer}/positions/down", f"{inner}.continuous_position_bias_mlp.2", bias=False)
    else:
        yield Name(f"{layer}/positions/table", f"{inner}.relative_position_bias_table")
    yield from dense_names(f"{layer}/output", f"{foreign}.attention.output.dense")
    yield from norm_names(f"{layer}/norm", f"{foreign}.layernorm_before")
    yield from norm_names(f"{ours}/mlp/norm", f"{foreign}.layernorm_after")
    yield from dense_names(f"{ours}/mlp/up", f"{foreign}.intermediate.dense")
    yield from dense_names(f"{ours}/mlp/down", f"{foreign}.output.dense")
