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
