"""The form of GPT-2 in `transformers`."""

from collections.abc import Iterator
from typing import ClassVar

from tlx.models.gpt2 import Gpt2
from tlx.models.heads import Head
from tlx.models.names import Name, norm_names
from tlx.trees import Json
from tlx.weights.formats.text import DecoderFormat, decoder_head_names, stated

FIELDS = {
    "vocabulary": "vocab_size",
    "width": "n_embd",
    "depth": "n_layer",
    "heads": "n_head",
    "mlp": "n_inner",
    "positions": "n_positions",
    "activation": "activation_function",
    "epsilon": "layer_norm_epsilon",
    "scaled": "scale_attn_weights",
    "scaled_by_layer": "scale_attn_by_inverse_layer_idx",
    "dropout": "embd_pdrop",
    "attention_dropout": "attn_pdrop",
    "residual_dropout": "resid_pdrop",
    "head_dropout": "classifier_dropout",
    "pad": "pad_token_id",
    "tied": "tie_word_embeddings",
    "deviation": "initializer_range",
}


class Gpt2Format(DecoderFormat):
    """The form of `transformers` for GPT-2: one layer of queries, keys and values, and kernels of (in, out)."""

    families: ClassVar[dict[str, str]] = {"gpt2": "gpt2"}
    # Old files hold the causal mask of each block.
    unused = (r".*attn\.(masked_)?bias", r"(lm_head|score|classifier|multiple_choice_head)\..*")
    language = "LMHeadModel"

    def read(self, document: Json) -> Gpt2:
        """Return a `Gpt2` from config.json. Raises ValueError for settings that tlx does not cover."""
        if document.get("add_cross_attention"):
            raise ValueError("config.json has add_cross_attention; tlx supports GPT-2 without an encoder only")
        values = stated(document, FIELDS)
        values.setdefault("mlp", 4 * values.get("width", Gpt2.width))
        return Gpt2(**values)

    def write(self, config: Gpt2, head: Head | None, document: Json) -> Json:
        """Return a config.json for `config`, with other fields from an earlier `document`."""
        values: Json = {foreign: getattr(config, field) for field, foreign in FIELDS.items()}
        return document | values | {"model_type": "gpt2", "architectures": [self.architecture(head, "GPT2")]}

    def prefix(self, config: Gpt2) -> str:
        return "transformer."

    def in_memory(self, config: Gpt2, module: str) -> str | None:
        """Return None for the one layer of queries, keys and values, which are three layers here."""
        return None if module.endswith("c_attn") else module

    def reads_prefix(self, config: Gpt2) -> bool:
        return True

    def names(self, config: Gpt2, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every parameter."""
        yield Name("stem/words/embedding", "wte.weight")
        yield Name("stem/positions/embedding", "wpe.weight")
        for n in range(config.depth):
            ours, layer = f"blocks/{n:02d}", f"h.{n}"
            for number, name in enumerate(("query", "key", "value")):
                for entry in turned_names(f"{ours}/attention/{name}", f"{layer}.attn.c_attn"):
                    yield entry._replace(part=(number, 3), axis=-1)
            yield from turned_names(f"{ours}/attention/output", f"{layer}.attn.c_proj")
            yield from norm_names(f"{ours}/attention/norm", f"{layer}.ln_1")
            yield from turned_names(f"{ours}/mlp/up", f"{layer}.mlp.c_fc")
            yield from turned_names(f"{ours}/mlp/down", f"{layer}.mlp.c_proj")
            yield from norm_names(f"{ours}/mlp/norm", f"{layer}.ln_2")
        yield from norm_names("norm", "ln_f")
        yield from decoder_head_names(config, head, "classifier")


def turned_names(ours: str, foreign: str) -> Iterator[Name]:
    """Yield the names of a `Conv1D` of `transformers`, a dense layer with a kernel of (in, out)."""
    yield Name(f"{ours}/kernel", f"{foreign}.weight", "Conv1D")
    yield Name(f"{ours}/bias", f"{foreign}.bias")
