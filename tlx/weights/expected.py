"""Names and shapes of the tensors that a class of `transformers` reads, from `config.json` alone.

`transformers` draws a missing tensor at random, writes a line to its log, and continues. These lists are independent of
the names in `tlx.models`, so that one checks the other.
"""

from collections.abc import Callable

from tlx.trees import Json
from tlx.weights.expected_decoders import STEMS, decoder_tensors
from tlx.weights.expected_layers import Shape, Shapes, linear, norm
from tlx.weights.expected_mobile import efficientnet_backbone, mobilenet_backbone, mobilenet_top
from tlx.weights.expected_patches import (
    bit_backbone,
    convnext_backbone,
    dinov3_backbone,
    siglip_backbone,
    swin_backbone,
)
from tlx.weights.expected_text import (
    albert_backbone,
    bart_tensors,
    deberta_backbone,
    modernbert_backbone,
    modernbert_head,
    mpnet_backbone,
    t5_tensors,
    word_head,
)

TEXT = {
    "bert": "Bert",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "camembert": "Camembert",
    "distilbert": "DistilBert",
    "electra": "Electra",
    "mpnet": "MPNet",
    "albert": "Albert",
    "modernbert": "ModernBert",
    "deberta-v2": "DebertaV2",
    "t5": "T5",
    "mt5": "MT5",
    "bart": "Bart",
    "mbart": "MBart",
}
IMAGE = {
    "dinov2_with_registers": "Dinov2WithRegisters",
    "dinov3_vit": "DINOv3ViT",
    "siglip": "Siglip",
    "siglip_vision_model": "SiglipVision",
    "vit": "ViT",
    "deit": "DeiT",
    "dinov2": "Dinov2",
    "resnet": "ResNet",
    "efficientnet": "EfficientNet",
    "mobilenet_v2": "MobileNetV2",
    "bit": "Bit",
    "convnext": "ConvNext",
    "convnextv2": "ConvNextV2",
    "swin": "Swin",
    "swinv2": "Swinv2",
}
TOKENS = "ForTokenClassification"
SPANS = "ForQuestionAnswering"
WORDS = "ForMaskedLM"
# The families of which tlx writes a head over the vocabulary.
WITH_WORDS = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra")
# Models with two stacks, whose lists have the head too.
WHOLE: dict[str, Callable[[str, Json], Shapes]] = {
    **dict.fromkeys(("t5", "mt5"), t5_tensors),
    **dict.fromkeys(("bart", "mbart"), bart_tensors),
}
STACKS = ("EncoderModel", "ForConditionalGeneration")
HEADS = ("Model", "ForSequenceClassification", TOKENS, "ForImageClassification", "ForImageClassificationWithTeacher")
HEADS_OF = {
    **dict.fromkeys(("t5", "mt5"), (*HEADS, *STACKS)),
    **dict.fromkeys(("bart", "mbart"), ("Model", "ForSequenceClassification", "ForConditionalGeneration")),
    **dict.fromkeys(WITH_WORDS, (*HEADS, SPANS, WORDS)),
}


def expected(document: Json) -> dict[str, Shape]:
    """Return the shape of every tensor that the class named in `document` (config.json) reads, by name.

    Raises ValueError for a class that is not in this list.
    """
    kind, name = document["model_type"], (document.get("architectures") or [""])[0]
    if kind in STEMS and (tensors_of_decoder := decoder_tensors(document)) is not None:
        return tensors_of_decoder
    stem = (TEXT | IMAGE).get(kind, "")
    head = name.removeprefix(stem)
    other_words = ("Image",) if kind in TEXT else ("Sequence", "Token", "Question")
    heads = HEADS_OF.get(kind, (*HEADS, SPANS))
    if not stem or head not in heads or any(word in head for word in other_words):
        raise ValueError(
            f"config.json names the class {name!r} for the model_type {kind!r}; expected a class of this model_type "
            "with a known head"
        )
    if kind in WHOLE:
        return dict(WHOLE[kind](head, document))
    if kind in IMAGE:
        special = BACKBONES.get(kind)
        tensors = image_backbone(kind, head, document) if special is None else special(document)
        backbone, top = dict(tensors), dict(image_head(kind, head, document))
        prefix = "vision_model." if kind == "siglip" else f"{kind}."
    else:
        form = OTHER_TEXT.get(kind)
        tensors = text_backbone(kind, head, document) if form is None else form(head, document)
        backbone, top = dict(tensors), dict(text_head(kind, head, document))
        prefix = f"{'roberta' if stem in ('XLMRoberta', 'Camembert') else PREFIXES.get(kind, kind)}."
    return {(name if head == "Model" else prefix + name): shape for name, shape in backbone.items()} | top


