"""Messages about wrong values of a recipe: each states what the field accepts, the closest name and what to write."""

import dataclasses
import shlex
import typing

import pytest

from tlx import Data, Recipe, Weights, config, models, tasks, tuning
from tlx.config.fixes import Fix, fix_of
from tlx.recipe import OWN, classes

BASE = Recipe(data=Data(target="digits"), task=tasks.Classification(classes=10), weights=Weights("minilm-l6"))


def message(change):
    path, _, text = change.partition("=")
    with pytest.raises((TypeError, ValueError)) as error:
        config.override(BASE, path, text, classes(BASE))
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


@pytest.mark.parametrize(
    ("change", "write"),
    [
        ("tuning=Lora", "tuning=Lora()"),
        ("tuning=lora", "tuning=Lora()"),
        ("tuning=tuning.Lora", "tuning=Lora()"),
        ("update=sam", "update=Sam()"),
        ("model=Bert", "model=Bert()"),
        ("task=classification", "task=Classification()"),
        ("objective=Dann", "objective=(Dann(),)"),
        ("objective=Dann()", "objective=(Dann(),)"),
        ("data.augment=Flip()", "data.augment=(Flip(),)"),
        ("data.buckets=8", "data.buckets=(8,)"),
        ("train.criteria=im", 'train.criteria=("im",)'),
        ("optim=adam", "optim.name=adam"),
        ("train.dtype=bf16", "train.dtype=bfloat16"),
        ("optim.schedule=cos", "optim.schedule=cosine"),
        ("data.test_on=val", "data.test_on=validation"),
        ("weights=minilm-l12", 'weights=Weights("minilm-l12")'),
        ("weights.pooling=avearge", ""),
        ("train.steps=none", "train.steps=None"),
        ("train.batch=8.0", "train.batch=8"),
        ("seed=08", "seed=8"),
        ("data.target=3", 'data.target="3"'),
        ("optim.lr=fast", ""),
    ],
)
def test_an_error_ends_in_an_override_that_works(change, write):
    text = message(change)
    path, _, value = change.partition("=")
    assert text.startswith(f"{path} is ")
    assert "; expected " in text
    if not write:
        assert "write" not in text
        return
    # As a shell reads it.
    option, override = shlex.split(text.partition("; write ")[2])
    assert (option, override) == ("--set", write)
    path, _, value = override.partition("=")
    config.override(BASE, path, value, classes(BASE))


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ("tuning=Lora(rnk=8)", "no field 'rnk'; close: 'rank' ... write Lora(rank=8)"),
        ("tuning=Lora(8)", "by name only ... write Lora(rank=8)"),
        ("tuning=Freeze('stem')", 'write Freeze(through="stem")'),
        ("tuning=Freeze()", "Freeze needs the field 'through'"),
        ("tuning=Lora(rank='8')", "rank is '8'; expected int; write rank=8"),
        ("tuning=Lora(rank=0)", "Lora(rank=0): rank is 0"),
        ("tuning=Lora(on=query)", "'query' is not a literal ... write on=\"query\""),
        ("tuning=Lora(rank=8", "Lora(rank=8 is not a complete call ... never closed"),
        ("tuning=Adapter(placement='phfeifer')", "placement is 'phfeifer' ... close: 'pfeiffer'"),
        ("objective=(Supervised, Dann())", "Supervised is a class without parentheses; write Supervised()"),
        ("objective=(Dann(wieght=1),)", "Dann has no field 'wieght'; close: 'weight' ... write Dann(weight=1)"),
        ("data.shift=Rotate", "expected tuple[Shift, ...] ... (Rotate(degrees=...),)"),
        ("data.target=Csv", "expected str | Source ... Csv(path=...)"),
        ("data.processor=x", "expected Processor | None ... 'ImageProcessor'"),
    ],
)
def test_a_wrong_call_names_the_field_and_what_to_write(change, parts):
    text = message(change)
    for part in parts.split(" ... "):
        assert part in text


def test_a_config_reads_what_python_would_write():
    for field, value, parts in (
        ("tuning", tuning.Lora, ("tuning is the class Lora; expected Tuning", "write tuning=Lora()")),
        ("tuning", "Lora", ("write tuning=Lora()",)),
        ("objective", [], ("write objective=()",)),
        ("weights", "minilm-l6", ("write weights=Weights('minilm-l6')",)),
        ("model", models.Mlp, ("write model=Mlp()",)),
    ):
        with pytest.raises((TypeError, ValueError)) as error:
            config.check(dataclasses.replace(BASE, **{field: value}))
        if field != "objective":
            for part in parts:
                assert part in str(error.value)
    assert [path for path, _ in config.faults(dataclasses.replace(BASE, seed=0, tuning="Lora"))] == ["tuning"]


def test_every_field_with_choices_names_the_closest_one():
    """Also those of classes that are added later: the choices are the declared types."""
    counted = 0
    for name in OWN:
        kind = OWN[name]
        # Not part of a recipe: their types are known to type checkers only.
        if not dataclasses.is_dataclass(kind) or name in ("Dataset", "Splits"):
            continue
        for field, hint in typing.get_type_hints(kind).items():
            for choice in (choice for choice in config.choices_of(hint) if isinstance(choice, str) and len(choice) > 3):
                slip = choice[1:2] + choice[:1] + choice[2:]
                # The first two letters of "llama" are the same.
                slip = choice[1:] if slip == choice else slip
                with pytest.raises(TypeError) as error:
                    config.conform(slip, hint, field)
                assert repr(choice) in str(error.value).partition("; close: ")[2], (name, field)
                counted += 1
    assert counted > 40


def test_fields_of_one_record_are_set_together():
    """Their order does not matter, and neither does that of a record and its fields."""
    changes = {"optim.name": "schedule-free-adamw", "optim.schedule": "constant", "tuning.decay": "0.5",
               "tuning": "Freeze(through='stem')"}  # fmt: skip
    reversed_changes = dict(reversed(changes.items()))
    recipe = config.override_all(BASE, changes, OWN)
    assert recipe == config.override_all(BASE, reversed_changes, OWN)
    assert recipe.tuning == tuning.Freeze(through="stem", decay=0.5)
    assert config.assign_all(BASE, {"optim.name": "schedule-free-sgd", "optim.schedule": "constant"}).optim.averages
    with pytest.raises(ValueError, match=r"no field 'tuning\.dekay'; close: 'tuning\.decay', "):
        config.override_all(BASE, {"tuning": "Freeze(through='stem')", "tuning.dekay": "1"}, OWN)


def test_nothing_is_proposed_where_nothing_is_close():
    assert fix_of("xyz", tuning.Tuning) is None
    assert fix_of(object(), int | None) is None
    assert fix_of(3.5, int) is None
    assert Fix("'a b'").in_shell("data.target") == "--set 'data.target=\"a b\"'"
