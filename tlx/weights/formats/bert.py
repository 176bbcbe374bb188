"""The form of BERT, RoBERTa, DistilBERT, ELECTRA and related models in `transformers`."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tlx.models.bert import Bert, pooled
from tlx.models.heads import Head, PerToken, Vocabulary
from tlx.models.names import Name, dense_names, norm_names
from tlx.trees import Json
from tlx.weights.formats.text import POOLING, TextFormat, post_norm_names, stated, token_layer, zero_layer

FAMILIES = {
    "bert": "bert",
    "roberta": "roberta",
    "xlm-roberta": "roberta",
    "camembert": "roberta",
    "distilbert": "distilbert",
    "electra": "electra",
}
CLASSES = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert", "electra": "Electra"}
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
# Defaults of `transformers` for fields that config.json leaves out, if they differ from ours.
ASSUMED: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {"vocabulary": 50265, "pad": 1},
    "xlm-roberta": {"pad": 1},
    "camembert": {"pad": 1},
    "distilbert": {"depth": 6, "types": 0, "head_dropout": 0.2},
    "electra": {"width": 256, "heads": 4, "mlp": 1024},
}


class BertFormat(TextFormat):
    """The form of `transformers` for the family."""

    families = FAMILIES
    unused = UNUSED

    def read(self, document: Json) -> Bert:
        """Return a `Bert` from config.json. Raises ValueError for settings that tlx does not cover."""
        kind = document["model_type"]
        family = FAMILIES[kind]
        self.check_positions(document)
        if document.get("is_decoder"):
            raise ValueError("config.json describes a decoder (is_decoder); tlx supports only encoders of this family")
        fields = DISTILBERT_FIELDS if family == "distilbert" else FIELDS
        values = ASSUMED[kind] | stated(document, fields)
        if family != "distilbert":
            head = document.get("classifier_dropout")
            values["head_dropout"] = values.get("dropout", Bert.dropout) if head is None else head
        if family == "electra":
            values["embedding"] = document.get("embedding_size", 128)
        return Bert(family=family, pooling=document.get(POOLING, "first"), **values)

    def write(self, config: Bert, head: Head | None, document: Json) -> Json:
        """Return a config.json for `config`, with other fields from an earlier `document`."""
        fields = DISTILBERT_FIELDS if config.family == "distilbert" else FIELDS
        values = {foreign: getattr(config, field) for field, foreign in fields.items()}
        kind = document.get("model_type", config.family)
        stem = "XLMRoberta" if kind == "xlm-roberta" else "Camembert" if kind == "camembert" else CLASSES[config.family]
        if config.family == "electra":
            values["embedding_size"] = config.embedding or config.width
        if config.family != "distilbert":
            values["classifier_dropout"] = config.head_dropout
        if config.pooling == "mean":
            values[POOLING] = config.pooling
        return document | values | {"model_type": kind, "architectures": [self.architecture(config, head, stem)]}

    def prefix(self, config: Bert) -> str:
        return f"{config.family}."

    def names(self, config: Bert, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every parameter."""
        yield Name("stem/words/embedding", "embeddings.word_embeddings.weight")
        yield Name("stem/positions/embedding", "embeddings.position_embeddings.weight")
        if config.types:
            yield Name("stem/types/embedding", "embeddings.token_type_embeddings.weight")
        yield from norm_names("stem/norm", "embeddings.LayerNorm")
        if (config.embedding or config.width) != config.width:
            yield from dense_names("stem/project", "embeddings_project")
        for n in range(config.depth):
            yield from block_names(config, f"blocks/{n:02d}", n)
        if pooled(config, head):
            yield from dense_names("pool", "pooler.dense")
        if head is not None:
            yield from head_names(config, head)

    def constants(self, config: Bert, head: Head | None) -> dict[str, np.ndarray]:
        """Return a pooler of zeros for an encoder with pooling="mean".

        Otherwise `transformers` would draw one at random, and `pooler_output` would differ between loads.
        """
        if config.pooling != "mean" or config.family not in ("bert", "roberta"):
            return {}
        return zero_layer("pooler.dense", config.width)

    def reads_prefix(self, config: Bert) -> bool:
        return config.family != "distilbert"


def word_names(config: Bert) -> Iterator[Name]:
    """Yield the foreign names of the head over the vocabulary; its kernel is the embedding of the words."""
    dense, norm, bias = {
        "bert": ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias"),
        "distilbert": ("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
        "roberta": ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
        "electra": ("generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head.bias"),
    }[config.family]
    yield from dense_names("head/dense", dense, head=True)
    for name in norm_names("head/norm", norm):
        yield name._replace(head=True)
    yield Name("head/bias", bias, head=True)


def head_names(config: Bert, head: Head) -> Iterator[Name]:
    """Yield the foreign names of the head; a head per token is one linear layer in all families."""
    if isinstance(head, Vocabulary):
        yield from word_names(config)
        return
    inner, output = {
        "bert": ("", "classifier"),
        "distilbert": ("pre_classifier", "classifier"),
        "roberta": ("classifier.dense", "classifier.out_proj"),
        "electra": ("classifier.dense", "classifier.out_proj"),
    }[config.family]
    if isinstance(head, PerToken):
        inner, output = "", token_layer(head)
    if inner and config.pooling == "first":
        yield from dense_names("head/dense", inner, head=True)
    yield from dense_names("head/output", output, head=True)


def block_names(config: Bert, ours: str, n: int) -> Iterator[Name]:
    if config.family == "distilbert":
        foreign = f"transformer.layer.{n}"
        layers = {"query": "attention.q_lin", "key": "attention.k_lin", "value": "attention.v_lin"}
        modules = ("attention.out_lin", "sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm")
    else:
        foreign = f"encoder.layer.{n}"
        layers = {name: f"attention.self.{name}" for name in ("query", "key", "value")}
        modules = (
            "attention.output.dense", "attention.output.LayerNorm", "intermediate.dense", "output.dense",
            "output.LayerNorm",
        )  # fmt: skip
    attention = {name: f"{foreign}.{module}" for name, module in layers.items()}
    output, mixed_norm, up, down, norm = (f"{foreign}.{module}" for module in modules)
    yield from post_norm_names(ours, attention | {"output": output}, (mixed_norm, norm), (up, down))
