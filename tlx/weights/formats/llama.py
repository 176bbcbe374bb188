"""The forms of Llama, Mistral, Qwen2, Qwen3 and Gemma (1, 2 and the text model of 3) in `transformers`."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from tlx.models.heads import Head, PerToken, Vocabulary
from tlx.models.llama import Llama
from tlx.models.names import Name, dense_names
from tlx.trees import Json
from tlx.weights.formats.rotary import read_rotary, write_rotary
from tlx.weights.formats.text import DecoderFormat, decoder_head_names, stated

FIELDS = {
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "key_heads": "num_key_value_heads",
    "head_size": "head_dim",
    "mlp": "intermediate_size",
    "positions": "max_position_embeddings",
    "epsilon": "rms_norm_eps",
    "attention_dropout": "attention_dropout",
    "head_dropout": "classifier_dropout",
    "tied": "tie_word_embeddings",
    "deviation": "initializer_range",
}
FULL, SLIDING = "full_attention", "sliding_attention"
WINDOW, TYPES = "sliding_window", "layer_types"
# Fields of older versions, which `rope_parameters` replaces.
OLD = ("rope_theta", "rope_scaling", "rope_local_base_freq")
QWEN: dict[str, Any] = {"vocabulary": 151936, "mlp": 22016, "positions": 32768, "key_heads": 32}
GEMMA: dict[str, Any] = {
    "vocabulary": 256000, "width": 3072, "depth": 28, "heads": 16, "key_heads": 16, "head_size": 256, "mlp": 24576,
    "positions": 8192, "activation": "gelu_pytorch_tanh", "pad": 0, "tied": True,
}  # fmt: skip
SECOND = {"width": 2304, "depth": 26, "heads": 8, "key_heads": 4, "mlp": 9216, "window": 4096, "score_size": 256}


class Family(NamedTuple):
    """What the classes of a family have in common.

    Attributes:
        stem: The first part of the names of the classes.
        features: The values of our fields that a class always has, and the fields of others that it lacks.
        assumed: The defaults of `transformers`, if they differ from ours.
        activation: The foreign name of the activation.
        biases: Our fields that `attention_bias` states.
        further: Our further fields by foreign name, which may be null.
    """

    stem: str
    features: dict[str, Any]
    assumed: dict[str, Any]
    activation: str = "hidden_act"
    biases: tuple[str, ...] = ("query_bias", "output_bias")
    further: Mapping[str, str] = MappingProxyType({})


PLAIN: dict[str, Any] = {
    **dict.fromkeys(("head_norm", "shifted", "embeddings_scaled", "after_norms", "mlp_bias"), False),
    **dict.fromkeys(("score_size", "attention_cap", "logit_cap", "local_base"), None),
}
SHIFTED = PLAIN | {"shifted": True, "embeddings_scaled": True}
CAPS = {"attention_cap": "attn_logit_softcapping", "logit_cap": "final_logit_softcapping"}
LATER = {name: value for name, value in SHIFTED.items() if name not in ("score_size", *CAPS)} | {"after_norms": True}
THIRD = {name: value for name, value in LATER.items() if name != "local_base"} | {"head_norm": True}
FAMILIES = {
    "llama": Family("Llama", {n: v for n, v in PLAIN.items() if n != "mlp_bias"} | {"window": None}, {}),
    "mistral": Family(
        "Mistral",
        PLAIN | {"query_bias": False, "output_bias": False},
        {"mlp": 14336, "key_heads": 8, "positions": 131072, "window": 4096},
        biases=(),
    ),
    "qwen2": Family("Qwen2", PLAIN | {"query_bias": True, "output_bias": False}, QWEN | {"window": 4096}, biases=()),
    "qwen3": Family("Qwen3", PLAIN | {"head_norm": True}, QWEN | {"window": 4096, "head_size": 128}),
    "gemma": Family("Gemma", SHIFTED | {"window": None}, GEMMA),
    "gemma2": Family(
        "Gemma2", LATER, GEMMA | SECOND | {"attention_cap": 50.0, "logit_cap": 30.0}, "hidden_activation", further=CAPS
    ),
    "gemma3_text": Family(
        "Gemma3Text",
        THIRD,
        GEMMA | SECOND | {"vocabulary": 262208, "positions": 131072, "base": 1e6, "local_base": 1e4},
        "hidden_activation",
        further=CAPS,
    ),
}


class LlamaFormat(DecoderFormat):
    """The forms of `transformers` for the families of `Llama`."""

    families: ClassVar[dict[str, str]] = {name: name for name in FAMILIES}
    unused = (r".*rotary_emb\.inv_freq", r"(lm_head|score|qa_outputs)\..*")

    def read(self, document: Json) -> Llama:
        """Return a `Llama` from config.json. Raises ValueError for settings that tlx does not cover."""
        name = document["model_type"]
        family = FAMILIES[name]
        if document.get("use_bidirectional_attention"):
            raise ValueError("config.json has use_bidirectional_attention; tlx supports causal attention only")
        values = (
            family.assumed
            | stated(document, FIELDS)
            | {ours: value for ours, value in family.features.items() if ours != "window"}
        )
        heads = values.get("heads", Llama.heads)
        absent = "num_key_value_heads" not in document and "key_heads" in family.assumed
        if document.get("num_key_value_heads") is None and not absent:
            values["key_heads"] = heads
        if "head_size" not in values:
            values["head_size"] = values.get("width", Llama.width) // heads
        values["activation"] = document.get(family.activation) or values.get("activation", Llama.activation)
        if name == "gemma" and values["activation"] == "gelu":
            # As in `transformers`: early files name another function than the one of the pretraining.
            values["activation"] = GEMMA["activation"]
        values |= {ours: bool(document.get("attention_bias")) for ours in family.biases}
        if "mlp_bias" not in family.features:
            values["mlp_bias"] = bool(document.get("mlp_bias"))
        if "score_size" not in family.features:
            values["score_size"] = document.get("query_pre_attn_scalar", values["score_size"])
        further = dict(family.further) | {"pad": "pad_token_id"}
        values |= {ours: document[foreign] for ours, foreign in further.items() if foreign in document}
        values |= windows(document, name, values) | read_rotary(document, name, values)
        return Llama(family=name, **values)

    def write(self, config: Llama, head: Head | None, document: Json) -> Json:
        """Return a config.json for `config`, with other fields from an earlier `document`.

        Raises ValueError for fields or a head that the classes of the family do not have.
        """
        family = FAMILIES[config.family]
        check_features(config, family, head)
        values: Json = {foreign: getattr(config, ours) for ours, foreign in {**FIELDS, **family.further}.items()}
        values |= {
            "model_type": config.family,
            "architectures": [self.named(config, head)],
            "pad_token_id": config.pad,
            family.activation: config.activation,
            "rope_parameters": write_rotary(config),
        }
        values |= {"attention_bias": config.query_bias} if family.biases else {}
        values |= {"mlp_bias": config.mlp_bias} if "mlp_bias" not in family.features else {}
        values |= {"query_pre_attn_scalar": config.score_size} if "score_size" not in family.features else {}
        if "window" not in family.features:
            values |= {WINDOW: config.window}
        if config.family not in ("llama", "mistral", "gemma"):
            values[TYPES] = [SLIDING if n in config.local else FULL for n in range(config.depth)]
        if config.family.startswith("qwen"):
            values["use_sliding_window"] = config.window is not None
        return {field: value for field, value in document.items() if field not in OLD} | values

    def named(self, config: Llama, head: Head | None) -> str:
        """Return the name of the class of `transformers`."""
        third = config.family == "gemma3_text" and isinstance(head, Vocabulary)
        return self.architecture(head, "Gemma3" if third else FAMILIES[config.family].stem)

    def prefix(self, config: Llama) -> str:
        return "model."

    def reads_prefix(self, config: Llama) -> bool:
        """Return whether peft's keys have the width of the model; a window would count them as tokens."""
        whole = config.key_heads == config.heads and config.heads * config.head_size == config.width
        return whole and not config.local

    def names(self, config: Llama, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every parameter."""
        yield Name("stem/words/embedding", "embed_tokens.weight")
        for n in range(config.depth):
            yield from block_names(config, f"blocks/{n:02d}", f"layers.{n}")
        yield Name("norm/scale", "norm.weight")
        yield from decoder_head_names(config, head, "score")


def block_names(config: Llama, ours: str, layer: str) -> Iterator[Name]:
    """Yield the foreign names of a block."""
    biases = {"query": config.query_bias, "key": config.query_bias, "value": config.query_bias}
    for name, bias in (biases | {"output": config.output_bias}).items():
        yield from dense_names(f"{ours}/attention/{name}", f"{layer}.self_attn.{name[0]}_proj", bias=bias)
    if config.head_norm:
        yield Name(f"{ours}/attention/query/norm/scale", f"{layer}.self_attn.q_norm.weight")
        yield Name(f"{ours}/attention/key/norm/scale", f"{layer}.self_attn.k_norm.weight")
    for name in ("gate", "up", "down"):
        yield from dense_names(f"{ours}/mlp/{name}", f"{layer}.mlp.{name}_proj", bias=config.mlp_bias)
    norms = {"attention/norm": "input_layernorm", "mlp/norm": "post_attention_layernorm"}
    if config.after_norms:
        norms |= {
            "attention/after": "post_attention_layernorm",
            "mlp/norm": "pre_feedforward_layernorm",
            "mlp/after": "post_feedforward_layernorm",
        }
    for name, foreign in norms.items():
        yield Name(f"{ours}/{name}/scale", f"{layer}.{foreign}.weight")


def windows(document: Json, family: str, values: Json) -> Json:
    """Return the window and the numbers of the local blocks. Raises ValueError for a kind of block without a form."""
    depth = values.get("depth", Llama.depth)
    if family in ("llama", "gemma"):
        return {"window": None}
    window = document[WINDOW] if WINDOW in document else values["window"]
    if family.startswith("qwen") and not document.get("use_sliding_window"):
        window = None
    types = document.get(TYPES)
    if family == "mistral":
        local = [True] * depth
    elif types is not None:
        if len(types) != depth or set(types) - {FULL, SLIDING}:
            raise ValueError(f"config.json has layer_types {types}; expected {depth} of {FULL!r} and {SLIDING!r}")
        local = [kind == SLIDING for kind in types]
    elif family.startswith("qwen"):
        local = [n >= document.get("max_window_layers", 28) for n in range(depth)]
    else:
        every = 2 if family == "gemma2" else document.get("sliding_window_pattern", 6)
        local = [(n + 1) % every > 0 for n in range(depth)]
    numbers = () if window is None else tuple(n for n in range(depth) if local[n])
    return {"window": window, "local": numbers}


def check_features(config: Llama, family: Family, head: Head | None) -> None:
    """Raise ValueError for a field or a head that the classes of a family do not have."""
    features = dict(family.features)
    if family.biases:
        features["output_bias"] = config.query_bias
    if config.family == "mistral" and config.window is not None:
        features["local"] = tuple(range(config.depth))
    for field, value in features.items():
        if getattr(config, field) != value:
            raise ValueError(
                f"the classes of {config.family!r} in transformers have {field}={value!r}, but the model has "
                f"{getattr(config, field)!r}; change the field or the family"
            )
    if config.width % config.heads:
        raise ValueError(f"transformers requires a width that is a multiple of heads; it is {config.width}")
    if config.family == "gemma3_text":
        if config.local_base is None or config.score_size is None:
            raise ValueError("the classes of 'gemma3_text' require local_base and score_size; set them")
        if isinstance(head, PerToken):
            raise ValueError(f"transformers has no class of 'gemma3_text' with the head {head}")
