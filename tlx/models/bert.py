"""BERT (Devlin et al., 2019) and what shares its form: MiniLM, RoBERTa, DistilBERT, ELECTRA.

Stages: `stem`, `blocks/00` ..., `pool` (where the family has one), `head`. Shapes: B batch, T tokens, W width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from tlx.layers import (
    ACTIVATIONS,
    as_dtype,
    attention,
    bottleneck,
    declare_attention,
    declare_dense,
    declare_embedding,
    declare_norm,
    dense,
    dropout,
    embed,
    layer_norm,
    normal,
)
from tlx.models.inputs import beside_ids, check_rows, placed, refuse_unread, token_ids
from tlx.models.names import Name, dense_names, norm_names
from tlx.models.sizes import check_ranges
from tlx.trees import Tree, near_miss
from tlx.types import Array, Carry, Context, Model, Stage

POSITIVE = ("vocabulary", "width", "depth", "heads", "mlp", "positions", "embedding", "epsilon")


@dataclass(frozen=True, kw_only=True)
class Bert:
    """A member of the family. `family` decides the names, the head and how positions are counted.

    `pooling` "mean" puts a linear head on the mean over the tokens that are not padding, as sentence encoders are
    trained; "first" is the family's own head on the first token, which `transformers` opens.
    """

    family: str = "bert"
    vocabulary: int = 30522
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp: int = 3072
    positions: int = 512
    types: int = 2
    embedding: int | None = None
    activation: str = "gelu"
    epsilon: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1
    head_dropout: float = 0.1
    pad: int = 0
    deviation: float = 0.02
    pooling: str = "first"

    def __post_init__(self) -> None:
        check_ranges(self, POSITIVE, ("dropout", "attention_dropout", "head_dropout"))
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.pooling not in ("first", "mean"):
            raise ValueError(f"pooling is {self.pooling!r}; it is 'first' or 'mean'")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"no activation {self.activation!r}{near_miss(self.activation, ACTIVATIONS)}")


FAMILIES = {
    "bert": "bert",
    "roberta": "roberta",
    "xlm-roberta": "roberta",
    "camembert": "roberta",
    "distilbert": "distilbert",
    "electra": "electra",
}
CLASSES = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert", "electra": "Electra"}
POOLING = "tlx_pooling"
READS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
# The salts of the dense layers' own noise, apart from those of the attention (10 to 13) and of the other dropouts.
UP, DOWN, PROJECT, POOL, INNER, OUTER = 14, 15, 14, 14, 16, 18
UNUSED = (
    r".*position_ids",
    r".*\.token_type_ids",
    r"cls\..*",
    r"lm_head\..*",
    r"vocab_(transform|layer_norm|projector)\..*",
    r"(generator|discriminator)_(predictions|lm_head)\..*",
    r"qa_outputs\..*",
    r"pooler\..*",
    r"(pre_)?classifier\..*",
)


def pooled(config: Bert, outputs: int | None) -> bool:
    """Whether the chain has a dense `pool` stage: BERT always, RoBERTa only without a head (as in `transformers`)."""
    if config.pooling == "mean":
        return False
    return config.family == "bert" or (config.family == "roberta" and outputs is None)


def declare(config: Bert, outputs: int | None) -> Tree:
    """The tree of declared parameters."""
    init = normal(config.deviation)
    rows = config.embedding or config.width
    stem: Tree = {
        "words": declare_embedding(config.vocabulary, rows, init=init),
        "positions": declare_embedding(config.positions, rows, None, init),
        "norm": declare_norm(rows),
    }
    if config.types:
        stem["types"] = declare_embedding(config.types, rows, None, init)
    if rows != config.width:
        stem["project"] = declare_dense(rows, config.width, (None, "width"), init)
    block = {
        "attention": declare_attention(config.width, config.heads, init) | {"norm": declare_norm(config.width)},
        "mlp": {
            "up": declare_dense(config.width, config.mlp, ("width", "mlp"), init),
            "down": declare_dense(config.mlp, config.width, ("mlp", "width"), init),
            "norm": declare_norm(config.width),
        },
    }
    params: Tree = {"stem": stem, "blocks": {f"{n:02d}": block for n in range(config.depth)}}
    if pooled(config, outputs):
        params["pool"] = declare_dense(config.width, config.width, ("width", None), init)
    if outputs is not None:
        params["head"] = {"output": declare_dense(config.width, outputs, ("width", None), init)}
        if config.family != "bert" and config.pooling == "first":
            params["head"]["dense"] = declare_dense(config.width, config.width, ("width", None), init)
    return params


def build(config: Bert, outputs: int | None = None) -> Model:
    """The chain of stages; with `outputs` the head of a sequence classifier of that width."""

    def stem(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        refuse_unread(carry, READS)
        ids = token_ids(carry, config.vocabulary)
        mask = beside_ids(carry, "attention_mask", ids, jnp.ones_like(ids))
        types = beside_ids(carry, "token_type_ids", ids, jnp.zeros_like(ids))
        if config.types:
            check_rows("token_type_ids", types, config.types, "token type embeddings")
        hidden = embed(params["words"], ids)
        places = carry.get("position_ids")
        if places is not None and ("prompt" in params or context.prefix):
            raise ValueError("position_ids cannot be given to a model with a learned prompt or prefix; leave them out")
        if "prompt" in params:
            hidden, ids, mask, types = prompted(config, params["prompt"]["tokens"], hidden, ids, mask, types)
        check_length(config, ids.shape[1] + context.prefix)
        places = positions(config, ids, context.prefix, "prompt" in params) if places is None else placed(places, ids)
        check_rows("position_ids", places, config.positions, "position embeddings")
        hidden += embed(params["positions"], places)
        if config.types:
            hidden += embed(params["types"], types)
        hidden = dropout(
            as_dtype(layer_norm(params["norm"], hidden, config.epsilon), context), config.dropout, context, 0
        )
        if "project" in params:
            hidden = dense(params["project"], hidden, context, PROJECT)
        return {"hidden": hidden, "mask": mask}, stats

    def block(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        return carry | {"hidden": encode(config, params, carry["hidden"], carry["mask"], context)}, stats

    def pool(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        if config.pooling == "mean":
            return carry | {"pooled": token_mean(carry["hidden"], carry["mask"])}, stats
        return carry | {"pooled": jnp.tanh(dense(params, carry["hidden"][:, 0], context, POOL))}, stats

    def head(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        return carry | {"logits": classify(config, params, carry, context).astype(jnp.float32)}, stats

    stages = [Stage("stem", stem), *(Stage(f"blocks/{n:02d}", block) for n in range(config.depth))]
    if pooled(config, outputs) or config.pooling == "mean":
        stages.append(Stage("pool", pool, "pooled", joins="after"))
    if outputs is not None:
        stages.append(Stage("head", head, "logits"))
    return Model(tuple(stages), declare(config, outputs), {}, config, outputs)


def positions(config: Bert, ids: Array, prefix: int = 0, prompt: bool = False) -> Array:
    """[T] or [B, T]: from 0, but in RoBERTa from pad + 1 over the tokens that are not padding.

    Learned keys before the tokens take the first `prefix` positions. With a `prompt` among the embeddings RoBERTa
    counts padding too. Both are as in `transformers`, where peft's adapters are trained.
    """
    if config.family != "roberta":
        return jnp.arange(prefix, prefix + ids.shape[1])
    if prompt:
        return jnp.arange(ids.shape[1]) + config.pad + 1 + prefix
    real = (ids != config.pad).astype(jnp.int32)
    return (jnp.cumsum(real, axis=1) + prefix) * real + config.pad


def encode(config: Bert, params: Tree, x: Array, mask: Array, context: Context) -> Array:
    """One post-norm transformer block: [B, T, W] -> [B, T, W]."""
    mixed = attention(
        params["attention"], x, mask, heads=config.heads, rate=config.attention_dropout, context=context, salt=0
    )
    mixed = dropout(mixed, config.dropout, context, 1)
    if "adapter" in params["attention"]:
        mixed = mixed + bottleneck(params["attention"]["adapter"], mixed, context, INNER)
    x = layer_norm(params["attention"]["norm"], x + mixed, config.epsilon)
    own = params["mlp"]
    hidden = dense(own["down"], ACTIVATIONS[config.activation](dense(own["up"], x, context, UP)), context, DOWN)
    hidden = dropout(hidden, config.dropout, context, 2)
    if "adapter" in own:
        hidden = hidden + bottleneck(own["adapter"], hidden, context, OUTER)
    x = x + hidden
    if "adapter" in params:
        x = x + bottleneck(params["adapter"], layer_norm(own["norm"], x, config.epsilon), context, OUTER)
    return layer_norm(own["norm"], x, config.epsilon)


def prompted(
    config: Bert, prompt: Array, hidden: Array, ids: Array, mask: Array, types: Array
) -> tuple[Array, Array, Array, Array]:
    """A learned `prompt` [P, W] before the word embeddings [B, T, W] (Lester et al., 2021), with the ids, mask and
    types of P + T tokens: those of the prompt are attended to, of type 0, and no padding."""
    batch, count = len(ids), len(prompt)
    rows = jnp.broadcast_to(prompt.astype(hidden.dtype), (batch, *prompt.shape))
    hidden = jnp.concatenate([rows, hidden], axis=1)
    # Any id but that of padding: only RoBERTa's positions look at it.
    before = {"ids": config.pad + 1, "mask": 1, "types": 0}
    ids, mask, types = (
        jnp.concatenate([jnp.full((batch, count), before[name], array.dtype), array], axis=1)
        for name, array in (("ids", ids), ("mask", mask), ("types", types))
    )
    return hidden, ids, mask, types


def room(config: Bert) -> int:
    """How many tokens there are positions for: RoBERTa keeps the first rows for padding."""
    return config.positions - unread(config)


def check_length(config: Bert, tokens: int) -> None:
    """ValueError for more tokens than there are positions: JAX would read the last position's row again and again."""
    if tokens > room(config):
        raise ValueError(f"{tokens} tokens, and the model has positions for {room(config)}: lower Data(tokens=...)")


