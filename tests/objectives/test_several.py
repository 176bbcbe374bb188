"""Several sources: terms between one source and a target, and terms for several sources."""

from dataclasses import replace

import numpy as np
import pytest

from tlx import terms
from tlx.objectives import batch_streams, check_needs, passes
from tlx.trees import flatten, nest

GIVEN = ("source/0", "source/1", "source/2", "labelled", "unlabelled")
SIZES = dict(zip(GIVEN, (6, 7, 5, 4, 8), strict=True))
SOURCES = GIVEN[:3]


@pytest.fixture
def seen(mlp):
    """The batches of all streams, their `features, logits` in the small network, and the labels."""
    streams = {name: mlp.labelled(rows=rows, seed=seed) for seed, (name, rows) in enumerate(SIZES.items())}
    known = {name: batch["label"] for name, batch in streams.items()}
    del streams["unlabelled"]["label"]
    answers = {name: mlp.by_hand(mlp.drawn(mlp.model, 0), batch["x"])[1:] for name, batch in streams.items()}
    return streams, answers, known


def look(mlp, streams, term, **more):
    rest = {name: batch for name, batch in streams.items() if name != "labelled"}
    return mlp.look(term, batch=streams["labelled"], others=rest, **more)


@pytest.mark.parametrize(
    ("term", "named"),
    [
        (terms.Supervised(on="source", weight=2.0), "on"),
        (terms.Coral(), "source"),
        pytest.param(terms.Mmd(), "source", marks=pytest.mark.slow),
        (terms.Dann(width=3, reversal=0.5), "source"),
        pytest.param(terms.Gate(width=3, reversal=0.5), "source", marks=pytest.mark.slow),
    ],
    ids=lambda given: type(given).__name__,
)
def test_a_term_that_reads_the_source_is_the_mean_over_all_sources(mlp, seen, term, named):
    streams, *_ = seen
    actual = look(mlp, streams, term)
    each = [look(mlp, streams, replace(term, **{named: item})) for item in SOURCES]
    assert actual.value == pytest.approx(np.mean([item.value for item in each]), rel=1e-6)
    for path, leaf in actual.gradient.items():
        np.testing.assert_allclose(leaf, np.mean([item.gradient[path] for item in each], 0), rtol=2e-5, atol=2e-6)
    for name, value in actual.metrics.items():
        assert value == pytest.approx(np.mean([item.metrics[name] for item in each]), rel=1e-5)


def test_other_terms_read_the_streams_that_they_name():
    inputs = [stream for stream in GIVEN if stream != "labelled"]
    requested = (terms.Supervised(on="source/1"), terms.Mcc())
    assert batch_streams(requested, inputs) == ["source/1", "unlabelled"]
    assert batch_streams((terms.Supervised(on="source"),), inputs) == [*SOURCES]
    assert [value.stream for value in passes((terms.Dann(),), inputs, dict.fromkeys(inputs))] == inputs
    check_needs((terms.Supervised(on="source"),), inputs)
    with pytest.raises(ValueError) as error:
        check_needs(requested, inputs)
    assert str(error.value).startswith("no term reads 'source/0': ")
    # A created stream comes from one source.
    for term in (terms.Mixup, terms.RDrop):
        with pytest.raises(ValueError) as error:
            check_needs((terms.Supervised(on="source"), term(on="source")), inputs)
        assert str(error.value) == (
            f"{term.__name__} reads the stream 'source', which does not exist; the streams are: {', '.join(inputs)}"
            f", {term.__name__.lower()}"
        )
        check_needs((terms.Supervised(on="source"), term(on="source/0")), inputs)
    with pytest.raises(
        ValueError, match=r"^Mdan reads the stream 'source/3', which does not exist; the streams are: source/0"
    ):
        check_needs((terms.Mdan(sources=(*SOURCES, "source/3")),), inputs)


@pytest.mark.parametrize("moments", [1, 2, 3])
@pytest.mark.parametrize("sources", [(), ("source/2", "source/0"), ("source/1",)])
def test_m3sda_matches_moments_of_every_pair(mlp, seen, sources, moments):
    streams, answers, _ = seen
    actual = look(mlp, streams, terms.M3sda(sources=sources, moments=moments, weight=3.0))
    names, target, expected = sources or SOURCES, answers["unlabelled"][0], 0.0
    for k in range(1, moments + 1):
        means = [(answers[name][0] ** k).mean(0) for name in names]
        expected += np.mean([np.linalg.norm(mean - (target**k).mean(0)) for mean in means])
        pairs = [np.linalg.norm(means[i] - means[j]) for i in range(len(means)) for j in range(i)]
        expected += np.mean(pairs) if pairs else 0.0
    assert actual.value == pytest.approx(3 * expected, rel=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in actual.gradient.values())


