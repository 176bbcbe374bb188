"""The terms between a source and a target, worked out by hand in float64."""

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


def moved(mlp, path, where, step):
    """The small network's numbers with one of them moved."""
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


def test_afn_asks_every_norm_to_grow_by_a_step(mlp, seen):
    streams, answers, _ = seen
    found = mlp.across(streams, terms.Afn(step=2.0, weight=0.5))
    norms = {name: np.linalg.norm(f, axis=1) for name, (f, _) in answers.items()}
    # (|f| - (|f| + step))^2 is step^2; its slope is -2 step for each norm.
    assert found.value == pytest.approx(0.5 * 2 * 4.0)
    for name, stream in (("source", "source"), ("target", "unlabelled")):
        assert float(found.told[f"norm_{name}"]) == pytest.approx(norms[stream].mean(), rel=1e-5)
    # By the chain rule at the last hidden layer's bias, whose tanh has the slope 1 - f^2.
    expected = sum(
        0.5 * -2 * 2.0 * ((f / n[:, None]) * (1 - f**2)).mean(0)
        for f, n in ((answers[stream][0], norms[stream]) for stream in ("source", "unlabelled"))
    )
    np.testing.assert_allclose(found.gradient["blocks/00/bias"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("moments", [1, 2, 5])
def test_cmd_compares_moments_of_bounded_features(mlp, seen, moments):
    streams, answers, _ = seen
    x, y = (np.tanh(answers[stream][0]) for stream in ("source", "unlabelled"))
    expected = np.linalg.norm(x.mean(0) - y.mean(0)) / 2
    for k in range(2, moments + 1):
        c, d = (((given - given.mean(0)) ** k).mean(0) for given in (x, y))
        expected += np.linalg.norm(c - d) / 2**k
    assert mlp.across(streams, terms.Cmd(moments=moments, weight=3.0)).value == pytest.approx(3 * expected, rel=1e-4)


def test_equal_streams_have_no_distance_and_no_gradient(mlp, seen):
    streams, *_ = seen
    same = streams | {"unlabelled": {k: v for k, v in streams["source"].items() if k != "label"}}
    for term in (terms.Cmd(), terms.Coral()):
        found = mlp.across(same, term)
        assert found.value == pytest.approx(0.0, abs=1e-7)
        assert all(np.isfinite(leaf).all() and np.abs(leaf).max() < 1e-6 for leaf in found.gradient.values())


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_dann_is_the_discriminators_risk_and_reverses_its_gradient(mlp, seen, progress):
    streams, answers, _ = seen
    found = mlp.across(streams, terms.Dann(width=3, weight=2.0), progress=progress)
    told = {stream: mlp.network(found.params, "dann", answers[stream][0]) for stream in ("source", "unlabelled")}
    risk = 0.5 * mlp.softplus(-told["source"]).mean() + 0.5 * mlp.softplus(told["unlabelled"]).mean()
    assert found.value == pytest.approx(2 * risk, rel=1e-5)
    right = 0.5 * (told["source"] > 0).mean() + 0.5 * (told["unlabelled"] < 0).mean()
    assert float(found.told["accuracy"]) == pytest.approx(right)
    scale = 2 / (1 + math.exp(-10 * progress)) - 1
    assert float(found.told["reversal"]) == pytest.approx(scale, abs=1e-6)
    # Against the same with the gradient not reversed: the discriminator's own is as it was, the features' its negative.
    plain = mlp.across(streams, terms.Dann(width=3, weight=2.0, reversal=0.0), progress=progress)
    through = mlp.across(streams, terms.Dann(width=3, weight=2.0, reversal=1.0), progress=progress)
    for path, leaf in found.gradient.items():
        if path.startswith("dann/"):
            np.testing.assert_allclose(leaf, plain.gradient[path], rtol=1e-5, atol=1e-7)
        else:
            np.testing.assert_allclose(leaf, scale * through.gradient[path], rtol=1e-4, atol=1e-7)
            assert np.abs(plain.gradient[path]).max() == 0
    # One entry of the features' gradient, by differences of the risk.
    step, where = 1e-5, (0, 1)
    values = []
    for sign in (1, -1):
        variables = moved(mlp, "blocks/00/kernel", where, sign * step)
        told = {s: mlp.network(found.params, "dann", mlp.by_hand(variables, streams[s]["x"])[1]) for s in answers}
        values.append(mlp.softplus(-told["source"]).mean() + mlp.softplus(told["unlabelled"]).mean())
    slope = 2.0 * 0.5 * (values[0] - values[1]) / (2 * step)
    assert through.gradient["blocks/00/kernel"][where] == pytest.approx(-slope, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("projection", [None, 7])
def test_cdan_reads_features_and_predictions_together(mlp, seen, projection, weighed):
    streams, answers, _ = seen
    found = mlp.across(streams, terms.Cdan(width=3, projection=projection, entropy=weighed))
    told, sure = {}, {}
    for stream in ("source", "unlabelled"):
        f, logits = answers[stream]
        p = mlp.softmax(logits)
        joint = np.einsum("nc,nw->ncw", p, f).reshape(len(f), -1)
        if projection:
            memory = {name: np.asarray(leaf, np.float64) for name, leaf in found.memory.items()}
            joint = (f @ memory["features"]) * (p @ memory["classes"]) / np.sqrt(projection)
        told[stream] = mlp.network(found.params, "cdan", joint)
        sure[stream] = 1 + np.exp(-entropy(p)) if weighed else np.ones(len(f))
    mean = np.concatenate(list(sure.values())).mean()
    risk = 0.5 * (sure["source"] / mean * mlp.softplus(-told["source"])).mean()
    risk += 0.5 * (sure["unlabelled"] / mean * mlp.softplus(told["unlabelled"])).mean()
    assert found.value == pytest.approx(risk, rel=1e-5)
    # The predictions have no gradient by it.
    assert np.abs(found.gradient["head/kernel"]).max() == 0


@pytest.mark.parametrize("granted", [True, False])
@pytest.mark.parametrize(("most", "normalised"), [(None, False), (1.1, False), (None, True), (1.1, True)])
def test_the_gate_is_that_of_the_paper(mlp, seen, granted, most, normalised):
    streams, answers, (source, target) = seen
    # Where the setting grants no label, there is no stream of the name.
    labelled = "labelled" if granted else "none"
    gate = terms.Gate(width=3, share=0.7, most=most, normalised=normalised, weight=2.0, labelled=labelled)
    found = mlp.across(streams, gate)

    def logit(stream, labels):
        f, _ = answers[stream]
        return mlp.network(found.params, "gate", np.concatenate([f, np.eye(C + 1)[labels]], 1))

    def risks(stream, labels):
        logits = answers[stream][1]
        return -np.log(mlp.softmax(logits)[np.arange(len(labels)), labels])

    nil = {stream: np.full(len(answers[stream][0]), C) for stream in answers}
    told = 0.5 * mlp.softplus(-logit("unlabelled", nil["unlabelled"])).mean()
    told += 0.5 * mlp.softplus(logit("source", nil["source"])).mean()
    total = 0.0
    if granted:
        told += 0.5 * mlp.softplus(-logit("labelled", target)).mean()
        told += 0.5 * mlp.softplus(logit("source", source)).mean()
        total += risks("labelled", target).mean()
    d = 1 / (1 + np.exp(-logit("source", source if granted else nil["source"])))
    weight = d / (1 - d)
    weight = np.minimum(weight, most) if most else weight
    effective = weight.sum() ** 2 / (len(weight) * (weight**2).sum())
    assert float(found.told["effective"]) == pytest.approx(effective, rel=1e-4)
    assert float(found.told["weight_mean"]) == pytest.approx(weight.mean(), rel=1e-4)
    weight = weight / weight.mean() if normalised else weight
    total += 0.7 * (weight * risks("source", source)).mean() + told
    assert found.value == pytest.approx(2 * total, rel=1e-4)


def heard(mlp, seen, make, name, read):
    """What an entry of the features' gradient has by the reversal alone; and minus the slope, by differences, of the
    discriminator's risk on `read(features of a stream)`: `[(its inputs, the sign of their logit), ...]`."""
    streams, *_ = seen
    path, where, step = "blocks/00/kernel", (0, 1), 1e-5
    through, plain = (mlp.across(streams, make(reversal)) for reversal in (1.0, 0.0))
    values = []
    for sign in (1, -1):
        variables = moved(mlp, path, where, sign * step)
        rows = read(lambda stream, own=variables: mlp.by_hand(own, streams[stream]["x"])[1])
        values.append(
            sum(0.5 * mlp.softplus(side * mlp.network(through.params, name, inputs)).mean() for inputs, side in rows)
        )
    slope = (values[0] - values[1]) / (2 * step)
    return (through.gradient[path] - plain.gradient[path])[where], -slope


def test_the_features_hear_the_gates_discriminator_reversed(mlp, seen):
    source, target = seen[2]

    def read(f):
        nil = np.full(50, C)
        asked = (("unlabelled", nil, -1), ("source", nil, 1), ("labelled", target, -1), ("source", source, 1))
        return [(np.concatenate([f(s), np.eye(C + 1)[own[: len(f(s))]]], 1), side) for s, own, side in asked]

    found, slope = heard(mlp, seen, lambda reversal: terms.Gate(width=3, reversal=reversal), "gate", read)
    assert found == pytest.approx(slope, rel=1e-3, abs=1e-6)


def test_the_features_hear_cdans_discriminator_reversed(mlp, seen):
    p = {stream: mlp.softmax(answers[1]) for stream, answers in seen[1].items()}

    def read(f):
        return [(np.einsum("nc,nw->ncw", p[s], f(s)).reshape(len(p[s]), -1), side)
                for s, side in (("source", -1), ("unlabelled", 1))]  # fmt: skip

    found, slope = heard(
        mlp, seen, lambda reversal: terms.Cdan(width=3, entropy=False, reversal=reversal), "cdan", read
    )
    assert found == pytest.approx(slope, rel=1e-3, abs=1e-6)
    # The predictions have no gradient by it, however loud it is.
    through = mlp.across(seen[0], terms.Cdan(width=3, reversal=1.0))
    assert np.abs(through.gradient["head/kernel"]).max() == 0 < np.abs(through.gradient["stem/kernel"]).max()


def test_a_gated_examples_weight_has_no_gradient(mlp, seen):
    streams, *_ = seen
    found = mlp.across(streams, terms.Gate(width=3, reversal=0.0, share=1e3))
    less = mlp.across(streams, terms.Gate(width=3, reversal=0.0, share=0.0))
    # The discriminator learns by its own risk alone, however much the gated risk counts.
    for path, leaf in less.gradient.items():
        if path.startswith("gate/"):
            np.testing.assert_allclose(found.gradient[path], leaf, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("linear", [False, True])
def test_jmmd_is_of_features_and_predictions(mlp, seen, linear):
    streams, answers, _ = seen
    found = mlp.across(streams, terms.Jmmd(scales=(0.5, 3.0), sigma=0.4, linear=linear, weight=2.0))
    ours, theirs = (
        tuple(jnp.asarray(layer, jnp.float32) for layer in (answers[stream][0], mlp.softmax(answers[stream][1])))
        for stream in ("source", "unlabelled")
    )
    measure = discrepancy.linear_joint_mmd if linear else discrepancy.joint_mmd
    distance = float(measure(ours, theirs, (0.5, 3.0), 0.4))
    assert found.value == pytest.approx(2 * distance, rel=1e-5, abs=1e-6)
    assert float(found.told["distance"]) == pytest.approx(distance, rel=1e-5, abs=1e-6)
    # The head hears it by the predictions.
    assert np.abs(found.gradient["head/kernel"]).max() > 1e-4


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_mdd_is_the_disparity_of_a_second_head_and_reverses_its_gradient(mlp, seen, progress):
    streams, answers, _ = seen
    said = {stream: answers[stream][1].argmax(-1) for stream in ("source", "unlabelled")}
    found = mlp.across(streams, terms.Mdd(width=7, margin=3.0, weight=2.0), progress=progress)

    def disparity(variables, params=found.params):
        p = {}
        for stream, h in said.items():
            _, f, _ = mlp.by_hand(variables, streams[stream]["x"])
            p[stream] = mlp.softmax(mlp.network(params, "mdd", f, "0", "1"))[np.arange(len(h)), h]
        return 3 * np.log(p["source"]).mean() + np.log(1 - p["unlabelled"]).mean()

    assert found.value == pytest.approx(-2 * disparity(mlp.drawn(mlp.model, 0)), rel=1e-5)
    assert float(found.told["disparity"]) == pytest.approx(-0.5 * found.value, rel=1e-5)
    scale = 0.1 * (2 / (1 + math.exp(-10 * progress)) - 1)
    assert float(found.told["reversal"]) == pytest.approx(scale, abs=1e-6)
    plain = mlp.across(streams, terms.Mdd(width=7, margin=3.0, weight=2.0, reversal=0.0), progress=progress)
    through = mlp.across(streams, terms.Mdd(width=7, margin=3.0, weight=2.0, reversal=1.0), progress=progress)
    for path, leaf in found.gradient.items():
        if path.startswith("mdd/"):
            np.testing.assert_allclose(leaf, plain.gradient[path], rtol=1e-5, atol=1e-7)
            assert np.abs(leaf).max() > 1e-3
        else:
            np.testing.assert_allclose(leaf, scale * through.gradient[path], rtol=1e-5, atol=1e-7)
            assert np.abs(plain.gradient[path]).max() == 0
    # What the first head says is a label: it hears nothing. The features lessen D, which the second head raises.
    assert np.abs(through.gradient["head/kernel"]).max() == 0
    where = (0, 1)
    ends = [disparity(moved(mlp, "blocks/00/kernel", where, step)) for step in (1e-5, -1e-5)]
    assert through.gradient["blocks/00/kernel"][where] == pytest.approx(2 * (ends[0] - ends[1]) / 2e-5, rel=1e-5)
    ends = []
    for step in (1e-5, -1e-5):
        leaves = {path: np.asarray(leaf, np.float64) for path, leaf in flatten(found.params["mdd"]).items()}
        leaves["1/bias"] = leaves["1/bias"] + step * np.eye(C)[1]
        ends.append(disparity(mlp.drawn(mlp.model, 0), {"mdd": leaves}))
    assert found.gradient["mdd/1/bias"][1] == pytest.approx(-2 * (ends[0] - ends[1]) / 2e-5, rel=1e-5)


@pytest.mark.parametrize("k", [1, 3])
def test_bsp_is_the_sum_of_the_largest_squared_singular_values_of_both(mlp, seen, k):
    streams, answers, _ = seen
    found = mlp.across(streams, terms.Bsp(k=k, weight=2.0))
    squares = {stream: (np.linalg.svd(answers[stream][0], compute_uv=False)[:k] ** 2).sum() for stream in answers}
    assert found.value == pytest.approx(2 * (squares["source"] + squares["unlabelled"]), rel=1e-5)
    for name, stream in (("source", "source"), ("target", "unlabelled")):
        assert float(found.told[f"squares_{name}"]) == pytest.approx(squares[stream], rel=1e-5)


def plan_by_hand(cost, e):
    kernel, v = np.exp(-cost / e), np.ones(cost.shape[1])
    for _ in range(5000):
        u = 1 / cost.shape[0] / (kernel @ v)
        v = 1 / cost.shape[1] / (kernel.T @ u)
    return u[:, None] * kernel * v


@pytest.mark.parametrize("label_cost", [None, 0.0, 2.0])
def test_ot_is_what_the_plan_costs(mlp, seen, label_cost):
    streams, _, (labels, _) = seen

    def cost(variables):
        (_, f, _), (_, g, logits) = (mlp.by_hand(variables, streams[name]["x"]) for name in ("source", "unlabelled"))
        risks = -np.log(mlp.softmax(logits))[:, labels].T
        return ((f[:, None] - g[None]) ** 2).sum(-1) + (label_cost or 0.0) * risks

    now = cost(mlp.drawn(mlp.model, 0))
    plan = plan_by_hand(now, 0.2 * now.mean())
    found = mlp.across(streams, terms.Ot(label_cost=label_cost, epsilon=0.2, weight=3.0, iterations=200))
    assert found.value == pytest.approx(3 * (plan * now).sum(), rel=1e-5)
    assert float(found.told["cost"]) == pytest.approx((plan * now).sum(), rel=1e-5)
    assert float(found.told["missed"]) < 1e-6
    # By differences of the cost under the plan as it is; the head hears the labels alone.
    for path, where in (("blocks/00/kernel", (0, 1)), ("head/kernel", (1, 2)), ("head/bias", (0,))):
        ends = [(plan * cost(moved(mlp, path, where, step))).sum() for step in (1e-5, -1e-5)]
        slope = 3 * (ends[0] - ends[1]) / 2e-5
        assert found.gradient[path][where] == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_ot_says_what_its_iterations_missed(mlp, seen):
    streams, *_ = seen
    few, many = (mlp.across(streams, terms.Ot(epsilon=0.01, iterations=n)).told["missed"] for n in (1, 1000))
    assert few > 0.05 and many < 1e-3


def test_ot_compares_what_a_regression_says(mlp):
    random = np.random.default_rng(0)
    f, g, said, labels = (random.normal(size=size) for size in ((4, 5), (3, 5), (3, 2), (4, 2)))
    cost = ((f[:, None] - g[None]) ** 2).sum(-1) + 0.7 * ((said[None] - labels[:, None]) ** 2).mean(-1)
    taps = {"source": {"pooled": f}, "unlabelled": {"pooled": g, "logits": said}}
    taps, batch = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (taps, {"source": {"label": labels}}))
    tick = Tick(jnp.float32(0.0), jax.random.key(0))
    view = View(None, {}, {}, {}, batch, taps, tasks.Regression(outputs=2), tick)
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
def test_impossible_terms_are_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)


def test_more_singular_values_than_features_are_refused(mlp):
    with pytest.raises(ValueError) as error:
        mlp.preview(terms.Bsp(k=5), mlp.model)
    assert str(error.value).startswith("Bsp: k is 5, but 4 features ")


def test_the_labels_of_a_stream_without_any_are_refused():
    term = terms.Ot(source="unlabelled", target="labelled", label_cost=1.0)
    with pytest.raises(ValueError, match="Ot reads labels, but the stream 'unlabelled' has no labels"):
        check_needs((term,), ("labelled", "unlabelled"))
    check_needs((terms.Ot(source="unlabelled", target="labelled"),), ("labelled", "unlabelled"))
