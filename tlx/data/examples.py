"""Raw examples by number, over TFDS data sets that lie prepared on disk."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from tlx.assets import cache_dir, offline
from tlx.data import DATASETS
from tlx.data.features import Features, found_in
from tlx.data.folders import Records, check_shards, open_builder
from tlx.data.perturbation import Perturbation
from tlx.files.durable import guarded
from tlx.processors.pictures import decode
from tlx.processors.pictures import pixels as decoded_pixels
from tlx.processors.sounds import decoded, rate_of
from tlx.trees import near_miss

log = logging.getLogger(__name__)
Kind = TypeVar("Kind", bound="Examples")


class Examples(Sequence[dict[str, Any]]):
    """A split, or some rows of one. `examples[i]` is `{"text": str, "text_pair"?: str}`, `{"image": uint8[H, W, C]}` or
    `{"audio": float32[T]}` with `"label"`, an int (a float for regression), and `"index"`, its position in the whole
    split, whatever rows the view has. `key` names the file that remembers the labels, if any; `mapping` int[C] is what
    each class of the data set counts as, where `classes` are those of another; `perturbation` is what changes labels
    and inputs after that.
    """

    labelled = True

    def __init__(
        self,
        name: str,
        split: str,
        source: Sequence[Mapping[str, Any]],
        features: Features,
        classes: tuple[str, ...] = (),
        *,
        rows: np.ndarray | None = None,
        key: str = "",
        mapping: np.ndarray | None = None,
        perturbation: Perturbation | None = None,
    ):
        self.name, self.split, self.source, self.features, self.classes = name, split, source, features, classes
        self.mapping, self.perturbation = mapping, perturbation
        self.rows = np.arange(len(source)) if rows is None else np.asarray(rows)
        self.key = key
        # What the pipeline has made of these examples, by processor; a view has its own.
        self.memory: dict[Any, Any] = {}
        # Measurements for the notes on odd data; runs on the same examples share them.
        self.measured: dict[Any, Any] = {}
        self._labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"Examples({self.name!r}, {self.split!r}, {len(self)} of {len(self.source)})"

    def __getitem__(self, position: int) -> dict[str, Any]:  # type: ignore[override]
        index = int(self.rows[position])
        record = self.source[index]
        example: dict[str, Any] = {}
        for key, feature in zip(("text", "text_pair"), self.features.text, strict=False):
            example[key] = self._text(record[feature], feature, index)
        if self.features.image:
            example["image"] = self._pixels(record[self.features.image], index)
        if self.features.audio:
            what = f"{self.name} {self.split}[{index}]"
            example["audio"] = decoded(record[self.features.audio], self.features.rate, what)
        if self.perturbation is not None:
            example = self.perturbation.shifted(example, index, len(self.source))
        return {**example, **self._truth(record, index), "index": index}

    def _truth(self, record: Mapping[str, Any], index: int) -> dict[str, Any]:
        (label,) = self._seen(np.array([self._label(record, index)], self.label_dtype), np.array([index])).tolist()
        return {"label": label}

    def labels(self) -> np.ndarray:
        """int32[N] classes, or float32[N] numbers; read once. Raises ValueError for a class out of range."""
        if self._labels is None:
            file = cache_dir() / "labels" / f"{self.key}-{self.split}.npy"
            if self.key and file.is_file():
                every = np.load(file, allow_pickle=False)
            else:
                every = np.array(list(self._read_labels()), self.label_dtype)
                if self.key:
                    save_whole(file, every)
            self._labels = self._seen(every[self.rows], self.rows)
        return self._labels

    def _seen(self, labels: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The labels found at `rows` as these examples have them."""
        labels = labels if self.mapping is None else self.mapping[labels].astype(np.int32)
        return labels if self.perturbation is None else self.perturbation.relabelled(labels, rows, len(self.source))

    @property
    def identity(self) -> bytes:
        """Equal where two views of a split show the same examples, perturbed in the same way."""
        perturbed = "" if self.perturbation is None else self.perturbation.spelled
        return self.rows.astype(np.int64).tobytes() + perturbed.encode()

    def view(self, positions: np.ndarray) -> Self:
        """The examples at these positions of this view, in the order given."""
        positions = np.asarray(positions, int)
        rows = self.rows[positions]
        chosen = self._like(type(self), rows)
        chosen._labels = None if self._labels is None else self._labels[positions]
        return chosen

    def _like(self, kind: type[Kind], rows: np.ndarray | None) -> Kind:
        return kind(
            self.name, self.split, self.source, self.features, self.classes,
            rows=rows, key=self.key, mapping=self.mapping, perturbation=self.perturbation,
        )  # fmt: skip

    def seal(self) -> Sealed:
        """The same rows with nothing behind them."""
        return Sealed(
            self.name, self.split, (), self.features, self.classes, rows=self.rows, perturbation=self.perturbation
        )

    def unlabelled(self) -> Unlabelled:
        """The same rows without their labels."""
        return self._like(Unlabelled, self.rows)

    def renamed(self, classes: tuple[str, ...], mapping: np.ndarray) -> Self:
        """The same rows, whose labels c count as the classes `mapping[c]` of others."""
        found = self._like(type(self), self.rows)
        found.classes, found.mapping = classes, mapping
        return found

    def perturbed(self, perturbation: Perturbation) -> Self:
        """The same rows, perturbed."""
        found = self._like(type(self), self.rows)
        found.perturbation = perturbation
        return found

    def whole(self) -> Self:
        """All examples of the split that this is a view of."""
        return self._like(type(self), None)

    @property
    def label_dtype(self) -> type:
        return np.int32 if self.features.target == "class" else np.float32

    def _read_labels(self) -> Iterator[int | float]:
        many = getattr(self.source, "__getitems__", lambda rows: [self.source[row] for row in rows])
        for start in range(0, len(self.source), 1024):
            rows = range(start, min(start + 1024, len(self.source)))
            for index, record in zip(rows, many(rows), strict=True):
                yield self._label(record, index)

    def _label(self, record: Mapping[str, Any], index: int) -> int | float:
        if self.features.target == "number":
            number = float(record[self.features.label])
            if not np.isfinite(number):
                raise ValueError(
                    f"{self.name} {self.split}[{index}]: {self.features.label!r} is {number}; leave such examples out "
                    "when the data set is built"
                )
            return number
        label = int(record[self.features.label])
        count = len(self.classes if self.mapping is None else self.mapping)
        if not 0 <= label < count:
            raise ValueError(
                f"{self.name} {self.split}[{index}]: label {label} is outside the {count} classes 0..{count - 1}"
            )
        return label

    def _pixels(self, content: bytes | np.ndarray, index: int) -> np.ndarray:
        """uint8[H, W, C] of a PNG, a JPEG or an array; ValueError for another type of pixels."""
        if isinstance(content, np.ndarray):
            pixels = content
        else:
            return decoded_pixels(decode(content, f"{self.name} {self.split}[{index}]"))
        if pixels.dtype != np.uint8:
            spoilt = " with NaN among them" if np.isnan(pixels).any() else ""
            raise ValueError(
                f"{self.name} {self.split}[{index}]: the pixels are {pixels.dtype}{list(pixels.shape)}{spoilt}; "
                "expected uint8[H, W, C]"
            )
        return pixels[..., None] if pixels.ndim == 2 else pixels

    def _text(self, content: bytes | str, feature: str, index: int) -> str:
        if isinstance(content, str):
            return content
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{self.name} {self.split}[{index}]: {feature!r} is not valid UTF-8"
                f" (byte 0x{content[error.start]:02x} at {error.start}); decode it when the data set is built"
            ) from None


