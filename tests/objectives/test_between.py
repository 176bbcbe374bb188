"""Terms between a source and a target, worked out by hand in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx import tasks, terms
from tlx.functional import discrepancy
from tlx.objectives import check_needs
from tlx.trees import flatten
from tlx.types import Tick, View

C = 3


def with_one_entry_moved(mlp, path, where, step):
    """Return the weights of the small network with one entry moved."""
    variables = mlp.drawn(mlp.model, 0)
    at = variables.params
    *down, leaf = path.split("/")
    for name in down:
        at = at[name]
    at[leaf] = np.asarray(at[leaf], np.float64).copy()
    at[leaf][where] += step
    return variables


def entropy(p):
    return -(p * np.log(p)).sum(-1)


def test_afn_increases_every_norm_by_a_step(mlp, seen):
    streams, answers, _ = seen
    actual = mlp.across(streams, terms.Afn(step=2.0, weight=0.5))
    norms = {name: np.linalg.norm(f, axis=1) for name, (f, _) in answers.items()}
    # (|f| - (|f| + step))^2 is step^2; its slope is -2 step for each norm.
    assert actual.value == pytest.approx(0.5 * 2 * 4.0)
    for name, stream in (("source", "source"), ("target", "unlabelled")):
        assert float(actual.metrics[f"norm_{name}"]) == pytest.approx(norms[stream].mean(), rel=1e-5)
    # By the chain rule at the bias of the last hidden layer; the slope of tanh is 1 - f^2.
    expected = sum(
        0.5 * -2 * 2.0 * ((f / n[:, None]) * (1 - f**2)).mean(0)
        for f, n in ((answers[stream][0], norms[stream]) for stream in ("source", "unlabelled"))
    )
    np.testing.assert_allclose(actual.gradient["blocks/00/bias"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("moments", [1, 2, 5])
def test_cmd_compares_moments_of_bounded_features(mlp, seen, moments):
    streams, answers, _ = seen
    x, y = (np.tanh(answers[stream][0]) for stream in ("source", "unlabelled"))
    expected = np.linalg.norm(x.mean(0) - y.mean(0)) / 2
    for k in range(2, moments + 1):
        c, d = (((inputs - inputs.mean(0)) ** k).mean(0) for inputs in (x, y))
        expected += np.linalg.norm(c - d) / 2**k
    assert mlp.across(streams, terms.Cmd(moments=moments, weight=3.0)).value == pytest.approx(3 * expected, rel=1e-4)


def test_equal_streams_have_no_distance_and_no_gradient(mlp, seen):
    streams, *_ = seen
    same = streams | {"unlabelled": {k: v for k, v in streams["source"].items() if k != "label"}}
    for term in (terms.Cmd(), terms.Coral()):
        actual = mlp.across(same, term)
        assert actual.value == pytest.approx(0.0, abs=1e-7)
        assert all(np.isfinite(leaf).all() and np.abs(leaf).max() < 1e-6 for leaf in actual.gradient.values())


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_dann_is_the_loss_of_the_discriminator_and_reverses_its_gradient(mlp, seen, progress):
    streams, answers, _ = seen
    actual = mlp.across(streams, terms.Dann(width=3, weight=2.0), progress=progress)
    recorded = {stream: mlp.network(actual.params, "dann", answers[stream][0]) for stream in ("source", "unlabelled")}
    risk = 0.5 * mlp.softplus(-recorded["source"]).mean() + 0.5 * mlp.softplus(recorded["unlabelled"]).mean()
    assert actual.value == pytest.approx(2 * risk, rel=1e-5)
    right = 0.5 * (recorded["source"] > 0).mean() + 0.5 * (recorded["unlabelled"] < 0).mean()
    assert float(actual.metrics["accuracy"]) == pytest.approx(right)
    scale = 2 / (1 + math.exp(-10 * progress)) - 1
    assert float(actual.metrics["reversal"]) == pytest.approx(scale, abs=1e-6)
    # Compare with the gradient not reversed: equal for the discriminator, negative for the features.
    plain = mlp.across(streams, terms.Dann(width=3, weight=2.0, reversal=0.0), progress=progress)
    through = mlp.across(streams, terms.Dann(width=3, weight=2.0, reversal=1.0), progress=progress)
    for path, leaf in actual.gradient.items():
        if path.startswith("dann/"):
            np.testing.assert_allclose(leaf, plain.gradient[path], rtol=1e-5, atol=1e-7)
        else:
            np.testing.assert_allclose(leaf, scale * through.gradient[path], rtol=1e-4, atol=1e-7)
            assert np.abs(plain.gradient[path]).max() == 0
    # One entry of the gradient of the features, by finite differences of the loss.
    step, where = 1e-5, (0, 1)
    values = []
    for sign in (1, -1):
        variables = with_one_entry_moved(mlp, "blocks/00/kernel", where, sign * step)
        recorded = {s: mlp.network(actual.params, "dann", mlp.by_hand(variables, streams[s]["x"])[1]) for s in answers}
        values.append(mlp.softplus(-recorded["source"]).mean() + mlp.softplus(recorded["unlabelled"]).mean())
    slope = 2.0 * 0.5 * (values[0] - values[1]) / (2 * step)
    assert through.gradient["blocks/00/kernel"][where] == pytest.approx(-slope, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("projection", [None, 7])
def test_cdan_reads_features_and_predictions_together(mlp, seen, projection, weighed):
    streams, answers, _ = seen
    actual = mlp.across(streams, terms.Cdan(width=3, projection=projection, entropy=weighed))
    recorded, sure = {}, {}
    for stream in ("source", "unlabelled"):
        f, logits = answers[stream]
        p = mlp.softmax(logits)
        joint = np.einsum("nc,nw->ncw", p, f).reshape(len(f), -1)
        if projection:
            memory = {name: np.asarray(leaf, np.float64) for name, leaf in actual.memory.items()}
            joint = (f @ memory["features"]) * (p @ memory["classes"]) / np.sqrt(projection)
        recorded[stream] = mlp.network(actual.params, "cdan", joint)
        sure[stream] = 1 + np.exp(-entropy(p)) if weighed else np.ones(len(f))
    mean = np.concatenate(list(sure.values())).mean()
    risk = 0.5 * (sure["source"] / mean * mlp.softplus(-recorded["source"])).mean()
    risk += 0.5 * (sure["unlabelled"] / mean * mlp.softplus(recorded["unlabelled"])).mean()
    assert actual.value == pytest.approx(risk, rel=1e-5)
    # It gives the predictions no gradient.
    assert np.abs(actual.gradient["head/kernel"]).max() == 0


@pytest.mark.parametrize("granted", [True, False])
@pytest.mark.parametrize(("most", "normalised"), [(None, False), (1.1, False), (None, True), (1.1, True)])
def test_the_gate_is_that_of_the_paper(mlp, seen, granted, most, normalised):
    streams, answers, (source, target) = seen
    # If the setting grants no label, the stream does not exist.
    labelled = "labelled" if granted else "none"
    gate = terms.Gate(width=3, share=0.7, most=most, normalised=normalised, weight=2.0, labelled=labelled)
    actual = mlp.across(streams, gate)

    def logit(stream, labels):
        f, _ = answers[stream]
        return mlp.network(actual.params, "gate", np.concatenate([f, np.eye(C + 1)[labels]], 1))

    def risks(stream, labels):
        logits = answers[stream][1]
        return -np.log(mlp.softmax(logits)[np.arange(len(labels)), labels])

    nil = {stream: np.full(len(answers[stream][0]), C) for stream in answers}
    recorded = 0.5 * mlp.softplus(-logit("unlabelled", nil["unlabelled"])).mean()
    recorded += 0.5 * mlp.softplus(logit("source", nil["source"])).mean()
    total = 0.0
    if granted:
        recorded += 0.5 * mlp.softplus(-logit("labelled", target)).mean()
        recorded += 0.5 * mlp.softplus(logit("source", source)).mean()
        total += risks("labelled", target).mean()
    d = 1 / (1 + np.exp(-logit("source", source if granted else nil["source"])))
    weight = d / (1 - d)
    weight = np.minimum(weight, most) if most else weight
    effective = weight.sum() ** 2 / (len(weight) * (weight**2).sum())
    assert float(actual.metrics["effective"]) == pytest.approx(effective, rel=1e-4)
    assert float(actual.metrics["weight_mean"]) == pytest.approx(weight.mean(), rel=1e-4)
    weight = weight / weight.mean() if normalised else weight
    total += 0.7 * (weight * risks("source", source)).mean() + recorded
    assert actual.value == pytest.approx(2 * total, rel=1e-4)


def heard(mlp, recorded, make, name, read):
    """Return the part of one entry of the feature gradient that comes from the reversal, and its expected value.

    The expected value is minus the slope, by finite differences, of the loss of the discriminator on `read(features of
    a stream)`: `[(its inputs, the sign of their logit), ...]`.
    """
    streams, *_ = recorded
    path, where, step = "blocks/00/kernel", (0, 1), 1e-5
    through, plain = (mlp.across(streams, make(reversal)) for reversal in (1.0, 0.0))
    values = []
    for sign in (1, -1):
        variables = with_one_entry_moved(mlp, path, where, sign * step)
        rows = read(lambda stream, own=variables: mlp.by_hand(own, streams[stream]["x"])[1])
        values.append(
            sum(0.5 * mlp.softplus(side * mlp.network(through.params, name, inputs)).mean() for inputs, side in rows)
        )
    slope = (values[0] - values[1]) / (2 * step)
    return (through.gradient[path] - plain.gradient[path])[where], -slope


def test_the_gate_gives_the_features_the_reversed_gradient_of_its_discriminator(mlp, seen):
    source, target = seen[2]

    def read(f):
        nil = np.full(50, C)
        requested = (("unlabelled", nil, -1), ("source", nil, 1), ("labelled", target, -1), ("source", source, 1))
        return [(np.concatenate([f(s), np.eye(C + 1)[value[: len(f(s))]]], 1), side) for s, value, side in requested]

    actual, slope = heard(mlp, seen, lambda reversal: terms.Gate(width=3, reversal=reversal), "gate", read)
    assert actual == pytest.approx(slope, rel=1e-3, abs=1e-6)


def test_cdan_gives_the_features_the_reversed_gradient_of_its_discriminator(mlp, seen):
    p = {stream: mlp.softmax(answers[1]) for stream, answers in seen[1].items()}

    def read(f):
        return [(np.einsum("nc,nw->ncw", p[s], f(s)).reshape(len(p[s]), -1), side)
                for s, side in (("source", -1), ("unlabelled", 1))]  # fmt: skip

    actual, slope = heard(
        mlp, seen, lambda reversal: terms.Cdan(width=3, entropy=False, reversal=reversal), "cdan", read
    )
    assert actual == pytest.approx(slope, rel=1e-3, abs=1e-6)
    # It gives the predictions no gradient, however large its weight is.
    through = mlp.across(seen[0], terms.Cdan(width=3, reversal=1.0))
    assert np.abs(through.gradient["head/kernel"]).max() == 0 < np.abs(through.gradient["stem/kernel"]).max()


def test_the_weight_of_a_gated_example_has_no_gradient(mlp, seen):
    streams, *_ = seen
    actual = mlp.across(streams, terms.Gate(width=3, reversal=0.0, share=1e3))
    less = mlp.across(streams, terms.Gate(width=3, reversal=0.0, share=0.0))
    # The discriminator learns by its loss only, however large the weight of the gated loss is.
    for path, leaf in less.gradient.items():
        if path.startswith("gate/"):
            np.testing.assert_allclose(actual.gradient[path], leaf, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("linear", [False, True])
def test_jmmd_reads_features_and_predictions(mlp, seen, linear):
    streams, answers, _ = seen
    actual = mlp.across(streams, terms.Jmmd(scales=(0.5, 3.0), sigma=0.4, linear=linear, weight=2.0))
    tlx_side, expected = (
        tuple(jnp.asarray(layer, jnp.float32) for layer in (answers[stream][0], mlp.softmax(answers[stream][1])))
        for stream in ("source", "unlabelled")
    )
    measure = discrepancy.linear_joint_mmd if linear else discrepancy.joint_mmd
    distance = float(measure(tlx_side, expected, (0.5, 3.0), 0.4))
    assert actual.value == pytest.approx(2 * distance, rel=1e-5, abs=1e-6)
    assert float(actual.metrics["distance"]) == pytest.approx(distance, rel=1e-5, abs=1e-6)
    # The head has a gradient through the predictions.
    assert np.abs(actual.gradient["head/kernel"]).max() > 1e-4


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_mdd_is_the_disparity_of_a_second_head_and_reverses_its_gradient(mlp, seen, progress):
    streams, answers, _ = seen
    output = {stream: answers[stream][1].argmax(-1) for stream in ("source", "unlabelled")}
    actual = mlp.across(streams, terms.Mdd(width=7, margin=3.0, weight=2.0), progress=progress)

    def disparity(variables, params=actual.params):
        p = {}
        for stream, h in output.items():
            _, f, _ = mlp.by_hand(variables, streams[stream]["x"])
            p[stream] = mlp.softmax(mlp.network(params, "mdd", f, "0", "1"))[np.arange(len(h)), h]
        return 3 * np.log(p["source"]).mean() + np.log(1 - p["unlabelled"]).mean()

    assert actual.value == pytest.approx(-2 * disparity(mlp.drawn(mlp.model, 0)), rel=1e-5)
    assert float(actual.metrics["disparity"]) == pytest.approx(-0.5 * actual.value, rel=1e-5)
    scale = 0.1 * (2 / (1 + math.exp(-10 * progress)) - 1)
    assert float(actual.metrics["reversal"]) == pytest.approx(scale, abs=1e-6)
    plain = mlp.across(streams, terms.Mdd(width=7, margin=3.0, weight=2.0, reversal=0.0), progress=progress)
    through = mlp.across(streams, terms.Mdd(width=7, margin=3.0, weight=2.0, reversal=1.0), progress=progress)
    for path, leaf in actual.gradient.items():
        if path.startswith("mdd/"):
            np.testing.assert_allclose(leaf, plain.gradient[path], rtol=1e-5, atol=1e-7)
            assert np.abs(leaf).max() > 1e-3
        else:
            np.testing.assert_allclose(leaf, scale * through.gradient[path], rtol=1e-5, atol=1e-7)
            assert np.abs(plain.gradient[path]).max() == 0
    # The answer of the first head is a label and has no gradient. The features lower D, which the second head raises.
    assert np.abs(through.gradient["head/kernel"]).max() == 0
    where = (0, 1)
    ends = [disparity(with_one_entry_moved(mlp, "blocks/00/kernel", where, step)) for step in (1e-5, -1e-5)]
    assert through.gradient["blocks/00/kernel"][where] == pytest.approx(2 * (ends[0] - ends[1]) / 2e-5, rel=1e-5)
    ends = []
    for step in (1e-5, -1e-5):
        leaves = {path: np.asarray(leaf, np.float64) for path, leaf in flatten(actual.params["mdd"]).items()}
        leaves["1/bias"] = leaves["1/bias"] + step * np.eye(C)[1]
        ends.append(disparity(mlp.drawn(mlp.model, 0), {"mdd": leaves}))
    assert actual.gradient["mdd/1/bias"][1] == pytest.approx(-2 * (ends[0] - ends[1]) / 2e-5, rel=1e-5)


@pytest.mark.parametrize("k", [1, 3])
def test_bsp_is_the_sum_of_the_largest_squared_singular_values_of_both(mlp, seen, k):
    streams, answers, _ = seen
    actual = mlp.across(streams, terms.Bsp(k=k, weight=2.0))
    squares = {stream: (np.linalg.svd(answers[stream][0], compute_uv=False)[:k] ** 2).sum() for stream in answers}
    assert actual.value == pytest.approx(2 * (squares["source"] + squares["unlabelled"]), rel=1e-5)
    for name, stream in (("source", "source"), ("target", "unlabelled")):
        assert float(actual.metrics[f"squares_{name}"]) == pytest.approx(squares[stream], rel=1e-5)


def plan_by_hand(cost, e):
    kernel, v = np.exp(-cost / e), np.ones(cost.shape[1])
    for _ in range(5000):
        u = 1 / cost.shape[0] / (kernel @ v)
        v = 1 / cost.shape[1] / (kernel.T @ u)
    return u[:, None] * kernel * v


@pytest.mark.parametrize("label_cost", [None, 0.0, 2.0])
def test_ot_is_the_cost_of_the_plan(mlp, seen, label_cost):
    streams, _, (labels, _) = seen

    def cost(variables):
        (_, f, _), (_, g, logits) = (mlp.by_hand(variables, streams[name]["x"]) for name in ("source", "unlabelled"))
        risks = -np.log(mlp.softmax(logits))[:, labels].T
        return ((f[:, None] - g[None]) ** 2).sum(-1) + (label_cost or 0.0) * risks

    now = cost(mlp.drawn(mlp.model, 0))
    plan = plan_by_hand(now, 0.2 * now.mean())
    actual = mlp.across(streams, terms.Ot(label_cost=label_cost, epsilon=0.2, weight=3.0, iterations=200))
    assert actual.value == pytest.approx(3 * (plan * now).sum(), rel=1e-5)
    assert float(actual.metrics["cost"]) == pytest.approx((plan * now).sum(), rel=1e-5)
    assert float(actual.metrics["missed"]) < 1e-6
    # By finite differences of the cost under the fixed plan; the head has a gradient through the labels only.
    for path, where in (("blocks/00/kernel", (0, 1)), ("head/kernel", (1, 2)), ("head/bias", (0,))):
        ends = [(plan * cost(with_one_entry_moved(mlp, path, where, step))).sum() for step in (1e-5, -1e-5)]
        slope = 3 * (ends[0] - ends[1]) / 2e-5
        assert actual.gradient[path][where] == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_ot_reports_the_error_of_its_iterations(mlp, seen):
    streams, *_ = seen
    few, many = (mlp.across(streams, terms.Ot(epsilon=0.01, iterations=n)).metrics["missed"] for n in (1, 1000))
    assert few > 0.05 and many < 1e-3


def test_ot_compares_the_outputs_of_a_regression(mlp):
    random = np.random.default_rng(0)
    f, g, output, labels = (random.normal(size=size) for size in ((4, 5), (3, 5), (3, 2), (4, 2)))
    cost = ((f[:, None] - g[None]) ** 2).sum(-1) + 0.7 * ((output[None] - labels[:, None]) ** 2).mean(-1)
    taps = {"source": {"pooled": f}, "unlabelled": {"pooled": g, "logits": output}}
    taps, batch = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (taps, {"source": {"label": labels}}))
    tick = Tick(jnp.float32(0.0), jax.random.key(0))
    view = View(None, {}, {}, {}, batch, taps, tasks.Regression(outputs=2, standardise=False), tick)
    value, _ = terms.Ot(label_cost=0.7, epsilon=0.3, weight=1.0).loss(view)
    assert float(value) == pytest.approx((plan_by_hand(cost, 0.3 * cost.mean()) * cost).sum(), rel=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: terms.Jmmd(scales=()), "Jmmd: scales are (); expected "),
        (lambda: terms.Jmmd(sigma=0.0), "Jmmd: sigma is 0.0; expected "),
        (lambda: terms.Mdd(margin=0.0), "Mdd: margin is 0.0; expected "),
        (lambda: terms.Mdd(width=0), "Mdd: width is 0; expected "),
        (lambda: terms.Mdd(reversal=-1.0), "Mdd: reversal is -1.0; expected "),
        (lambda: terms.Bsp(k=0), "Bsp: k is 0; expected "),
        (lambda: terms.Ot(label_cost=-1.0), "Ot: label_cost is -1.0; expected "),
        (lambda: terms.Ot(epsilon=0.0), "Ot: epsilon is 0.0; expected "),
        (lambda: terms.Ot(iterations=0), "Ot: iterations is 0; expected "),
        (lambda: terms.Cmd(moments=0), "Cmd: moments is 0; expected "),
        (lambda: terms.Cdan(width=0), "Cdan: width is 0; expected "),
        (lambda: terms.Cdan(projection=0), "Cdan: projection is 0; expected "),
        (lambda: terms.Gate(most=0.0), "Gate: most is 0.0; expected "),
        (lambda: terms.Gate(share=-1.0), "Gate: share is -1.0; expected "),
        (lambda: terms.Iwan(width=0), "Iwan: width is 0; expected "),
        (lambda: terms.Pada(width=0), "Pada: width is 0; expected "),
    ],
)
def test_invalid_terms_are_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)


def test_more_singular_values_than_features_are_refused(mlp):
    with pytest.raises(ValueError) as error:
        mlp.preview(terms.Bsp(k=5), mlp.model)
    assert str(error.value).startswith("Bsp: k is 5, but 4 features ")


def test_a_term_on_labels_of_an_unlabelled_stream_is_refused():
    term = terms.Ot(source="unlabelled", target="labelled", label_cost=1.0)
    with pytest.raises(ValueError, match="Ot reads labels, but the stream 'unlabelled' has no labels"):
        check_needs((term,), ("labelled", "unlabelled"))
    check_needs((terms.Ot(source="unlabelled", target="labelled"),), ("labelled", "unlabelled"))
