"""The form of DeBERTa v2 and v3 in `transformers`."""

from collections.abc import Iterator
from typing import ClassVar

from tlx.models.deberta_v2 import DebertaV2
from tlx.models.heads import Head, PerToken
from tlx.models.names import Name, dense_names, norm_names
from tlx.trees import Json
from tlx.weights.formats.text import POOLING, UNUSED, TextFormat, post_norm_names, stated, token_layer

FIELDS = {
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp": "intermediate_size",
    "positions": "max_position_embeddings",
    "types": "type_vocab_size",
    "positions_in_input": "position_biased_input",
    "relative": "relative_attention",
    "shared": "share_att_key",
    "kernel": "conv_kernel_size",
    "kernel_groups": "conv_groups",
    "kernel_activation": "conv_act",
    "activation": "hidden_act",
    "pooler_activation": "pooler_hidden_act",
    "epsilon": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "pooler_dropout": "pooler_dropout",
    "pad": "pad_token_id",
    "deviation": "initializer_range",
}
# Numbers that are -1 in config.json where they are absent.
OPTIONAL = {"furthest": "max_relative_positions", "buckets": "position_buckets"}
NORMED = "layer_norm"


class DebertaV2Format(TextFormat):
    """The form of `transformers` for DeBERTa v2 and v3."""

    families: ClassVar[dict[str, str]] = {"deberta-v2": "deberta-v2"}
    unused = (*UNUSED, r"cls\..*", r"(lm|mask)_predictions\..*", r".*position_embeddings\..*")

    def read(self, document: Json) -> DebertaV2:
        """Return a `DebertaV2` from config.json. Raises ValueError for settings that tlx does not cover."""
        values = stated(document, FIELDS)
        values |= {field: size for field, size in stated(document, OPTIONAL).items() if size > 0}
        terms = document.get("pos_att_type") or ()
        values["terms"] = tuple(sorted({*(terms.lower().split("|") if isinstance(terms, str) else terms)}))
        norm = str(document.get("norm_rel_ebd", "none")).lower().split("|")
        values["normed"] = NORMED in [name.strip() for name in norm]
        head = document.get("cls_dropout")
        values["head_dropout"] = values.get("dropout", DebertaV2.dropout) if head is None else head
        width, heads = values.get("width", DebertaV2.width), values.get("heads", DebertaV2.heads)
        for field, size in (("attention_head_size", width // heads), ("pooler_hidden_size", width)):
            if document.get(field, size) != size:
                raise ValueError(f"config.json has {field} {document[field]}; tlx supports {size} only for this width")
        if (rows := document.get("embedding_size", width)) != width:
            values["embedding"] = rows
        return DebertaV2(pooling=document.get(POOLING, "first"), **values)

    def write(self, config: DebertaV2, head: Head | None, document: Json) -> Json:
        """Return a config.json for `config`, with other fields from an earlier `document`."""
        values: Json = {foreign: getattr(config, field) for field, foreign in FIELDS.items()}
        values |= {foreign: getattr(config, field) or -1 for field, foreign in OPTIONAL.items()}
        values |= {
            "model_type": "deberta-v2",
            "architectures": [self.architecture(config, head, "DebertaV2")],
            "pos_att_type": list(config.terms),
            "norm_rel_ebd": NORMED if config.normed else "none",
            "cls_dropout": config.head_dropout,
            "pooler_hidden_size": config.width,
            "embedding_size": config.embedding or config.width,
        }
        return document | values | ({POOLING: config.pooling} if config.pooling == "mean" else {})

    def prefix(self, config: DebertaV2) -> str:
        return "deberta."

    def names(self, config: DebertaV2, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every parameter."""
        yield from stem_names(config)
        for n in range(config.depth):
            yield from block_names(config, n)
        if head is None:
            return
        if config.pooling == "first" and not isinstance(head, PerToken):
            yield from dense_names("head/dense", "pooler.dense", head=True)
        yield from dense_names("head/output", token_layer(head), head=True)


def stem_names(config: DebertaV2) -> Iterator[Name]:
    """Yield the foreign names of the embeddings, and of the table of distances."""
    yield Name("stem/words/embedding", "embeddings.word_embeddings.weight")
    if config.positions_in_input:
        yield Name("stem/positions/embedding", "embeddings.position_embeddings.weight")
    if config.types:
        yield Name("stem/types/embedding", "embeddings.token_type_embeddings.weight")
    if (config.embedding or config.width) != config.width:
        yield from dense_names("stem/project", "embeddings.embed_proj", bias=False)
    yield from norm_names("stem/norm", "embeddings.LayerNorm")
    if config.relative:
        yield Name("stem/relative/embedding", "encoder.rel_embeddings.weight")
    if config.normed:
        yield from norm_names("stem/relative_norm", "encoder.LayerNorm")


def block_names(config: DebertaV2, n: int) -> Iterator[Name]:
    """Yield the foreign names of block `n`; the convolution belongs to the first one."""
    ours, layer = f"blocks/{n:02d}", f"encoder.layer.{n}"
    layers = {name: f"{layer}.attention.self.{name}_proj" for name in ("query", "key", "value")}
    if config.relative and not config.shared:
        names = {"c2p": ("position_key", "pos_key_proj"), "p2c": ("position_query", "pos_query_proj")}
        layers |= {names[term][0]: f"{layer}.attention.self.{names[term][1]}" for term in config.terms}
    layers["output"] = f"{layer}.attention.output.dense"
    norms = f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"
    yield from post_norm_names(ours, layers, norms, (f"{layer}.intermediate.dense", f"{layer}.output.dense"))
    if config.kernel and n == 0:
        yield Name(f"{ours}/convolution/kernel", "encoder.conv.conv.weight", "line")
        yield Name(f"{ours}/convolution/bias", "encoder.conv.conv.bias")
        yield from norm_names(f"{ours}/convolution/norm", "encoder.conv.LayerNorm")
