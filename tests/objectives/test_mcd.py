"""Two classifiers that agree on the target, worked out by hand in float64."""

import jax
import numpy as np
import pytest

from tlx import terms, tuning
from tlx.models import forward, initialise
from tlx.objectives.reference import apply_head
from tlx.trees import flatten
from tlx.types import Turn, Variables


@pytest.fixture
def streams_of_mcd(mlp):
    """A source of 7 rows and a target of 5 rows without labels; the first stream is not read."""
    streams = {"source": mlp.labelled(rows=7, seed=2), "unlabelled": mlp.labelled(rows=5, seed=3)}
    del streams["unlabelled"]["label"]
    return streams


def heads(mlp, params, x):
    """The probabilities of both heads."""
    _, f, logits = mlp.by_hand(Variables(params, {}), x)
    value = {path: np.asarray(leaf, np.float64) for path, leaf in flatten(params["mcd"]["head"]).items()}
    return mlp.softmax(logits), mlp.softmax(f @ value["kernel"] + value["bias"])


@pytest.mark.parametrize("progress", [0.0, 0.25])
def test_the_loss_of_each_turn(mlp, streams_of_mcd, progress):
    term = terms.Mcd(trade_off=terms.Ramp(1.0, 3.0), weight=0.5, repeats=2)
    actual = [mlp.look(term, others=streams_of_mcd, turn=turn, progress=progress) for turn in range(4)]
    _, second = heads(mlp, actual[0].params, streams_of_mcd["source"]["x"])
    risk = -np.log(second[np.arange(7), streams_of_mcd["source"]["label"]]).mean()
    first, second = heads(mlp, actual[0].params, streams_of_mcd["unlabelled"]["x"])
    discrepancy = np.abs(first - second).mean()
    now = 1.0 + 2.0 * progress
    expected = [risk, risk - now * discrepancy, now * discrepancy, now * discrepancy]
    for item, value in zip(actual, expected, strict=True):
        assert item.value == pytest.approx(0.5 * value, rel=1e-5)
        assert float(item.metrics["risk"]) == pytest.approx(risk, rel=1e-5)
        assert float(item.metrics["discrepancy"]) == pytest.approx(discrepancy, rel=1e-5)
        assert float(item.metrics["trade_off"]) == pytest.approx(now)
    # The heads differ in their weights. For the heads, the second turn has the opposite sign of the third.
    one, two, three = (item.gradient for item in actual[:3])
    for path in ("head/kernel", "mcd/head/kernel", "blocks/00/kernel"):
        np.testing.assert_allclose(two[path], one[path] - three[path], rtol=1e-4, atol=1e-6)
        assert np.abs(three[path]).max() > 1e-4


def test_equal_heads_have_no_discrepancy(mlp, streams_of_mcd):
    now = mlp.drawn(mlp.model, 0)
    now.params["mcd"] = {"head": now.params["head"]}
    actual = mlp.look(terms.Mcd(), others=streams_of_mcd, now=now, turn=2)
    assert actual.value == pytest.approx(0.0, abs=1e-7)


def test_the_second_head_is_initialised_separately(mlp):
    params = initialise(mlp.model, jax.random.key(0)).params
    one, two = (flatten(terms.Mcd().insert(mlp.model, params, jax.random.key(seed))) for seed in (0, 1))
    assert {path for path in one if path.startswith("mcd/")} == {"mcd/head/kernel", "mcd/head/bias"}
    assert not np.array_equal(one["mcd/head/kernel"], two["mcd/head/kernel"])
    assert not np.array_equal(two["mcd/head/kernel"], two["head/kernel"])
    assert one["mcd/head/kernel"].std() == pytest.approx(float(two["head/kernel"].std()), rel=1.0)


def test_the_parameters_that_move_in_each_turn(mlp):
    below = Turn(("stem/", "blocks/00/"), others=False)
    assert terms.Mcd(repeats=2).turns(mlp.model) == (Turn(("",)), Turn(("head/", "mcd/")), below, below)


def test_a_side_head_is_part_of_the_compared_prediction(mlp, streams_of_mcd):
    """Without noise, a head over the carry predicts like the model, including parameters that a tuning inserted."""
    params = tuning.SideHead().insert(mlp.model, mlp.drawn(mlp.model, 0).params, jax.random.key(1))
    leaves = flatten(params["head"]["side"])
    drawn = np.random.default_rng(5).normal(size=leaves["maps/stem/kernel"].shape)
    params["head"]["side"]["maps"]["stem"]["kernel"] = drawn.astype(np.float32)
    taps, _ = forward(mlp.model, Variables(params, {}), streams_of_mcd["unlabelled"])
    answers = apply_head(mlp.model.stages[-1], params["head"], taps["carry"])
    np.testing.assert_allclose(answers, taps["logits"], rtol=1e-6)
    del params["head"]["side"]
    assert not np.allclose(apply_head(mlp.model.stages[-1], params["head"], taps["carry"]), answers, atol=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: terms.Mcd(repeats=0), "Mcd: repeats is 0; expected "),
        (lambda: terms.Mcd(trade_off=-1.0), "Mcd: trade_off is -1.0; expected "),
        (lambda: terms.Mcd(source="a", target="a"), "Mcd: source and target are both the stream 'a'"),
    ],
)
def test_invalid_settings_are_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)