def text_backbone(kind: str, head: str, document: Json) -> Shapes:
    """Yield the tensors of `BertModel` and models of the same form."""
    distil = kind == "distilbert"
    names = ("dim", "hidden_dim") if distil else ("hidden_size", "intermediate_size")
    width, inner = (document[name] for name in names)
    rows = document["embedding_size"] if kind == "electra" else width
    yield "embeddings.word_embeddings.weight", (document["vocab_size"], rows)
    yield "embeddings.position_embeddings.weight", (document["max_position_embeddings"], rows)
    if not distil:
        yield "embeddings.token_type_embeddings.weight", (document["type_vocab_size"], rows)
    yield from norm("embeddings.LayerNorm", rows)
    if rows != width:
        yield from linear("embeddings_project", rows, width)
    for number in range(document["n_layers" if distil else "num_hidden_layers"]):
        if distil:
            block = f"transformer.layer.{number}"
            for name in ("q_lin", "k_lin", "v_lin", "out_lin"):
                yield from linear(f"{block}.attention.{name}", width, width)
            yield from norm(f"{block}.sa_layer_norm", width)
            yield from linear(f"{block}.ffn.lin1", width, inner)
            yield from linear(f"{block}.ffn.lin2", inner, width)
            yield from norm(f"{block}.output_layer_norm", width)
            continue
        block = f"encoder.layer.{number}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            yield from linear(f"{block}.attention.{name}", width, width)
        yield from norm(f"{block}.attention.output.LayerNorm", width)
        yield from linear(f"{block}.intermediate.dense", width, inner)
        yield from linear(f"{block}.output.dense", inner, width)
        yield from norm(f"{block}.output.LayerNorm", width)
    # The classifier of RoBERTa and classifiers of tokens read the hidden states; ELECTRA and DistilBERT have no pooler.
    if (kind == "bert" and head not in (TOKENS, SPANS, WORDS)) or (
        kind not in ("electra", "distilbert") and head == "Model"
    ):
        yield from linear("pooler.dense", width, width)


def text_head(kind: str, head: str, document: Json) -> Shapes:
    """Yield the tensors of the head of a text model."""
    if head == "Model":
        return
    if head == WORDS:
        yield from word_head(kind, document)
        return
    if kind == "modernbert":
        yield from modernbert_head(document)
        return
    width, outputs = document["dim" if kind == "distilbert" else "hidden_size"], len(document["id2label"])
    if head == SPANS:
        yield from linear("qa_outputs", width, outputs)
        return
    if kind == "deberta-v2" and head != TOKENS:
        yield from linear("pooler.dense", width, width)
    if kind in ("bert", "distilbert", "albert", "deberta-v2") or head == TOKENS:
        if kind == "distilbert" and head != TOKENS:
            yield from linear("pre_classifier", width, width)
        yield from linear("classifier", width, outputs)
        return
    yield from linear("classifier.dense", width, width)
    yield from linear("classifier.out_proj", width, outputs)


