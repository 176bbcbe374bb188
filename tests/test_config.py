"""Recipes as values: override, dump, load, fingerprint, diff."""

import ast
import contextlib
import dataclasses
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jax
import pytest

from tlx import Data, Learn, Optim, Recipe, Train, Weights, config, models, tasks, tuning
from tlx.data import (
    Arrays,
    Concat,
    Crop,
    Csv,
    Flip,
    Folder,
    Frame,
    HfDataset,
    ImageList,
    Jsonl,
    Member,
    Mixture,
    Noise,
    Parquet,
    RandomResizedCrop,
    Resize,
    Stream,
    Test,
    Tfds,
    Where,
    shifts,
    sound_shifts,
)
from tlx.data.sources.numbers import Numbers
from tlx.files import schema_1
from tlx.files.class_names import Classes
from tlx.objectives import CoTuning, Delta, Distill, Ramp, Supervised
from tlx.processors import TextProcessor
from tlx.processors.numbers import NumberProcessor
from tlx.recipe import OWN, PACKAGES, classes
from tlx.tuning import Freeze, Full, InTurn, Probe, Rules

BASE = Recipe(
    data=Data(target="digits", augment=(Crop(padding=1), Flip())),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(16,)),
)
RULES = Rules((r"stem/.*", None), (r".*/bias", Learn(lr=0.3, weight_decay=0.0)), (r".*", Learn()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    """A part of a user-defined class."""

    share: float = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Users(tuning.Tuning):
    """A user-defined class."""

    inner: Inner = Inner()


# One object of every class that may be in a file, with a field that is not its default if it has one.
ONE_OF_EACH = {
    "Recipe": BASE,
    "Data": Data(
        target="digits",
        source="mnist5k",
        fraction=0.5,
        buckets=(4, 8),
        eps_y=0.3,
        eps_x=0.7,
        imbalance=10.0,
        shift=(shifts.Rotate(degrees=90.0), shifts.Blur(sigma=1.0)),
        target_classes=("1", "2"),
    ),
    "Weights": Weights("minilm-l6", reset=("head/.*",)),
    "Optim": Optim("sgd", lr=0.1, momentum=None, clip=2.0),
    "Train": Train(steps=3, select="best-validation", dtype="bfloat16"),
    "Learn": Learn(lr=0.5),
    "Classification": tasks.Classification(classes=2, names=("no", "yes"), smoothing=0.1),
    "Regression": tasks.Regression(outputs=3),
    "Bert": models.Bert(family="electra", embedding=8),
    "Vit": models.Vit(size=(8, 12), patch=4, layer_scale=0.1),
    "Cnn": models.Cnn(size=8, dense=None),
    "Mlp": models.Mlp(widths=(3, 4)),
    "Flip": Flip(),
    "Crop": Crop(padding=3),
    "Noise": Noise(std=0.1),
    "Resize": Resize(size=256),
    "RandomResizedCrop": RandomResizedCrop(resample="bilinear"),
    "Rotate": shifts.Rotate(degrees=30.0),
    "Contrast": shifts.Contrast(factor=0.5),
    "GaussianNoise": shifts.GaussianNoise(std=0.2),
    "Blur": shifts.Blur(sigma=1.5),
    "Occlude": shifts.Occlude(share=0.25),
    "DropWords": shifts.DropWords(share=0.3),
    "Typos": shifts.Typos(share=0.1),
    "BackgroundNoise": sound_shifts.BackgroundNoise(snr=10.0),
    "Speed": sound_shifts.Speed(factor=1.1),
    "Codec": sound_shifts.Codec(law="a-law"),
    "Csv": Csv("reviews.csv", label="stars"),
    "Jsonl": Jsonl("reviews.jsonl", missing="drop"),
    "Parquet": Parquet("reviews.parquet", time="day"),
    "Folder": Folder("pictures", table="labels.csv"),
    "ImageList": ImageList("train.txt", test="test.txt", classes=("0", "1")),
    "HfDataset": HfDataset("user/reviews", config="de"),
    "Frame": Frame("0" * 32, text="body", label=("toxic", "rude")),
    "Arrays": Arrays("1" * 32, group="patient"),
    "Concat": Concat(("a.csv", Csv("b.csv"))),
    "Where": Where("a.csv", column="language", values=("en", 3)),
    "Member": Member(name="films", source="a.csv", prefix="film: "),
    "Mixture": Mixture((Member(name="a", source=Csv("a.csv")), Member(name="b", source="b.csv")), limit=9),
    "Numbers": Numbers("2" * 32, classes=("ill", "well")),
    "NumberProcessor": NumberProcessor(width=3, mean=(1.0,)),
    "Tfds": Tfds("digits"),
    "Test": Test(name="far", source="mnist5k"),
    "Stream": Stream(name="memory", source="mnist5k", batch=8),
    "Pooled": models.Pooled(3),
    "PerToken": models.PerToken(3),
    "Full": Full(decay=0.5),
    "Probe": Probe(),
    "Freeze": Freeze(through="blocks/00", decay=0.75),
    "Rules": RULES,
    "InTurn": InTurn((0.5, Probe()), (0.5, RULES)),
    "Supervised": Supervised(on="source", weight=0.25),
    "Ramp": Ramp(0.5, 2.0, shape="sigmoid", over=(0.25, 0.5)),
    "Delta": Delta(stages=("stem", "blocks/00"), weight=Ramp()),
    "CoTuning": CoTuning(source="runs/old"),
    "Distill": Distill(teacher="runs/large", what="hidden", pairs=(("blocks/00", "blocks/01"),)),
}


# The others with their defaults. Three cannot be loaded without a function or a module, and the rest are not part of a
# recipe.
LEFT_OUT = ("Linen", "Nnx", "ExtraMetric", "Dataset", "Splits", "Head", "Metric", "Statement")
NAMED = [name for name in OWN if name not in LEFT_OUT]
ONE_OF_EACH |= {name: OWN[name]() for name in NAMED if name not in ONE_OF_EACH}


def changed(path, text, base=BASE):
    return config.override(base, path, text, OWN)


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("seed", "3", 3),
        ("optim.lr", "1e-4", 1e-4),
        ("optim.name", "sgd", "sgd"),
        ("optim.name", "'sgd'", "sgd"),
        ("optim.clip", "None", None),
        ("data.shots", "16", 16),
        ("data.target", "sentiment/movies", "sentiment/movies"),
        ("data.target", "runs/008", "runs/008"),
        ("data.buckets", "(8, 16)", (8, 16)),
        ("data.buckets", "[8, 16]", (8, 16)),
        ("data.buckets.1", "48", 48),
        ("weights", "Weights('minilm-l6', reset=('head/.*',))", Weights("minilm-l6", reset=("head/.*",))),
        ("tuning", "Freeze(through='blocks/03')", Freeze(through="blocks/03")),
        ("tuning", "tuning.Freeze(through='blocks/03', decay=0.75)", Freeze(through="blocks/03", decay=0.75)),
        (
            "tuning",
            "Rules((r'stem/.*', None), (r'.*', Learn(lr=0.5)))",
            Rules(("stem/.*", None), (".*", Learn(lr=0.5))),
        ),
        ("objective", "(Supervised(weight=0.5),)", (Supervised(weight=0.5),)),
        ("objective.0.weight", "2", 2.0),
        ("objective.0", "Supervised(on='source')", Supervised(on="source")),
        ("data.augment.0.padding", "2", 2),
        ("model.widths", "(4,)", (4,)),
    ],
)
def test_an_override_sets_the_field_at_its_path_and_nothing_else(path, text, expected):
    recipe = changed(path, text)
    value = recipe
    for name in path.split("."):
        value = value[int(name)] if name.isdigit() else getattr(value, name)
    assert value == expected
    assert type(value) is type(expected)
    # A tuple of plain values is one leaf.
    assert all(where.startswith(path) or path.startswith(where) for where, _, _ in config.diff(BASE, recipe))


