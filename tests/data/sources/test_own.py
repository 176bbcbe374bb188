"""A user-defined source and a user-defined processor, each in a file outside tlx, without registration."""

import json
import textwrap

import numpy as np
import pytest
from click.testing import CliRunner

import tlx
from tlx import Data, Optim, Recipe, Train, config, models, predict, processors, tasks
from tlx.cli import main
from tlx.data import Csv, Dataset, Test, Tfds, load
from tlx.data.sources.base import check_columns
from tlx.processors import load as open_processor
from tlx.recipe import classes
from tlx.records.run_directory import predictions_file
from tlx.types import Column

CONFIG = '''
    """A model of letter counts on made-up texts."""

    from dataclasses import dataclass
    from pathlib import Path
    from typing import ClassVar

    import numpy as np

    from tlx import Data, Optim, Recipe, Train, models, tasks
    from tlx.data import Dataset, Source, Test
    from tlx.processors import Processor
    from tlx.types import Column, Field


    @dataclass(frozen=True, kw_only=True)
    class Vowels(Source):
        """Texts of vowels and texts of consonants."""

        count: int = 120
        noise: str = ""

        def open(self):
            rng = np.random.default_rng(0)
            rows = []
            for n in range(self.count):
                letters = rng.choice(list(("bcdfg", "aeiou")[n % 2]), 8)
                rows.append({"text": "".join(letters) + self.noise, "label": n % 2})
            columns = {"text": Column("text"), "label": Column("class", ("consonants", "vowels"))}
            third = self.count // 3
            splits = {"train": rows[third:], "test": rows[:third], "hard": rows[: third // 2]}
            return Dataset("vowels", splits, columns, f"vowels-{self.count}-{self.noise}")


    @dataclass(frozen=True)
    class Letters(Processor):
        """How often a text has each letter."""

        letters: str = "abcdefghijklmnopqrstuvwxyz"
        reads: ClassVar = ("text",)

        @property
        def fields(self):
            return {"image": Field((1, len(self.letters), 1), "float32")}

        def __call__(self, example):
            counts = [example["text"].count(letter) for letter in self.letters]
            return {"image": np.array(counts, np.float32).reshape(1, -1, 1)}

        def read(self, argument):
            return {"text": argument}


    def recipe():
        return Recipe(
            data=Data(
                target=Vowels(),
                processor=Letters(),
                tests=(Test(name="hard", split="hard"), Test(name="noisy", source=Vowels(noise="xyz"))),
            ),
            task=tasks.Classification(),
            model=models.Mlp(inputs=(1, 26, 1), widths=(8,)),
            optim=Optim(lr=0.05),
            train=Train(steps=40, batch=16, eval_batch=64),
        )
'''


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "letters.py"
    path.write_text(textwrap.dedent(CONFIG))
    return path


@pytest.fixture(scope="module")
def module(file):
    import importlib.util
    import sys

    spec = importlib.util.spec_from_file_location("letters_of_a_user", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def trained(module, tmp_path_factory):
    return tlx.run(module.recipe(), tmp_path_factory.mktemp("run") / "run", quiet=True)


def test_the_run_trains_and_measures_every_test_set(trained):
    assert trained.metrics["test/accuracy"] == trained.metrics["hard/accuracy"] == 1.0
    assert {name.partition("/")[0] for name in trained.metrics} == {"validation", "test", "hard", "noisy"}
    assert trained.result["tests"] == ["hard", "noisy"]
    assert trained.result["examples"]["hard"] == 20 and trained.result["examples"]["noisy"] == 40
    for name, count in (("hard", 20), ("noisy", 40)):
        scores = np.load(trained.folder / predictions_file(name))
        assert len(scores["label"]) == count
    lines = [json.loads(line) for line in (trained.folder / "metrics.jsonl").read_text().splitlines()]
    assert {"hard/accuracy", "noisy/accuracy"} <= {line["name"] for line in lines}


def test_the_report_shows_every_test_set(trained):
    page = (trained.folder / "report.html").read_text()
    assert "hard" in page and "noisy" in page


def test_a_processor_is_saved_with_the_run_and_opened_by_its_class(trained, module):
    folder = trained.folder / "model"
    assert json.loads((folder / "processor.json").read_text())["kind"] == "Letters"
    assert open_processor(folder) is None
    assert open_processor(folder, users=(module.Letters,)) == module.Letters()


def test_predict_works_with_the_file_of_the_user(trained, module, file):
    (answer,) = predict.predict(trained.folder, ["aeae"], trained.recipe.model, module.Letters())
    assert next(iter(answer)) == "vowels"
    result = CliRunner().invoke(main, ["predict", str(trained.folder), "aeae", "bcbc", "--config", str(file)])
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.output.splitlines()[-2:]] == ["vowels", "consonants"]
    refused = CliRunner().invoke(main, ["predict", str(trained.folder), "aeae"])
    assert refused.exit_code == 2 and "'Letters'" in refused.output and "--config" in refused.output


