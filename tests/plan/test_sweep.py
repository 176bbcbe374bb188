"""Sweeps of a plan: their texts, values that are wrong, and combinations that do not fit together."""

import pytest

from tlx import Data, Recipe, Train, models, sharding, tasks
from tlx.plan import Planner, parse_sweep, parse_target, plan_sweep, read_chips
from tlx.plan.sweep import mesh_of

CHIPS = read_chips()
SMALL = Recipe(
    data=Data(target="digits"),
    task=tasks.Classification(classes=10),
    model=models.Mlp(),
    train=Train(steps=10, batch=32),
)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("train.bach=1", ["bach", "batch"]),
        ("1,2", ["1,2", "train.batch="]),
        ("train.batch=", ["train.batch="]),
        ("mesh=data=4,data=x", ["mesh=data=x", "'x'"]),
        ("mesh=data=4,pipeline=2", ["pipeline"]),
        ("mesh=pipeline=2", ["pipeline", "fsdp"]),
        ("mesh=data=0", ["mesh=data=0", "1 or more"]),
        ("mesh=data=2:data=4", ["data", "twice"]),
    ],
)
def test_a_wrong_sweep_is_rejected(text, parts):
    with pytest.raises(ValueError) as error:
        parse_sweep([text], SMALL)
    assert all(part in str(error.value) for part in parts), error.value


def test_a_mesh_of_a_sweep_joins_its_axes_by_colons():
    assert mesh_of("data=-1:fsdp=4") == sharding.Mesh(fsdp=4)
    with pytest.raises(ValueError, match=r"fdsp.*fsdp"):
        mesh_of("fdsp=4")
    with pytest.raises(ValueError, match="four"):
        mesh_of("data=four")


@pytest.mark.parametrize(
    ("texts", "parts"),
    [
        (["train.remat=none,dogs"], ["train.remat", "dogs", "dots"]),
        (["train.batch=256,abc", "train.remat=none,dots"], ["train.batch=abc", "expected int"]),
        (["mesh=data=-1,data=1", "train.batch=abc"], ["--sweep train.batch=abc: "]),
        (["train.batch=32,0"], ["train.batch=0", "positive"]),
        (["data.target=digits,digitz"], ["data.target=digitz", "'digits'"]),
        (["optim.lr=1e-3,fast,mesh=data=-1,data=1"], ["optim.lr=fast"]),
    ],
)
def test_a_wrong_value_of_a_sweep_is_rejected_before_a_plan_is_made(texts, parts):
    said = []
    with pytest.raises(ValueError) as error:
        plan_sweep(Planner(said.append), SMALL, [parse_target("v5e:2x2", CHIPS)], parse_sweep(texts, SMALL))
    assert all(part in str(error.value) for part in parts), error.value
    assert not said and "\n" not in str(error.value)


def test_a_sweep_keeps_the_combinations_that_do_not_fit_together():
    """32 is the only batch that 4 pieces share; the sweep reaches the compiler, which is not installed here."""
    settings = parse_sweep(["train.batch=31,32,train.accumulate=1,4"], SMALL)
    with pytest.raises(ImportError, match="plan-tpu"):
        plan_sweep(Planner(), SMALL, [parse_target("v5e:2x2", CHIPS)], settings)


@pytest.mark.parametrize(
    ("sweep", "part"), [("train.batch=31,33,mesh=data=2", "31"), ("mesh=data=3", "3"), ("mesh=data=8", "4 devices")]
)
def test_a_sweep_without_a_possible_combination_is_an_error(sweep, part):
    with pytest.raises(ValueError) as error:
        plan_sweep(Planner(), SMALL, [parse_target("v5e:2x2", CHIPS)], parse_sweep([sweep], SMALL))
    assert part in str(error.value) and "\n" not in str(error.value)
