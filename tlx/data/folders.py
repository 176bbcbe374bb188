"""Check a folder that TFDS has prepared before TFDS reads it: no foreign class, and every fault with its place.

TFDS imports the module of every class that `features.json` names. Where the working directory is importable, that would
run code that lies beside a data set. Only the feature classes of TFDS itself are allowed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from tlx.data.messages import check_message
from tlx.files.documents import check, format_value, read_json
from tlx.files.documents.checks import Either, Flag, Form, Mapped, Record, Rows, Text, Whole, maybe
from tlx.trees import Example, Json, near_miss

INFO, FEATURES = "dataset_info.json", "features.json"
REMEDY = "prepare the data set again"
COUNT = Either((Text(r"\d{1,18}", "a whole number in quotes"), Whole(0, 2**62)))
NAME = Text(r"\w[\w.-]*", "a name")
# A shard lies beside its dataset_info.json.
TEMPLATE = Text(r"(?!\.)[^/\\\0]+", "the pattern of a file name, without a folder")
SPLIT = Record(
    {"name": Text(r"[\w.+-]+", "the name of a split")},
    {"shardLengths": Rows(COUNT), "numBytes": COUNT, "numShards": COUNT, "filepathTemplate": TEMPLATE},
)
INFO_FORM = Record(
    {
        "name": NAME,
        "version": Text(r"\d+\.\d+\.\d+[\w.-]*", "a version, for example 1.0.0"),
        "splits": Rows(SPLIT, low=1),
    },
    {
        "fileFormat": maybe(NAME),
        "supervisedKeys": Record(),
        "configName": maybe(Text()),
        "moduleName": maybe(Text()),
        "description": maybe(Text()),
        "citation": maybe(Text()),
        "alternativeFileFormats": Rows(Text()),
        "disableShuffling": Flag(),
    },
)
# The keys under which TFDS finds the name of a class: in its own spelling, in that of protocol buffers, and in older
# files.
CLASS_KEYS = ("pythonClassName", "python_class_name", "type")
# Earlier names of classes of TFDS.
EARLIER = ("tensorflow_datasets.core.features.feature.Tensor",)
FEATURE = Either((Record({"pythonClassName": Text()}), Record({"python_class_name": Text()}), Record({"type": Text()})))
# The fields of a feature beside its content.
DESCRIPTIVE = ("pythonClassName", "description", "valueRange")
# The forms of the fields with the content of a feature.
FIELDS: dict[str, Form] = {
    "classLabel": Record(optional={"numClasses": COUNT}),
    "featuresDict": Record({"features": Mapped(FEATURE)}),
    "image": Record(optional={"dtype": Text(), "encodingFormat": Text()}),
    "tensor": Record({"dtype": Text()}, {"encoding": Text()}),
    "text": Record(),
    "sequence": Record({"feature": FEATURE}),
    "description": Text(),
}


def check_folder(folder: Path) -> None:
    """Check the two documents of a data set's folder, before TFDS opens them.

    Raises:
        FileNotFoundError: One of them is missing.
        ValueError: One of them is no JSON, has another form, names a class that is no feature of TFDS itself, or
            refers to files elsewhere. The message names the file, the field, and the expected value.
    """
    info = read_json(folder / INFO, remedy=REMEDY)
    splits = info.get("splits")
    if isinstance(splits, list):
        info = info | {"splits": [spelled(split) for split in splits]}
    check(spelled(info), INFO_FORM, folder / INFO, REMEDY)
    check_classes(info.get("features"), folder / INFO)
    features = read_json(folder / FEATURES, remedy=REMEDY)
    check_classes(features, folder / FEATURES)
    check(features, FEATURE, folder / FEATURES, REMEDY)
    check_messages(info, features, folder)
    check_fields(features, "", folder)
    for split in info["splits"]:
        if (names := [listed["name"] for listed in info["splits"]]).count(split["name"]) > 1:
            raise ValueError(f"{folder / INFO}: the split {split['name']!r} is listed twice in {names}; {REMEDY}")


def check_messages(info: Any, features: Any, folder: Path) -> None:
    """Check every field of both documents against the protocol buffer messages of TFDS. Older features are no message
    and are not checked."""
    from tensorflow_datasets.core.proto import dataset_info_pb2, feature_pb2

    check_message(info, dataset_info_pb2.DatasetInfo.DESCRIPTOR, folder / INFO, REMEDY)
    if "type" not in features:
        check_message(features, feature_pb2.Feature.DESCRIPTOR, folder / FEATURES, REMEDY)


def spelled(fields: Any) -> Any:
    """Return an object with its keys in the spelling of TFDS, which also reads `shard_lengths` for `shardLengths`."""
    if not isinstance(fields, dict):
        return fields
    return {re.sub(r"_([a-z])", lambda match: match[1].upper(), name): value for name, value in fields.items()}


def check_fields(feature: Json, where: str, folder: Path) -> None:
    """Check the fields of a feature and of the features within it. The names of a class label lie in a
    separate file."""
    for name, form in FIELDS.items():
        if name in feature:
            check({name: spelled(feature[name])}, Record({name: form}), folder / FEATURES, REMEDY)
    contents = [name for name in spelled(feature) if name not in DESCRIPTIVE]
    if len(contents) != 1 and "type" not in feature:
        raise ValueError(
            f"{folder / FEATURES}: the feature {where or 'of the whole'} has the content "
            f"{', '.join(contents) or 'nothing'}; expected one content, such as classLabel, image, text or tensor; "
            f"{REMEDY}"
        )
    if "classLabel" in feature and where:
        check_names(spelled(feature["classLabel"]).get("numClasses"), where, folder)
    for name, inner in feature.get("featuresDict", {}).get("features", {}).items():
        check_fields(inner, f"{where}-{name}" if where else name, folder)


def check_names(count: Any, feature: str, folder: Path) -> None:
    """Raise ValueError unless the number of names equals the number of classes, and all names differ."""
    path = folder / f"{feature}.labels.txt"
    if not path.is_file():
        return
    try:
        names = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}); {REMEDY}") from None
    names = [name for name in names if name.strip()]
    if len(names) != int(count or 0):
        raise ValueError(f"{path} lists {len(names)} classes, but {FEATURES} states {int(count or 0)}; {REMEDY}")
    if duplicates := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{path} lists the class {duplicates[0]!r} twice; {REMEDY}")


@lru_cache(maxsize=1)
def own_classes() -> frozenset[str]:
    """Return the names of TFDS's own feature classes."""
    import tensorflow_datasets as tfds

    base = tfds.features.FeatureConnector
    classes = [kind for kind in vars(tfds.features).values() if isinstance(kind, type) and issubclass(kind, base)]
    names = {f"{kind.__module__}.{kind.__name__}" for kind in classes if kind is not base}
    return frozenset({name for name in names if name.startswith("tensorflow_datasets.core.features.")} | {*EARLIER})


