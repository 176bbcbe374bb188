"""The form of BART and mBART in `transformers`."""

from collections.abc import Iterator
from typing import Any, ClassVar

from tlx.models.bart import Bart
from tlx.models.heads import Head, Pooled, Vocabulary
from tlx.models.names import STATS, Name, dense_names, norm_names
from tlx.trees import Json
from tlx.weights.formats.base import Format
from tlx.weights.formats.text import stated

FIELDS = {
    "vocabulary": "vocab_size",
    "width": "d_model",
    "depth": "encoder_layers",
    "decoder_depth": "decoder_layers",
    "heads": "encoder_attention_heads",
    "decoder_heads": "decoder_attention_heads",
    "mlp": "encoder_ffn_dim",
    "decoder_mlp": "decoder_ffn_dim",
    "positions": "max_position_embeddings",
    "activation": "activation_function",
    "embeddings_scaled": "scale_embedding",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "mlp_dropout": "activation_dropout",
    "head_dropout": "classifier_dropout",
    "pad": "pad_token_id",
    "end": "eos_token_id",
    "deviation": "init_std",
}
# Fields that may state null, which differs from leaving them out.
CHOSEN = {
    "start": "decoder_start_token_id",
    "forced_first": "forced_bos_token_id",
    "forced_last": "forced_eos_token_id",
}
CLASSES = {"bart": "Bart", "mbart": "MBart"}
# Defaults of `transformers` for fields that config.json leaves out, if they differ from ours.
ASSUMED: dict[str, Any] = {"width": 1024, "depth": 12, "decoder_depth": 12, "mlp": 4096, "decoder_mlp": 4096}
ASSUMED |= {"heads": 16, "decoder_heads": 16}
# Other names of fields above, which an earlier config.json may have.
DOUBLES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "classif_dropout")
# The names under which versions of `transformers` keep the one embedding of all words.
WORDS = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# Layers of other heads, other names of the embedding, and marks of early versions.
UNUSED = (
    r"(encoder|decoder)\.(embed_tokens\.weight|version)",
    r"shared\.weight",
    r"final_logits_bias",
    r"(lm_head|classification_head|qa_outputs)\..*",
)


class BartFormat(Format):
    """The form of `transformers` for BART and mBART."""

    families: ClassVar[dict[str, str]] = {"bart": "bart", "mbart": "mbart"}
    unused = UNUSED
    generation: ClassVar[tuple[str, ...]] = tuple(CHOSEN.values())

    def read(self, document: Json) -> Bart:
        """Return a `Bart` from config.json. Raises ValueError for settings that tlx does not cover."""
        check_covered(document)
        family = document["model_type"]
        values = ASSUMED | stated(document, FIELDS)
        values |= {field: document[foreign] for field, foreign in CHOSEN.items() if foreign in document}
        if family == "mbart":
            values.setdefault("start", None)
        return Bart(family=family, **values)

    def write(self, config: Bart, head: Head | None, document: Json) -> Json:
        """Return a config.json for `config`, with other fields from an earlier `document`."""
        values: Json = {foreign: getattr(config, field) for field, foreign in (FIELDS | CHOSEN).items()}
        values |= {
            "model_type": config.family,
            "architectures": [CLASSES[config.family] + ending(head)],
            "is_encoder_decoder": True,
            "tie_word_embeddings": True,
        }
        return {field: value for field, value in document.items() if field not in DOUBLES} | values

    def prefix(self, config: Bart) -> str:
        return "model."

    def peft_task(self, config: Bart, head: Head | None) -> str | None:
        tasks = {Pooled: "SEQ_CLS", Vocabulary: "SEQ_2_SEQ_LM"}
        return "FEATURE_EXTRACTION" if head is None else tasks.get(type(head))

    def names(self, config: Bart, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every parameter."""
        yield Name("stem/words/embedding", "shared.weight", others=WORDS)
        for stack, stem, count in (
            ("encoder", "stem", config.depth),
            ("decoder", "decoder_stem", config.decoder_depth),
        ):
            yield Name(f"{stem}/positions/embedding", f"{stack}.embed_positions.weight")
            yield from norm_names(f"{stem}/norm", f"{stack}.layernorm_embedding")
            for n in range(count):
                yield from block_names(f"{stack}/{n:02d}", f"{stack}.layers.{n}", stack == "decoder")
        if config.norm_first:
            yield from norm_names("encoder_norm", "encoder.layer_norm")
            yield from norm_names("norm", "decoder.layer_norm")
        if isinstance(head, Vocabulary):
            # A file of the bare model lacks it, and no training has moved it.
            yield Name(f"{STATS}head/bias", "final_logits_bias", head=True, squeeze=1, absent=0.0)
        elif isinstance(head, Pooled):
            yield from dense_names("head/dense", "classification_head.dense", head=True)
            yield from dense_names("head/output", "classification_head.out_proj", head=True)


def check_covered(document: Json) -> None:
    """Raise ValueError for a config.json that describes another model than tlx has."""
    if document.get("tie_word_embeddings") is False:
        raise ValueError(
            "config.json has tie_word_embeddings false; tlx supports BART with one embedding of the words in the "
            "encoder, the decoder and the last layer only"
        )
    if document.get("is_encoder_decoder") is False or document.get("is_decoder"):
        raise ValueError(
            "config.json describes the decoder of a BART without its encoder (is_encoder_decoder false, or is_decoder "
            "true); tlx supports both together: use the checkpoint of the whole model"
        )
    for name in ("encoder_layerdrop", "decoder_layerdrop"):
        if document.get(name):
            raise ValueError(
                f"config.json has {name} {document[name]}; tlx never leaves out a block in training: write 0, which "
                "changes no output of the trained model"
            )


def ending(head: Head | None) -> str:
    """Return the end of the name of the class of `transformers`."""
    if head is None:
        return "Model"
    return "ForConditionalGeneration" if isinstance(head, Vocabulary) else "ForSequenceClassification"


def block_names(ours: str, foreign: str, decoder: bool) -> Iterator[Name]:
    """Yield the names of a block of the encoder or of the decoder."""
    parts = {"attention": "self_attn"} | ({"cross/attention": "encoder_attn"} if decoder else {})
    for path, module in parts.items():
        for name, layer in {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}.items():
            yield from dense_names(f"{ours}/{path}/{name}", f"{foreign}.{module}.{layer}")
        yield from norm_names(f"{ours}/{path}/norm", f"{foreign}.{module}_layer_norm")
    yield from dense_names(f"{ours}/mlp/up", f"{foreign}.fc1")
    yield from dense_names(f"{ours}/mlp/down", f"{foreign}.fc2")
    yield from norm_names(f"{ours}/mlp/norm", f"{foreign}.final_layer_norm")
