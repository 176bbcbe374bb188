"""Several sources: what terms between one source and a target make of them, and those that are made for them."""

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
    """The batches of all streams, what the small network says of each (`features, logits`), and the labels."""
    streams = {name: mlp.labelled(rows=rows, seed=seed) for seed, (name, rows) in enumerate(SIZES.items())}
    known = {name: batch["label"] for name, batch in streams.items()}
    del streams["unlabelled"]["label"]
    answers = {name: mlp.by_hand(mlp.drawn(mlp.model, 0), batch["x"])[1:] for name, batch in streams.items()}
    return streams, answers, known


def look(mlp, streams, term, **more):
    others = {name: batch for name, batch in streams.items() if name != "labelled"}
    return mlp.look(term, batch=streams["labelled"], others=others, **more)


@pytest.mark.parametrize(
    ("term", "named"),
    [
        (terms.Supervised(on="source", weight=2.0), "on"),
        (terms.Coral(), "source"),
        (terms.Mmd(), "source"),
        (terms.Dann(width=3, reversal=0.5), "source"),
        (terms.Gate(width=3, reversal=0.5), "source"),
    ],
    ids=lambda given: type(given).__name__,
)
def test_a_term_that_reads_the_source_is_the_mean_over_all(mlp, seen, term, named):
    streams, *_ = seen
    found = look(mlp, streams, term)
    each = [look(mlp, streams, replace(term, **{named: own})) for own in SOURCES]
    assert found.value == pytest.approx(np.mean([own.value for own in each]), rel=1e-6)
    for path, leaf in found.gradient.items():
        np.testing.assert_allclose(leaf, np.mean([own.gradient[path] for own in each], 0), rtol=2e-5, atol=2e-6)
    for name, value in found.told.items():
        assert value == pytest.approx(np.mean([own.told[name] for own in each]), rel=1e-5)


def test_other_terms_read_what_they_name():
    given = [stream for stream in GIVEN if stream != "labelled"]
    asked = (terms.Supervised(on="source/1"), terms.Mcc())
    assert batch_streams(asked, given) == ["source/1", "unlabelled"]
    assert batch_streams((terms.Supervised(on="source"),), given) == [*SOURCES]
    assert [own.stream for own in passes((terms.Dann(),), given, dict.fromkeys(given))] == given
    check_needs((terms.Supervised(on="source"),), given)
    with pytest.raises(ValueError) as error:
        check_needs(asked, given)
    assert str(error.value).startswith("no term reads 'source/0': ")
    # A stream that is made is made of one.
    for term in (terms.Mixup, terms.RDrop):
        with pytest.raises(ValueError) as error:
            check_needs((terms.Supervised(on="source"), term(on="source")), given)
        assert str(error.value) == (
            f"{term.__name__} reads the stream 'source', which does not exist; the streams are: {', '.join(given)}"
            f", {term.__name__.lower()}"
        )
        check_needs((terms.Supervised(on="source"), term(on="source/0")), given)
    with pytest.raises(
        ValueError, match=r"^Mdan reads the stream 'source/3', which does not exist; the streams are: source/0"
    ):
        check_needs((terms.Mdan(sources=(*SOURCES, "source/3")),), given)


@pytest.mark.parametrize("moments", [1, 2, 3])
@pytest.mark.parametrize("sources", [(), ("source/2", "source/0"), ("source/1",)])
def test_m3sda_matches_moments_of_every_pair(mlp, seen, sources, moments):
    streams, answers, _ = seen
    found = look(mlp, streams, terms.M3sda(sources=sources, moments=moments, weight=3.0))
    names, target, expected = sources or SOURCES, answers["unlabelled"][0], 0.0
    for k in range(1, moments + 1):
        means = [(answers[name][0] ** k).mean(0) for name in names]
        expected += np.mean([np.linalg.norm(mean - (target**k).mean(0)) for mean in means])
        pairs = [np.linalg.norm(means[i] - means[j]) for i in range(len(means)) for j in range(i)]
        expected += np.mean(pairs) if pairs else 0.0
    assert found.value == pytest.approx(3 * expected, rel=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in found.gradient.values())


