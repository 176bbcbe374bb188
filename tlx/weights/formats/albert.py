"""The form of ALBERT in `transformers`."""

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from tlx.models.albert import Albert, pooled
from tlx.models.heads import Head
from tlx.models.names import Name, dense_names, norm_names
from tlx.trees import Json
from tlx.weights.formats.text import POOLING, UNUSED, TextFormat, post_norm_names, stated, token_layer, zero_layer

FIELDS = {
    "vocabulary": "vocab_size",
    "embedding": "embedding_size",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "groups": "num_hidden_groups",
    "layers": "inner_group_num",
    "heads": "num_attention_heads",
    "mlp": "intermediate_size",
    "positions": "max_position_embeddings",
    "types": "type_vocab_size",
    "activation": "hidden_act",
    "epsilon": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "head_dropout": "classifier_dropout_prob",
    "pad": "pad_token_id",
    "deviation": "initializer_range",
}


class AlbertFormat(TextFormat):
    """The form of `transformers` for ALBERT: one set of tensors for all passes through a layer."""

    families: ClassVar[dict[str, str]] = {"albert": "albert"}
    unused = (*UNUSED, r"predictions\..*", r"sop_classifier\..*")

    def read(self, document: Json) -> Albert:
        """Return an `Albert` from config.json. Raises ValueError for settings that tlx does not cover."""
        self.check_positions(document)
        return Albert(pooling=document.get(POOLING, "first"), **stated(document, FIELDS))

    def write(self, config: Albert, head: Head | None, document: Json) -> Json:
        """Return a config.json for `config`, with other fields from an earlier `document`."""
        values = {foreign: getattr(config, field) for field, foreign in FIELDS.items()}
        values |= {"model_type": "albert", "architectures": [self.architecture(config, head, "Albert")]}
        return document | values | ({POOLING: config.pooling} if config.pooling == "mean" else {})

    def prefix(self, config: Albert) -> str:
        return "albert."

    def names(self, config: Albert, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every parameter."""
        for ours, foreign in (("words", "word"), ("positions", "position"), ("types", "token_type")):
            yield Name(f"stem/{ours}/embedding", f"embeddings.{foreign}_embeddings.weight")
        yield from norm_names("stem/norm", "embeddings.LayerNorm")
        yield from dense_names("stem/project", "encoder.embedding_hidden_mapping_in")
        for group in range(config.groups):
            for n in range(config.layers):
                layer = f"encoder.albert_layer_groups.{group}.albert_layers.{n}"
                layers = {name: f"{layer}.attention.{name}" for name in ("query", "key", "value")}
                layers["output"] = f"{layer}.attention.dense"
                norms = f"{layer}.attention.LayerNorm", f"{layer}.full_layer_layer_norm"
                ours = f"blocks/{group:02d}/layers/{n:02d}"
                yield from post_norm_names(ours, layers, norms, (f"{layer}.ffn", f"{layer}.ffn_output"))
        if pooled(config, head):
            yield from dense_names("pool", "pooler")
        if head is not None:
            yield from dense_names("head/output", token_layer(head), head=True)

    def constants(self, config: Albert, head: Head | None) -> dict[str, np.ndarray]:
        """Return a pooler of zeros for an encoder with pooling="mean"."""
        return zero_layer("pooler", config.width) if config.pooling == "mean" else {}
