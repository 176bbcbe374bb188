"""The trainable parameters and their learning rates, over every architecture."""

import dataclasses
import re

import pytest

from tlx import Learn, models, tuning
from tlx.partition import frozen_stages, partition
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
    """The multiplier of each stage with parameters, None if it is frozen; all parameters of a stage share it."""
    claimed = parts(name, how)
    results = {}
    for stage in parametric(MODELS[name]):
        value = {learn for path, learn in claimed.items() if path.startswith(f"{stage}/")}
        assert len(value) == 1
        results[stage] = None if value == {None} else value.pop().lr
    return results


@each_model
def test_full_trains_everything_at_the_full_rate(name):
    claimed = parts(name, tuning.Full())
    assert claimed.keys() == flatten(MODELS[name].params).keys()
    assert set(claimed.values()) == {Learn()}


# The number of layers between each stage and the head, in the order of the chain.
DEPTHS = {
    "bert": [7, 6, 5, 4, 3, 2, 1, 0, 0],
    "vit": [7, 6, 5, 4, 3, 2, 1, 1, 0],
    "cnn": [3, 2, 1, 0],
    "mlp": [2, 1, 0],
}


@each_model
def test_the_rate_falls_by_layer_from_the_head_down(name):
    assert list(rates(name, tuning.Full(decay=0.5)).values()) == [0.5**depth for depth in DEPTHS[name]]


def timm_scales(names, depth, decay):
    """`param_groups_layer_decay` of timm for its ViTs, written out: by name, decay ** (last layer - layer)."""
    order = {}
    for name in names:
        if re.match(r"cls_token|pos_embed|patch_embed", name):
            order[name] = (0.0,)
        elif actual := re.match(r"blocks\.(\d+)", name):
            order[name] = (1.0, float(actual[1]))
        elif re.match("norm", name):
            # Marked to count with the previous group, after sorting.
            order[name] = (1.0, 99999.0)
        else:
            order[name] = (float("inf"),)
    layer, number = {}, -1
    for key in sorted(set(order.values())):
        number += number < 0 or key[-1] != 99999.0
        layer |= {name: number for name in names if order[name] == key}
    assert number == depth + 1
    return {name: decay ** (number - value) for name, value in layer.items()}


@pytest.mark.parametrize("depth", [1, 2, 12])
def test_the_rates_of_a_vit_are_those_of_timm(depth):
    model = models.build(dataclasses.replace(TINY["vit"], depth=depth), 3)
    (phase,) = tuning.Full(decay=0.75).phases(model)
    expected = {"class": "cls_token", "positions": "pos_embed", "patch": "patch_embed.proj"}
    spelled = {
        path: expected[path.split("/")[1]] if path.startswith("stem/") else re.sub(r"blocks/0*(\d)", r"blocks.\1", path)
        for path in flatten(model.params)
    }
    scales = timm_scales(set(spelled.values()), depth, 0.75)
    for path, learn in partition(model.params, phase.rules).items():
        assert learn.lr == pytest.approx(scales[spelled[path]]), path


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra"])
@pytest.mark.parametrize("pooling", ["first", "mean"])
@pytest.mark.parametrize("how", ["Full", "Freeze", "LinearThenFull", "Gradual"])
def test_blocks_have_the_same_rates_in_every_family(family, pooling, how):
    """For every kind of head: the head 1, block n decay ** (N - n), the stem decay ** (N + 1)."""
    model = models.build(dataclasses.replace(TINY["bert"], family=family, pooling=pooling), 3)
    built = {
        "Full": tuning.Full(decay=0.5), "Freeze": tuning.Freeze(through="stem", decay=0.5),
        "LinearThenFull": tuning.LinearThenFull(decay=0.5), "Gradual": tuning.Gradual(factor=2.0),
    }[how]  # fmt: skip
    claimed = partition(model.params, built.phases(model)[-1].rules)
    for path, learn in claimed.items():
        stage, number = path.split("/")[0], path.split("/")[1]
        depth = {"stem": 7, "blocks": 6 - int(number) if stage == "blocks" else 0, "pool": 0, "head": 0}[stage]
        assert (None if learn is None else learn.lr) == (None if (how, stage) == ("Freeze", "stem") else 0.5**depth)


def test_the_ratio_of_fine_tune_is_between_the_last_layer_and_the_first():
    *_, second = tuning.FineTune(ratio=2.0**7).phases(MODELS["vit"])
    actual = {path.split("/.")[0]: learn.lr for path, learn in second.rules}
    assert [2 * rate for rate in actual.values()] == pytest.approx([0.5**depth for depth in DEPTHS["vit"]])


