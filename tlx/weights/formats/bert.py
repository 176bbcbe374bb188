"""The form of BERT, RoBERTa, DistilBERT, ELECTRA and related models in `transformers`."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tlx.models.bert import Bert, pooled
from tlx.models.heads import Head, PerToken, Pooled
from tlx.models.names import Name, dense_names, norm_names
from tlx.trees import Json
from tlx.weights.formats.base import Format

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


class BertFormat(Format):
    """The form of `transformers` for the family."""

    families = FAMILIES
    unused = UNUSED

    def read(self, document: Json) -> Bert:
        """Return a `Bert` from config.json. Raises ValueError for settings that tlx does not cover."""
        kind = document["model_type"]
        family = FAMILIES[kind]
        if (embedding_type := document.get("position_embedding_type", "absolute")) not in ("absolute", None):
            raise ValueError(
                f"config.json has {embedding_type!r} position embeddings; tlx supports 'absolute' position embeddings "
                "only"
            )
        if document.get("is_decoder"):
            raise ValueError("config.json describes a decoder (is_decoder); tlx supports only encoders of this family")
        fields = DISTILBERT_FIELDS if family == "distilbert" else FIELDS
        stated = {field: document[foreign] for field, foreign in fields.items() if document.get(foreign) is not None}
        values = ASSUMED[kind] | stated
        if family != "distilbert":
            head = document.get("classifier_dropout")
            values["head_dropout"] = values.get("dropout", Bert.dropout) if head is None else head
        if family == "electra":
            values["embedding"] = document.get("embedding_size", 128)
        return Bert(family=family, pooling=document.get(POOLING, "first"), **values)

    def write(self, config: Bert, head: Head | None, document: Json) -> Json:
        """Return a config.json for `config`, with other fields from an earlier `document`.

        A head on the mean has no class in `transformers`: config.json names the class of the backbone, which
        `AutoModel` opens, and has `tlx_pooling`.
        """
        fields = DISTILBERT_FIELDS if config.family == "distilbert" else FIELDS
        values = {foreign: getattr(config, field) for field, foreign in fields.items()}
        kind = document.get("model_type", config.family)
        stem = "XLMRoberta" if kind == "xlm-roberta" else "Camembert" if kind == "camembert" else CLASSES[config.family]
        end = "ForTokenClassification" if isinstance(head, PerToken) else "ForSequenceClassification"
        architecture = f"{stem}Model" if self.bare(config, head) else f"{stem}{end}"
        if config.family == "electra":
            values["embedding_size"] = config.embedding or config.width
        if config.family != "distilbert":
            values["classifier_dropout"] = config.head_dropout
        if config.pooling == "mean":
            values[POOLING] = config.pooling
        return document | values | {"model_type": kind, "architectures": [architecture]}

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

    def head_in(self, document: Json) -> type[Head] | None:
        """Return the kind of head. Earlier versions of tlx wrote a head on the mean with the class of the backbone."""
        return Pooled if POOLING in document and "problem_type" in document else super().head_in(document)

    def bare(self, config: Bert, head: Head | None) -> bool:
        return head is None or config.pooling == "mean"

    def unanswered(self, config: Bert, head: Head | None) -> str | None:
        """Return why no class computes the same outputs: it would draw the layers that it misses at random."""
        if head is None or config.pooling != "mean":
            return None
        return (
            f"transformers has no class of the family {config.family!r} with a head that reads the mean over "
            'tokens (pooling="mean"), so it would initialise missing layers at random. Train the run with '
            'Weights(..., pooling="first"), or open this model with tlx.load_pretrained'
        )

    def constants(self, config: Bert, head: Head | None) -> dict[str, np.ndarray]:
        """Return a pooler of zeros for an encoder with pooling="mean".

        Otherwise `transformers` would draw one at random, and `pooler_output` would differ between loads.
        """
        if config.pooling != "mean" or config.family not in ("bert", "roberta"):
            return {}
        width = config.width
        return {
            "pooler.dense.weight": np.zeros((width, width), np.float32),
            "pooler.dense.bias": np.zeros(width, np.float32),
        }

    def peft_task(self, config: Bert, head: Head | None) -> str | None:
        if self.bare(config, head):
            return "FEATURE_EXTRACTION"
        return "TOKEN_CLS" if isinstance(head, PerToken) else "SEQ_CLS"

    def reads_prompt(self, config: Bert) -> bool:
        return True

    def reads_prefix(self, config: Bert) -> bool:
        return config.family != "distilbert"


def head_names(config: Bert, head: Head) -> Iterator[Name]:
    """Yield the foreign names of the head; a head per token is one linear layer in all families."""
    inner, output = {
        "bert": ("", "classifier"),
        "distilbert": ("pre_classifier", "classifier"),
        "roberta": ("classifier.dense", "classifier.out_proj"),
        "electra": ("classifier.dense", "classifier.out_proj"),
    }[config.family]
    if isinstance(head, PerToken):
        inner, output = "", "classifier"
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
    for name, module in layers.items():
        yield from dense_names(f"{ours}/attention/{name}", f"{foreign}.{module}")
    yield from dense_names(f"{ours}/attention/output", f"{foreign}.{modules[0]}")
    yield from norm_names(f"{ours}/attention/norm", f"{foreign}.{modules[1]}")
    yield from dense_names(f"{ours}/mlp/up", f"{foreign}.{modules[2]}")
    yield from dense_names(f"{ours}/mlp/down", f"{foreign}.{modules[3]}")
    yield from norm_names(f"{ours}/mlp/norm", f"{foreign}.{modules[4]}")