def unread(config: Bert) -> int:
    """Return how many of the first position embeddings no token reads: RoBERTa counts from pad + 1."""
    return config.pad + 1 if config.family == "roberta" else 0


def token_mean(hidden: Array, mask: Array) -> Array:
    """The mean over tokens where `mask` [B, T] is 1, in float32: [B, T, W] -> [B, W] (Reimers and Gurevych, 2019)."""
    weight = mask.astype(jnp.float32)[..., None]
    total = (hidden.astype(jnp.float32) * weight).sum(1)
    return (total / jnp.maximum(weight.sum(1), 1.0)).astype(hidden.dtype)


def classify(config: Bert, params: Tree, carry: Carry, context: Context) -> Array:
    """The family's own sequence classification head, or a linear one on the mean: [B, outputs]."""
    if config.family == "bert" or config.pooling == "mean":
        return dense(params["output"], dropout(carry["pooled"], config.head_dropout, context, 0), context, DOWN)
    first = carry["hidden"][:, 0]
    if config.family == "distilbert":
        inner = ACTIVATIONS["relu"](dense(params["dense"], first, context, UP))
    else:
        inner = dense(params["dense"], dropout(first, config.head_dropout, context, 0), context, UP)
        inner = jnp.tanh(inner) if config.family == "roberta" else ACTIVATIONS["gelu"](inner)
    return dense(params["output"], dropout(inner, config.head_dropout, context, 1), context, DOWN)


