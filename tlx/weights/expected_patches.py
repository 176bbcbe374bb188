"""Names and shapes of the tensors of the image models of `transformers` with several groups of blocks.

See `tlx.weights.expected`.
"""

from tlx.trees import Json
from tlx.weights.expected_layers import Shapes, convolution, linear, norm


def convnext_backbone(document: Json) -> Shapes:
    """Yield the tensors of `ConvNextModel` or `ConvNextV2Model`."""
    patch, inputs = document["patch_size"], document["hidden_sizes"][0]
    yield from convolution("embeddings.patch_embeddings", document["num_channels"], inputs, patch)
    yield from norm("embeddings.layernorm", inputs)
    for group, (width, depth) in enumerate(zip(document["hidden_sizes"], document["depths"], strict=True)):
        stage = f"encoder.stages.{group}"
        if group > 0:
            yield from norm(f"{stage}.downsampling_layer.0", inputs)
            yield from convolution(f"{stage}.downsampling_layer.1", inputs, width, 2)
        for number in range(depth):
            layer = f"{stage}.layers.{number}"
            yield from convolution(f"{layer}.dwconv", 1, width, 7)
            yield from norm(f"{layer}.layernorm", width)
            yield from linear(f"{layer}.pwconv1", width, 4 * width)
            yield from linear(f"{layer}.pwconv2", 4 * width, width)
            if document["model_type"] == "convnextv2":
                yield f"{layer}.grn.weight", (1, 1, 1, 4 * width)
                yield f"{layer}.grn.bias", (1, 1, 1, 4 * width)
            elif document["layer_scale_init_value"] > 0:
                yield f"{layer}.layer_scale_parameter", (width,)
        inputs = width
    yield from norm("layernorm", inputs)


def swin_backbone(document: Json) -> Shapes:
    """Yield the tensors of `SwinModel` or `Swinv2Model`."""
    width, second, patch = document["embed_dim"], document["model_type"] == "swinv2", document["patch_size"]
    yield from convolution("embeddings.patch_embeddings.projection", document["num_channels"], width, patch)
    yield from norm("embeddings.norm", width)
    for group, (depth, heads) in enumerate(zip(document["depths"], document["num_heads"], strict=True)):
        for number in range(depth):
            yield from swin_block(document, f"encoder.layers.{group}.blocks.{number}", width, heads)
        if group + 1 < len(document["depths"]):
            yield from norm(f"encoder.layers.{group}.downsample.norm", (2 if second else 4) * width)
            yield from linear(f"encoder.layers.{group}.downsample.reduction", 4 * width, 2 * width, False)
            width *= 2
    yield from norm("layernorm", width)


def swin_block(document: Json, name: str, width: int, heads: int) -> Shapes:
    """Yield the tensors of `SwinLayer` or `Swinv2Layer`."""
    second, bias, inner = document["model_type"] == "swinv2", document["qkv_bias"], f"{name}.attention.self"
    units = int(document["mlp_ratio"] * width)
    yield from linear(f"{inner}.query", width, width, bias)
    yield from linear(f"{inner}.key", width, width, bias and not second)
    yield from linear(f"{inner}.value", width, width, bias)
    yield from linear(f"{name}.attention.output.dense", width, width)
    if second:
        yield f"{inner}.logit_scale", (heads, 1, 1)
        yield from linear(f"{inner}.continuous_position_bias_mlp.0", 2, 512)
        yield from linear(f"{inner}.continuous_position_bias_mlp.2", 512, heads, False)
    else:
        yield f"{inner}.relative_position_bias_table", ((2 * document["window_size"] - 1) ** 2, heads)
    for place in ("layernorm_before", "layernorm_after"):
        yield from norm(f"{name}.{place}", width)
    yield from linear(f"{name}.intermediate.dense", width, units)
    yield from linear(f"{name}.output.dense", units, width)


def dinov3_backbone(document: Json) -> Shapes:
    """Yield the tensors of `DINOv3ViTModel`."""
    width, units = document["hidden_size"], document["intermediate_size"]
    yield "embeddings.cls_token", (1, 1, width)
    yield "embeddings.mask_token", (1, 1, width)
    yield "embeddings.register_tokens", (1, document["num_register_tokens"], width)
    yield from convolution("embeddings.patch_embeddings", document["num_channels"], width, document["patch_size"])
    for number in range(document["num_hidden_layers"]):
        layer = f"layer.{number}"
        for name, field in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "proj")):
            yield from linear(f"{layer}.attention.{name}_proj", width, width, document[f"{field}_bias"])
        for part in ("1", "2"):
            yield from norm(f"{layer}.norm{part}", width)
            yield f"{layer}.layer_scale{part}.lambda1", (width,)
        for name in ("gate", "up") if document["use_gated_mlp"] else ("up",):
            yield from linear(f"{layer}.mlp.{name}_proj", width, units, document["mlp_bias"])
        yield from linear(f"{layer}.mlp.down_proj", units, width, document["mlp_bias"])
    yield from norm("norm", width)


def siglip_backbone(document: Json) -> Shapes:
    """Yield the tensors of `SiglipVisionModel`."""
    width, units, patch = document["hidden_size"], document["intermediate_size"], document["patch_size"]
    yield from convolution("embeddings.patch_embedding", document["num_channels"], width, patch)
    yield "embeddings.position_embedding.weight", ((document["image_size"] // patch) ** 2, width)
    for number in range(document["num_hidden_layers"]):
        layer = f"encoder.layers.{number}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from linear(f"{layer}.self_attn.{name}", width, width)
        yield from norm(f"{layer}.layer_norm1", width)
        yield from norm(f"{layer}.layer_norm2", width)
        yield from linear(f"{layer}.mlp.fc1", width, units)
        yield from linear(f"{layer}.mlp.fc2", units, width)
    yield from norm("post_layernorm", width)
    if document["vision_use_head"]:
        yield "head.probe", (1, 1, width)
        yield "head.attention.in_proj_weight", (3 * width, width)
        yield "head.attention.in_proj_bias", (3 * width,)
        yield from linear("head.attention.out_proj", width, width)
        yield from norm("head.layernorm", width)
        yield from linear("head.mlp.fc1", width, units)
        yield from linear("head.mlp.fc2", units, width)


def bit_backbone(document: Json) -> Shapes:
    """Yield the tensors of `BitModel`."""
    inputs, after = document["embedding_size"], document["layer_type"] == "bottleneck"
    yield from convolution("embedder.convolution", document["num_channels"], inputs, 7, False)
    if after:
        yield from norm("embedder.norm", inputs)
    for group, (width, depth) in enumerate(zip(document["hidden_sizes"], document["depths"], strict=True)):
        for number in range(depth):
            layer, inner = f"encoder.stages.{group}.layers.{number}", max(8, int(width / 4 + 4) // 8 * 8)
            inner += 8 if inner < 0.9 * width / 4 else 0
            if number == 0:
                yield from convolution(f"{layer}.downsample.conv", inputs, width, 1, False)
                if after:
                    yield from norm(f"{layer}.downsample.norm", width)
            for n, (size, before, behind) in enumerate(((1, inputs, inner), (3, inner, inner), (1, inner, width)), 1):
                yield from convolution(f"{layer}.conv{n}", before, behind, size, False)
                yield from norm(f"{layer}.norm{n}", behind if after else before)
            inputs = width
    if not after:
        yield from norm("norm", inputs)
