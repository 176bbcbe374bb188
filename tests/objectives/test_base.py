"""Common parts of the terms."""

import jax
import numpy as np
import pytest

from tlx import models, tasks, terms
from tlx.objectives import Pass, check_needs, inserted, passes, without_inserted
from tlx.trees import flatten
from tlx.types import Learn

# The classes of terms that the package exports.
EXPORTED = {
    name: kind for name in terms.__all__ if terms.Term in getattr(kind := getattr(terms, name), "__mro__", ())[1:]
}


def test_passes_follow_from_the_streams_that_are_read_and_an_added_stream_changes_no_other():
    one, two = {"index": None}, {"index": None}
    plain = passes((terms.Supervised(),), ["labelled"], {"labelled": one})
    assert plain == [Pass("labelled", 0, True)]
    both = passes((terms.Supervised(), terms.CutMix()), ["labelled"], {"labelled": one, "cutmix": two})
    assert both[0] == plain[0]
    assert (both[1].stream, both[1].moves) == ("cutmix", False)
    # A term alone: the running statistics see only the mixed images, and the plain images have no pass.
    (only,) = passes((terms.CutMix(),), ["labelled"], {"labelled": one, "cutmix": two})
    assert only == both[1]._replace(moves=True)
    assert not passes((terms.L2SP(),), ["labelled"], {"labelled": one})


@pytest.mark.parametrize(
    ("reads", "moving"),
    [(("source",), ["source"]), (("source", "unlabelled"), ["unlabelled"]), (("unlabelled", "labelled"), None)],
)
def test_the_target_updates_the_running_statistics_if_it_is_read(reads, moving):
    inputs = ["source", "labelled", "unlabelled"]
    objective = [terms.Entropy(on=stream) for stream in reads]
    actual = passes(objective, inputs, {name: {"index": None} for name in inputs})
    assert [value.stream for value in actual] == [stream for stream in inputs if stream in reads]
    assert [value.stream for value in actual if value.moves] == (moving or ["labelled", "unlabelled"])


def test_a_missing_stream_is_refused():
    check_needs((terms.Supervised(), terms.Mixup(), terms.Entropy(on="mixup")), ["labelled"])
    with pytest.raises(ValueError) as error:
        check_needs((terms.Supervised(), terms.RDrop(), terms.Entropy(on="unlabelled")), ["labelled"])
    assert str(error.value) == (
        "Entropy reads the stream 'unlabelled', which does not exist; the streams are: labelled, rdrop"
    )
    with pytest.raises(ValueError) as error:
        check_needs((terms.Supervised(), terms.Mixup(), terms.CutMix(), terms.Mixup()), ["labelled"])
    assert str(error.value).startswith("Mixup adds the stream 'mixup', which already exists")


@pytest.mark.parametrize("make", [terms.Mixup, terms.CutMix, terms.RDrop, terms.Supervised, terms.Lwf])
def test_every_term_names_its_missing_stream(make):
    with pytest.raises(ValueError) as error:
        check_needs((make(on="labeled"),), ["labelled"])
    assert str(error.value).startswith(
        f"{make.__name__} reads the stream 'labeled', which does not exist; the streams are: "
    )


def test_parameters_of_terms_follow_separate_rules_and_are_not_part_of_the_model(mlp):
    params = mlp.drawn(mlp.model, 0).params
    more, rules = inserted((terms.Supervised(), terms.Lwf()), mlp.model, params, jax.random.key(0))
    assert rules == ((r"lwf/head/bias|lwf/head/kernel", Learn()),)
    assert flatten(without_inserted(mlp.model, more)).keys() == flatten(params).keys()
    assert inserted((terms.Supervised(),), mlp.model, params, jax.random.key(0))[1] == ()
    with pytest.raises(ValueError, match="Lwf adds 'lwf/head/bias', but the model already has this leaf"):
        inserted((terms.Lwf(), terms.Lwf()), mlp.model, params, jax.random.key(0))


