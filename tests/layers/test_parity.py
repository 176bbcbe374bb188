"""Layers compared with torch and `transformers`, in float32: outputs, and gradients of inputs and parameters.

Sizes are odd numbers. Values must agree to a maximal absolute difference of 1e-5, gradients as `near` says.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tlx import layers
from tlx.layers import ACTIVATIONS, Angles
from tlx.layers.transformer import relative_buckets

pytestmark = pytest.mark.parity
TOLERANCE = 1e-5
CONV = (2, 3, 1, 0)


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def randomised(module: Any) -> Any:
    """Return a torch module with parameters off their initial values, so that a transposition shows."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module.eval()


def linear(module: Any) -> dict[str, np.ndarray]:
    """Return the parameters of a torch Linear, or their gradients with `take`."""
    return {"kernel": module.weight} | ({} if module.bias is None else {"bias": module.bias})


def agree(
    tlx_side: Any, params: Any, reference_side: Any, inputs: tuple[np.ndarray, ...], tensors: Any, rows: Any = None
) -> None:
    """Compare `tlx_side(params, *inputs)` with `reference_side(*inputs)`: outputs and gradients.

    `params` is a tree of torch parameters, `tensors` how each of them becomes a tlx parameter. Only `rows` are
    compared.
    """
    arguments = [torch.tensor(value, requires_grad=True) for value in inputs]
    wanted = reference_side(*arguments)
    weight = draw(*wanted.shape, seed=9)
    weight = weight if rows is None else weight * rows
    (wanted * torch.tensor(weight)).sum().backward()
    leaves = jax.tree.map(lambda value: tensors(value.detach().numpy()), params)
    expected = jax.tree.map(lambda value: tensors(value.grad.numpy()), params)

    def total(leaves: Any, *arrays: Any) -> Any:
        output = tlx_side(leaves, *arrays)
        return (output * weight).sum(), output

    places = tuple(range(1 + len(inputs)))
    (_, output), gradients = jax.jit(jax.value_and_grad(total, places, has_aux=True))(leaves, *inputs)
    mask = 1.0 if rows is None else rows
    np.testing.assert_allclose(np.asarray(output) * mask, wanted.detach().numpy() * mask, atol=TOLERANCE, rtol=0)
    jax.tree.map(near, gradients[0], expected)
    for gradient, value in zip(gradients[1:], arguments, strict=True):
        near(gradient, value.grad.numpy())


def near(gradient: Any, expected: np.ndarray) -> None:
    """Check a gradient. It sums over many numbers, so the limit is 1e-5 of its largest entry if that is above 1."""
    np.testing.assert_allclose(gradient, expected, atol=TOLERANCE * max(1.0, float(np.abs(expected).max())), rtol=0)


def turned(array: np.ndarray) -> np.ndarray:
    return array.T if array.ndim == 2 else array


def convolved(array: np.ndarray) -> np.ndarray:
    return array.transpose(CONV) if array.ndim == 4 else array.transpose(2, 1, 0) if array.ndim == 3 else array