class Unlabelled(Examples):
    """Examples whose labels nobody may read: they are in no example, and whoever asks for them is refused."""

    labelled = False

    def _truth(self, record: Mapping[str, Any], index: int) -> dict[str, Any]:
        return {}

    def labels(self) -> np.ndarray:
        raise PermissionError(f"the labels of {self.name} {self.split} are not granted to this setting")


class Sealed(Examples):
    """A split of which only the length and the rows are known: whoever reads an example or a label is refused."""

    labelled = False

    def __getitem__(self, position: int) -> dict[str, Any]:  # type: ignore[override]
        raise PermissionError(f"{self.name} {self.split} is sealed: this run was told not to look at it")

    def labels(self) -> np.ndarray:
        raise PermissionError(f"the labels of {self.name} {self.split} are sealed: this run was told not to look at it")


@dataclass(frozen=True)
class Dataset:
    """A data set on disk. `fingerprint` changes with its version, features and sizes, not with its folder."""

    name: str
    splits: dict[str, Examples]
    classes: tuple[str, ...]
    features: Features
    fingerprint: str


def data_dir() -> Path:
    """Where our data sets are prepared: `$TFDS_DATA_DIR`, else `tfds` in the cache."""
    return Path(os.environ["TFDS_DATA_DIR"]).expanduser() if os.environ.get("TFDS_DATA_DIR") else cache_dir() / "tfds"


def search_dirs() -> list[Path]:
    """The folders in which a data set is looked for, first match wins."""
    return list(dict.fromkeys((data_dir(), Path.home() / "tensorflow_datasets", cache_dir() / "tfds")))


def prepared() -> dict[str, Path]:
    """Every data set on disk, as `name[/config]:version` in order of version, and its folder."""
    found: dict[str, Path] = {}
    for root in search_dirs():
        for info in (*root.glob("*/[0-9]*.*.*/dataset_info.json"), *root.glob("*/*/[0-9]*.*.*/dataset_info.json")):
            folder = info.parent
            found.setdefault(f"{folder.parent.relative_to(root).as_posix()}:{folder.name}", folder)
    return dict(sorted(found.items(), key=lambda item: _version_key(item[0])))