def test_equal_domains_have_no_moment_distance_and_no_gradient(mlp, seen):
    streams, *_ = seen
    same = dict.fromkeys(streams, streams["source/0"]) | {"unlabelled": streams["source/0"]}
    found = look(mlp, same, terms.M3sda())
    assert found.value == pytest.approx(0.0, abs=1e-7)
    assert all(np.isfinite(leaf).all() and np.abs(leaf).max() < 1e-6 for leaf in found.gradient.values())


def softplus(x):
    return np.log1p(np.exp(x))


def network(params, number, x):
    p = {path: np.asarray(leaf, np.float64) for path, leaf in flatten(params["mdan"][str(number)]).items()}
    for layer in "01":
        x = np.maximum(x @ p[f"{layer}/kernel"] + p[f"{layer}/bias"], 0)
    return (x @ p["2/kernel"] + p["2/bias"])[:, 0]


def values(mlp, seen, params, variables=None):
    """The loss on each source, and the risk of its discriminator."""
    streams, answers, known = seen
    if variables is not None:
        answers = {name: mlp.by_hand(variables, batch["x"])[1:] for name, batch in streams.items()}
    risks, apart = [], []
    for n, name in enumerate(SOURCES):
        p = mlp.softmax(answers[name][1])
        risks.append(-np.log(p[np.arange(len(p)), known[name]]).mean())
        own, other = (network(params, n, answers[stream][0]) for stream in (name, "unlabelled"))
        apart.append(0.5 * softplus(-own).mean() + 0.5 * softplus(other).mean())
    return np.array(risks), np.array(apart)


def smooth(v, gamma):
    return np.log(np.exp(gamma * v).sum()) / gamma


@pytest.mark.parametrize("gamma", [0.5, 10.0])
def test_mdan_is_a_smooth_maximum_over_the_sources(mlp, seen, gamma):
    term = terms.Mdan(sources=SOURCES, gamma=gamma, share=0.7, width=3, reversal=0.6, weight=2.0)
    found = look(mlp, seen[0], term)
    risks, apart = values(mlp, seen, found.params)
    v = risks - 0.7 * apart
    assert found.value == pytest.approx(2 * smooth(v, gamma), rel=1e-5)
    weights = np.exp(gamma * v) / np.exp(gamma * v).sum()
    for n in range(3):
        assert float(found.told[f"risk_{n}"]) == pytest.approx(risks[n], rel=1e-5)
        assert float(found.told[f"weight_{n}"]) == pytest.approx(weights[n], rel=1e-4)
    assert float(found.told["discriminator"]) == pytest.approx(apart.mean(), rel=1e-5)

    # By differences: the network's gradient is that of the loss, the part by the features times the reversal.
    path, where, step = ("blocks", "00", "kernel"), (0, 1), 1e-6

    def moved(sign):
        variables = mlp.drawn(mlp.model, 0)
        kernel = np.asarray(variables.params["blocks"]["00"]["kernel"], np.float64).copy()
        kernel[where] += sign * step
        variables.params["blocks"]["00"]["kernel"] = kernel
        return values(mlp, seen, found.params, variables)

    (risks_up, apart_up), (risks_down, apart_down) = moved(1), moved(-1)
    slope = (weights * ((risks_up - risks_down) - 0.6 * 0.7 * (apart_up - apart_down))).sum() / (2 * step)
    assert found.gradient["/".join(path)][where] == pytest.approx(2 * slope, rel=1e-4)

    # A discriminator's own makes its risk small, and not large, which the sign in the loss would.
    def bent(sign, n):
        bias = np.asarray(flatten(found.params)[f"mdan/{n}/2/bias"], np.float64) + sign * step
        return values(mlp, seen, nest(flatten(found.params) | {f"mdan/{n}/2/bias": bias}))[1][n]

    for n in range(3):
        slope = weights[n] * 0.7 * (bent(1, n) - bent(-1, n)) / (2 * step)
        assert found.gradient[f"mdan/{n}/2/bias"][0] == pytest.approx(2 * slope, rel=1e-4, abs=1e-7)


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
def test_impossible_terms_are_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)