def test_an_override_reaches_into_rules():
    recipe = changed("tuning.rules.1.1.lr", "0.7", dataclasses.replace(BASE, tuning=RULES))
    assert recipe.tuning.rules[1] == (r".*/bias", Learn(lr=0.7, weight_decay=0.0))
    assert recipe.tuning.rules[0] == RULES.rules[0]


def test_an_int_becomes_a_float_if_a_float_is_expected():
    assert repr(changed("optim.lr", "1").optim.lr) == "1.0"
    assert repr(changed("optim.clip", "1").optim.clip) == "1.0"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("tunin.decay", "recipe ... field 'tunin.decay'; close: 'tuning.decay', 'train.ema', 'tuning'"),
        ("optim.learning_rate",
         "recipe ... field 'optim.learning_rate'; close: 'optim.slant_ratio', 'optim.cycle_start', 'optim.lr'"),
        ("train.step", "recipe ... field 'train.step'; close: 'train.steps', 'train.dtype', 'train.ema'"),
        ("objective.1.weight",
         "recipe ... field 'objective.1.weight'; close: 'objective.0.weight', 'objective.0', 'objective.0.on'"),
        ("seed.more", "recipe ... field 'seed.more'; close: 'seed', 'model'"),
    ],
)  # fmt: skip
def test_an_unknown_path_names_the_three_nearest(path, message):
    with pytest.raises(ValueError) as error:
        changed(path, "1")
    for part in message.split(" ... "):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("path", "text", "kind", "message"),
    [
        ("optim.lr", "fast", TypeError, "optim.lr ... 'fast' ... float"),
        ("optim.lr", "True", TypeError, "optim.lr ... True ... float"),
        ("seed", "1.5", TypeError, "seed ... 1.5 ... int"),
        ("data.shots", "few", TypeError, "data.shots ... 'few' ... int | None"),
        ("data.buckets", "(8, 'x')", TypeError, "data.buckets ... (8, 'x') ... tuple[int, ...]"),
        ("data.buckets.0", "x", TypeError, "data.buckets ... ('x', 64, 128) ... tuple[int, ...]"),
        (
            "train.select",
            "best",
            ValueError,
            "select is 'best' ... 'validation/METRIC' ... 'last', 'best-validation', 'oracle', 'source-validation', "
            "'iwv', 'dev', 'snd', 'im', 'entropy' ... close: 'best-validation'",
        ),
        ("tuning", "Freez(through='x')", ValueError, "tlx ... class 'Freez'; close: 'Freeze'"),
        ("tuning", "Freeze(through=blocks)", ValueError, "'blocks' is not a literal ... write through=\"blocks\""),
        ("tuning", "Freeze(trough='x')", TypeError, "no field 'trough'; close: 'through' ... Freeze(through=\"x\")"),
        ("tuning.decay", "0", ValueError, "decay is 0.0 ... rate multiplier ... layer in (0, 1]"),
        ("task", "Full()", TypeError, "task ... Full() ... Task"),
    ],
)  # fmt: skip
def test_an_invalid_value_is_refused_by_its_path(path, text, kind, message):
    with pytest.raises(kind) as error:
        changed(path, text)
    recorded = str(error.value).replace("tlx.tasks.", "")
    for part in message.split(" ... "):
        assert part in recorded