@pytest.mark.parametrize("name", [name for name in EXPORTED if name not in ("CoTuning", "Distill")])
def test_negative_weights_are_refused(name):
    for weight in (-1.0, terms.Ramp(0.0, -1.0)):
        with pytest.raises(ValueError) as error:
            EXPORTED[name](weight=weight)
        assert str(error.value).startswith(f"{name}: weight is {weight}; expected ")
    with pytest.raises(ValueError, match=r"L2SP: head is -1\.0; expected "):
        terms.L2SP(head=-1.0)


NEED_CLASSES = (
    "LabelSmoothing", "Entropy", "RDrop", "Mixup", "CutMix", "Lwf", "PseudoLabel", "FixMatch", "MeanTeacher", "Shot",
    "Cdan", "Gate", "Mcc", "Mcd", "Jmmd", "Mdd", "Pada",
)  # fmt: skip


@pytest.mark.parametrize("name", NEED_CLASSES)
def test_terms_that_need_classes_refuse_numbers(name, mlp):
    streams = ("labelled", "source", "unlabelled")
    with pytest.raises(ValueError) as error:
        check_needs((EXPORTED[name](),), streams, tasks.Regression(outputs=3))
    assert str(error.value) == f"{name} needs the task tasks.Classification, not tasks.Regression"


def test_a_changing_weight_is_logged(mlp):
    ramp = mlp.look(terms.Supervised(weight=terms.Ramp(0.0, 4.0)), progress=0.25)
    plain = mlp.look(terms.Supervised())
    assert ramp.metrics["weight"] == 1.0
    assert "weight" not in plain.metrics
    assert ramp.value == plain.value
    both = mlp.look(terms.L2SP(head=terms.Ramp(), weight=terms.Ramp(2.0, 2.0)), progress=0.5)
    assert (both.metrics["weight"], both.metrics["head_weight"]) == (2.0, 0.5)


IMAGES = models.Mlp(inputs=(4, 4, 1), widths=(5, 4))
MORE = {
    "L2SP": {"head": 0.0},
    "CoTuning": {"source": "saved"},
    "Distill": {"teacher": "saved", "what": "hidden"},
    "Lwf": {"source": "saved"},
    "PseudoLabel": {"threshold": 0.0},
    "FixMatch": {"threshold": 0.0},
    "Mdan": {"sources": ("source",)},
}


@pytest.mark.parametrize("name", EXPORTED)
def test_every_weight_may_be_a_ramp(name, mlp, tmp_path):
    config = IMAGES if name in ("Mixup", "CutMix", "FixMatch") else mlp.config
    mlp.save(tmp_path / "saved", config, 5, seed=8)
    more = {field: str(tmp_path / value) if value == "saved" else value for field, value in MORE.get(name, {}).items()}
    now = mlp.drawn(models.build(config, 3), 3)
    ramp = EXPORTED[name](weight=terms.Ramp(0.0, 4.0), **more)
    rest = (ramp, EXPORTED[name](weight=1.0, **more))
    elsewhere = {"source": mlp.labelled(config, seed=2), "unlabelled": mlp.labelled(config, seed=3)}
    average = mlp.drawn(models.build(config, 3), 4).params
    half, plain = (
        mlp.look(value, config=config, now=now, progress=0.125, others=elsewhere, average=average) for value in rest
    )
    assert half.value == pytest.approx(0.5 * plain.value, rel=1e-6)
    assert plain.value != 0
    assert half.metrics["weight"] == 0.5


def test_the_supervised_loss_is_the_loss_of_the_task(mlp):
    actual, batch = mlp.look(terms.Supervised(weight=0.5)), mlp.labelled()
    p = mlp.softmax(mlp.by_hand(mlp.drawn(mlp.model, 0), batch["x"])[2])
    assert actual.value == pytest.approx(-0.5 * np.log(p[np.arange(len(p)), batch["label"]]).mean(), rel=1e-5)


def test_terms_on_images_are_checked_against_the_input_of_the_model():
    assert "image" in models.example_inputs(models.Cnn())
    assert "image" not in models.example_inputs(models.Bert())
