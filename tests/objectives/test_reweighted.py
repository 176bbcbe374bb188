"""Sources with example weights that are computed once."""

import numpy as np
import pytest

from tlx import Data, Optim, Recipe, Train, models, run, tasks, terms
from tlx.functional import reweight
from tlx.objectives import check_needs
from tlx.records.log import read_metrics
from tlx.training.active_run import setting
from tlx.training.loop import How
from tlx.training.prepare import open_data, prepare

FIND = {terms.Kmm: reweight.mean_matching, terms.Kliep: reweight.likelihood_ratio}
DATA = Data(source="mnist5k", target="digits", labels=0, size=8, shots=20)
RECIPE = Recipe(
    data=DATA, task=tasks.Classification(classes=10), model=models.Mlp(inputs=(8, 8, 1), widths=(16, 12)),
    objective=(terms.Kmm(landmarks=50),), optim=Optim(lr=0.01), train=Train(steps=4, batch=16, eval_batch=128),
)  # fmt: skip


@pytest.mark.parametrize("kind", FIND)
def test_it_is_the_weighted_loss_in_any_order_of_examples(mlp, kind):
    source, target = mlp.labelled(rows=9, seed=2), mlp.labelled(rows=7, seed=3)
    target["x"] = target["x"] * 0.5 + 0.8
    source["index"] = np.array([4, 0, 11, 2, 7, 1, 3, 9, 8], np.int32)
    streams = {"source": source, "unlabelled": {name: target[name] for name in ("x", "index")}}
    pretrained, now = mlp.drawn(mlp.model, 0), mlp.drawn(mlp.model, 3)
    before = [mlp.by_hand(pretrained, batch["x"])[1] for batch in streams.values()]
    order = np.argsort(source["index"])
    expected = np.empty(9)
    expected[order] = FIND[kind](before[0][order], before[1])

    # In two batches; the second is filled with a copy.
    def inputs(stream):
        value = {name: array for name, array in streams[stream].items() if name != "label"}
        rows = len(value["index"])
        for part in (np.arange(5), np.array([*range(5, rows), 0])):
            weight = np.ones(len(part), np.float32)
            weight[-1] = 1.0 if part[0] == 0 else 0.0
            yield {name: array[part] for name, array in value.items()} | {"weight": weight}

    batch = {name: array[[6, 2, 5]] for name, array in source.items()}
    # The test harness calls its first stream by another name.
    term = kind(on="labelled", target="unlabelled", weight=2.0)
    actual = mlp.look(term, now=now, initial=pretrained, batch=batch,
                     inputs=lambda stream: inputs("source" if stream == "labelled" else stream))  # fmt: skip
    logits = mlp.by_hand(now, batch["x"])[2]
    risks = -np.log(mlp.softmax(logits)[np.arange(3), batch["label"]])
    assert actual.value == pytest.approx(2 * (expected[[6, 2, 5]] * risks).mean(), rel=1e-4)
    share = expected.sum() ** 2 / (9 * (expected**2).sum())
    assert share < 0.95
    assert float(actual.metrics["effective"]) == pytest.approx(share, rel=1e-4)
    # The weights are constants of the loss: its gradient at the bias of the head is that of the weighted loss.
    residual = mlp.softmax(logits) - np.eye(3)[batch["label"]]
    slope = 2 * (expected[[6, 2, 5], None] * residual).mean(0)
    np.testing.assert_allclose(actual.gradient["head/bias"], slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", FIND)
def test_without_data_it_is_the_plain_loss(mlp, kind):
    actual = mlp.look(kind(on="labelled"), data=[])
    assert actual.value == pytest.approx(mlp.look(terms.Supervised()).value, rel=1e-6)
    assert actual.metrics["effective"] == 1.0


@pytest.mark.slow
def test_the_target_is_read_once_and_no_step_reads_it_or_its_labels(tmp_path):
    splits = open_data(RECIPE)
    assert list(splits.streams) == ["source"] and list(splits.looked) == ["unlabelled"]
    ready = prepare(RECIPE, splits)
    arguments = setting(ready, splits)
    for stream, count in (("source", 3500), ("unlabelled", 200)):
        batches = list(arguments.inputs(stream))
        assert sum(int(batch["weight"].sum()) for batch in batches) == count
        assert {name for batch in batches for name in batch} == {"image", "index", "position", "weight"}
    with pytest.raises(ValueError, match="the labels of 'unlabelled', which has no labels"):
        arguments.batches("unlabelled")
    outcome = run(RECIPE, tmp_path / "run", how=How(quiet=True, leave="learned"))
    metrics = {line["name"]: line["value"] for line in read_metrics(outcome.folder)}
    assert 0.0 < metrics["train/kmm/effective"] < 0.9
    assert set(outcome.result["examples"]) == {"source", "validation", "test"}


def test_a_missing_target_is_named():
    with pytest.raises(ValueError) as error:
        check_needs((terms.Kmm(),), ("source", "labelled"))
    assert (
        str(error.value) == "Kmm reads the stream 'unlabelled', which does not exist; the streams are: source, labelled"
    )
    with pytest.raises(ValueError) as error:
        check_needs((terms.Kmm(on="unlabelled", target="source"),), ("source", "unlabelled"))
    assert str(error.value) == "Kmm reads labels, but the stream 'unlabelled' has no labels"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: terms.Kmm(most=1.0), "Kmm: most is 1.0 ... above 1"),
        (lambda: terms.Kmm(scale=0.0), "Kmm: scale is 0.0 ... above 0"),
        (lambda: terms.Kmm(slack=0.0), "Kmm: slack is 0.0 ... above 0"),
        (lambda: terms.Kmm(landmarks=0), "Kmm: landmarks is 0 ... 1 or more"),
        (lambda: terms.Kmm(on="source", target="source"), "Kmm: on and target are both the stream 'source'"),
        (lambda: terms.Kliep(scales=(1.0, 0.0)), "Kliep: scales are (1.0, 0.0) ... one ... above 0"),
        (lambda: terms.Kliep(centres=0), "Kliep: centres is 0 ... 1 or more"),
        (lambda: terms.Kliep(weight=-1.0), "Kliep: weight is -1.0; expected a weight of 0 or more"),
    ],
)
def test_invalid_terms_are_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    for part in message.split(" ... "):
        assert part in str(error.value)
