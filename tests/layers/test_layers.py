"""Properties of the layers beyond parity: slopes, noise that is fair and belongs to an example, masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx.layers import (
    attention,
    attention_step,
    conv,
    declare_attention,
    declare_conv,
    declare_norm,
    empty_cache,
    gelu_exact,
    keep_mask,
    normal,
)
from tlx.layers.merging import merged
from tlx.trees import map_named
from tlx.types import Context


def plain_gelu(x):
    return 0.5 * x * (1.0 + jax.lax.erf(x / np.sqrt(2.0, dtype=np.float32)))


def test_gelu_has_the_slopes_of_its_definition_in_both_modes():
    x = jnp.linspace(-8.0, 8.0, 4001)
    expected = jax.vmap(jax.grad(plain_gelu))(x)
    np.testing.assert_allclose(jax.vmap(jax.grad(gelu_exact))(x), expected, atol=1e-6)
    np.testing.assert_allclose(jax.jvp(gelu_exact, (x,), (jnp.ones_like(x),))[1], expected, atol=1e-6)
    second = jax.vmap(jax.grad(jax.grad(plain_gelu)))(x)
    np.testing.assert_allclose(jax.vmap(jax.jacfwd(jax.grad(gelu_exact)))(x), second, atol=1e-5)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.003])
def test_a_mask_drops_at_its_rate_everywhere(rate):
    remaining = np.asarray(keep_mask(Context(jax.random.key(0), True), (64, 32, 256), rate, 0))
    for axis in (None, (1, 2), (0, 2), (0, 1)):
        count = remaining.size if axis is None else np.prod([remaining.shape[n] for n in axis])
        error = np.abs((~remaining).mean(axis) - rate) / np.sqrt(rate * (1 - rate) / count)
        assert error.max() < 5


def test_masks_of_different_examples_salts_and_keys_agree_only_by_chance():
    def noise(seed, salt):
        return np.asarray(keep_mask(Context(jax.random.key(seed), True), (16, 4096), 0.5, salt), float) - 0.5

    base = noise(0, 0)
    for other in (noise(0, 1), noise(1, 0), np.roll(base, 1, 0), *(np.roll(base, n, 1) for n in (1, 2, 32, 64, 1024))):
        assert abs((4 * base * other).mean()) < 5 / np.sqrt(base.size)


def test_noise_depends_on_the_example_and_not_on_the_division_among_devices():
    key = jax.random.key(3)
    full = keep_mask(Context(key, True), (8, 5, 7), 0.3, 2)
    halves = [keep_mask(Context(key, True, offset=offset), (4, 5, 7), 0.3, 2) for offset in (0, 4)]
    np.testing.assert_array_equal(full, jnp.concatenate(halves))


def test_masked_tokens_do_not_affect_others_and_a_fully_masked_row_stays_finite():
    keys = iter(jax.random.split(jax.random.key(0), 100))
    params = map_named(lambda path, param: param.init(next(keys), param.shape), declare_attention(8, 2))
    x = jax.random.normal(jax.random.key(1), (2, 4, 8))
    mask = jnp.array([[1, 1, 1, 0], [0, 0, 0, 0]])

    def run(x):
        return attention(params, x, mask, heads=2, rate=0.0, context=Context(), salt=0)

    moved = run(x.at[0, 3].add(100.0))
    np.testing.assert_array_equal(run(x)[0, :3], moved[0, :3])
    assert np.isfinite(run(x)).all()
    assert np.isfinite(jax.grad(lambda x: run(x).sum())(x)).all()


def drawn_attention(**how):
    keys = iter(jax.random.split(jax.random.key(4), 100))
    declared = declare_attention(12, 4, normal(0.3), key_heads=2, **how)
    return map_named(lambda path, param: param.init(next(keys), param.shape), declared)


def test_no_token_reads_a_later_one_and_all_read_a_prefix():
    params = drawn_attention()
    prefix = {name: jax.random.normal(jax.random.key(n), (3, 6)) for n, name in enumerate(("key", "value"))}
    x = jax.random.normal(jax.random.key(1), (2, 5, 12))

    def run(params, x):
        return attention(params, x, heads=4, key_heads=2, causal=True)

    np.testing.assert_array_equal(run(params, x)[:, :3], run(params, x.at[:, 3].add(9.0))[:, :3])
    grown = params | {"prefix": prefix}
    moved = params | {"prefix": prefix | {"value": prefix["value"] + 1.0}}
    assert (np.abs(run(grown, x) - run(moved, x)).max((0, 2)) > 1e-3).all()
    np.testing.assert_array_equal(run(grown, x)[:, :3], run(grown, x.at[:, 3].add(9.0))[:, :3])


@pytest.mark.parametrize("inserted", ["nothing", "prefix", "lora"])
def test_decoding_step_by_step_equals_the_whole_causal_pass_with_inserted_parameters(inserted):
    params = drawn_attention()
    if inserted == "prefix":
        rows = {name: jax.random.normal(jax.random.key(n), (3, 6)) for n, name in enumerate(("key", "value"))}
        params |= {"prefix": rows}
    if inserted == "lora":
        draws = {"a": (12, 2), "b": (2, 6)}
        lora = {name: jax.random.normal(jax.random.key(7), shape) for name, shape in draws.items()}
        params["key"] = params["key"] | {"lora": lora | {"scale": jnp.float32(0.5)}}
    x = jax.random.normal(jax.random.key(1), (2, 5, 12))
    full = attention(params, x, heads=4, key_heads=2, causal=True)
    cache, outputs = empty_cache(2, 6, 2, 3), []
    for rows in (slice(0, 2), slice(2, 3), slice(3, 5)):
        output, cache = attention_step(params, x[:, rows], cache, heads=4)
        outputs.append(output)
    np.testing.assert_allclose(jnp.concatenate(outputs, axis=1), full, atol=1e-5)


def test_a_declared_memory_has_its_own_width():
    params = drawn_attention(memory=7, size=5, output_bias=False)
    shapes = {"query": (12, 20), "key": (7, 10), "value": (7, 10), "output": (20, 12)}
    assert {name: value["kernel"].shape for name, value in params.items()} == shapes
    assert "bias" not in params["output"]
    memory = jax.random.normal(jax.random.key(2), (2, 3, 7))
    assert attention(params, jnp.ones((2, 5, 12)), heads=4, key_heads=2, memory=memory).shape == (2, 5, 12)


def test_declared_convolutions_fit_their_layer():
    key = jax.random.key(0)
    for size, groups, shape in ((3, 3, (2, 7, 9, 6)), ((5,), 2, (2, 9, 6))):
        params = map_named(lambda path, param: param.init(key, param.shape), declare_conv(size, 6, 12, groups=groups))
        sides = [(side + 1) // 2 for side in shape[1:-1]]
        assert conv(params, jnp.ones(shape), groups=groups, stride=2).shape == (2, *sides, 12)
    assert declare_norm(4, bias=False).keys() == {"scale"}


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("shape", [(3, 2), (3,)], ids=["images", "sequences"])
def test_a_convolution_with_adapters_is_that_of_its_merged_kernel(groups, shape):
    rng = np.random.default_rng(0)

    def drawn(*sides):
        return jnp.asarray(rng.normal(size=sides), jnp.float32)

    lora = {"a": drawn(*shape, 4 // groups, 2), "b": drawn(2, 8), "scale": jnp.float32(1.5)}
    lora["magnitude"] = 1 + drawn(8) ** 2
    ia3 = {"output": drawn(8)} | ({"input": drawn(4)} if groups == 1 else {})
    kernel, bias = drawn(*shape, 4 // groups, 8), drawn(8)
    x = drawn(3, *(9 + n for n in range(len(shape))), 4)
    settings = {"stride": 2, "padding": 1, "groups": groups, "dilation": 2}

    def plain(kernel, bias):
        return conv({"kernel": kernel, "bias": bias}, x, **settings)

    delta = kernel + 1.5 * jnp.einsum("...r,ro->...o", lora["a"], lora["b"])
    cases = {
        "lora": ({"lora": {name: lora[name] for name in ("a", "b", "scale")}}, plain(delta, bias)),
        "dora": (
            {"lora": lora},
            plain(delta * lora["magnitude"] / jnp.linalg.norm(delta.reshape(-1, 8), axis=0), bias),
        ),
        "ia3": (
            {"ia3": ia3},
            plain(kernel * ia3.get("input", jnp.ones(4 // groups))[:, None], bias) * ia3["output"],
        ),
    }
    for name, (adapter, wanted) in cases.items():
        params = {"kernel": kernel, "bias": bias} | adapter
        actual = conv(params, x, **settings)
        np.testing.assert_allclose(actual, wanted, atol=2e-5, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(conv(merged(params), x, **settings), wanted, atol=2e-5, rtol=1e-5, err_msg=name)
        assert float(abs(actual - plain(kernel, bias)).max()) > 0.1


def test_the_dropout_of_lora_in_a_convolution_leaves_the_kernel_alone():
    rng = np.random.default_rng(0)
    lora = {"a": jnp.ones((1, 1, 2, 1)), "b": jnp.ones((1, 3)), "scale": jnp.float32(1), "dropout": jnp.float32(0.5)}
    params = {"kernel": jnp.zeros((1, 1, 2, 3)), "lora": lora}
    x = jnp.asarray(rng.normal(size=(4, 50, 50, 2)), jnp.float32)
    train = Context(key=jax.random.key(0), train=True)
    still, noisy = conv(params, x), conv(params, x, train, 1)
    share = float((noisy == 0).mean())
    assert 0.22 < share < 0.28 and not np.array_equal(noisy, conv(params, x, train, 2))
    np.testing.assert_allclose(noisy.mean(), still.mean(), atol=0.05)
    np.testing.assert_array_equal(conv(params | {"lora": lora | {"b": jnp.zeros((1, 3))}}, x, train, 1), 0)
