"""The form of T5, Flan-T5, ByT5 and mT5 in `transformers`."""

from collections.abc import Iterator
from typing import Any, ClassVar

from tlx.models.heads import Head, PerToken, Pooled, Vocabulary
from tlx.models.names import Name, dense_names, norm_names
from tlx.models.t5 import T5, decodes
from tlx.trees import Json
from tlx.weights.formats.base import Format
from tlx.weights.formats.text import stated

FIELDS = {
    "vocabulary": "vocab_size",
    "width": "d_model",
    "depth": "num_layers",
    "decoder_depth": "num_decoder_layers",
    "heads": "num_heads",
    "size": "d_kv",
    "mlp": "d_ff",
    "buckets": "relative_attention_num_buckets",
    "furthest": "relative_attention_max_distance",
    "epsilon": "layer_norm_epsilon",
    "dropout": "dropout_rate",
    "head_dropout": "classifier_dropout",
    "pad": "pad_token_id",
    "end": "eos_token_id",
    "start": "decoder_start_token_id",
    "factor": "initializer_factor",
}
CLASSES = {"t5": "T5", "mt5": "MT5"}
# Defaults of `transformers` for fields that config.json leaves out, if they differ from ours.
ASSUMED: dict[str, dict[str, Any]] = {"t5": {}, "mt5": {"vocabulary": 250112, "mlp": 1024, "depth": 8, "heads": 6}}
FEED_FORWARD = "feed_forward_proj"
# The names under which versions of `transformers` keep the one embedding of all words.
WORDS = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# Layers of other heads, and a table that early versions wrote and never read.
UNUSED = (
    r"(encoder|decoder)\.embed_tokens\.weight",
    r"shared\.weight",
    r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
    r"(lm_head|classification_head|classifier|qa_outputs)\..*",
)


