"""Layers: functions on sub-dicts of parameters, and the declarations of those sub-dicts."""

from tlx.layers.attention import attention
from tlx.layers.basic import ACTIVATIONS, as_dtype, batch_norm, conv, embed, example, gelu_exact, layer_norm, max_pool
from tlx.layers.declare import (
    Init,
    constant,
    declare_attention,
    declare_conv,
    declare_dense,
    declare_embedding,
    declare_norm,
    declare_statistics,
    he,
    normal,
    ones,
    zeros,
)
from tlx.layers.dense import bottleneck, column_norms, dense
from tlx.layers.noise import dropout, example_keys, keep_mask, mix, stochastic_depth

__all__ = [
    "ACTIVATIONS", "Init", "as_dtype", "attention", "batch_norm", "bottleneck", "column_norms", "constant", "conv",
    "declare_attention", "declare_conv", "declare_dense", "declare_embedding", "declare_norm", "declare_statistics",
    "dense", "dropout", "embed", "example", "example_keys", "gelu_exact", "he", "keep_mask", "layer_norm", "max_pool",
    "mix", "normal", "ones", "stochastic_depth", "zeros",
]  # fmt: skip