@pytest.mark.parametrize(
    ("seed", "kind"),
    [(2**32, ValueError), (2**32 + 5, ValueError), (-1, ValueError), (2**64, ValueError), (True, TypeError),
     (1.0, TypeError), ("0", TypeError)],
)  # fmt: skip
@pytest.mark.parametrize("field", ["seed", "subset_seed"])
def test_a_seed_is_a_whole_number_of_32_bits(seed, kind, field):
    """JAX drops the higher bits: 2**32 would be the seed 0."""

    def check_changed():
        changes = {"seed": seed} if field == "seed" else {"data": Data(target="digits", subset_seed=seed)}
        config.check(dataclasses.replace(BASE, **changes))

    with pytest.raises(kind) as error:
        check_changed()
    named = field if kind is ValueError or seed is True or field == "seed" else f"data.{field}"
    output = f"{named} is {seed}; expected a whole number from 0 to 4294967295", f"{named} is {seed!r}; expected int"
    assert str(error.value).startswith(output)


def test_the_smallest_and_largest_seeds_are_accepted_and_differ():
    keys = [jax.random.key_data(jax.random.key(dataclasses.replace(BASE, seed=seed).seed)).tolist()
            for seed in (0, 1, 2**31 - 1, 2**31, 2**32 - 1)]  # fmt: skip
    assert len({tuple(key) for key in keys}) == 5