def is_own(name: Any) -> bool:
    """Return whether a name is that of one of TFDS's own feature classes."""
    return isinstance(name, str) and name in own_classes()


def check_classes(value: object, path: Path) -> None:
    """Raise ValueError where a document, or a document within one of its strings, names a class that
    is not TFDS's own."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in CLASS_KEYS and not isinstance(inner, dict) and not is_own(inner):
                near = near_miss(inner, own_classes()) if isinstance(inner, str) else ""
                near = near if inner and "close" in near and len(near) < 300 else ""
                raise ValueError(
                    f"{path} names the feature class {format_value(inner)}. TFDS would run code of this class; "
                    f"expected a class of TFDS, tensorflow_datasets.core.features.*{near}. Build the data set with the "
                    "features of TFDS"
                )
            check_classes(inner, path)
    elif isinstance(value, list):
        for inner in value:
            check_classes(inner, path)
    elif isinstance(value, str) and value.lstrip()[:1] in ("{", "[", '"'):
        try:
            inner = json.loads(value)
        except RecursionError:
            raise ValueError(f"{path} is nested too deeply; {REMEDY}") from None
        except ValueError:
            return
        check_classes(inner, path)


def open_builder(folder: Path) -> Any:
    """Check a folder and return its TFDS builder. Raises ValueError where TFDS cannot read it."""
    import tensorflow_datasets as tfds

    check_folder(folder)
    try:
        builder = tfds.builder_from_directory(str(folder))
        # TFDS reads these on first use.
        _ = builder.info.features, builder.info.splits, builder.info.supervised_keys, builder.info.file_format
    except Exception as error:  # TFDS, protocol buffers and NumPy raise a wide family for a field that does not fit
        raise ValueError(f"{folder}: TFDS cannot read {INFO} and {FEATURES} ({reason(error)}); {REMEDY}") from None
    return builder


def check_shards(builder: Any, folder: Path) -> None:
    """Check that the shards of a data set are present, no others, and hold the stated number of examples.

    Raises:
        FileNotFoundError: A shard is missing.
        ValueError: A shard is damaged or has another length, or `dataset_info.json` does not list a shard.
    """
    suffix = builder.info.file_format.file_suffix
    listed = set()
    for split, info in builder.info.splits.items():
        paths = [Path(str(path)) for path in info.filepaths] if info.shard_lengths else []
        for path, length in zip(paths, info.shard_lengths, strict=True):
            listed.add(path.name)
            if not path.is_file():
                raise FileNotFoundError(f"{path} is missing; it is a part of the split {split!r}; {REMEDY}")
            count = records_in(path, suffix)
            if count != length:
                raise ValueError(
                    f"{path} has {count} examples, but {INFO} states {length} for this part of {split!r}; {REMEDY}"
                )
    shards = {path.name for path in folder.glob(f"{builder.info.name}-*.{suffix}-*-of-*")}
    if unlisted := sorted(shards - listed):
        raise ValueError(
            f"{folder / INFO} does not list the file {unlisted[0]}, which is in the same folder; {REMEDY}, or remove "
            "the file"
        )


def records_in(path: Path, suffix: str) -> int:
    """Return the number of records of a shard. Raises ValueError where it is damaged."""
    try:
        if suffix == "parquet":
            return int(import_module("pyarrow.parquet").read_metadata(path).num_rows)
        from array_record.python.array_record_module import ArrayRecordReader

        return int(ArrayRecordReader(str(path)).num_records())
    except ImportError as error:
        raise ValueError(f"{path} cannot be read: {error}; install tlx[study] for data sets in Parquet") from None
    except Exception as error:  # both readers raise their own kinds
        raise ValueError(f"{path} is damaged ({reason(error)}); {REMEDY}") from None


class FolderRows(Sequence[Example]):
    """The records of a split, as TFDS reads them, with the names of tlx's columns beside those of the features.

    Args:
        source: The data source of TFDS.
        name: The data set and the split, for errors.
        features: The feature of each column; a record without one of them cannot be read.
    """

    def __init__(self, source: Any, name: str, features: Mapping[str, str]):
        self.source, self.name, self.features = source, name, features

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, row: Any) -> Any:
        if not 0 <= row < len(self):
            raise IndexError(f"{self.name} has {len(self)} records; there is no record {row}")
        return self._read([row], lambda: [self.source[row]])[0]

    def __getitems__(self, rows: Sequence[int]) -> Any:
        many = getattr(self.source, "__getitems__", lambda positions: [self.source[row] for row in positions])
        return self._read(rows, lambda: many(rows))

    def _read(self, rows: Sequence[int], read: Callable[[], Any]) -> Any:
        """Return the records at `rows`. Where they cannot be read, raises ValueError with the split and the first of
        them."""
        place = "" if not len(rows) else f"[{rows[0]}]" if len(rows) == 1 else f"[{rows[0]}..{rows[-1]}]"
        try:
            records = read()
        except MemoryError:
            raise
        except Exception as error:  # the reader of the file, and TFDS where a record does not fit its features
            raise ValueError(
                f"{self.name}{place} cannot be read ({reason(error)}); the file is damaged, or {FEATURES} belongs to "
                f"another data set: {REMEDY}"
            ) from None
        for row, record in zip(rows, records, strict=True):
            if missing := [feature for feature in self.features.values() if record.get(feature) is None]:
                raise ValueError(
                    f"{self.name}[{row}] has no {missing[0]!r}, but {FEATURES} lists this feature; {REMEDY}"
                )
        columns = self.features.items()
        return [{**record, **{column: record[feature] for column, feature in columns}} for record in records]


def reason(error: Exception) -> str:
    """Return an error of a library on one short line."""
    text = re.sub(r"\s+", " ", str(error)).strip()
    return f"{type(error).__name__}: {text[:117]}..." if len(text) > 120 else f"{type(error).__name__}: {text}"