def open_dataset(name: str) -> Dataset:
    """One of ours (prepared on first use), or any data set that TFDS has prepared on disk.

    `name` is `"name"`, `"name/config"`, either with `":version"` (the newest otherwise), or the path of its folder.
    Nothing but our own sets is ever downloaded. Raises FileNotFoundError with the nearest names where there is none,
    `tlx.assets.AssetError` where ours cannot be fetched, ValueError where tlx cannot use what it finds.
    """
    folder = _prepare(name) if name in DATASETS else _find(name)
    stamp = (folder / "dataset_info.json").stat().st_mtime_ns
    sources, features, classes, fingerprint = _opened(name, folder, stamp)
    # With the time, lest a data set made anew be read with the labels of the old one.
    key = f"{fingerprint}-{stamp:x}"
    splits = {
        split: Examples(name, split, source, features, classes, key=key if len(source) else "")
        for split, source in sources.items()
    }
    return Dataset(name, splits, classes, features, fingerprint)


# Of the last few, for each arm of a pack opens its data.
@lru_cache(maxsize=8)
def _opened(
    name: str, folder: Path, stamp: int
) -> tuple[dict[str, Sequence[Mapping[str, Any]]], Features, tuple[str, ...], str]:
    """What TFDS says of a folder that was written at the time `stamp`: `(sources, features, classes, fingerprint)`."""
    import tensorflow_datasets as tfds

    builder = open_builder(folder)
    if not hasattr(builder.info.file_format, "name") or builder.info.file_format.name not in (
        "ARRAY_RECORD",
        "PARQUET",
    ):
        raise ValueError(
            f"data set {name!r} is stored as {builder.info.file_format.value}, which only TensorFlow reads;"
            f" convert it once by `tfds convert_format --dataset_dir={folder} --out_file_format=array_record`"
        )
    check_shards(builder, folder)
    features = found_in(name, builder.info)
    classes = tuple(builder.info.features[features.label].names) if features.target == "class" else ()
    if name in DATASETS and classes != DATASETS[name].classes:
        raise ValueError(
            f"{folder}: the classes are {', '.join(classes)}, those of {name!r} are "
            f"{', '.join(DATASETS[name].classes)}; remove the folder, and tlx prepares it again"
        )
    decoders = {features.image: tfds.decode.SkipDecoding()} if features.image else None
    needed = [key for key in (*features.text, features.image, features.audio, features.label) if key]
    sources: dict[str, Sequence[Mapping[str, Any]]] = {
        split: Records(builder.as_data_source(split, decoders=decoders), f"{name} {split}", needed)
        if info.num_examples
        else ()
        for split, info in builder.info.splits.items()
    }
    if features.audio:
        known: list[Any] = [source for source in sources.values() if len(source)]
        features = features._replace(rate=rate_of(known[0][0][features.audio], name) if known else 0)
    return sources, features, classes, _fingerprint(builder, folder)


def _prepare(name: str) -> Path:
    """The folder of one of our data sets, made if it is not there. One process makes it; the others wait."""
    module, class_name = DATASETS[name].builder.split(":")
    base, _, config = name.partition("/")
    home = data_dir() / base / config if config else data_dir() / base
    builder_class = getattr(import_module(module), class_name)
    folder = home / str(builder_class.VERSION)
    if (folder / "dataset_info.json").is_file():
        return folder
    home.mkdir(parents=True, exist_ok=True)
    from filelock import FileLock
    from tensorflow_datasets import disable_progress_bar

    with guarded(home, "run the same command again"), FileLock(home / ".lock"):
        if (folder / "dataset_info.json").is_file():
            return folder
        for leftover in home.glob("incomplete.*"):
            shutil.rmtree(leftover, ignore_errors=True)
        log.info("preparing data set %s in %s", name, folder)
        disable_progress_bar()
        builder = builder_class(
            data_dir=str(data_dir()), file_format="array_record", **({"config": config} if config else {})
        )
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
    return folder


def _find(name: str) -> Path:
    if (Path(name) / "dataset_info.json").is_file():
        return Path(name)
    on_disk = prepared()
    matches = [key for key in on_disk if key == name or key.rpartition(":")[0] == name]
    if matches:
        return on_disk[matches[-1]]
    names = {*DATASETS, *(key.rpartition(":")[0] for key in on_disk)}
    network = f" ({offline()} is set)" if offline() else ""
    raise FileNotFoundError(
        f"data set {name!r} is not on disk in {', '.join(map(str, search_dirs()))}, and tlx downloads none but its own"
        f"{network}{near_miss(name, names)}; prepare it with `tfds build {name} --file_format=array_record`"
    )


def _fingerprint(builder: Any, folder: Path) -> str:
    splits = {
        name: [list(map(int, info.shard_lengths)), int(info.num_bytes)] for name, info in builder.info.splits.items()
    }
    features = json.loads((folder / "features.json").read_text(encoding="utf-8"))
    content = json.dumps([builder.info.full_name, splits, features], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _version_key(name: str) -> tuple[str, list[int]]:
    base, _, version = name.rpartition(":")
    return base, [int(part) if part.isdigit() else 0 for part in version.split(".")]


def save_whole(file: Path, array: np.ndarray) -> None:
    """Write an array to a file at once, if the disk takes it."""
    # The file only saves time: a full or read-only disk must not stop a run.
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".npy", delete=False) as stream:
            np.save(stream, array)
        os.replace(stream.name, file)