def test_a_misspelt_field_is_a_type_error():
    with pytest.raises(TypeError, match="unexpected keyword argument 'learning_rate'"):
        Optim(learning_rate=1.0)


def test_check_finds_a_wrong_type_at_any_depth():
    with pytest.raises(TypeError, match=r"^tuning\.rules\.0\.1\.lr .*'x'.* float$"):
        config.check(dataclasses.replace(BASE, tuning=Rules((".*", Learn(lr="x")))))
    with pytest.raises(TypeError, match=r"^data\.augment\.0\.padding .*1\.5.* int$"):
        config.check(dataclasses.replace(BASE, data=Data(target="digits", augment=(Crop(padding=1.5),))))
    config.check(BASE)


def test_the_table_names_every_class_by_its_name():
    assert all(type(value).__name__ == name for name, value in ONE_OF_EACH.items())


@pytest.mark.parametrize("kind", ONE_OF_EACH)
def test_load_is_the_inverse_of_dump_through_json(kind):
    value = ONE_OF_EACH[kind]
    reopened = config.load(json.loads(json.dumps(config.dump(value))), OWN)
    assert reopened == value
    assert type(reopened) is type(value)
    assert config.fingerprint(reopened) == config.fingerprint(value)


@pytest.mark.parametrize("kind", NAMED)
def test_parse_reads_the_text_that_a_user_would_write(kind):
    assert config.parse(config.source(ONE_OF_EACH[kind]), OWN) == ONE_OF_EACH[kind]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Full(), "Full()"),
        (Freeze(through="blocks/03", decay=0.75), "Freeze(through='blocks/03', decay=0.75)"),
        ((Supervised(), Ramp(0.5)), "(Supervised(), Ramp(start=0.5))"),
        (InTurn((0.5, Probe()), (0.5, Full())), "InTurn(turns=((0.5, Probe()), (0.5, Full())))"),
        ((1,), "(1,)"),
        (None, "None"),
        ("two  spaces", "'two  spaces'"),
    ],
)
def test_source_leaves_out_defaults(value, text):
    assert config.source(value) == text


def test_a_value_is_assigned_like_its_text():
    assert config.assign(BASE, "tuning", Probe()) == changed("tuning", "Probe()")
    assert config.assign(BASE, "optim.lr", 1) == changed("optim.lr", "1")
    assert config.at(config.assign(BASE, "data.augment.0.padding", 3), "data.augment.0") == Crop(padding=3)
    with pytest.raises(TypeError, match=r"^train.batch .*Full\(\).* int$"):
        config.assign(BASE, "train.batch", Full())
    for ask in (config.at, lambda value, path: config.assign(value, path, 1)):
        with pytest.raises(ValueError, match=r"no field 'optim.lrr'; close: 'optim.lr', "):
            ask(BASE, "optim.lrr")


