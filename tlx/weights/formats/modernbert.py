"""The form of ModernBERT in `transformers`."""

from collections.abc import Iterator
from typing import Any, ClassVar

from tlx.models.heads import Head
from tlx.models.modernbert import ModernBert
from tlx.models.names import Name, dense_names, norm_names
from tlx.trees import Json
from tlx.weights.formats.text import UNUSED, TextFormat, stated

FIELDS = {
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp": "intermediate_size",
    "positions": "max_position_embeddings",
    "window": "local_attention",
    "activation": "hidden_activation",
    "head_activation": "classifier_activation",
    "epsilon": "norm_eps",
    "norm_bias": "norm_bias",
    "attention_bias": "attention_bias",
    "mlp_bias": "mlp_bias",
    "head_bias": "classifier_bias",
    "dropout": "embedding_dropout",
    "attention_dropout": "attention_dropout",
    "mlp_dropout": "mlp_dropout",
    "head_dropout": "classifier_dropout",
    "pad": "pad_token_id",
    "deviation": "initializer_range",
}
GLOBAL, LOCAL = "full_attention", "sliding_attention"
EVERY = "global_attn_every_n_layers"
POOLINGS = {"cls": "first", "mean": "mean"}


class ModernBertFormat(TextFormat):
    """The form of `transformers` for ModernBERT: flat fields (version 4), `layer_types` and `rope_parameters` (5)."""

    families: ClassVar[dict[str, str]] = {"modernbert": "modernbert"}
    unused = (*UNUSED, r"decoder\..*", r"head\..*")

    def read(self, document: Json) -> ModernBert:
        """Return a `ModernBert` from config.json. Raises ValueError for settings that tlx does not cover."""
        values = stated(document, FIELDS) | bases(document)
        every = period(document, values.get("depth", ModernBert.depth))
        pooling = document.get("classifier_pooling", "cls")
        if pooling not in POOLINGS:
            raise ValueError(f"config.json has classifier_pooling {pooling!r}; expected 'cls' or 'mean'")
        return ModernBert(every=every, pooling=POOLINGS[pooling], **values)

    def write(self, config: ModernBert, head: Head | None, document: Json) -> Json:
        """Return a config.json for `config`, with other fields from an earlier `document`."""
        values: Json = {foreign: getattr(config, field) for field, foreign in FIELDS.items()}
        values |= {
            "model_type": "modernbert",
            "architectures": [self.architecture(config, head, "ModernBert")],
            "classifier_pooling": {ours: foreign for foreign, ours in POOLINGS.items()}[config.pooling],
            "layer_types": types_of(config.every, config.depth),
            "rope_parameters": {
                GLOBAL: {"rope_type": "default", "rope_theta": config.base},
                LOCAL: {"rope_type": "default", "rope_theta": config.local_base},
            },
            EVERY: config.every,
        }
        old = ("global_rope_theta", "local_rope_theta", "rope_scaling")
        return {field: value for field, value in document.items() if field not in old} | values

    def prefix(self, config: ModernBert) -> str:
        return "model."

    def bare(self, config: ModernBert, head: Head | None) -> bool:
        return head is None

    def head_in(self, document: Json) -> type[Head] | None:
        return super(TextFormat, self).head_in(document)

    def unanswered(self, config: ModernBert, head: Head | None) -> str | None:
        """Return None: `transformers` has a class for both poolings."""
        return None

    def in_memory(self, config: ModernBert, module: str) -> str | None:
        """Return None for the one layer of queries, keys and values, which are three layers here."""
        return None if module.endswith("Wqkv") else module

    def names(self, config: ModernBert, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every parameter."""
        yield Name("stem/words/embedding", "embeddings.tok_embeddings.weight")
        yield from norm_names("stem/norm", "embeddings.norm", bias=config.norm_bias)
        for n in range(config.depth):
            ours, layer = f"blocks/{n:02d}", f"layers.{n}"
            if n > 0:
                yield from norm_names(f"{ours}/attention/norm", f"{layer}.attn_norm", bias=config.norm_bias)
            for number, name in enumerate(("query", "key", "value")):
                for entry in dense_names(f"{ours}/attention/{name}", f"{layer}.attn.Wqkv", bias=config.attention_bias):
                    yield entry._replace(part=(number, 3))
            yield from dense_names(f"{ours}/attention/output", f"{layer}.attn.Wo", bias=config.attention_bias)
            yield from norm_names(f"{ours}/mlp/norm", f"{layer}.mlp_norm", bias=config.norm_bias)
            yield from dense_names(f"{ours}/mlp/up", f"{layer}.mlp.Wi", bias=config.mlp_bias)
            yield from dense_names(f"{ours}/mlp/down", f"{layer}.mlp.Wo", bias=config.mlp_bias)
        yield from norm_names("norm", "final_norm", bias=config.norm_bias)
        if head is not None:
            yield from dense_names("head/dense", "head.dense", bias=config.head_bias, head=True)
            for entry in norm_names("head/norm", "head.norm", bias=config.norm_bias):
                yield entry._replace(head=True)
            yield from dense_names("head/output", "classifier", head=True)


def types_of(every: int, depth: int) -> list[str]:
    """Return the kind of attention of each block."""
    return [LOCAL if n % every else GLOBAL for n in range(depth)]


def period(document: Json, depth: int) -> int:
    """Return after how many blocks one attends to all tokens. Raises ValueError for types without a period."""
    every = int(document.get(EVERY) or ModernBert.every)
    types = document.get("layer_types")
    if types is None or list(types) == types_of(every, depth):
        return every
    later = [n for n, kind in enumerate(types) if n and kind == GLOBAL]
    every = later[0] if later else depth
    if list(types) != types_of(every, depth):
        raise ValueError(
            f"config.json has layer_types {types}; expected {depth} types in which {GLOBAL!r} returns after a fixed "
            f"number of blocks, from the first block on, and the others are {LOCAL!r}"
        )
    return every


def bases(document: Json) -> dict[str, Any]:
    """Return the bases of the rotary frequencies. Raises ValueError for frequencies that are scaled."""
    by_type = document.get("rope_parameters") or {}
    values: dict[str, Any] = {}
    for field, kind, old in (("base", GLOBAL, "global_rope_theta"), ("local_base", LOCAL, "local_rope_theta")):
        rope = by_type.get(kind) or {}
        if (form := rope.get("rope_type", "default")) != "default" or document.get("rope_scaling"):
            raise ValueError(f"config.json scales its rotary frequencies ({form!r}); tlx supports 'default' only")
        base = rope.get("rope_theta", document.get(old))
        values |= {} if base is None else {field: float(base)}
    return values