FIELDS = {
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp": "intermediate_size",
    "positions": "max_position_embeddings",
    "types": "type_vocab_size",
    "activation": "hidden_act",
    "epsilon": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "pad": "pad_token_id",
    "deviation": "initializer_range",
}
DISTILBERT_FIELDS = {
    "vocabulary": "vocab_size",
    "width": "dim",
    "depth": "n_layers",
    "heads": "n_heads",
    "mlp": "hidden_dim",
    "positions": "max_position_embeddings",
    "activation": "activation",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "head_dropout": "seq_classif_dropout",
    "pad": "pad_token_id",
    "deviation": "initializer_range",
}
# What `transformers` takes a field for that config.json leaves out, where that is not our own default.
ASSUMED: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {"vocabulary": 50265, "pad": 1},
    "xlm-roberta": {"pad": 1},
    "camembert": {"pad": 1},
    "distilbert": {"depth": 6, "types": 0, "head_dropout": 0.2},
    "electra": {"width": 256, "heads": 4, "mlp": 1024},
}


def read(document: dict[str, Any]) -> Bert:
    """A `Bert` from a Hugging Face `config.json`; ValueError for what this form does not cover."""
    kind = document["model_type"]
    family = FAMILIES[kind]
    if (how := document.get("position_embedding_type", "absolute")) not in ("absolute", None):
        raise ValueError(f"config.json asks for {how!r} position embeddings; tlx knows 'absolute' ones")
    if document.get("is_decoder"):
        raise ValueError("config.json describes a decoder (is_decoder); tlx reads encoders of this family")
    fields = DISTILBERT_FIELDS if family == "distilbert" else FIELDS
    given = {ours: document[theirs] for ours, theirs in fields.items() if document.get(theirs) is not None}
    values = ASSUMED[kind] | given
    if family != "distilbert":
        head = document.get("classifier_dropout")
        values["head_dropout"] = values.get("dropout", Bert.dropout) if head is None else head
    if family == "electra":
        values["embedding"] = document.get("embedding_size", 128)
    return Bert(family=family, pooling=document.get(POOLING, "first"), **values)


