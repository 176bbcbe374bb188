"""The parts that the forms of text encoders and decoders in `transformers` share."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from tlx.models.heads import Head, PerToken, Pooled, Span, Vocabulary
from tlx.models.names import Name, dense_names, norm_names
from tlx.trees import Json
from tlx.weights.formats.base import Format

POOLING = "tlx_pooling"
# Layers of other heads, which may stay unread.
UNUSED = (r".*position_ids", r".*\.token_type_ids", r"lm_head\..*", r"qa_outputs\..*", r"pooler\..*", r"classifier\..*")


class TextFormat(Format):
    """Base class of the forms of text encoders, with a `pooling` over tokens that `transformers` has no class for."""

    def check_positions(self, document: Json) -> None:
        """Raise ValueError for a config.json with other than absolute position embeddings."""
        if (kind := document.get("position_embedding_type", "absolute")) not in ("absolute", None):
            raise ValueError(
                f"config.json has {kind!r} position embeddings; tlx supports 'absolute' position embeddings only"
            )

    def head_in(self, document: Json) -> type[Head] | None:
        """Return the kind of head. Earlier versions of tlx wrote a head on the mean with the class of the backbone."""
        return Pooled if POOLING in document and "problem_type" in document else super().head_in(document)

    def bare(self, config: Any, head: Head | None) -> bool:
        return head is None or config.pooling == "mean"

    def architecture(self, config: Any, head: Head | None, stem: str) -> str:
        """Return the class of `transformers`, of which `stem` is the first part of the name.

        A head on the mean has no class in `transformers`: config.json names the class of the backbone, which
        `AutoModel` opens, and has `tlx_pooling`.
        """
        if self.bare(config, head):
            return f"{stem}Model"
        if isinstance(head, Vocabulary):
            return f"{stem}ForMaskedLM"
        if isinstance(head, Span):
            return f"{stem}ForQuestionAnswering"
        return f"{stem}ForTokenClassification" if isinstance(head, PerToken) else f"{stem}ForSequenceClassification"

    def unanswered(self, config: Any, head: Head | None) -> str | None:
        """Return why no class computes the same outputs: it would draw the layers that it misses at random."""
        if head is None or config.pooling != "mean":
            return None
        return (
            f"transformers has no class of the family {self.kind(config)!r} with a head that reads the mean over "
            'tokens (pooling="mean"), so it would initialise missing layers at random. Train the run with '
            'Weights(..., pooling="first"), or open this model with tlx.load_pretrained'
        )

    def peft_task(self, config: Any, head: Head | None) -> str | None:
        if self.bare(config, head):
            return "FEATURE_EXTRACTION"
        if isinstance(head, Span):
            return "QUESTION_ANS"
        return "TOKEN_CLS" if isinstance(head, PerToken) else "SEQ_CLS"

    def reads_prompt(self, config: Any) -> bool:
        return True


class DecoderFormat(Format):
    """Base class of the forms of decoders, whose heads are on the last token, on every token and over the words.

    Attributes:
        language: The end of the name of the class with a head over the words.
    """

    language: ClassVar[str] = "ForCausalLM"

    def architecture(self, head: Head | None, stem: str) -> str:
        """Return the class of `transformers`, of which `stem` is the first part of the name."""
        if head is None:
            return f"{stem}Model"
        if isinstance(head, Vocabulary):
            return f"{stem}{self.language}"
        return f"{stem}ForTokenClassification" if isinstance(head, PerToken) else f"{stem}ForSequenceClassification"

    def peft_task(self, config: Any, head: Head | None) -> str | None:
        if head is None:
            return "FEATURE_EXTRACTION"
        return "CAUSAL_LM" if isinstance(head, Vocabulary) else "TOKEN_CLS" if isinstance(head, PerToken) else "SEQ_CLS"

    def unanswered(self, config: Any, head: Head | None) -> str | None:
        """Return why the class of `transformers` refuses a batch: without an id of padding it finds no last token."""
        if not isinstance(head, Pooled) or config.pad is not None:
            return None
        return (
            "the model has a head for the whole text and no id of padding (pad=None), so its class in transformers "
            "refuses a batch of several texts. Write pad_token_id, an id that ends no text, into the config.json of "
            "the pretrained model and train again, or open this model with tlx.load_pretrained"
        )


def token_layer(head: Head | None) -> str:
    """Return the foreign name of the linear layer of a text encoder on every token."""
    return "qa_outputs" if isinstance(head, Span) else "classifier"


def zero_layer(name: str, width: int) -> dict[str, np.ndarray]:
    """Return the tensors of a dense layer of zeros, for a layer that `transformers` would otherwise draw at random."""
    return {f"{name}.weight": np.zeros((width, width), np.float32), f"{name}.bias": np.zeros(width, np.float32)}


def stated(document: Json, fields: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of our `fields` that a config.json states under their foreign names."""
    return {field: document[foreign] for field, foreign in fields.items() if document.get(foreign) is not None}


def post_norm_names(
    ours: str, attention: Mapping[str, str], norms: tuple[str, str], mlp: tuple[str, str]
) -> Iterator[Name]:
    """Yield the names of a post-norm block.

    Args:
        ours: Our path of the block.
        attention: The foreign names of `query`, `key`, `value` and `output`.
        norms: The foreign names of the norms after the attention and after the feed-forward layer.
        mlp: The foreign names of the two dense layers of the feed-forward layer.
    """
    for name, module in attention.items():
        yield from dense_names(f"{ours}/attention/{name}", module)
    yield from norm_names(f"{ours}/attention/norm", norms[0])
    yield from dense_names(f"{ours}/mlp/up", mlp[0])
    yield from dense_names(f"{ours}/mlp/down", mlp[1])
    yield from norm_names(f"{ours}/mlp/norm", norms[1])


def decoder_head_names(config: Any, head: Head | None, token: str) -> Iterator[Name]:
    """Yield the names of the head of a decoder; `token` is the foreign name of the linear layer on every token."""
    if head is None or (isinstance(head, Vocabulary) and config.tied):
        return
    layer = "lm_head" if isinstance(head, Vocabulary) else token if isinstance(head, PerToken) else "score"
    yield Name("head/output/kernel", f"{layer}.weight", "transpose", head=True)
    if isinstance(head, PerToken):
        yield Name("head/output/bias", f"{layer}.bias", head=True)