@pytest.mark.parametrize(
    ("reference_side", "tlx_side"),
    [
        ({"padding": 1}, {"padding": 1}),
        ({"stride": 2, "padding": 1}, {"stride": 2, "padding": 1}),
        ({"stride": (2, 3), "padding": (0, 2)}, {"stride": (2, 3), "padding": (0, 2)}),
        ({"groups": 3, "padding": 2, "dilation": 2}, {"groups": 3, "padding": 2, "dilation": 2}),
        ({"groups": 9, "dilation": (1, 2), "bias": False}, {"groups": 9, "dilation": (1, 2), "padding": "VALID"}),
        *[
            (settings, settings)
            for settings in (
                {"stride": 2, "dilation": 3, "groups": 3, "padding": 3},
                {"stride": (3, 2), "dilation": (2, 1), "groups": 1, "padding": (2, 4)},
                {"stride": 2, "dilation": 2, "groups": 9, "padding": (2, 3)},
                {"stride": (1, 2), "dilation": (2, 3), "groups": 9, "padding": (0, 5)},
            )
        ],
    ],
)
def test_a_convolution_over_images(reference_side, tlx_side):
    # With groups at a stride there are several outputs for each input.
    outputs = 27 if reference_side.keys() >= {"groups", "stride"} else 9
    module = randomised(torch.nn.Conv2d(9, outputs, (3, 5), **reference_side))

    def run(x):
        return module(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    agree(lambda params, x: layers.conv(params, x, **tlx_side), linear(module), run, (draw(2, 11, 13, 9),), convolved)


def test_a_convolution_over_sequences_with_zeros_on_one_side():
    module = randomised(torch.nn.Conv1d(5, 7, 3, stride=2))

    def run(x):
        return module(torch.nn.functional.pad(x.permute(0, 2, 1), (2, 0))).permute(0, 2, 1)

    def tlx_layer(params, x):
        return layers.conv(params, x, stride=2, padding=((2, 0),))

    agree(tlx_layer, linear(module), run, (draw(3, 13, 5),), convolved)


@pytest.mark.parametrize("settings", [{"groups": 5, "dilation": 3, "padding": 3}, {"dilation": 2, "stride": 3}])
def test_a_convolution_over_sequences_reads_distant_steps(settings):
    module = randomised(torch.nn.Conv1d(5, 15, 3, **settings))

    def run(x):
        return module(x.permute(0, 2, 1)).permute(0, 2, 1)

    def tlx_layer(params, x):
        return layers.conv(params, x, **{"padding": 0} | settings)

    agree(tlx_layer, linear(module), run, (draw(3, 17, 5),), convolved)


@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize(("size", "stride", "padding"), [(2, None, 0), (3, 2, 1)])
def test_pooling(kind, size, stride, padding):
    torch_pool = torch.nn.functional.max_pool2d if kind == "max" else torch.nn.functional.avg_pool2d
    pool = layers.max_pool if kind == "max" else layers.average_pool

    def run(x):
        return torch_pool(x.permute(0, 3, 1, 2), size, stride, padding).permute(0, 2, 3, 1)

    agree(lambda _, x: pool(x, size, stride=stride, padding=padding), {}, run, (draw(2, 9, 11, 3),), turned)


def test_group_norm():
    module = randomised(torch.nn.GroupNorm(3, 9))

    def run(x):
        return module(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    params = {"scale": module.weight, "bias": module.bias}
    agree(lambda own, x: layers.group_norm(own, x, 3), params, run, (2 + draw(2, 5, 7, 9),), turned)


def test_rms_norm():
    module = randomised(torch.nn.RMSNorm(15, eps=1e-6))
    agree(lambda own, x: layers.rms_norm(own, x, 1e-6), {"scale": module.weight}, module, (draw(2, 5, 15),), turned)


def pieces(module: Any) -> tuple[dict[str, Any], Any]:
    """The dense layers of `torch.nn.MultiheadAttention` as separate modules, and a function that runs it with them."""
    width = module.embed_dim
    weight, bias = module.in_proj_weight.detach(), module.in_proj_bias.detach()
    parts: dict[str, Any] = {}
    for number, name in enumerate(("query", "key", "value")):
        rows = slice(number * width, (number + 1) * width)
        parts[name] = {"kernel": weight[rows].clone().requires_grad_(), "bias": bias[rows].clone().requires_grad_()}
    parts["output"] = linear(module.out_proj)

    def run(x: Any, memory: Any, heads: int, **how: Any) -> Any:
        return torch.nn.functional.multi_head_attention_forward(
            x.transpose(0, 1), memory.transpose(0, 1), memory.transpose(0, 1), width, heads,
            torch.cat([parts[name]["kernel"] for name in ("query", "key", "value")]),
            torch.cat([parts[name]["bias"] for name in ("query", "key", "value")]),
            None, None, False, 0.0, parts["output"]["kernel"], parts["output"]["bias"], need_weights=False, **how,
        )[0].transpose(0, 1)  # fmt: skip

    return parts, run


MASK = np.array([[1] * 7, [1] * 4 + [0] * 3, [0] * 2 + [1] * 5])


def test_attention_to_a_padded_memory():
    params, run = pieces(randomised(torch.nn.MultiheadAttention(15, 3)))

    def torch_layer(x, memory):
        return run(x, memory, 3, key_padding_mask=torch.tensor(MASK == 0))

    def tlx_layer(params, x, memory):
        return layers.attention(params, x, jnp.asarray(MASK), heads=3, memory=memory)

    agree(tlx_layer, params, torch_layer, (draw(3, 5, 15), draw(3, 7, 15, seed=1)), turned)
    # The same, with keys and values that are projected once.

    def cached(params, x, memory):
        keys = layers.keys_and_values(params, memory, heads=3)
        return layers.attention_to(params, x, keys, jnp.asarray(MASK), heads=3)

    leaves = jax.tree.map(lambda own: turned(own.detach().numpy()), params)
    x, memory = draw(3, 5, 15), draw(3, 7, 15, seed=1)
    np.testing.assert_array_equal(cached(leaves, x, memory), tlx_layer(leaves, x, memory))


def test_causal_attention_with_a_bias_and_a_mask_of_pairs():
    params, run = pieces(randomised(torch.nn.MultiheadAttention(15, 3)))
    bias, pairs = draw(1, 3, 7, 7, seed=2), np.random.default_rng(3).random((3, 7, 7)) > 0.3
    pairs |= np.eye(7, dtype=bool)
    later = np.triu(np.ones((7, 7), bool), 1)
    added = np.where(pairs[:, None] & ~later, bias, -np.inf).astype(np.float32)

    def torch_layer(x):
        return run(x, x, 3, attn_mask=torch.tensor(added.reshape(9, 7, 7)))

    def tlx_layer(params, x):
        return layers.attention(params, x, jnp.asarray(pairs), heads=3, causal=True, bias=jnp.asarray(bias))

    agree(tlx_layer, params, torch_layer, (draw(3, 7, 15),), turned)


def llama(heads: int = 9, key_heads: int = 3, size: int = 6) -> tuple[Any, Any, Any]:
    """The attention of Llama, its rotary embedding, and the parameters of the attention."""
    from transformers.models.llama import modeling_llama as module

    config = module.LlamaConfig(
        hidden_size=27, num_attention_heads=heads, num_key_value_heads=key_heads, head_dim=size, attention_bias=True,
        rope_theta=100.0,
    )  # fmt: skip
    config._attn_implementation = "eager"
    layer = randomised(module.LlamaAttention(config, 0))
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}
    return (
        layer,
        module.LlamaRotaryEmbedding(config),
        {value: linear(getattr(layer, it)) for value, it in names.items()},
    )


def later(mask: np.ndarray) -> Any:
    """The additive mask of a causal model, [B, 1, T, T]."""
    tokens = mask.shape[1]
    visible = (mask[:, None, None] > 0) & np.tril(np.ones((tokens, tokens), bool))
    return torch.tensor(np.where(visible, 0.0, np.finfo(np.float32).min).astype(np.float32))


def test_rotary_grouped_causal_attention_equals_llama():
    layer, rotary, params = llama()
    positions = np.maximum(np.cumsum(MASK, axis=1) - 1, 0)
    both = rotary(torch.zeros(1), torch.tensor(positions))
    angles = layers.rotary_angles(positions, 6, base=100.0)
    for value, other in zip(angles, both, strict=True):
        np.testing.assert_allclose(value, other.numpy(), atol=TOLERANCE)

    def torch_layer(x):
        return layer(x, both, later(MASK))[0]

    def tlx_layer(params, x):
        return layers.attention(params, x, jnp.asarray(MASK), heads=9, key_heads=3, causal=True, rotary=angles)

    agree(tlx_layer, params, torch_layer, (draw(3, 7, 27),), turned, rows=MASK[..., None])


@pytest.mark.parametrize("steps", [(7,), (4, 1, 1, 1), (1,) * 7])
def test_decoding_with_a_cache_equals_the_whole_pass_of_llama(steps):
    layer, rotary, params = llama()
    positions = np.maximum(np.cumsum(MASK, axis=1) - 1, 0)
    x = draw(3, 7, 27)
    with torch.no_grad():
        wanted = layer(torch.tensor(x), rotary(torch.zeros(1), torch.tensor(positions)), later(MASK))[0].numpy()
    leaves = jax.tree.map(lambda own: turned(own.detach().numpy()), params)
    mask = np.concatenate([MASK, np.zeros((3, 2), int)], axis=1)  # two free positions
    cache, outputs, start = layers.empty_cache(3, 9, 3, 6), [], 0
    step = jax.jit(lambda *given: layers.attention_step(leaves, *given[:3], heads=9, rotary=Angles(*given[3:])))
    for tokens in steps:
        rows = slice(start, start + tokens)
        angles = layers.rotary_angles(positions[:, rows], 6, base=100.0)
        output, cache = step(x[:, rows], cache, mask, *angles)
        outputs.append(output)
        start += tokens
    assert int(cache.length) == 7
    difference = np.concatenate(outputs, axis=1) - wanted
    assert np.abs(difference[MASK > 0]).max() <= TOLERANCE
    # A cache that is too small raises an error.
    output, _ = step(x[:, :3], cache, mask, *layers.rotary_angles(positions[:, :3], 6))
    assert np.isnan(output).all()


def t5(both: bool) -> tuple[Any, dict[str, Any]]:
    from transformers.models.t5 import modeling_t5 as module

    config = module.T5Config(
        d_model=15, d_kv=5, num_heads=3, relative_attention_num_buckets=9 + both, relative_attention_max_distance=11,
        is_decoder=not both, dropout_rate=0.0,
    )  # fmt: skip
    config._attn_implementation = "eager"
    layer = randomised(module.T5Attention(config, has_relative_attention_bias=True, layer_idx=0))
    params = {name: linear(getattr(layer, name[0])) for name in ("query", "key", "value", "output")}
    return layer, params | {"relative": {"embedding": layer.relative_attention_bias.weight}}


@pytest.mark.parametrize("both", [True, False])
def test_attention_with_relative_positions_equals_t5(both):
    layer, params = t5(both)
    mask = np.where(MASK[:, None, None] > 0, 0.0, np.finfo(np.float32).min).astype(np.float32)
    added = torch.tensor(mask) if both else later(MASK)

    def torch_layer(x):
        return layer(x, mask=added)[0]

    def tlx_layer(params, x):
        bias = layers.relative_bias({"embedding": params["relative"]["embedding"].T}, 7, 7, both=both, furthest=11)
        return layers.attention(params, x, jnp.asarray(MASK), heads=3, causal=not both, bias=bias, scale=1.0)

    agree(tlx_layer, params, torch_layer, (0.3 * draw(3, 7, 15),), turned, rows=None if both else MASK[..., None])


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize(("buckets", "furthest"), [(32, 128), (12, 50)])
def test_distance_buckets_equal_t5(both, buckets, furthest):
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = np.arange(-300, 301)
    wanted = T5Attention._relative_position_bucket(torch.tensor(distance), both, buckets, furthest)
    got = relative_buckets(jnp.asarray(distance), buckets, both=both, furthest=furthest)
    np.testing.assert_array_equal(got, wanted)


def test_a_gated_feed_forward_layer_equals_llama():
    from transformers.models.llama import modeling_llama as module

    layer = randomised(
        module.LlamaMLP(
            module.LlamaConfig(hidden_size=15, num_attention_heads=3, head_dim=6, intermediate_size=13, mlp_bias=True)
        )
    )
    params = {name: linear(getattr(layer, f"{name}_proj")) for name in ("gate", "up", "down")}
    agree(lambda own, x: layers.feed_forward(own, x, ACTIVATIONS["silu"]), params, layer, (draw(2, 5, 15),), turned)


def test_half_rotated_heads_equal_gpt_neox():
    from transformers.models.gpt_neox import modeling_gpt_neox as module

    x, angles = draw(2, 3, 5, 10), layers.rotary_angles(np.arange(5), 4)
    cos, sin = (torch.tensor(np.asarray(value))[None] for value in angles)
    wanted = module.apply_rotary_pos_emb(torch.tensor(x), torch.tensor(x), cos, sin)[0].numpy()
    np.testing.assert_allclose(layers.rotate(jnp.asarray(x), angles), wanted, atol=TOLERANCE)
