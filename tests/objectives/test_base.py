"""What the terms share."""

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


def test_passes_are_of_what_is_read_and_a_stream_that_is_added_changes_no_other():
    one, two = {"index": None}, {"index": None}
    plain = passes((terms.Supervised(),), ["labelled"], {"labelled": one})
    assert plain == [Pass("labelled", 0, True)]
    both = passes((terms.Supervised(), terms.CutMix()), ["labelled"], {"labelled": one, "cutmix": two})
    assert both[0] == plain[0]
    assert (both[1].stream, both[1].moves) == ("cutmix", False)
    # By itself, the mixed images are all that the running statistics see, and there is no pass of the plain ones.
    (only,) = passes((terms.CutMix(),), ["labelled"], {"labelled": one, "cutmix": two})
    assert only == both[1]._replace(moves=True)
    assert not passes((terms.L2SP(),), ["labelled"], {"labelled": one})


@pytest.mark.parametrize(
    ("reads", "moving"),
    [(("source",), ["source"]), (("source", "unlabelled"), ["unlabelled"]), (("unlabelled", "labelled"), None)],
)
def test_the_target_moves_the_running_statistics_where_it_is_read(reads, moving):
    given = ["source", "labelled", "unlabelled"]
    objective = [terms.Entropy(on=stream) for stream in reads]
    found = passes(objective, given, {name: {"index": None} for name in given})
    assert [own.stream for own in found] == [stream for stream in given if stream in reads]
    assert [own.stream for own in found if own.moves] == (moving or ["labelled", "unlabelled"])


def test_a_stream_that_is_not_there_is_refused():
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
def test_every_term_says_which_stream_it_misses(make):
    with pytest.raises(ValueError) as error:
        check_needs((make(on="labeled"),), ["labelled"])
    assert str(error.value).startswith(
        f"{make.__name__} reads the stream 'labeled', which does not exist; the streams are: "
    )


def test_what_terms_add_learns_by_rules_of_its_own_and_is_no_part_of_the_model(mlp):
    params = mlp.drawn(mlp.model, 0).params
    more, rules = inserted((terms.Supervised(), terms.Lwf()), mlp.model, params, jax.random.key(0))
    assert rules == ((r"lwf/head/bias|lwf/head/kernel", Learn()),)
    assert flatten(without_inserted(mlp.model, more)).keys() == flatten(params).keys()
    assert inserted((terms.Supervised(),), mlp.model, params, jax.random.key(0))[1] == ()
    with pytest.raises(ValueError, match="Lwf adds 'lwf/head/bias', but the model already has this leaf"):
        inserted((terms.Lwf(), terms.Lwf()), mlp.model, params, jax.random.key(0))


@pytest.mark.parametrize("name", [name for name in EXPORTED if name not in ("CoTuning", "Distill")])
def test_no_weight_is_negative(name):
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
def test_what_needs_classes_refuses_numbers(name, mlp):
    streams = ("labelled", "source", "unlabelled")
    with pytest.raises(ValueError) as error:
        check_needs((EXPORTED[name](),), streams, tasks.Regression(outputs=3))
    assert str(error.value) == f"{name} needs the task tasks.Classification, not tasks.Regression"


def test_the_weight_of_the_moment_is_logged_where_it_changes(mlp):
    ramp = mlp.look(terms.Supervised(weight=terms.Ramp(0.0, 4.0)), progress=0.25)
    plain = mlp.look(terms.Supervised())
    assert ramp.told["weight"] == 1.0
    assert "weight" not in plain.told
    assert ramp.value == plain.value
    both = mlp.look(terms.L2SP(head=terms.Ramp(), weight=terms.Ramp(2.0, 2.0)), progress=0.5)
    assert (both.told["weight"], both.told["head_weight"]) == (2.0, 0.5)


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
def test_every_weight_may_follow_the_clock(name, mlp, tmp_path):
    config = IMAGES if name in ("Mixup", "CutMix", "FixMatch") else mlp.config
    mlp.save(tmp_path / "saved", config, 5, seed=8)
    more = {field: str(tmp_path / own) if own == "saved" else own for field, own in MORE.get(name, {}).items()}
    now = mlp.drawn(models.build(config, 3), 3)
    ramp = EXPORTED[name](weight=terms.Ramp(0.0, 4.0), **more)
    others = (ramp, EXPORTED[name](weight=1.0, **more))
    elsewhere = {"source": mlp.labelled(config, seed=2), "unlabelled": mlp.labelled(config, seed=3)}
    average = mlp.drawn(models.build(config, 3), 4).params
    half, plain = (
        mlp.look(own, config=config, now=now, progress=0.125, others=elsewhere, average=average) for own in others
    )
    assert half.value == pytest.approx(0.5 * plain.value, rel=1e-6)
    assert plain.value != 0
    assert half.told["weight"] == 0.5


def test_the_supervised_risk_is_the_tasks_own(mlp):
    found, batch = mlp.look(terms.Supervised(weight=0.5)), mlp.labelled()
    p = mlp.softmax(mlp.by_hand(mlp.drawn(mlp.model, 0), batch["x"])[2])
    assert found.value == pytest.approx(-0.5 * np.log(p[np.arange(len(p)), batch["label"]]).mean(), rel=1e-5)


def test_terms_that_look_at_images_are_told_apart_by_what_the_model_reads():
    assert "image" in models.example_inputs(models.Cnn())
    assert "image" not in models.example_inputs(models.Bert())
