"""The folder of a data set cannot run code. Every error in it is one line that names the file."""

import json
import shutil
import sys

import numpy as np
import pytest

from tlx.data import open_dataset
from tlx.data.folders import own_classes
from tlx.data.sources.tfds import data_dir

INFO, FEATURES = "dataset_info.json", "features.json"
TRAIN = "digits-train.array_record-00000-of-00001"
PREFIX = "tensorflow_datasets.core.features."
IMAGE, LABEL = f"{PREFIX}image_feature.Image", f"{PREFIX}class_label_feature.ClassLabel"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data set that is not in tlx, in a folder from which Python imports, next to a module that must not run."""
    open_dataset("digits")
    place = tmp_path / "figures" / "1.0.0"
    shutil.copytree(data_dir() / "digits" / "1.0.0", place)
    for path in (tmp_path, place):
        (path / "trap.py").write_text("raise SystemExit('the trap was imported')\nclass Image: pass\n")
        (path / "digits.py").write_text("raise SystemExit('the trap was imported')\n")
        monkeypatch.syspath_prepend(str(path))
    (place / "__init__.py").write_text("raise SystemExit('the trap was imported')\n")
    monkeypatch.chdir(place)
    yield place
    assert "trap" not in sys.modules


def edit(path, change):
    document = json.loads(path.read_text())
    path.write_text(json.dumps(change(document) or document))


def read(folder):
    for examples in open_dataset(str(folder)).splits.values():
        examples.labels()
        for position in range(0, len(examples), 50):
            _ = examples[position]


def refused(folder, name, *parts):
    with pytest.raises(ValueError) as error:
        read(folder)
    assert str(error.value).startswith(f"{folder / name}") and "\n" not in str(error.value), str(error.value)
    for part in parts:
        assert part in str(error.value), str(error.value)


def feature(name, **fields):
    return lambda document: document["featuresDict"]["features"][name].update(fields)


def nest(inner):
    return lambda document: document["featuresDict"]["features"].update(more=inner)


TRAP = {"pythonClassName": "trap.Image", "image": {}}
LEGACY = {"type": "trap.Image", "content": {}}
ELSEWHERE = {
    "the class of the whole": lambda document: document.update(pythonClassName="trap.Image"),
    "a feature": feature("image", pythonClassName="trap.Image"),
    "the other spelling": nest({"python_class_name": "trap.Image", "text": {}}),
    "both spellings": nest(
        {"pythonClassName": f"{PREFIX}text_feature.Text", "python_class_name": "trap.Image", "text": {}}
    ),
    "a submodule of TFDS that is no feature": feature(
        "image", pythonClassName="tensorflow_datasets.scripts.cli.main.X"
    ),
    "a class of TFDS that is no feature": feature("image", pythonClassName="tensorflow_datasets.core.DatasetInfo"),
    "another class in a module of features": feature("image", pythonClassName=f"{PREFIX}image_feature.trap"),
    "a feature by its short name": feature("image", pythonClassName="tensorflow_datasets.features.Image"),
    "a prefix that looks like it": feature("image", pythonClassName=f"{PREFIX}image_feature.Image.trap"),
    "no name": feature("image", pythonClassName=""),
    "a list": feature("image", pythonClassName=[IMAGE]),
    "a number": feature("image", pythonClassName=3),
    "the legacy form": lambda document: {"type": "trap.Image", "content": {}},
    "within the legacy form": lambda document: {
        "type": f"{PREFIX}features_dict.FeaturesDict",
        "content": {"image": LEGACY, "label": {"type": LABEL, "content": {"num_classes": 10}}},
    },
    "within a sequence": nest({"pythonClassName": f"{PREFIX}sequence_feature.Sequence", "sequence": {"feature": TRAP}}),
    "within a text": nest(
        {"pythonClassName": f"{PREFIX}dataset_feature.Dataset", "jsonFeature": {"json": json.dumps({"feature": TRAP})}}
    ),
    "within a text within a text": nest(
        {"pythonClassName": f"{PREFIX}scalar.Scalar", "json_feature": {"json": json.dumps(["", json.dumps([LEGACY])])}}
    ),
}


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_only_the_feature_classes_of_tfds_are_accepted(kind, folder):
    edit(folder / FEATURES, ELSEWHERE[kind])
    refused(folder, FEATURES, "names the feature class ", "tensorflow_datasets.core.features.")


def test_the_class_is_named(folder):
    edit(folder / FEATURES, ELSEWHERE["a feature"])
    refused(folder, FEATURES, "'trap.Image'. TFDS would run code of this class")


def test_the_module_named_in_the_info_is_not_imported(folder):
    edit(folder / INFO, lambda document: document.update(moduleName="trap", name="digits"))
    assert len(open_dataset(str(folder)).splits["train"]) == 1258
    edit(folder / INFO, lambda document: document.update(features=TRAP))
    refused(folder, INFO, "names the feature class 'trap.Image'")


def test_the_classes_of_tfds_are_known():
    assert {IMAGE, LABEL, f"{PREFIX}features_dict.FeaturesDict", f"{PREFIX}tensor_feature.Tensor"} <= own_classes()
    assert all(name.startswith(PREFIX) for name in own_classes())


def split(number=0, **fields):
    def change(document):
        document["splits"][number].update({name: value for name, value in fields.items() if value is not ...})
        for name in [name for name, value in fields.items() if value is ...]:
            del document["splits"][number][name]

    return change


DOCUMENTS = [
    (INFO, lambda document: document.pop("splits") and None, "splits is missing; expected a list"),
    (INFO, lambda document: document.update(splits=[]), "splits is []; expected a list that is not empty"),
    (INFO, lambda document: document.update(splits={}), "splits is an object with 0 entries; expected a list"),
    (INFO, lambda document: document.update(splits=[1]), "splits[0] is 1; expected an object"),
    (INFO, lambda document: document.pop("version") and None, "version is missing; expected a version"),
    (INFO, lambda document: document.update(version=1), "version is 1; expected a version"),
    (INFO, lambda document: document.update(version="one"), "version is 'one'; expected a version"),
    (INFO, lambda document: document.pop("name") and None, "name is missing; expected a name"),
    (INFO, lambda document: document.update(name="../digits"), "name is '../digits'; expected a name"),
    (INFO, lambda document: document.update(name=["digits"]), "name is ['digits']; expected a name"),
    (INFO, lambda document: document.update(fileFormat=3), "fileFormat is 3; expected a name"),
    (INFO, lambda document: document.update(supervisedKeys=3), "supervisedKeys is 3; expected an object"),
    (INFO, lambda document: [document], "the document is [{"),
    (INFO, split(name=3), "splits[0].name is 3; expected the name of a split"),
    (INFO, split(name="../train"), "splits[0].name is '../train'; expected the name of a split"),
    (INFO, split(name=...), "splits[0].name is missing"),
    (INFO, split(name="test"), "the split 'test' is listed twice"),
    (INFO, split(shardLengths="1258"), "splits[0].shardLengths is '1258'; expected a list"),
    (INFO, split(shardLengths=["many"]), "splits[0].shardLengths[0] is 'many'; expected a whole number"),
    (INFO, split(shardLengths=[-1]), "splits[0].shardLengths[0] is -1; expected a whole number"),
    (INFO, split(numBytes=1.5), "splits[0].numBytes is 1.5; expected a whole number"),
    (
        INFO,
        split(filepathTemplate="../{DATASET}"),
        "filepathTemplate is '../{DATASET}'; expected the pattern of a file",
    ),
    (INFO, split(filepathTemplate="/etc/passwd"), "filepathTemplate is '/etc/passwd'; expected the pattern of a file"),
    (
        INFO,
        split(filepath_template="../{DATASET}"),
        "filepathTemplate is '../{DATASET}'; expected the pattern of a file",
    ),
    (FEATURES, lambda document: [document], "the document is ["),
    (INFO, lambda document: document.update(modulName="x"), "TFDS has no field modulName; close: 'moduleName'"),
    (INFO, split(shardLength=["1"]), "TFDS has no field splits[0].shardLength; close: 'shardLengths'"),
    (
        INFO,
        lambda document: document["supervisedKeys"].update(tuple=[]),
        "supervisedKeys.tuple is []; expected an object",
    ),
    (INFO, lambda document: document.update(releaseNotes={"1": 2}), "releaseNotes.1 is 2; expected a string"),
    (INFO, lambda document: document.update(downloadSize="much"), "downloadSize is 'much'; expected a whole number"),
    (
        FEATURES,
        feature("image", image={"dtype": "x"}),
        "image.dtype is 'x'; expected a number type, such as 'uint8'",
    ),
    (FEATURES, feature("image", image={"shape": [8, 8, 1]}), "image.shape is [8, 8, 1]; expected an object"),
    (FEATURES, feature("image", image={"shape": {"dimensions": [True]}}), "dimensions[0] is true; expected a whole"),
    (
        FEATURES,
        nest({"pythonClassName": f"{PREFIX}tensor_feature.Tensor", "tensor": {}}),
        "tensor.dtype is missing; expected a string",
    ),
    (FEATURES, feature("image", text={}), "the feature image has the content image, text; expected one content"),
    (FEATURES, lambda document: document["featuresDict"]["features"]["image"].pop("image") and None, "content nothing"),
    (FEATURES, lambda document: document.update(featuresDict=3), "featuresDict is 3; expected an object"),
    (FEATURES, lambda document: document.update(featuresDict={}), "featuresDict.features is missing"),
    (FEATURES, lambda document: document.update(featuresDict={"features": []}), "featuresDict.features is []"),
    (FEATURES, nest(3), "featuresDict.features.more is 3; expected an object"),
    (FEATURES, nest({}), "featuresDict.features.more.pythonClassName is missing; expected a string"),
    (FEATURES, feature("label", classLabel=[]), "classLabel is []; expected an object"),
    (FEATURES, feature("label", classLabel={"numClasses": "ten"}), "classLabel.numClasses is 'ten'; expected a whole"),
    (FEATURES, feature("image", image={"dtype": 3}), "image.dtype is 3; expected a string"),
]


@pytest.mark.parametrize(("name", "change", "message"), DOCUMENTS)
def test_an_invalid_document_is_refused_before_tfds_reads_it(name, change, message, folder, monkeypatch):
    monkeypatch.setattr("tensorflow_datasets.builder_from_directory", lambda path: pytest.fail("TFDS saw it"))
    edit(folder / name, change)
    refused(folder, name, message)


@pytest.mark.parametrize("name", [INFO, FEATURES])
@pytest.mark.parametrize(
    ("content", "message"),
    [("", "is empty"), ("{", "is not JSON"), ('{"a":' * 100_000, "too deeply"), ("nan", "is not JSON"), ("3", "is 3")],
)
def test_a_document_that_is_not_json_is_refused(name, content, message, folder):
    (folder / name).write_text(content)
    refused(folder, name, message)


def test_a_missing_document_is_named(folder):
    (folder / FEATURES).unlink()
    with pytest.raises(FileNotFoundError, match=r"features\.json"):
        open_dataset(str(folder))


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        (
            split(shardLengths=["1257"]),
            TRAIN,
            "has 1258 examples, but dataset_info.json states 1257 for this part of 'train'",
        ),
        (split(shardLengths=["1259"]), TRAIN, "has 1258 examples, but dataset_info.json states 1259"),
        (split(shardLengths=...), INFO, f"does not list the file {TRAIN}"),
        (split(shardLengths=[]), INFO, f"does not list the file {TRAIN}"),
        (
            lambda document: document["splits"].pop() and None,
            INFO,
            "does not list the file digits-test.array_record-00000-of-00001",
        ),
    ],
)
def test_shards_that_contradict_the_info_are_refused(change, name, message, folder):
    edit(folder / INFO, change)
    refused(folder, name, message)


@pytest.mark.parametrize(
    "change", [split(shardLengths=["629", "629"]), split(name="training"), lambda document: document.update(name="x")]
)
def test_a_missing_shard_is_named(change, folder):
    edit(folder / INFO, change)
    with pytest.raises(FileNotFoundError, match=r"array_record-00000-of-0000\d is missing; .* the split 'train.*'"):
        open_dataset(str(folder))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\n".join(map(str, range(9))), "lists 9 classes, but features.json states 10"),
        ("\n".join(["0", *map(str, range(9))]), "lists the class '0' twice"),
        ("", "lists 0 classes, but features.json states 10"),
    ],
)
def test_class_names_that_contradict_the_features_are_refused(content, message, folder):
    (folder / "label.labels.txt").write_text(content)
    refused(folder, "label.labels.txt", message)
    (folder / "label.labels.txt").write_bytes(b"\xff\xfe")
    refused(folder, "label.labels.txt", "is not UTF-8 text")


def test_a_tlx_class_under_another_name_is_refused(tmp_path, monkeypatch):
    open_dataset("digits")
    shutil.copytree(data_dir() / "digits", tmp_path / "digits")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    path = tmp_path / "digits" / "1.0.0" / "label.labels.txt"
    path.write_text("\n".join(reversed(path.read_text().split())))
    with pytest.raises(ValueError, match=r"the classes are 9, 8, .*'digits', 0, 1, .*Remove the folder"):
        open_dataset("digits")


def test_supervised_keys_without_a_feature_are_refused(folder):
    edit(
        folder / INFO,
        lambda document: document.update(
            supervisedKeys={"tuple": {"items": [{"featureKey": "picture"}, {"featureKey": "label"}]}}
        ),
    )
    with pytest.raises(ValueError, match=r"has the supervised keys picture, label, but 'picture' is not a feature"):
        open_dataset(str(folder))


def test_damage_in_a_shard_is_refused_or_changes_nothing(folder):
    original, rng = (folder / TRAIN).read_bytes(), np.random.default_rng(0)
    intact = open_dataset(str(folder)).splits["train"]
    wanted = [intact[position]["image"].tobytes() for position in range(0, len(intact), 50)]
    refusals = 0
    for number in range(20):
        content = bytearray(original)
        place = int(rng.integers(len(original)))
        if number % 4 == 0:
            content = content[:place]
        else:
            content[place] ^= 1 << int(rng.integers(8))
        (folder / TRAIN).write_bytes(content)
        edit(folder / INFO, lambda document, number=number: document.update(description=str(number)))
        try:
            train = open_dataset(str(folder)).splits["train"]
            read = [train[position]["image"].tobytes() for position in range(0, len(train), 50)]
        except ValueError as error:
            refusals += 1
            message = str(error)
            assert "prepare the data set again" in message and "\n" not in message, message
        else:
            assert read == wanted
    assert refusals >= 5


def test_records_with_other_features_are_refused(folder):
    def change(document):
        features = document["featuresDict"]["features"]
        features["picture"] = features.pop("image")

    edit(folder / FEATURES, change)
    edit(folder / INFO, lambda document: document.pop("supervisedKeys") and None)
    with pytest.raises(ValueError, match=r"train\[0\] has no 'picture', but features.json"):
        open_dataset(str(folder)).splits["train"][0]