class T5Format(Format):
    """The form of `transformers` for T5 and mT5."""

    families: ClassVar[dict[str, str]] = {"t5": "t5", "mt5": "mt5"}
    unused = UNUSED

    def read(self, document: Json) -> T5:
        """Return a `T5` from config.json. Raises ValueError for settings that tlx does not cover."""
        family = document["model_type"]
        values = ASSUMED[family] | stated(document, FIELDS)
        values.setdefault("decoder_depth", values.get("depth", T5.depth))
        values.setdefault("start", values.get("pad", T5.pad))
        gated, _, activation = document.get(FEED_FORWARD, "relu" if family == "t5" else "gated-gelu").rpartition("-")
        if gated not in ("", "gated"):
            raise ValueError(
                f"config.json has {FEED_FORWARD} {document[FEED_FORWARD]!r}; expected an activation such as 'relu', or "
                "'gated-' and an activation"
            )
        # "gated-gelu" is the approximation, and the plain "gelu" the exact function.
        activation = "gelu_new" if gated and activation == "gelu" else activation
        # Version 5 writes that the embedding is tied for all models; the scale of the states says how it was trained.
        tied = document.get("tie_word_embeddings") is not False and document.get("scale_decoder_outputs") is not False
        return T5(
            family=family,
            gated=bool(gated),
            activation=activation,
            tied=tied and family == "t5",
            encoder_only=document.get("is_encoder_decoder") is False,
            **values,
        )

    def write(self, config: T5, head: Head | None, document: Json) -> Json:
        """Return a config.json for `config`, with other fields from an earlier `document`.

        Raises ValueError for an exact GELU with a gate, which `transformers` has no name for.
        """
        if config.gated and config.activation == "gelu":
            raise ValueError(
                "transformers has no name for a T5 with gated=True and activation='gelu': 'gated-gelu' is its name for "
                "activation='gelu_new'"
            )
        shown = "gelu" if config.gated and config.activation == "gelu_new" else config.activation
        values: Json = {foreign: getattr(config, field) for field, foreign in FIELDS.items()}
        values |= {
            "model_type": config.family,
            "architectures": [CLASSES[config.family] + ending(config, head)],
            FEED_FORWARD: f"gated-{shown}" if config.gated else shown,
            "is_encoder_decoder": not config.encoder_only,
            "tie_word_embeddings": config.tied,
        }
        return {field: value for field, value in document.items() if field != "scale_decoder_outputs"} | values

    def prefix(self, config: T5) -> str:
        return "transformer."

    def bare(self, config: T5, head: Head | None) -> bool:
        """Return whether the class holds the stacks without a prefix: that of language modelling does."""
        return head is None or isinstance(head, Vocabulary)

    def ignored(self, config: T5, head: Head | None) -> tuple[str, ...]:
        """Return the tensors that may stay unread: those of a decoder too, where the model has none."""
        return self.unused if decodes(config, head) else (*self.unused, r"decoder\..*")

    def peft_task(self, config: T5, head: Head | None) -> str | None:
        if head is None:
            return "FEATURE_EXTRACTION"
        tasks = {Pooled: "SEQ_CLS", PerToken: "TOKEN_CLS", Vocabulary: "SEQ_2_SEQ_LM"}
        return tasks.get(type(head))

    def names(self, config: T5, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every parameter."""
        yield Name("stem/words/embedding", "shared.weight", others=WORDS)
        yield from stack_names(config, "encoder", config.depth)
        yield from norm_names("encoder_norm", "encoder.final_layer_norm", bias=False)
        if decodes(config, head):
            yield from stack_names(config, "decoder", config.decoder_depth)
            yield from norm_names("norm", "decoder.final_layer_norm", bias=False)
        if isinstance(head, PerToken):
            yield from dense_names("head/output", "classifier", head=True)
        elif isinstance(head, Vocabulary) and not config.tied:
            # Version 5 leaves it out where it equals the embedding.
            for name in dense_names("head/output", "lm_head", bias=False, head=True):
                yield name._replace(others=("shared.weight", *WORDS))
        elif isinstance(head, Pooled):
            yield from dense_names("head/dense", "classification_head.dense", head=True)
            yield from dense_names("head/output", "classification_head.out_proj", head=True)


def ending(config: T5, head: Head | None) -> str:
    """Return the end of the name of the class of `transformers`."""
    if head is None:
        return "EncoderModel" if config.encoder_only else "Model"
    if isinstance(head, Vocabulary):
        return "ForConditionalGeneration"
    return "ForTokenClassification" if isinstance(head, PerToken) else "ForSequenceClassification"


def stack_names(config: T5, stack: str, count: int) -> Iterator[Name]:
    """Yield the names of the blocks of the encoder or the decoder."""
    for n in range(count):
        ours, foreign = f"{stack}/{n:02d}", f"{stack}.block.{n}.layer"
        yield from mixing_names(f"{ours}/attention", f"{foreign}.0", "SelfAttention")
        if n == 0:
            table = f"{foreign}.0.SelfAttention.relative_attention_bias.weight"
            yield Name(f"{ours}/attention/relative/embedding", table)
        if stack == "decoder":
            yield from mixing_names(f"{ours}/cross/attention", f"{foreign}.1", "EncDecAttention")
        last = f"{foreign}.{2 if stack == 'decoder' else 1}"
        layers = {"gate": "wi_0", "up": "wi_1"} if config.gated else {"up": "wi"}
        for name, module in (layers | {"down": "wo"}).items():
            yield from dense_names(f"{ours}/mlp/{name}", f"{last}.DenseReluDense.{module}", bias=False)
        yield from norm_names(f"{ours}/mlp/norm", f"{last}.layer_norm", bias=False)


def mixing_names(ours: str, foreign: str, module: str) -> Iterator[Name]:
    """Yield the names of one attention and its norm."""
    for name in ("query", "key", "value", "output"):
        yield from dense_names(f"{ours}/{name}", f"{foreign}.{module}.{name[0]}", bias=False)
    yield from norm_names(f"{ours}/norm", f"{foreign}.layer_norm", bias=False)
