"""Every discrepancy, compared with a float64 version in numpy, example by example."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from tlx.functional import discrepancy


def two(rows, rest, width=5, seed=0, shift=0.7):
    random = np.random.default_rng(seed)
    return random.normal(size=(rows, width)), 1.5 * random.normal(size=(rest, width)) + shift


def kernel(x, y, mean, scales):
    squares = ((x - y) ** 2).sum()
    return sum(np.exp(-squares / (2 * scale * mean)) for scale in scales)


@pytest.mark.parametrize(("rows", "rest"), [(6, 6), (3, 8), (9, 2)])
@pytest.mark.parametrize("scales", [discrepancy.SCALES, (1.0,)])
def test_mmd_is_the_unbiased_estimate_under_a_sum_of_gaussians(rows, rest, scales):
    x, y = two(rows, rest)
    every = [*x, *y]
    mean = np.mean([((a - b) ** 2).sum() for a in every for b in every])

    def within(block):
        pairs = [kernel(a, b, mean, scales) for a, b in itertools.permutations(block, 2)]
        return np.mean(pairs)

    expected = within(x) + within(y) - 2 * np.mean([kernel(a, b, mean, scales) for a in x for b in y])
    assert float(discrepancy.mmd(jnp.array(x), jnp.array(y), scales)) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_kernel_widths_have_no_gradient():
    x, y = (jnp.array(inputs, jnp.float32) for inputs in two(4, 4))
    every = jnp.concatenate([x, y])
    mean = discrepancy.squared_distances(every, every).mean()

    def fixed(x):
        every = jnp.concatenate([x, y])
        k = discrepancy.gaussians(discrepancy.squared_distances(every, every), mean, (1.0,))
        within = (k[:4, :4].sum() + k[4:, 4:].sum() - 8.0) / 12
        return within - 2 * k[:4, 4:].mean()

    actual = jax.grad(lambda x: discrepancy.mmd(x, y, (1.0,)))(x)
    np.testing.assert_allclose(actual, jax.grad(fixed)(x), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_mmd_of_equal_distributions_is_0_on_average_and_grows_with_the_shift():
    def mean(shift):
        results = []
        for seed in range(200):
            random = np.random.default_rng(seed)
            x, y = random.normal(size=(12, 3)), random.normal(size=(9, 3)) + shift
            results.append(float(discrepancy.mmd(jnp.array(x), jnp.array(y))))
        return np.mean(results), np.std(results) / np.sqrt(len(results))

    none, error = mean(0.0)
    assert abs(none) < 4 * error
    assert none + 4 * error < mean(0.5)[0] < mean(1.0)[0]


@pytest.mark.parametrize(("rows", "rest"), [(6, 6), (7, 4), (2, 3)])
def test_linear_mmd_is_the_mean_over_disjoint_pairs(rows, rest):
    x, y = two(rows, rest)
    pairs = min(rows, rest) // 2
    ends = [
        [(x[2 * n], x[2 * n + 1]), (y[2 * n], y[2 * n + 1]), (x[2 * n], y[2 * n + 1]), (x[2 * n + 1], y[2 * n])]
        for n in range(pairs)
    ]
    mean = np.mean([((a - b) ** 2).sum() for four in ends for a, b in four])
    expected = np.mean(
        [sum(sign * kernel(a, b, mean, (0.5, 2.0)) for sign, (a, b) in zip((1, 1, -1, -1), four, strict=True))
         for four in ends]
    )  # fmt: skip
    actual = discrepancy.linear_mmd(jnp.array(x), jnp.array(y), (0.5, 2.0))
    assert float(actual) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def layers(rows, rest):
    """Features and predictions of the two sets, and of both sets together."""
    x, y = two(rows, rest)
    p, q = (np.random.default_rng(size).dirichlet(np.ones(3), size) for size in (rows, rest))
    return (x, p), (y, q), [*zip(x, p, strict=True)], [*zip(y, q, strict=True)]


def as_float32(*given):
    return tuple(tuple(jnp.asarray(layer, jnp.float32) for layer in one) for one in given)


def joint_kernel(mean, scales, sigma):
    def of(a, b):
        return kernel(a[0], b[0], mean, scales) * np.exp(-((a[1] - b[1]) ** 2).sum() / (2 * sigma**2))

    return of


@pytest.mark.parametrize(("rows", "rest"), [(6, 6), (3, 8), (9, 2)])
@pytest.mark.parametrize(("scales", "sigma"), [(discrepancy.SCALES, 0.92), ((1.0,), 0.3)])
def test_joint_mmd_multiplies_the_kernels_of_features_and_predictions(rows, rest, scales, sigma):
    actual, reference, x, y = layers(rows, rest)
    mean = np.mean([((a[0] - b[0]) ** 2).sum() for a in x + y for b in x + y])

    def expected(x, y):
        k = joint_kernel(mean, scales, sigma)
        within = sum(np.mean([k(a, b) for a, b in itertools.permutations(block, 2)]) for block in (x, y))
        return within - 2 * np.mean([k(a, b) for a in x for b in y])

    value, gradient = jax.value_and_grad(discrepancy.joint_mmd)(*as_float32(actual, reference), scales, sigma)
    assert value == pytest.approx(expected(x, y), rel=1e-5, abs=1e-6)
    # Both layers have a gradient; the widths are unchanged.
    for layer, place in ((0, (1, 2)), (0, (2, 4)), (1, (0, 1)), (1, (2, 2))):
        ends = []
        for step in (1e-5, -1e-5):
            moved = [inputs.copy() for inputs in actual]
            moved[layer][place] += step
            ends.append(expected([*zip(*moved, strict=True)], y))
        slope = (ends[0] - ends[1]) / 2e-5
        assert gradient[layer][place] == pytest.approx(slope, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(("rows", "rest"), [(6, 6), (7, 4), (2, 3)])
def test_linear_joint_mmd_is_the_mean_over_disjoint_pairs(rows, rest):
    actual, reference, x, y = layers(rows, rest)
    ends = [
        [(x[n], x[n + 1]), (y[n], y[n + 1]), (x[n], y[n + 1]), (x[n + 1], y[n])]
        for n in range(0, 2 * (min(rows, rest) // 2), 2)
    ]
    k = joint_kernel(np.mean([((a[0] - b[0]) ** 2).sum() for four in ends for a, b in four]), (0.5, 2.0), 0.5)
    expected = np.mean([k(*four[0]) + k(*four[1]) - k(*four[2]) - k(*four[3]) for four in ends])
    result = discrepancy.linear_joint_mmd(*as_float32(actual, reference), (0.5, 2.0), 0.5)
    assert float(result) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_a_very_wide_kernel_of_the_predictions_leaves_that_of_the_features():
    (actual, reference), (x, y) = as_float32(*layers(5, 8)[:2]), two(5, 8)
    for joint, plain in (
        (discrepancy.joint_mmd, discrepancy.mmd),
        (discrepancy.linear_joint_mmd, discrepancy.linear_mmd),
    ):
        assert float(joint(actual, reference, sigma=1e4)) == pytest.approx(
            float(plain(jnp.array(x), jnp.array(y))), 1e-5
        )
        assert float(joint(actual, reference)) != pytest.approx(float(plain(jnp.array(x), jnp.array(y))), 1e-2)


@pytest.mark.parametrize(("rows", "rest", "width"), [(6, 6, 5), (3, 8, 4), (2, 2, 1)])
def test_coral_in_both_forms(rows, rest, width):
    x, y = two(rows, rest, width)
    c, d = (np.atleast_2d(np.cov(inputs, rowvar=False)) for inputs in (x, y))
    squares, means = ((c - d) ** 2), ((x.mean(0) - y.mean(0)) ** 2)
    assert float(discrepancy.coral(jnp.array(x), jnp.array(y))) == pytest.approx(
        squares.sum() / (4 * width**2), rel=1e-4
    )
    actual = discrepancy.mean_coral(jnp.array(x), jnp.array(y))
    assert float(actual) == pytest.approx(squares.mean() + means.mean(), rel=1e-4)


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


def test_confident_and_different_predictions_are_not_confused():
    sure = 50.0 * jnp.eye(3)[jnp.array([0, 1, 2, 0, 1])]
    assert float(discrepancy.confusion(sure)) < 1e-6
    assert float(discrepancy.confusion(jnp.zeros((5, 3)))) == pytest.approx(2 / 3)
    assert np.isfinite(jax.grad(discrepancy.confusion)(1e4 * sure)).all()


def costs(rows, rest):
    x, y = two(rows, rest)
    return ((x[:, None] - y[None]) ** 2).sum(-1)


def sinkhorn(cost, e):
    """The entropic plan and its value sum(P cost) - e entropy(P).

    Rows and columns of exp(-cost / e) are scaled in turn until nothing changes.
    """
    kernel = np.exp(-cost / e)
    n, m = cost.shape
    v = np.ones(m)
    for _ in range(2000):
        u = 1 / n / (kernel @ v)
        v = 1 / m / (kernel.T @ u)
    plan = u[:, None] * kernel * v
    np.testing.assert_allclose(plan.sum(1), 1 / n, rtol=1e-12)
    return plan, (plan * cost).sum() + e * (plan * np.log(plan)).sum()


def cheapest(cost):
    """The least cost of all plans, by linear programming."""
    n, m = cost.shape
    sums = np.concatenate([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    return linprog(cost.ravel(), A_eq=sums, b_eq=np.r_[np.full(n, 1 / n), np.full(m, 1 / m)]).fun


@pytest.mark.parametrize(("rows", "rest"), [(6, 6), (7, 5), (4, 11), (1, 3)])
@pytest.mark.parametrize("epsilon", [0.1, 0.5])
def test_a_plan_is_the_entropic_one(rows, rest, epsilon):
    cost = costs(rows, rest)
    e = epsilon * cost.mean()
    expected, _ = sinkhorn(cost, e)
    actual = np.asarray(discrepancy.transport(jnp.asarray(cost, jnp.float32), epsilon, 200))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)
    # The value of a constant plan has the slope of the value in the costs, for a fixed e.
    gradient = jax.grad(lambda c: (discrepancy.transport(c, epsilon, 200) * c).sum())(jnp.asarray(cost, jnp.float32))
    place, step = (0, 2), np.zeros(cost.shape)
    step[place] = 1e-4
    slope = (sinkhorn(cost + step, e)[1] - sinkhorn(cost - step, e)[1]) / 2e-4
    assert gradient[place] == pytest.approx(slope, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(("rows", "rest"), [(6, 6), (7, 5), (4, 11)])
def test_a_plan_has_the_least_cost_as_epsilon_goes_to_0(rows, rest):
    cost = costs(rows, rest)
    least = cheapest(cost)
    excess = []
    for epsilon in (0.1, 0.01, 0.001):
        plan = np.asarray(discrepancy.transport(jnp.asarray(cost, jnp.float32), epsilon, 2000), np.float64)
        np.testing.assert_allclose(plan.sum(1), 1 / rows, rtol=1e-3)
        np.testing.assert_allclose(plan.sum(0), 1 / rest, rtol=1e-3)
        excess.append((plan * cost).sum() / least - 1)
        # The difference is at most the entropy that the exact plan may lack.
        assert excess[-1] < epsilon * cost.mean() * np.log(rows * rest) / least
    assert excess[0] > excess[1] > excess[2] > -1e-3
    assert excess[2] < 1e-3


def test_a_plan_is_uniform_if_epsilon_is_large_or_all_costs_are_zero():
    for cost, epsilon in ((costs(3, 5), 1e5), (np.zeros((3, 5)), 0.05)):
        plan = discrepancy.transport(jnp.asarray(cost, jnp.float32), epsilon)
        np.testing.assert_allclose(plan, np.full((3, 5), 1 / 15), rtol=1e-4)


def test_a_plan_does_not_depend_on_the_unit_of_cost():
    cost = jnp.asarray(costs(4, 6), jnp.float32)
    np.testing.assert_allclose(discrepancy.transport(1024 * cost), discrepancy.transport(cost), rtol=1e-5)


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
    with pytest.raises(ValueError, match="1 and 4 rows"):
        measure(jnp.ones((1, 3)), jnp.ones((4, 3)))


@pytest.mark.parametrize("measure", [discrepancy.joint_mmd, discrepancy.linear_joint_mmd])
def test_one_row_of_two_layers_has_no_spread(measure):
    with pytest.raises(ValueError, match="1 and 4 rows"):
        measure((jnp.ones((1, 3)), jnp.ones((1, 2))), (jnp.ones((4, 3)), jnp.ones((4, 2))))


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1e6])
def test_measures_with_a_width_from_the_data_do_not_depend_on_its_scale(scale):
    """This holds for very small features too: a fixed floor for distances would fail at 1e-6."""
    random = np.random.default_rng(4)
    rows, rest = (random.normal(size=(8, 3)).astype(np.float32) + shift for shift in (0.0, 0.5))
    small = [(np.float32(scale) * value) for value in (rows, rest)]
    for measure in (discrepancy.mmd, discrepancy.linear_mmd):
        assert float(measure(*small)) == pytest.approx(float(measure(rows, rest)), rel=1e-3)
    cost, other = (discrepancy.squared_distances(*value) for value in ((rows, rest), small))
    np.testing.assert_allclose(discrepancy.transport(other), discrepancy.transport(cost), rtol=1e-3, atol=1e-5)
    gradient = jax.grad(discrepancy.mmd)(small[0], small[1]) * scale
    np.testing.assert_allclose(gradient, jax.grad(discrepancy.mmd)(rows, rest), rtol=1e-2, atol=1e-4)
