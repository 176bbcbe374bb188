"""The rates at which a mixture of tasks draws examples, and how many examples of each task a number of draws holds.

Shapes: M members of the mixture.
"""

import numpy as np

# The name of the unweighted average over the members, in the place of a member's.
AVERAGE = "average"


def proportional_rates(counts: np.ndarray, limit: int | None = None, temperature: float = 1.0) -> np.ndarray:
    """Compute the examples-proportional rates of a mixture (Raffel et al., 2020, section 3.5.2).

    Member m with e_m examples has the rate r_m = min(e_m, K) / sum_n min(e_n, K); with a temperature T the rates are
    r_m^(1/T), normalised. T = 1 changes nothing, and a large T brings all rates near 1 / M.

    Args:
        counts: The number of examples of each member, [M], all above 0.
        limit: The artificial limit K of the number of examples; None for no limit.
        temperature: The temperature T.

    Returns:
        The rates, float64[M]; their sum is 1.

    >>> proportional_rates(np.array([100, 300])).tolist()
    [0.25, 0.75]
    >>> proportional_rates(np.array([100, 300]), limit=100).tolist()
    [0.5, 0.5]
    >>> [round(rate, 3) for rate in proportional_rates(np.array([100, 900]), temperature=2.0).tolist()]
    [0.25, 0.75]
    """
    examples = np.asarray(counts, np.float64)
    if limit is not None:
        examples = np.minimum(examples, limit)
    # Dividing by the largest number keeps a large exponent finite.
    return normalised((examples / examples.max()) ** (1 / temperature))


def normalised(weights: np.ndarray) -> np.ndarray:
    """Return weights [M] divided by their sum, float64."""
    numbers = np.asarray(weights, np.float64)
    return numbers / numbers.sum()


def quotas(rates: np.ndarray, draws: int) -> np.ndarray:
    """Return how many of the first `draws` draws are of each member, int64[M].

    The k-th draw of member m has its place at (k - 1/2) / r_m, and the draws are in the order of their places (the
    divisor method of Webster; ties go to the first member). So the number of draws of a member never falls with
    `draws`, and it differs from `draws` * r_m by less than M / 2.

    >>> [quotas(np.array([0.25, 0.75]), draws).tolist() for draws in (0, 1, 2, 3, 4, 8)]
    [[0, 0], [0, 1], [1, 1], [1, 2], [1, 3], [2, 6]]
    """
    counts = np.floor(draws * rates + 0.5).astype(np.int64)
    while (excess := int(counts.sum()) - draws) > 0:
        counts[last_draw(counts, rates)[1]] -= 1
    for _ in range(-excess):
        counts[next_draw(counts, rates)[1]] += 1
    # The floor above may have rounded places that are almost equal; the draws are those with the first places.
    while (first := next_draw(counts, rates)) < (last := last_draw(counts, rates)):
        counts[first[1]] += 1
        counts[last[1]] -= 1
    return counts


def next_draw(counts: np.ndarray, rates: np.ndarray) -> tuple[float, int]:
    """Return the place and the member of the draw after the first `counts` [M] draws of each member."""
    places = (counts + 0.5) / rates
    return float(places.min()), int(places.argmin())


def last_draw(counts: np.ndarray, rates: np.ndarray) -> tuple[float, int]:
    """Return the place and the member of the last of the first `counts` [M] draws of each member."""
    places = np.where(counts > 0, (counts - 0.5) / rates, -np.inf)
    return float(places.max()), len(places) - 1 - int(places[::-1].argmax())
