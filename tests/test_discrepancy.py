"""Every discrepancy against the same worked out in float64 with numpy, example by example."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx import discrepancy


def two(rows, others, width=5, seed=0, shift=0.7):
    random = np.random.default_rng(seed)
    return random.normal(size=(rows, width)), 1.5 * random.normal(size=(others, width)) + shift


def kernel(x, y, mean, scales):
    squares = ((x - y) ** 2).sum()
    return sum(np.exp(-squares / (2 * scale * mean)) for scale in scales)


@pytest.mark.parametrize(("rows", "others"), [(6, 6), (3, 8), (9, 2)])
@pytest.mark.parametrize("scales", [discrepancy.SCALES, (1.0,)])
def test_mmd_is_the_unbiased_estimate_under_a_sum_of_gaussians(rows, others, scales):
    x, y = two(rows, others)
    every = [*x, *y]
    mean = np.mean([((a - b) ** 2).sum() for a in every for b in every])

    def within(block):
        pairs = [kernel(a, b, mean, scales) for a, b in itertools.permutations(block, 2)]
        return np.mean(pairs)

    expected = within(x) + within(y) - 2 * np.mean([kernel(a, b, mean, scales) for a in x for b in y])
    assert float(discrepancy.mmd(jnp.array(x), jnp.array(y), scales)) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_its_widths_have_no_gradient():
    x, y = (jnp.array(given, jnp.float32) for given in two(4, 4))
    every = jnp.concatenate([x, y])
    mean = discrepancy.squared_distances(every, every).mean()

    def fixed(x):
        every = jnp.concatenate([x, y])
        k = discrepancy.gaussians(discrepancy.squared_distances(every, every), mean, (1.0,))
        within = (k[:4, :4].sum() + k[4:, 4:].sum() - 8.0) / 12
        return within - 2 * k[:4, 4:].mean()

    ours = jax.grad(lambda x: discrepancy.mmd(x, y, (1.0,)))(x)
    np.testing.assert_allclose(ours, jax.grad(fixed)(x), rtol=1e-4, atol=1e-6)


def test_mmd_of_one_distribution_is_0_on_average_and_grows_with_the_shift():
    def mean(shift):
        found = []
        for seed in range(200):
            random = np.random.default_rng(seed)
            x, y = random.normal(size=(12, 3)), random.normal(size=(9, 3)) + shift
            found.append(float(discrepancy.mmd(jnp.array(x), jnp.array(y))))
        return np.mean(found), np.std(found) / np.sqrt(len(found))

    none, error = mean(0.0)
    assert abs(none) < 4 * error
    assert none + 4 * error < mean(0.5)[0] < mean(1.0)[0]


@pytest.mark.parametrize(("rows", "others"), [(6, 6), (7, 4), (2, 3)])
def test_linear_mmd_is_the_mean_over_disjoint_pairs(rows, others):
    x, y = two(rows, others)
    pairs = min(rows, others) // 2
    ends = [
        [(x[2 * n], x[2 * n + 1]), (y[2 * n], y[2 * n + 1]), (x[2 * n], y[2 * n + 1]), (x[2 * n + 1], y[2 * n])]
        for n in range(pairs)
    ]
    mean = np.mean([((a - b) ** 2).sum() for four in ends for a, b in four])
    expected = np.mean(
        [sum(sign * kernel(a, b, mean, (0.5, 2.0)) for sign, (a, b) in zip((1, 1, -1, -1), four, strict=True))
         for four in ends]
    )  # fmt: skip
    found = discrepancy.linear_mmd(jnp.array(x), jnp.array(y), (0.5, 2.0))
    assert float(found) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("rows", "others", "width"), [(6, 6, 5), (3, 8, 4), (2, 2, 1)])
def test_coral_in_both_forms(rows, others, width):
    x, y = two(rows, others, width)
    c, d = (np.atleast_2d(np.cov(given, rowvar=False)) for given in (x, y))
    squares, means = ((c - d) ** 2), ((x.mean(0) - y.mean(0)) ** 2)
    assert float(discrepancy.coral(jnp.array(x), jnp.array(y))) == pytest.approx(
        squares.sum() / (4 * width**2), rel=1e-4
    )
    found = discrepancy.mean_coral(jnp.array(x), jnp.array(y))
    assert float(found) == pytest.approx(squares.mean() + means.mean(), rel=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_confusion_is_that_of_the_paper(temperature):
    logits = np.random.default_rng(0).normal(size=(7, 4)) * 3
    p = np.exp(logits / temperature)
    p /= p.sum(1, keepdims=True)
    weight = 1 + np.exp((p * np.log(p)).sum(1))
    weight *= len(p) / weight.sum()
    pairs = np.array([[sum(weight[n] * p[n, a] * p[n, b] for n in range(7)) for b in range(4)] for a in range(4)])
    shares = pairs / pairs.sum(1, keepdims=True)
    expected = (shares.sum() - np.trace(shares)) / 4
    assert float(discrepancy.confusion(jnp.array(logits), temperature)) == pytest.approx(expected, rel=1e-5)


def test_sure_and_distinct_predictions_are_not_confused():
    sure = 50.0 * jnp.eye(3)[jnp.array([0, 1, 2, 0, 1])]
    assert float(discrepancy.confusion(sure)) < 1e-6
    assert float(discrepancy.confusion(jnp.zeros((5, 3)))) == pytest.approx(2 / 3)
    assert np.isfinite(jax.grad(discrepancy.confusion)(1e4 * sure)).all()


def test_a_reversed_gradient_is_the_gradient_times_minus_the_scale():
    x, scale = jnp.array([1.0, -2.0, 3.0]), jnp.array(0.3)
    value, (back, other) = jax.value_and_grad(
        lambda x, scale: (discrepancy.reversed_gradient(x, scale) ** 2).sum(), argnums=(0, 1)
    )(x, scale)
    assert float(value) == 14.0
    np.testing.assert_allclose(back, -0.3 * 2 * x, rtol=1e-6)
    assert float(other) == 0.0


@pytest.mark.parametrize(
    "measure", [discrepancy.mmd, discrepancy.linear_mmd, discrepancy.coral, discrepancy.mean_coral]
)
def test_one_row_has_no_spread(measure):
    with pytest.raises(ValueError, match=r"^there are 1 and 4 rows; a discrepancy needs two or more of each$"):
        measure(jnp.ones((1, 3)), jnp.ones((4, 3)))