def write(config: Bert, outputs: int | None, document: dict[str, Any]) -> dict[str, Any]:
    """A Hugging Face `config.json` for `config`, over what an earlier `document` says.

    A head on the mean has no class there: the backbone is named, for `AutoModel` to open, and `tlx_pooling` beside it.
    """
    fields = DISTILBERT_FIELDS if config.family == "distilbert" else FIELDS
    values = {theirs: getattr(config, ours) for ours, theirs in fields.items()}
    kind = document.get("model_type", config.family)
    stem = "XLMRoberta" if kind == "xlm-roberta" else "Camembert" if kind == "camembert" else CLASSES[config.family]
    bare = outputs is None or config.pooling == "mean"
    architecture = f"{stem}Model" if bare else f"{stem}ForSequenceClassification"
    if config.family == "electra":
        values["embedding_size"] = config.embedding or config.width
    if config.family != "distilbert":
        values["classifier_dropout"] = config.head_dropout
    if config.pooling == "mean":
        values[POOLING] = config.pooling
    return document | values | {"model_type": kind, "architectures": [architecture]}


def prefix(config: Bert) -> str:
    """What the backbone's tensors are prefixed with in a checkpoint that has a head."""
    return f"{config.family}."


def names(config: Bert, outputs: int | None) -> Iterator[Name]:
    """Every parameter's foreign name."""
    yield Name("stem/words/embedding", "embeddings.word_embeddings.weight")
    yield Name("stem/positions/embedding", "embeddings.position_embeddings.weight")
    if config.types:
        yield Name("stem/types/embedding", "embeddings.token_type_embeddings.weight")
    yield from norm_names("stem/norm", "embeddings.LayerNorm")
    if (config.embedding or config.width) != config.width:
        yield from dense_names("stem/project", "embeddings_project")
    for n in range(config.depth):
        yield from block_names(config, f"blocks/{n:02d}", n)
    if pooled(config, outputs):
        yield from dense_names("pool", "pooler.dense")
    if outputs is None:
        return
    inner, output = {
        "bert": ("", "classifier"),
        "distilbert": ("pre_classifier", "classifier"),
        "roberta": ("classifier.dense", "classifier.out_proj"),
        "electra": ("classifier.dense", "classifier.out_proj"),
    }[config.family]
    if inner and config.pooling == "first":
        yield from dense_names("head/dense", inner, head=True)
    yield from dense_names("head/output", output, head=True)


def block_names(config: Bert, ours: str, n: int) -> Iterator[Name]:
    if config.family == "distilbert":
        foreign = f"transformer.layer.{n}"
        own = {"query": "attention.q_lin", "key": "attention.k_lin", "value": "attention.v_lin"}
        rest = ("attention.out_lin", "sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm")
    else:
        foreign = f"encoder.layer.{n}"
        own = {name: f"attention.self.{name}" for name in ("query", "key", "value")}
        rest = (
            "attention.output.dense", "attention.output.LayerNorm", "intermediate.dense", "output.dense",
            "output.LayerNorm",
        )  # fmt: skip
    for name, theirs in own.items():
        yield from dense_names(f"{ours}/attention/{name}", f"{foreign}.{theirs}")
    yield from dense_names(f"{ours}/attention/output", f"{foreign}.{rest[0]}")
    yield from norm_names(f"{ours}/attention/norm", f"{foreign}.{rest[1]}")
    yield from dense_names(f"{ours}/mlp/up", f"{foreign}.{rest[2]}")
    yield from dense_names(f"{ours}/mlp/down", f"{foreign}.{rest[3]}")
    yield from norm_names(f"{ours}/mlp/norm", f"{foreign}.{rest[4]}")
