"""Read data sets that are prepared on disk in the form of TFDS, the data sets of tlx among them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from tlx.assets import cache_dir, offline
from tlx.data import DATASETS
from tlx.data.examples import Examples
from tlx.data.folders import FolderRows, check_shards, open_builder
from tlx.data.sources.base import Dataset, Source
from tlx.files.durable import guarded
from tlx.processors.columns import LABEL
from tlx.processors.sounds import rate_of
from tlx.trees import Example, near_miss
from tlx.types import Column

log = logging.getLogger(__name__)


def data_dir() -> Path:
    """Return the folder in which the data sets of tlx are prepared: `$TFDS_DATA_DIR`, else `tfds` in the cache."""
    return Path(os.environ["TFDS_DATA_DIR"]).expanduser() if os.environ.get("TFDS_DATA_DIR") else cache_dir() / "tfds"


def search_dirs() -> list[Path]:
    """Return the folders that are searched for a data set; the first match wins."""
    return list(dict.fromkeys((data_dir(), Path.home() / "tensorflow_datasets", cache_dir() / "tfds")))


def prepared() -> dict[str, Path]:
    """Return the folder of every data set on disk, by `name[/config]:version`, in order of version."""
    folders: dict[str, Path] = {}
    for root in search_dirs():
        for info in (*root.glob("*/[0-9]*.*.*/dataset_info.json"), *root.glob("*/*/[0-9]*.*.*/dataset_info.json")):
            folder = info.parent
            folders.setdefault(f"{folder.parent.relative_to(root).as_posix()}:{folder.name}", folder)
    return dict(sorted(folders.items(), key=lambda item: _version_key(item[0])))


@dataclass(frozen=True, kw_only=True)
class Tfds(Source):
    """A data set of tlx (prepared on first use), or any data set that TFDS has prepared on disk.

    `name` is `"name"` or `"name/config"`, with or without `":version"` (the newest by default), or the path of its
    folder. A plain string in `Data` means the same.
    """

    name: str = field(kw_only=False)

    @property
    def short(self) -> str:
        return self.name

    def __str__(self) -> str:
        return self.name

    def open(self) -> Dataset:
        """Open the data set. Only the data sets of tlx are ever downloaded.

        Raises:
            FileNotFoundError: There is no data set of this name; the message has the nearest names.
            tlx.assets.AssetError: A data set of tlx cannot be fetched.
            ValueError: tlx cannot use the data set.
        """
        name = self.name
        folder = _prepare(name) if name in DATASETS else _find(name)
        stamp = (folder / "dataset_info.json").stat().st_mtime_ns
        sources, columns, fingerprint = _opened(name, folder, stamp)
        # With the time, because a data set that was prepared again must not use the cached labels of the old one.
        key = f"{fingerprint}-{stamp:x}"
        splits = {
            split: Examples(name, split, source, columns, key=key if len(source) else "")
            for split, source in sources.items()
        }
        return Dataset(name, splits, columns, fingerprint)


# The last few are cached, because each run of a group opens its data.
@lru_cache(maxsize=8)
def _opened(name: str, folder: Path, stamp: int) -> tuple[dict[str, Sequence[Example]], dict[str, Column], str]:
    """Return `(sources, columns, fingerprint)` of a folder that was written at the time `stamp`, as
    TFDS describes it."""
    import tensorflow_datasets as tfds

    builder = open_builder(folder)
    if not hasattr(builder.info.file_format, "name") or builder.info.file_format.name not in (
        "ARRAY_RECORD",
        "PARQUET",
    ):
        raise ValueError(
            f"data set {name!r} has the file format {builder.info.file_format.value}, which only TensorFlow reads; "
            f"convert it once: `tfds convert_format --dataset_dir={folder} --out_file_format=array_record`"
        )
    check_shards(builder, folder)
    columns, features = columns_of(name, builder.info)
    classes = columns[LABEL].classes
    if name in DATASETS and classes != DATASETS[name].classes:
        raise ValueError(
            f"{folder}: the classes are {', '.join(classes)}; expected the classes of {name!r}, "
            f"{', '.join(DATASETS[name].classes)}. Remove the folder; tlx then prepares the data set again"
        )
    decoders = {
        features[column]: tfds.decode.SkipDecoding() for column in columns if columns[column].kind == "image"
    } or None
    sources: dict[str, Sequence[Example]] = {
        split: FolderRows(builder.as_data_source(split, decoders=decoders), f"{name} {split}", features)
        if info.num_examples
        else ()
        for split, info in builder.info.splits.items()
    }
    if "audio" in columns:
        filled = [source for source in sources.values() if len(source)]
        columns["audio"] = Column("audio", rate=rate_of(filled[0][0]["audio"], name) if filled else 0)
    return sources, columns, _fingerprint(builder, folder)


def columns_of(name: str, info: Any) -> tuple[dict[str, Column], dict[str, str]]:
    """Return the inputs and the label: `supervised_keys` where TFDS has them, else the only features of their kind.

    Returns:
        The columns, and the feature of each column.
    """
    import tensorflow_datasets as tfds

    # TFDS returns the features of a folder in an order that changes from run to run.
    kinds = dict(sorted(info.features.items(), key=lambda item: (item[0] != "premise", item[0])))
    keys = info.supervised_keys or ()
    key_names = [key for key in keys if isinstance(key, str)]
    if unknown := [key for key in key_names if key not in kinds]:
        raise ValueError(
            f"data set {name!r} has the supervised keys {', '.join(key_names)}, but {unknown[0]!r} is not a feature; "
            f"its features are {', '.join(kinds)}; prepare the data set again"
        )
    inputs = key_names[:-1] if len(key_names) == len(keys) and key_names else list(kinds)
    labels = key_names[-1:] if len(key_names) == len(keys) and key_names else [key for key in kinds if "label" in key]
    audio = "audio" if isinstance(kinds.get("audio"), tfds.features.Text) and "audio" in inputs else None
    words = [key for key in inputs if isinstance(kinds[key], tfds.features.Text) and key != audio]
    text = tuple(key for key in words if not key.endswith("id")) if audio is None else ()
    image = next((key for key in inputs if isinstance(kinds[key], tfds.features.Image)), None)
    shapes = {key: getattr(feature, "shape", None) for key, feature in kinds.items()}
    classes = [key for key in labels if isinstance(kinds[key], tfds.features.ClassLabel)]
    numbers = [key for key in labels if shapes[key] == () and np.issubdtype(kinds[key].np_dtype, np.floating)]
    if sum(map(bool, (image, text, audio))) != 1 or len(text) > 2 or len(classes + numbers) != 1:
        raise ValueError(
            f"data set {name!r} has the features {', '.join(kinds)}; expected an image, one or two texts, or the bytes "
            "of a sound file with the name 'audio', and one label (class or number)"
        )
    features = dict(zip(("text", "text_pair"), text, strict=False))
    columns = dict.fromkeys(features, Column("text"))
    for kind, feature in (("image", image), ("audio", audio)):
        if feature is not None:
            features[kind], columns[kind] = feature, Column(kind)  # type: ignore[arg-type]
    features[LABEL] = (classes + numbers)[0]
    columns[LABEL] = Column("class", tuple(kinds[classes[0]].names)) if classes else Column("number")
    return columns, features


def _prepare(name: str) -> Path:
    """Return the folder of a data set of tlx, and prepare it if it is missing. One process prepares it; the others
    wait."""
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
        f"data set {name!r} is not on disk in {', '.join(map(str, search_dirs()))}, and tlx downloads only its own "
        f"data sets{network}{near_miss(name, names)}; prepare it as array_record or Parquet where TensorFlow is "
        "installed, or name a file (.csv, .jsonl, .parquet), a folder of images or sounds, or a data set of the hub "
        "(user/name)"
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
