"""Names and shapes of the tensors of decoders (see `expected`)."""

from tlx.trees import Json
from tlx.weights.expected_layers import Shape, Shapes, linear, norm

STEMS = {
    "gpt2": "GPT2",
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "gemma": "Gemma",
    "gemma2": "Gemma2",
    "gemma3_text": "Gemma3Text",
}
TOKENS, SEQUENCE = "ForTokenClassification", "ForSequenceClassification"


def decoder_tensors(document: Json) -> dict[str, Shape] | None:
    """Return the tensors of a decoder's class by name; None for a class that is not in this list."""
    kind, name = document["model_type"], (document.get("architectures") or [""])[0]
    language = "LMHeadModel" if kind == "gpt2" else "ForCausalLM"
    stem = "Gemma3" if name == "Gemma3ForCausalLM" else STEMS[kind]
    head = name.removeprefix(stem)
    if head not in ("Model", language, SEQUENCE, TOKENS) or (kind == "gemma3_text" and head == TOKENS):
        return None
    tensors = dict(gpt2_backbone(document) if kind == "gpt2" else llama_backbone(document))
    prefix = "" if head == "Model" else "transformer." if kind == "gpt2" else "model."
    return {prefix + tensor: shape for tensor, shape in tensors.items()} | dict(decoder_head(kind, head, document))


def decoder_head(kind: str, head: str, document: Json) -> Shapes:
    """Yield the tensors of a head; a tied one has none in a file."""
    width = document["n_embd" if kind == "gpt2" else "hidden_size"]
    if head == TOKENS:
        yield from linear("classifier" if kind == "gpt2" else "score", width, len(document["id2label"]))
    elif head == SEQUENCE:
        yield from linear("score", width, len(document["id2label"]), bias=False)
    elif head != "Model" and not document["tie_word_embeddings"]:
        yield from linear("lm_head", width, document["vocab_size"], bias=False)


def gpt2_backbone(document: Json) -> Shapes:
    """Yield the tensors of `GPT2Model`; its `Conv1D` have weights of (in, out)."""
    width, inner = document["n_embd"], document["n_inner"] or 4 * document["n_embd"]
    yield "wte.weight", (document["vocab_size"], width)
    yield "wpe.weight", (document["n_positions"], width)
    for number in range(document["n_layer"]):
        layer = f"h.{number}"
        layers = {"attn.c_attn": (width, 3 * width), "attn.c_proj": (width, width)}
        layers |= {"mlp.c_fc": (width, inner), "mlp.c_proj": (inner, width)}
        for name, shape in layers.items():
            yield f"{layer}.{name}.weight", shape
            yield f"{layer}.{name}.bias", shape[1:]
        yield from norm(f"{layer}.ln_1", width)
        yield from norm(f"{layer}.ln_2", width)
    yield from norm("ln_f", width)


def llama_backbone(document: Json) -> Shapes:
    """Yield the tensors of `LlamaModel` and of its relatives."""
    kind, width, inner = document["model_type"], document["hidden_size"], document["intermediate_size"]
    size, bias = document["head_dim"], bool(document.get("attention_bias"))
    queries, keys = document["num_attention_heads"] * size, document["num_key_value_heads"] * size
    norms = ["input_layernorm", "post_attention_layernorm"]
    if kind in ("gemma2", "gemma3_text"):
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    yield "embed_tokens.weight", (document["vocab_size"], width)
    for number in range(document["num_hidden_layers"]):
        layer = f"layers.{number}"
        for name, outputs in (("q", queries), ("k", keys), ("v", keys)):
            yield from linear(f"{layer}.self_attn.{name}_proj", width, outputs, bias or kind == "qwen2")
        yield from linear(f"{layer}.self_attn.o_proj", queries, width, bias)
        if kind in ("qwen3", "gemma3_text"):
            yield f"{layer}.self_attn.q_norm.weight", (size,)
            yield f"{layer}.self_attn.k_norm.weight", (size,)
        for name, (inputs, outputs) in {"gate": (width, inner), "up": (width, inner), "down": (inner, width)}.items():
            yield from linear(f"{layer}.mlp.{name}_proj", inputs, outputs, bool(document.get("mlp_bias")))
        for name in norms:
            yield f"{layer}.{name}.weight", (width,)
    yield "norm.weight", (width,)
