"""What moves, and how fast, over every architecture."""

import pytest

from tlx import Learn, models, tuning
from tlx.partition import partition, still
from tlx.trees import flatten
from tlx.tuning.base import parametric

TINY = {
    "bert": models.Bert(vocabulary=11, width=4, depth=6, heads=2, mlp=4, positions=8),
    "vit": models.Vit(size=4, patch=2, channels=1, width=4, depth=6, heads=2, mlp=4),
    "cnn": models.Cnn(size=8, widths=(2, 3), dense=4),
    "mlp": models.Mlp(inputs=(4,), widths=(3, 3), input="x"),
}
MODELS = {name: models.build(settings, 3) for name, settings in TINY.items()}
each_model = pytest.mark.parametrize("name", MODELS)


def parts(name, how):
    (phase,) = how.phases(MODELS[name])
    assert phase.share == 1.0
    return partition(MODELS[name].params, phase.rules)


def rates(name, how):
    """The multiplier of each stage with parameters, None where it is frozen; one for all leaves of a stage."""
    claimed = parts(name, how)
    found = {}
    for stage in parametric(MODELS[name]):
        own = {learn for path, learn in claimed.items() if path.startswith(f"{stage}/")}
        assert len(own) == 1
        found[stage] = None if own == {None} else own.pop().lr
    return found


@each_model
def test_full_moves_everything_at_the_full_rate(name):
    claimed = parts(name, tuning.Full())
    assert claimed.keys() == flatten(MODELS[name].params).keys()
    assert set(claimed.values()) == {Learn()}


@each_model
def test_the_rate_falls_stage_by_stage_from_the_head_down(name):
    found = list(rates(name, tuning.Full(decay=0.5)).values())
    assert found == [0.5**n for n in reversed(range(len(found)))]


@each_model
def test_probe_moves_the_head_alone(name):
    found = rates(name, tuning.Probe())
    assert found.pop("head") == 1.0
    assert set(found.values()) == {None}
    assert still(found, parts(name, tuning.Probe())) == set(found)


@each_model
def test_freeze_holds_every_stage_up_to_the_named_one(name):
    stages = parametric(MODELS[name])
    for cut, through in enumerate(stages[:-1], 1):
        found = rates(name, tuning.Freeze(through=through, decay=0.75))
        assert [found[stage] for stage in stages[:cut]] == [None] * cut
        assert [found[stage] for stage in stages[cut:]] == [0.75**n for n in reversed(range(len(stages) - cut))]


def test_freeze_of_the_readme():
    found = rates("bert", tuning.Freeze(through="blocks/03", decay=0.75))
    assert found == {
        "stem": None, "blocks/00": None, "blocks/01": None, "blocks/02": None, "blocks/03": None,
        "blocks/04": 0.75**3, "blocks/05": 0.75**2, "pool": 0.75, "head": 1.0,
    }  # fmt: skip


def test_rules_are_taken_as_they_are():
    claimed = parts(
        "vit",
        tuning.Rules(
            (r"stem/.*|blocks/0[0-3]/.*", None), (r".*/bias", Learn(lr=0.3, weight_decay=0)), (r".*", Learn())
        ),
    )
    assert claimed["blocks/03/attention/query/bias"] is None
    assert claimed["blocks/04/attention/query/bias"] == Learn(lr=0.3, weight_decay=0)
    assert claimed["blocks/04/attention/query/kernel"] == Learn()


@each_model
def test_no_tuning_of_ours_adds_leaves(name):
    for how in (tuning.Full(), tuning.Probe(), tuning.Freeze(through="stem"), tuning.Rules((".*", Learn()))):
        assert how.insert(MODELS[name], MODELS[name].params, None) is MODELS[name].params


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: tuning.Full(decay=0.0), ValueError, "decay is 0.0; a rate multiplier a stage lies in (0, 1]"),
        (lambda: tuning.Freeze(through="x", decay=1.5), ValueError,
         "decay is 1.5; a rate multiplier a stage lies in (0, 1]"),
        (lambda: parts("bert", tuning.Freeze(through="block/03")), ValueError,
         "Freeze(through='block/03'): no such stage; close: 'blocks/03', 'blocks/00', 'blocks/01'"),
        (lambda: parts("bert", tuning.Freeze(through="head")), ValueError,
         "Freeze(through='head') leaves nothing to learn: it is the last stage"),
        (tuning.Rules, ValueError, "Rules() needs at least one rule"),
        (lambda: tuning.Rules(("stem/.*", 0.5)), TypeError,
         "a rule is (regex, Learn(...) or None), got ('stem/.*', 0.5)"),
        (lambda: tuning.Rules("stem/.*", None), TypeError, "a rule is (regex, Learn(...) or None), got 'stem/.*'"),
        (lambda: tuning.Rules(None), TypeError, "a rule is (regex, Learn(...) or None), got None"),
    ],
)  # fmt: skip
def test_an_impossible_tuning_is_refused(make, kind, message):
    with pytest.raises(kind) as error:
        make()
    assert str(error.value) == message


def test_probe_needs_a_stage_below_the_head():
    from flax import linen

    one = models.build(models.Linen(module=linen.Dense(3), shape=(4,), input="x"), 3)
    with pytest.raises(ValueError) as error:
        tuning.Probe().phases(one)
    assert str(error.value) == "Probe() needs a stage below the head; this model has ['module']; use Rules(...)"


def test_the_table_names_every_tuning_by_its_class():
    assert all(kind.__name__ == name and issubclass(kind, tuning.Tuning) for name, kind in tuning.TUNINGS.items())
    with pytest.raises(TypeError, match=r"^Tuning does not say which phases it has$"):
        tuning.Tuning().phases(MODELS["mlp"])