def test_a_repr_or_an_unknown_class_cannot_be_loaded():
    foreign = config.dump(models.Nnx(make=len, shape=(8,)))
    with pytest.raises(ValueError, match=r"<built-in function len>; .* the config"):
        config.load(foreign["make"], OWN)
    with pytest.raises(ValueError, match=r"^make: .*<built-in function len>"):
        config.load(foreign, OWN)
    assert config.load(foreign, OWN, models.Nnx(make=len, shape=(9,))) == models.Nnx(make=len, shape=(8,))
    with pytest.raises(ValueError, match=r"<built-in function len>; .*--config FILE"):
        config.load(foreign, OWN, models.Nnx(make=max, shape=(9,)))
    with pytest.raises(ValueError, match=r"no class 'Tables'; close: 'Table"):
        config.load({"kind": "Tables"}, OWN)
    with pytest.raises(ValueError, match=r"the class of a Probe is \['x'\]; expected the text module:Class"):
        config.load({"kind": "Probe", "class": ["x"]}, OWN)


def every_change():
    """Return BASE with each of its leaves changed, one at a time."""
    rest = {int: 7, float: 0.4375, str: "digits", bool: True, type(None): 3}
    for path, value in config.leaves(BASE):
        if isinstance(value, tuple) or path.endswith((".kind", "name")):
            continue
        with contextlib.suppress(TypeError, ValueError):
            yield path, changed(path, repr(rest[type(value)]))


def test_the_fingerprint_changes_with_every_field():
    variants = dict(every_change())
    assert len(variants) > 30
    assert {"seed", "optim.lr", "data.shots", "objective.0.weight", "train.batch"} < variants.keys()
    variants = {path: recipe for path, recipe in variants.items() if recipe != BASE}
    prints = {config.fingerprint(recipe) for recipe in variants.values()}
    assert len(prints) == len(variants)
    assert config.fingerprint(BASE) not in prints
    assert config.fingerprint(dataclasses.replace(BASE, tuning=Probe())) != config.fingerprint(BASE)