def test_a_run_without_test_evaluation_seals_every_test_set(module, tmp_path):
    splits = load(module.recipe().data, 0, test=False)
    for name in ("test", "hard", "noisy"):
        with pytest.raises(PermissionError):
            splits.by_name[name][0]
    assert splits.fingerprint == load(module.recipe().data, 0).fingerprint
    recipe = config.replace(module.recipe(), train=Train(steps=2, batch=16, eval_batch=64))
    blind = tlx.run(recipe, tmp_path / "blind", how=tlx.training.loop.How(quiet=True, test=False))
    assert {name.partition("/")[0] for name in blind.metrics} == {"validation"}


def test_test_sets_may_have_their_own_shift_and_source():
    shift = tlx.data.GaussianNoise(std=0.3)
    data = Data(target="digits", tests=(Test(name="noisy", shift=(shift,)), Test(name="far", source="mnist5k")))
    splits = load(data, 0)
    assert splits.tests.keys() == {"noisy", "far"} and len(splits.tests["far"]) == 1000
    assert not np.array_equal(splits.tests["noisy"][0]["image"], splits.test[0]["image"])
    assert splits.tests["noisy"].labels().tolist() == splits.test.labels().tolist()
    # A test set changes the fingerprint of the data of a run, but no fingerprint of a recipe without test sets.
    assert load(Data(target="digits"), 0).fingerprint != splits.fingerprint


def test_a_test_set_of_the_target_has_its_classes_and_its_shift():
    """Another data set has neither, even where it is the same data by its name."""
    blur, noise = tlx.data.Blur(sigma=1.0), tlx.data.GaussianNoise(std=0.3)
    tests = (Test(name="again"), Test(name="noisy", shift=(noise,)), Test(name="all", source="digits"))
    data = Data(target="digits", target_classes=("3", "5"), target_shift=(blur,), tests=tests)
    splits = load(data, 0)
    for name in ("again", "noisy"):
        assert splits.tests[name].labels().tolist() == splits.test.labels().tolist()
    assert splits.tests["noisy"].perturbation.shifts == (blur, noise)
    assert np.array_equal(splits.tests["again"][0]["image"], splits.test[0]["image"])
    assert set(splits.tests["all"].labels().tolist()) == set(range(10)) and splits.tests["all"].perturbation is None


@pytest.mark.parametrize(
    ("tests", "parts"),
    [
        ((Test(name="a", split="tst"),), ("'a'", "'tst'", "'test'")),
        ((Test(name="a", source="sentiment/movies"),), ("'a'", "has text", "has images")),
        ((Test(name="a", shift=(tlx.data.Typos(share=0.1),)),), ("'a'", "Typos", "images")),
    ],
)
def test_invalid_test_sets_are_refused(tests, parts):
    with pytest.raises(ValueError) as error:
        load(Data(target="digits", tests=tests), 0)
    assert all(part in str(error.value) for part in parts), error.value


def test_names_of_test_sets_are_checked():
    for name in ("test", "", "a/b", "validation", ".."):
        with pytest.raises(ValueError, match="a test set has the name"):
            Test(name=name)
    with pytest.raises(ValueError, match="a different name"):
        Data(target="digits", tests=(Test(name="a"), Test(name="a", source="mnist5k")))


def test_a_data_set_name_and_its_source_give_one_recipe():
    assert Data(target=Tfds("digits")) == Data(target="digits")
    assert Data(target="x", source=(Tfds("a"), "b")).source == ("a", "b")
    data = Data(target=Csv("x.csv", label="y"), tests=(Test(name="a", source=Csv("z.csv")),))
    reloaded = config.load(config.dump(data), classes())
    assert reloaded == data and hash(data) == hash(reloaded)


