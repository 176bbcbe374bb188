"""Layers: functions on sub-dicts of parameters, and the declarations of those sub-dicts."""

from tlx.layers.adaptive import adaptive_average_pool, mean_halves
from tlx.layers.basic import (
    ACTIVATIONS,
    FIXED,
    as_dtype,
    as_wide,
    batch_norm,
    embed,
    example,
    gelu_exact,
    group_norm,
    layer_norm,
    rms_norm,
)
from tlx.layers.conv import average_pool, conv, max_pool
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
    he_out,
    normal,
    ones,
    uniform,
    zeros,
)
from tlx.layers.dense import bottleneck, column_norms, dense
from tlx.layers.noise import dropout, example_keys, keep_mask, mix, stochastic_depth
from tlx.layers.probe import declare_probe, probe_tokens
from tlx.layers.quantised import Quantised, dequantised
from tlx.layers.transformer import (
    Angles,
    Cache,
    KeyValue,
    attend,
    attention,
    attention_step,
    attention_to,
    empty_cache,
    feed_forward,
    keys_and_values,
    relative_bias,
    rotary_angles,
    rotate,
)
from tlx.layers.windows import join_windows, log_distances, relative_places, split_windows, window_mask

__all__ = [
    "ACTIVATIONS", "FIXED", "Angles", "Cache", "Init", "KeyValue", "Quantised", "adaptive_average_pool", "as_dtype",
    "as_wide", "attend", "attention", "attention_step", "attention_to", "average_pool", "batch_norm", "bottleneck",
    "column_norms", "constant", "conv", "declare_attention", "declare_conv", "declare_dense", "declare_embedding",
    "declare_norm", "declare_probe", "declare_statistics", "dense", "dequantised", "dropout", "embed",
    "empty_cache", "example", "example_keys", "feed_forward", "gelu_exact", "group_norm", "he", "he_out",
    "join_windows", "keep_mask", "keys_and_values", "layer_norm", "log_distances", "max_pool", "mean_halves", "mix",
    "normal", "ones", "probe_tokens", "relative_bias", "relative_places", "rms_norm", "rotary_angles", "rotate",
    "split_windows", "stochastic_depth", "uniform", "window_mask", "zeros",
]  # fmt: skip
