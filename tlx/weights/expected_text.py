"""Names and shapes of the tensors of further text encoders (see `expected`)."""

from tlx.trees import Json
from tlx.weights.expected_layers import Shapes, linear, norm


def mpnet_backbone(head: str, document: Json) -> Shapes:
    """Yield the tensors of `MPNetModel`; a classifier has none of its pooler."""
    width, inner = document["hidden_size"], document["intermediate_size"]
    yield "embeddings.word_embeddings.weight", (document["vocab_size"], width)
    yield "embeddings.position_embeddings.weight", (document["max_position_embeddings"], width)
    yield from norm("embeddings.LayerNorm", width)
    buckets = document["relative_attention_num_buckets"]
    yield "encoder.relative_attention_bias.weight", (buckets, document["num_attention_heads"])
    for number in range(document["num_hidden_layers"]):
        block = f"encoder.layer.{number}"
        for name in "qkvo":
            yield from linear(f"{block}.attention.attn.{name}", width, width)
        yield from norm(f"{block}.attention.LayerNorm", width)
        yield from linear(f"{block}.intermediate.dense", width, inner)
        yield from linear(f"{block}.output.dense", inner, width)
        yield from norm(f"{block}.output.LayerNorm", width)
    if head == "Model":
        yield from linear("pooler.dense", width, width)


def albert_backbone(head: str, document: Json) -> Shapes:
    """Yield the tensors of `AlbertModel`; the classifier of tokens has none of its pooler."""
    width, inner, rows = document["hidden_size"], document["intermediate_size"], document["embedding_size"]
    counts = {"word": "vocab_size", "position": "max_position_embeddings", "token_type": "type_vocab_size"}
    for name, field in counts.items():
        yield f"embeddings.{name}_embeddings.weight", (document[field], rows)
    yield from norm("embeddings.LayerNorm", rows)
    yield from linear("encoder.embedding_hidden_mapping_in", rows, width)
    for group in range(document["num_hidden_groups"]):
        for number in range(document["inner_group_num"]):
            layer = f"encoder.albert_layer_groups.{group}.albert_layers.{number}"
            yield from norm(f"{layer}.full_layer_layer_norm", width)
            for name in ("query", "key", "value", "dense"):
                yield from linear(f"{layer}.attention.{name}", width, width)
            yield from norm(f"{layer}.attention.LayerNorm", width)
            yield from linear(f"{layer}.ffn", width, inner)
            yield from linear(f"{layer}.ffn_output", inner, width)
    if head not in ("ForTokenClassification", "ForQuestionAnswering"):
        yield from linear("pooler", width, width)


def modernbert_norm(name: str, document: Json) -> Shapes:
    """Yield the tensors of a norm, with a bias where the config has one."""
    tensors = norm(name, document["hidden_size"])
    yield next(tensors)
    if document["norm_bias"]:
        yield from tensors


def modernbert_backbone(head: str, document: Json) -> Shapes:
    """Yield the tensors of `ModernBertModel`."""
    width, inner = document["hidden_size"], document["intermediate_size"]
    yield "embeddings.tok_embeddings.weight", (document["vocab_size"], width)
    yield from modernbert_norm("embeddings.norm", document)
    for number in range(document["num_hidden_layers"]):
        layer = f"layers.{number}"
        if number > 0:
            yield from modernbert_norm(f"{layer}.attn_norm", document)
        yield from linear(f"{layer}.attn.Wqkv", width, 3 * width, document["attention_bias"])
        yield from linear(f"{layer}.attn.Wo", width, width, document["attention_bias"])
        yield from modernbert_norm(f"{layer}.mlp_norm", document)
        yield from linear(f"{layer}.mlp.Wi", width, 2 * inner, document["mlp_bias"])
        yield from linear(f"{layer}.mlp.Wo", inner, width, document["mlp_bias"])
    yield from modernbert_norm("final_norm", document)


def modernbert_head(document: Json) -> Shapes:
    """Yield the tensors of the classifier of texts or of tokens."""
    width = document["hidden_size"]
    yield from linear("head.dense", width, width, document["classifier_bias"])
    yield from modernbert_norm("head.norm", document)
    yield from linear("classifier", width, len(document["id2label"]))