@pytest.mark.parametrize(
    ("columns", "parts"),
    [
        ({"label": Column("class", ("a",))}, ("only the columns label", "input")),
        ({"text": Column("txt"), "label": Column("number")}, ("'text'", "'txt'", "text")),
        ({"text": Column("text"), "label": Column("tags", ("a",))}, ("tags", "'words'")),
    ],
)
def test_invalid_columns_are_refused(columns, parts):
    with pytest.raises(ValueError) as error:
        check_columns("mine", columns)
    assert all(part in str(error.value) for part in parts)


def test_a_record_without_a_required_column_is_named():
    columns = {"text": Column("text"), "label": Column("number")}
    with pytest.raises(ValueError, match=r"mine train\[0\] has no value for the column 'label'.*'lable'"):
        Dataset("mine", {"train": [{"text": "a", "lable": 1}]}, columns, "f")


@pytest.mark.parametrize(
    ("record", "parts"),
    [
        ({"label": 1}, ("mine train[1]", "the column 'text'")),
        ({"text": "b", "lable": 1}, ("mine train[1]", "'label'", "'lable'")),
        ({"text": None, "label": 1}, ("mine train[1]", "'text' is None")),
        ({"text": "b", "label": None}, ("mine train[1]", "'label' is None")),
        ({"text": "b", "label": "yes"}, ("mine train[1]", "'yes'", "0..1", "name of class 1")),
        ({"text": "b", "label": 0.5}, ("mine train[1]", "0.5", "0..1")),
    ],
)
def test_a_later_record_without_a_cell_is_named(record, parts):
    columns = {"text": Column("text"), "label": Column("class", ("no", "yes"))}
    train = Dataset("mine", {"train": [{"text": "a", "label": 0}, record]}, columns, "f").splits["train"]
    with pytest.raises(ValueError) as error:
        _ = train.check_labels(), train[1]
    assert all(part in str(error.value) for part in parts), error.value


@pytest.mark.parametrize(
    ("column", "kind", "parts"),
    [
        ("review", "text", ("'review'", "a tokenizer reads the column 'text' or 'words'", "Data(processor=...)")),
        ("scan", "image", ("'scan'", "an image processor reads the column 'image'")),
    ],
)
def test_an_input_of_another_name_than_its_processor_reads_is_named(column, kind, parts):
    columns = {column: Column(kind), "label": Column("class", ("no", "yes"))}
    with pytest.raises(ValueError) as error:
        processors.fit(Data(target="mine"), columns)
    assert all(part in str(error.value) for part in parts), error.value


@pytest.mark.slow
def test_a_text_model_trains_on_a_csv(tmp_path):
    from tokenizers import Tokenizer, pre_tokenizers, processors
    from tokenizers import models as tokenizer_models

    from tlx.processors import TextProcessor
    from tlx.weights import Manifest, Pretrained, save_pretrained

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "the", "was"]
    raw = Tokenizer(tokenizer_models.WordPiece({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    bert = models.Bert(vocabulary=len(words), width=32, depth=1, heads=2, mlp=16, positions=16)
    model = models.build(bert)
    import jax

    variables = models.initialise(model, jax.random.key(0))
    pretrained = Pretrained(model, variables, TextProcessor(raw, 16), Manifest("", {}, ()), None)
    save_pretrained(pretrained, tmp_path / "bert", untrained=True)
    kinds = (("bad", "no"), ("good", "yes"))
    rows = "".join(f"the film was {kinds[n % 2][0]}{' the' * (n % 5)},{kinds[n % 2][1]}\n" for n in range(80))
    (tmp_path / "reviews.csv").write_text("review,liked\n" + rows)
    recipe = Recipe(
        data=Data(target=Csv(str(tmp_path / "reviews.csv"), label="liked"), tokens=12, buckets=(8,)),
        task=tasks.Classification(),
        weights=tlx.Weights(str(tmp_path / "bert")),
        optim=Optim(lr=0.01),
        train=Train(steps=100, batch=16, eval_batch=32),
    )
    run = tlx.run(recipe, tmp_path / "run", quiet=True)
    assert run.result["classes"] == ["no", "yes"]
    assert run.metrics["test/accuracy"] == 1.0
    assert any("text is 'review'" in note for note in run.result["notes"])
    (answer,) = predict.predict(run.folder, ["the film was good"])
    assert next(iter(answer)) == "yes"
