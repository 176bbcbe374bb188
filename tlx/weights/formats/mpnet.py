"""The form of MPNet in `transformers`."""

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from tlx.models.heads import Head, PerToken
from tlx.models.mpnet import BUCKETS, MPNet, pooled
from tlx.models.names import Name, dense_names, norm_names
from tlx.trees import Json
from tlx.weights.formats.text import POOLING, UNUSED, TextFormat, post_norm_names, stated, token_layer, zero_layer

FIELDS = {
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp": "intermediate_size",
    "positions": "max_position_embeddings",
    "activation": "hidden_act",
    "epsilon": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "pad": "pad_token_id",
    "deviation": "initializer_range",
}


class MPNetFormat(TextFormat):
    """The form of `transformers` for MPNet."""

    families: ClassVar[dict[str, str]] = {"mpnet": "mpnet"}
    unused = UNUSED

    def read(self, document: Json) -> MPNet:
        """Return an `MPNet` from config.json. Raises ValueError for settings that tlx does not cover."""
        if (buckets := document.get("relative_attention_num_buckets", BUCKETS)) != BUCKETS:
            raise ValueError(
                f"config.json has relative_attention_num_buckets {buckets}; tlx supports {BUCKETS} only, the number "
                "that transformers reads in every model"
            )
        return MPNet(pooling=document.get(POOLING, "first"), **stated(document, FIELDS))

    def write(self, config: MPNet, head: Head | None, document: Json) -> Json:
        """Return a config.json for `config`, with other fields from an earlier `document`."""
        values = {foreign: getattr(config, field) for field, foreign in FIELDS.items()}
        values |= {"relative_attention_num_buckets": BUCKETS, "model_type": "mpnet"}
        values["architectures"] = [self.architecture(config, head, "MPNet")]
        return document | values | ({POOLING: config.pooling} if config.pooling == "mean" else {})

    def prefix(self, config: MPNet) -> str:
        return "mpnet."

    def names(self, config: MPNet, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every parameter."""
        yield Name("stem/words/embedding", "embeddings.word_embeddings.weight")
        yield Name("stem/positions/embedding", "embeddings.position_embeddings.weight")
        yield from norm_names("stem/norm", "embeddings.LayerNorm")
        yield Name("stem/relative/embedding", "encoder.relative_attention_bias.weight")
        for n in range(config.depth):
            layer = f"encoder.layer.{n}"
            layers = {name: f"{layer}.attention.attn.{name[0]}" for name in ("query", "key", "value", "output")}
            norms = f"{layer}.attention.LayerNorm", f"{layer}.output.LayerNorm"
            mlp = f"{layer}.intermediate.dense", f"{layer}.output.dense"
            yield from post_norm_names(f"blocks/{n:02d}", layers, norms, mlp)
        if pooled(config, head):
            yield from dense_names("pool", "pooler.dense")
        if head is None:
            return
        if isinstance(head, PerToken) or config.pooling == "mean":
            yield from dense_names("head/output", token_layer(head), head=True)
            return
        yield from dense_names("head/dense", "classifier.dense", head=True)
        yield from dense_names("head/output", "classifier.out_proj", head=True)

    def constants(self, config: MPNet, head: Head | None) -> dict[str, np.ndarray]:
        """Return a pooler of zeros for an encoder with pooling="mean"."""
        return zero_layer("pooler.dense", config.width) if config.pooling == "mean" else {}