def deberta_backbone(head: str, document: Json) -> Shapes:
    """Yield the tensors of `DebertaV2Model`."""
    width, inner, rows = document["hidden_size"], document["intermediate_size"], document["embedding_size"]
    yield "embeddings.word_embeddings.weight", (document["vocab_size"], rows)
    if document["position_biased_input"]:
        yield "embeddings.position_embeddings.weight", (document["max_position_embeddings"], rows)
    if document["type_vocab_size"]:
        yield "embeddings.token_type_embeddings.weight", (document["type_vocab_size"], rows)
    if rows != width:
        yield "embeddings.embed_proj.weight", (width, rows)
    yield from norm("embeddings.LayerNorm", width)
    relative, terms = document["relative_attention"], document["pos_att_type"]
    if relative:
        furthest = document["max_relative_positions"]
        span = document["max_position_embeddings"] if furthest < 1 else furthest
        span = document["position_buckets"] if document["position_buckets"] > 0 else span
        yield "encoder.rel_embeddings.weight", (2 * span, width)
    if document["norm_rel_ebd"] == "layer_norm":
        yield from norm("encoder.LayerNorm", width)
    if size := document["conv_kernel_size"]:
        yield "encoder.conv.conv.weight", (width, width // document["conv_groups"], size)
        yield "encoder.conv.conv.bias", (width,)
        yield from norm("encoder.conv.LayerNorm", width)
    extra = [] if document["share_att_key"] or not relative else ["pos_key"] * ("c2p" in terms)
    extra += [] if document["share_att_key"] or not relative else ["pos_query"] * ("p2c" in terms)
    for number in range(document["num_hidden_layers"]):
        block = f"encoder.layer.{number}"
        for name in ("query", "key", "value", *extra):
            yield from linear(f"{block}.attention.self.{name}_proj", width, width)
        yield from linear(f"{block}.attention.output.dense", width, width)
        yield from norm(f"{block}.attention.output.LayerNorm", width)
        yield from linear(f"{block}.intermediate.dense", width, inner)
        yield from linear(f"{block}.output.dense", inner, width)
        yield from norm(f"{block}.output.LayerNorm", width)


def word_head(kind: str, document: Json) -> Shapes:
    """Yield the tensors of masked language modelling. The last layer shares the embedding of the words."""
    width = document["dim" if kind == "distilbert" else "hidden_size"]
    rows = document["embedding_size"] if kind == "electra" else width
    dense, normed, last = {
        "bert": ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions"),
        "distilbert": ("vocab_transform", "vocab_layer_norm", "vocab_projector"),
        "electra": ("generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head"),
    }.get(kind, ("lm_head.dense", "lm_head.layer_norm", "lm_head"))
    yield from linear(dense, width, rows)
    yield from norm(normed, rows)
    yield f"{last}.bias", (document["vocab_size"],)


def t5_tensors(head: str, document: Json) -> Shapes:
    """Yield the tensors of a class of T5 or mT5, of which `head` is the end of the name.

    The class for conditional generation has a last layer in the file unless config.json ties it to the embedding.
    """
    width, outputs = document["d_model"], len(document.get("id2label", ()))
    classifier = head in ("ForSequenceClassification", "ForTokenClassification")
    prefix = "transformer." if classifier else ""
    yield f"{prefix}shared.weight", (document["vocab_size"], width)
    yield from t5_stack(f"{prefix}encoder", document["num_layers"], document)
    if head not in ("EncoderModel", "ForTokenClassification"):
        yield from t5_stack(f"{prefix}decoder", document["num_decoder_layers"], document)
    if head == "ForTokenClassification":
        yield from linear("classifier", width, outputs)
    elif head == "ForSequenceClassification":
        yield from linear("classification_head.dense", width, width)
        yield from linear("classification_head.out_proj", width, outputs)
    elif head == "ForConditionalGeneration" and not document.get("tie_word_embeddings", False):
        yield "lm_head.weight", (document["vocab_size"], width)


def t5_stack(name: str, count: int, document: Json) -> Shapes:
    """Yield the tensors of the encoder or the decoder."""
    width, inner, heads = document["d_model"], document["d_ff"], document["num_heads"]
    decoder, all_heads = name.endswith("decoder"), heads * document["d_kv"]
    for number in range(count):
        layer = f"{name}.block.{number}.layer"
        for place, module in enumerate(("SelfAttention", "EncDecAttention")[: 2 if decoder else 1]):
            for query in "qkv":
                yield from linear(f"{layer}.{place}.{module}.{query}", width, all_heads, False)
            yield from linear(f"{layer}.{place}.{module}.o", all_heads, width, False)
            yield f"{layer}.{place}.layer_norm.weight", (width,)
        last = f"{layer}.{2 if decoder else 1}"
        gated = document["feed_forward_proj"].startswith("gated-")
        for module in ("wi_0", "wi_1") if gated else ("wi",):
            yield from linear(f"{last}.DenseReluDense.{module}", width, inner, False)
        yield from linear(f"{last}.DenseReluDense.wo", inner, width, False)
        yield f"{last}.layer_norm.weight", (width,)
    table = f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    yield table, (document["relative_attention_num_buckets"], heads)
    yield f"{name}.final_layer_norm.weight", (width,)


def bart_tensors(head: str, document: Json) -> Shapes:
    """Yield the tensors of a class of BART or mBART, of which `head` is the end of the name."""
    width, words = document["d_model"], document["vocab_size"]
    prefix = "" if head == "Model" else "model."
    yield f"{prefix}shared.weight", (words, width)
    for stack in ("encoder", "decoder"):
        yield f"{prefix}{stack}.embed_positions.weight", (document["max_position_embeddings"] + 2, width)
        yield from norm(f"{prefix}{stack}.layernorm_embedding", width)
        if document["model_type"] == "mbart":
            yield from norm(f"{prefix}{stack}.layer_norm", width)
        for number in range(document[f"{stack}_layers"]):
            yield from bart_block(f"{prefix}{stack}.layers.{number}", width, document[f"{stack}_ffn_dim"])
    if head == "ForSequenceClassification":
        yield from linear("classification_head.dense", width, width)
        yield from linear("classification_head.out_proj", width, len(document["id2label"]))
    elif head == "ForConditionalGeneration":
        yield "final_logits_bias", (1, words)


def bart_block(name: str, width: int, inner: int) -> Shapes:
    """Yield the tensors of a block of the encoder or of the decoder."""
    for module in ("self_attn", "encoder_attn") if ".decoder." in f".{name}" else ("self_attn",):
        for layer in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from linear(f"{name}.{module}.{layer}", width, width)
        yield from norm(f"{name}.{module}_layer_norm", width)
    yield from linear(f"{name}.fc1", width, inner)
    yield from linear(f"{name}.fc2", inner, width)
    yield from norm(f"{name}.final_layer_norm", width)