def test_a_field_added_later_counts_only_if_it_is_set():
    """Earlier recipes keep their fingerprints, as if the field did not exist."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Early:
        steps: int = 3

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Late(Early):
        more: tuple[str, ...] = ()
        rest: tuple[str, ...] = dataclasses.field(default_factory=tuple)
        flag: int = 1

    Late.__name__ = Early.__name__
    for module in (__name__, "tlx.tuning.late"):
        # A user-defined class, and a class of tlx.
        Early.__module__ = Late.__module__ = module
        assert config.fingerprint((Late(), 1)) == config.fingerprint((Early(), 1))
        changes = ({"more": ("a",)}, {"rest": ("a",)}, {"flag": True}, {"steps": 4})
        assert len({config.fingerprint(Late(**change)) for change in ({}, *changes)}) == 1 + len(changes)
    assert config.dump(Late()) == {"kind": "Early", "steps": 3, "more": [], "rest": [], "flag": 1}


def test_a_new_field_of_a_class_of_schema_1_changes_no_fingerprint(monkeypatch):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Lora(tuning.Lora):
        more: float = 0.0

    Lora.__module__ = tuning.Lora.__module__
    recipe, later = (dataclasses.replace(BASE, tuning=kind(rank=4)) for kind in (tuning.Lora, Lora))
    assert config.fingerprint(later) == config.fingerprint(recipe)
    assert config.fingerprint(dataclasses.replace(BASE, tuning=Lora(rank=4, more=0.5))) != config.fingerprint(recipe)


def test_every_field_of_schema_1_still_exists_and_counts():
    for name, remaining in schema_1.ALWAYS.items():
        names = [field.name for field in dataclasses.fields(OWN[name])] if name != "Learn" else Learn._fields
        assert set(remaining) <= set(names), name


@pytest.mark.slow
def test_the_name_of_a_class_in_recipes_is_unique():
    files = Path(config.__file__).parents[1].rglob("*.py")
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    names = Counter(node.name for node in nodes if isinstance(node, ast.ClassDef))
    assert [name for name in OWN if names[name] > 1] == []
    for name in OWN:
        kinds = {id(getattr(package, name)) for package in PACKAGES if hasattr(package, name)} | {id(OWN[name])}
        assert len(kinds) == 1, name


def test_a_user_defined_class_is_named_by_its_module_and_loaded_from_the_given_classes():
    """This holds for nested classes: `Users` and `Inner` are not registered."""
    value = dataclasses.replace(BASE, tuning=Users(inner=Inner(share=0.25)))
    document = json.loads(json.dumps(config.dump(value)))
    assert document["tuning"] == {
        "kind": "Users",
        "class": f"{__name__}:Users",
        "inner": {"kind": "Inner", "class": f"{__name__}:Inner", "share": 0.25},
    }
    assert config.load(document, classes(dataclasses.replace(BASE, tuning=Users()))) == value
    # After a move to another file it is found by its name.
    document["tuning"]["class"] = "elsewhere:Users"
    assert config.load(document, classes(dataclasses.replace(BASE, tuning=Users()))) == value
    with pytest.raises(ValueError, match=r"elsewhere:Users is a user's class, .*--config FILE"):
        config.load(document, classes())
    document["tuning"]["class"] = "os:system"
    with pytest.raises(ValueError, match="os:system is a user's class"):
        config.load(document, classes())


def test_an_override_names_the_user_defined_classes_of_the_recipe():
    known = classes(dataclasses.replace(BASE, tuning=Users()))
    changed = config.override(BASE, "tuning", "Users(inner=Inner(share=0.75))", known)
    assert changed.tuning == Users(inner=Inner(share=0.75))
    with pytest.raises(ValueError, match="no class 'Users'"):
        config.override(BASE, "tuning", "Users()", classes())
    both = Classes(OWN, {"mine:Probe": type("Probe", (Users,), {"__module__": "mine"})})
    with pytest.raises(ValueError, match=r"'Probe' is the name of a class of tlx .* mine: rename"):
        config.override(BASE, "tuning", "Probe()", both)


def test_equal_recipes_have_one_fingerprint_however_they_are_written():
    assert config.fingerprint(Optim(lr=1)) == config.fingerprint(Optim(lr=1.0))
    assert config.fingerprint(changed("optim.lr", "1")) == config.fingerprint(
        dataclasses.replace(BASE, optim=Optim(lr=1))
    )
    assert config.fingerprint(Rules((".*", Learn()))) == config.fingerprint(Rules(rules=((".*", Learn()),)))


def test_the_fingerprint_of_a_user_defined_function_is_the_same_in_every_process():
    program = (
        "from tlx import config, models\n"
        "def make(rngs): return None\n"
        "print(config.fingerprint(models.Nnx(make=make, shape=(8,))))"
    )
    # Allocate something first, so that the function has another address.
    both = [
        subprocess.run([sys.executable, "-c", extra + program], capture_output=True, text=True, check=True).stdout
        for extra in ("", "held = [object() for _ in range(100_000)]\n")
    ]
    assert both[0] == both[1]


def test_diff_lists_changes_and_fields_that_one_side_lacks():
    assert config.diff(BASE, BASE) == []
    assert config.diff(BASE, changed("optim.lr", "0.5")) == [("optim.lr", 1e-3, 0.5)]
    assert config.diff(BASE, changed("tuning", "Freeze(through='stem')")) == [
        ("tuning.kind", "Full", "Freeze"),
        ("tuning.through", None, "stem"),
    ]
    assert config.diff(BASE, changed("tuning", "Probe()")) == [
        ("tuning.kind", "Full", "Probe"),
        ("tuning.decay", 1.0, None),
    ]


def test_a_value_that_is_not_a_number_is_refused_with_its_path():
    from tlx import Optim

    with pytest.raises(ValueError, match="lr is nan; expected a number"):
        config.check(Optim(lr=float("nan")))


def test_a_processor_that_holds_a_tokenizer_is_refused():
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    processor = TextProcessor(Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]")), 6)
    recipe = Recipe(data=Data(target="digits", processor=processor), task=tasks.Classification(), model=models.Mlp())
    with pytest.raises(
        TypeError, match=r"data\.processor is a TextProcessor, which a recipe cannot record, .*Tokenizer"
    ):
        config.check(recipe)