@each_model
def test_probe_trains_the_head_only(name):
    actual = rates(name, tuning.Probe())
    assert actual.pop("head") == 1.0
    assert set(actual.values()) == {None}
    assert frozen_stages(actual, parts(name, tuning.Probe())) == set(actual)


@each_model
def test_freeze_freezes_every_stage_up_to_the_named_one(name):
    stages = parametric(MODELS[name])
    for cut, through in enumerate(stages[:-1], 1):
        actual = rates(name, tuning.Freeze(through=through, decay=0.75))
        assert [actual[stage] for stage in stages[:cut]] == [None] * cut
        assert [actual[stage] for stage in stages[cut:]] == [0.75**depth for depth in DEPTHS[name][cut:]]


def test_freeze_of_the_readme():
    actual = rates("bert", tuning.Freeze(through="blocks/03", decay=0.75))
    assert actual == {
        "stem": None, "blocks/00": None, "blocks/01": None, "blocks/02": None, "blocks/03": None,
        "blocks/04": 0.75**2, "blocks/05": 0.75, "pool": 1.0, "head": 1.0,
    }  # fmt: skip


def test_rules_are_used_unchanged():
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
def test_these_tunings_insert_no_parameters(name):
    for how in (tuning.Full(), tuning.Probe(), tuning.Freeze(through="stem"), tuning.Rules((".*", Learn()))):
        assert how.insert(MODELS[name], MODELS[name].params, None) is MODELS[name].params


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: tuning.Full(decay=0.0), ValueError, "decay is 0.0 ... rate multiplier ... layer in (0, 1]"),
        (lambda: tuning.Freeze(through="x", decay=1.5), ValueError,
         "decay is 1.5 ... rate multiplier ... layer in (0, 1]"),
        (lambda: parts("bert", tuning.Freeze(through="block/03")), ValueError,
         "Freeze(through='block/03') ... such stage; close: 'blocks/03', 'blocks/00', 'blocks/01'"),
        (lambda: parts("bert", tuning.Freeze(through="head")), ValueError,
         "Freeze(through='head') ... last stage ... stage"),
        (tuning.Rules, ValueError, "Rules() ... least one rule"),
        (lambda: tuning.Rules(("stem/.*", 0.5)), TypeError,
         "rule is ('stem/.*', 0.5) ... (regex, Learn(...) or None)"),
        (lambda: tuning.Rules("stem/.*", None), TypeError, "rule is 'stem/.*' ... (regex, Learn(...) or None)"),
        (lambda: tuning.Rules(None), TypeError, "rule is None ... (regex, Learn(...) or None)"),
    ],
)  # fmt: skip
def test_an_invalid_tuning_is_refused(make, kind, message):
    with pytest.raises(kind) as error:
        make()
    for part in message.split(" ... "):
        assert part in str(error.value)


def test_probe_needs_a_stage_below_the_head():
    from flax import linen

    one = models.build(models.Linen(module=linen.Dense(3), shape=(4,), input="x"), 3)
    with pytest.raises(ValueError) as error:
        tuning.Probe().phases(one)
    assert (
        str(error.value)
        == "Probe() requires a stage below the head, but this model has the stages ['module']; use Rules(...)"
    )


def test_the_declarations_of_a_tuning_are_true():
    """Tunings that choose parameters insert nothing and have one phase; a subclass declares its phases."""
    chooses = {"Full": tuning.Full(), "Probe": tuning.Probe(), "Freeze": tuning.Freeze(through="stem"),
               "Rules": tuning.Rules((".*", tuning.Learn())), "BitFit": tuning.BitFit()}  # fmt: skip
    kinds = [kind for kind in vars(tuning).values() if isinstance(kind, type) and issubclass(kind, tuning.Tuning)]
    assert {kind.__name__ for kind in kinds if kind.chooses} == chooses.keys() | {"NormTuning"}
    for how in chooses.values():
        assert len(how.phases(MODELS["mlp"])) == 1 and type(how).insert is tuning.Tuning.insert
    assert {kind.__name__ for kind in kinds if kind.padded} == {"Lora", "Dora"}
    assert not any(kind.merged_in_step for kind in kinds)
    with pytest.raises(TypeError, match=r"^Tuning does not define phases"):
        tuning.Tuning().phases(MODELS["mlp"])