def image_backbone(kind: str, head: str, document: Json) -> Shapes:
    """Yield the tensors of `ViTModel`, `DeiTModel`, `Dinov2Model` or `Dinov2WithRegistersModel`."""
    width, patch, size = document["hidden_size"], document["patch_size"], document["image_size"]
    height, breadth = (size, size) if isinstance(size, int) else size
    places = (height // patch) * (breadth // patch) + (2 if kind == "deit" else 1)
    yield "embeddings.cls_token", (1, 1, width)
    if kind == "deit":
        yield "embeddings.distillation_token", (1, 1, width)
    dino = kind.startswith("dinov2")
    if dino and document.get("use_mask_token", True):
        yield "embeddings.mask_token", (1, width)
    if kind == "dinov2_with_registers":
        yield "embeddings.register_tokens", (1, document["num_register_tokens"], width)
    yield "embeddings.position_embeddings", (1, places, width)
    yield "embeddings.patch_embeddings.projection.weight", (width, document["num_channels"], patch, patch)
    yield "embeddings.patch_embeddings.projection.bias", (width,)
    for number in range(document["num_hidden_layers"]):
        block = f"encoder.layer.{number}"
        for name in ("query", "key", "value"):
            yield from linear(f"{block}.attention.attention.{name}", width, width, document.get("qkv_bias", True))
        yield from linear(f"{block}.attention.output.dense", width, width)
        if not dino:
            inner = document["intermediate_size"]
            yield from norm(f"{block}.layernorm_before", width)
            yield from norm(f"{block}.layernorm_after", width)
            yield from linear(f"{block}.intermediate.dense", width, inner)
            yield from linear(f"{block}.output.dense", inner, width)
            continue
        inner = int(width * document["mlp_ratio"])
        for name in ("norm1", "norm2"):
            yield from norm(f"{block}.{name}", width)
        for name in ("layer_scale1", "layer_scale2"):
            yield f"{block}.{name}.lambda1", (width,)
        if document["use_swiglu_ffn"]:
            inner = (int(inner * 2 / 3) + 7) // 8 * 8
            yield from linear(f"{block}.mlp.weights_in", width, 2 * inner)
            yield from linear(f"{block}.mlp.weights_out", inner, width)
        else:
            yield from linear(f"{block}.mlp.fc1", width, inner)
            yield from linear(f"{block}.mlp.fc2", inner, width)
    yield from norm("layernorm", width)
    if head == "Model" and not dino:
        yield from linear("pooler.dense", width, width)


def image_head(kind: str, head: str, document: Json) -> Shapes:
    """Yield the tensors of the classifier, or of the two classifiers, of an image model."""
    if head == "Model":
        return
    outputs = len(document["id2label"])
    if kind in ("efficientnet", "mobilenet_v2"):
        width = document["hidden_dim"] if kind == "efficientnet" else mobilenet_top(document)
        yield from linear("classifier", width, outputs)
        return
    if kind in ("resnet", "bit"):
        yield from linear("classifier.1", document["hidden_sizes"][-1], outputs)
        return
    if kind in LAST_WIDTHS:
        yield from linear("classifier", LAST_WIDTHS[kind](document), outputs)
        return
    width = document["hidden_size"] * (2 if kind.startswith("dinov2") else 1)
    for name in ("cls_classifier", "distillation_classifier") if head.endswith("Teacher") else ("classifier",):
        yield from linear(name, width, outputs)


def convolution(name: str, inputs: int, outputs: int, size: int) -> Shapes:
    """Yield the tensors of a convolution without a bias, and of the batch norm after it."""
    yield f"{name}.convolution.weight", (outputs, inputs, size, size)
    for tensor in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.normalization.{tensor}", (outputs,)
    yield f"{name}.normalization.num_batches_tracked", ()


def residual_backbone(document: Json) -> Shapes:
    """Yield the tensors of `ResNetModel`."""
    inputs, widths = document["embedding_size"], document["hidden_sizes"]
    yield from convolution("embedder.embedder", document["num_channels"], inputs, 7)
    for group, (width, depth) in enumerate(zip(widths, document["depths"], strict=True)):
        for number in range(depth):
            layer = f"encoder.stages.{group}.layers.{number}"
            halves = number == 0 and (group > 0 or document["downsample_in_first_stage"])
            if halves or inputs != width:
                yield from convolution(f"{layer}.shortcut", inputs, width, 1)
            kernels = [(3, inputs, width), (3, width, width)]
            if document["layer_type"] == "bottleneck":
                kernels = [(1, inputs, width // 4), (3, width // 4, width // 4), (1, width // 4, width)]
            for n, (size, before, after) in enumerate(kernels):
                yield from convolution(f"{layer}.layer.{n}", before, after, size)
            inputs = width


LAST_WIDTHS: dict[str, Callable[[Json], int]] = {
    **dict.fromkeys(("convnext", "convnextv2"), lambda document: document["hidden_sizes"][-1]),
    "siglip": lambda document: document["vision_config"]["hidden_size"],
    **dict.fromkeys(("swin", "swinv2"), lambda document: document["embed_dim"] * 2 ** (len(document["depths"]) - 1)),
}
PREFIXES = {"modernbert": "model", "deberta-v2": "deberta"}
OTHER_TEXT: dict[str, Callable[[str, Json], Shapes]] = {
    "mpnet": mpnet_backbone,
    "modernbert": modernbert_backbone,
    "deberta-v2": deberta_backbone,
    "albert": albert_backbone,
}
BACKBONES: dict[str, Callable[[Json], Shapes]] = {
    "resnet": residual_backbone,
    "efficientnet": efficientnet_backbone,
    "mobilenet_v2": mobilenet_backbone,
    "dinov3_vit": dinov3_backbone,
    "siglip": lambda document: siglip_backbone(document["vision_config"]),
    "siglip_vision_model": siglip_backbone,
    "bit": bit_backbone,
    "convnext": convnext_backbone,
    "convnextv2": convnext_backbone,
    "swin": swin_backbone,
    "swinv2": swin_backbone,
}