def test_equal_domains_have_no_moment_distance_and_no_gradient(mlp, seen):
    streams, *_ = seen
    same = dict.fromkeys(streams, streams["source/0"]) | {"unlabelled": streams["source/0"]}
    actual = look(mlp, same, terms.M3sda())
    assert actual.value == pytest.approx(0.0, abs=1e-7)
    assert all(np.isfinite(leaf).all() and np.abs(leaf).max() < 1e-6 for leaf in actual.gradient.values())


def softplus(x):
    return np.log1p(np.exp(x))


def network(params, number, x):
    p = {path: np.asarray(leaf, np.float64) for path, leaf in flatten(params["mdan"][str(number)]).items()}
    for layer in "01":
        x = np.maximum(x @ p[f"{layer}/kernel"] + p[f"{layer}/bias"], 0)
    return (x @ p["2/kernel"] + p["2/bias"])[:, 0]


def values(mlp, seen, params, variables=None):
    """Return the loss on each source, and the loss of its discriminator."""
    streams, answers, known = seen
    if variables is not None:
        answers = {name: mlp.by_hand(variables, batch["x"])[1:] for name, batch in streams.items()}
    risks, apart = [], []
    for n, name in enumerate(SOURCES):
        p = mlp.softmax(answers[name][1])
        risks.append(-np.log(p[np.arange(len(p)), known[name]]).mean())
        value, other = (network(params, n, answers[stream][0]) for stream in (name, "unlabelled"))
        apart.append(0.5 * softplus(-value).mean() + 0.5 * softplus(other).mean())
    return np.array(risks), np.array(apart)


def smooth(v, gamma):
    return np.log(np.exp(gamma * v).sum()) / gamma


@pytest.mark.parametrize("gamma", [0.5, 10.0])
def test_mdan_is_a_smooth_maximum_over_the_sources(mlp, seen, gamma):
    term = terms.Mdan(sources=SOURCES, gamma=gamma, share=0.7, width=3, reversal=0.6, weight=2.0)
    actual = look(mlp, seen[0], term)
    risks, apart = values(mlp, seen, actual.params)
    v = risks - 0.7 * apart
    assert actual.value == pytest.approx(2 * smooth(v, gamma), rel=1e-5)
    weights = np.exp(gamma * v) / np.exp(gamma * v).sum()
    for n in range(3):
        assert float(actual.metrics[f"risk_{n}"]) == pytest.approx(risks[n], rel=1e-5)
        assert float(actual.metrics[f"weight_{n}"]) == pytest.approx(weights[n], rel=1e-4)
    assert float(actual.metrics["discriminator"]) == pytest.approx(apart.mean(), rel=1e-5)

    # By finite differences: the gradient of the network is that of the loss; the part of the features is times the
    # reversal.
    path, where, step = ("blocks", "00", "kernel"), (0, 1), 1e-6

    def values_after_move(sign):
        variables = mlp.drawn(mlp.model, 0)
        kernel = np.asarray(variables.params["blocks"]["00"]["kernel"], np.float64).copy()
        kernel[where] += sign * step
        variables.params["blocks"]["00"]["kernel"] = kernel
        return values(mlp, seen, actual.params, variables)

    (risks_up, apart_up), (risks_down, apart_down) = values_after_move(1), values_after_move(-1)
    slope = (weights * ((risks_up - risks_down) - 0.6 * 0.7 * (apart_up - apart_down))).sum() / (2 * step)
    assert actual.gradient["/".join(path)][where] == pytest.approx(2 * slope, rel=1e-4)

    # The gradient of a discriminator lowers its loss; the sign in the total would raise it.
    def value_after_bias_change(sign, n):
        bias = np.asarray(flatten(actual.params)[f"mdan/{n}/2/bias"], np.float64) + sign * step
        return values(mlp, seen, nest(flatten(actual.params) | {f"mdan/{n}/2/bias": bias}))[1][n]

    for n in range(3):
        slope = weights[n] * 0.7 * (value_after_bias_change(1, n) - value_after_bias_change(-1, n)) / (2 * step)
        assert actual.gradient[f"mdan/{n}/2/bias"][0] == pytest.approx(2 * slope, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: terms.M3sda(moments=0), "M3sda: moments is 0; expected "),
        (
            lambda: terms.M3sda(sources=("source/0", "unlabelled")),
            "M3sda: sources are ('source/0', 'unlabelled') and the target is 'unlabelled'; ",
        ),
        (
            lambda: terms.Mdan(sources=("source/0", "source/0")),
            "Mdan: sources are ('source/0', 'source/0') and the target is 'unlabelled'; ",
        ),
        (
            lambda: terms.Mdan(sources=()),
            "Mdan: sources is (); name the streams of the sources",
        ),
        (lambda: terms.Mdan(gamma=0.0), "Mdan: gamma is 0.0; expected "),
        (lambda: terms.Mdan(share=-1.0), "Mdan: share is -1.0; expected "),
        (lambda: terms.Mdan(width=0), "Mdan: width is 0; expected "),
    ],
)
def test_invalid_terms_are_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)
