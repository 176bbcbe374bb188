"""Read data sets of `datasets`: a folder that `save_to_disk` wrote, a folder of Parquet files, or a name on the hub."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from tlx.assets import offline
from tlx.data.sources.feature_types import described
from tlx.data.sources.parquet import batches
from tlx.data.sources.raw_table import RawTable, key_of, stored
from tlx.data.sources.tabular import Tabular
from tlx.files.durable import sha256_once
from tlx.processors.opening import read_json
from tlx.trees import near_miss

# The names of the splits of tlx, by the usual names on the hub.
SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "dev": "validation", "test": "test"}
# Parquet files of a hub: `data/train-00000-of-00002.parquet`, `config/train/0000.parquet`, `train.parquet`.
SHARD = re.compile(r"(?P<split>[A-Za-z_]+)(-\d+-of-\d+(-[0-9a-f]+)?)?\.parquet")
# The branch of the hub in which every data set is kept as Parquet files.
BRANCH = "refs/convert/parquet"


@dataclass(frozen=True, kw_only=True)
class HfDataset(Tabular):
    """A data set in the layout of Hugging Face `datasets`.

    Args:
        path: A folder that `save_to_disk` wrote (one data set or one for each split), a folder of Parquet files in the
            layout of the hub, or the name of a data set on the hub ("user/name"), where the network is allowed.
        config: The name of the configuration, where there are several.
        revision: The branch or commit of a data set on the hub.

    The other fields are those of every table (see `tlx.data.sources.tabular.Tabular`).
    """

    path: str = field(kw_only=False)
    config: str | None = None
    revision: str | None = None

    PLACES: ClassVar[tuple[str, ...]] = ("path", "revision")

    def __str__(self) -> str:
        return Path(self.path).name if Path(self.path).exists() else self.path

    def tables(self) -> dict[str, RawTable]:
        """Return the table of each split."""
        folder = Path(self.path)
        if not folder.is_dir():
            folder = self._fetched()
        if (folder / "dataset_dict.json").is_file():
            splits = read_json(folder / "dataset_dict.json")["splits"]
            tables = {split: saved(folder / split) for split in splits}
        elif (folder / "state.json").is_file():
            tables = {"train": saved(folder)}
        else:
            tables = self._shards(folder)
        named = {SPLITS[split]: table for split, table in tables.items() if split in SPLITS}
        if "train" not in named:
            raise ValueError(f"{self.path} has the splits {', '.join(map(repr, tables))}; expected 'train' among them")
        return named

    def stamps(self) -> tuple[Any, ...]:
        """Return the time and size of each file of a folder."""
        folder = Path(self.path)
        if folder.is_file():
            raise NotADirectoryError(f"{folder} is a file; expected a folder that `datasets` wrote")
        files = sorted(file for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else []
        return tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files)

    def _shards(self, folder: Path) -> dict[str, RawTable]:
        """Return the Parquet files of each split of a folder in the layout of the hub."""
        files: dict[str, dict[str, list[Path]]] = {}
        for file in sorted(folder.rglob("*.parquet")):
            match, where = SHARD.fullmatch(file.name), file.parent.relative_to(folder).parts
            if match is not None:
                config, split = "/".join(part for part in where if part != "data"), match["split"]
            elif where:
                # `config/split/0000.parquet`
                config, split = "/".join(where[:-1]), where[-1]
            else:
                continue
            files.setdefault(config, {}).setdefault(split, []).append(file)
        if not files:
            raise ValueError(
                f"{folder} is no data set of `datasets`; expected state.json, dataset_dict.json or Parquet files such "
                "as data/train-00000-of-00001.parquet"
            )
        if self.config is None and len(files) > 1 and "" not in files:
            raise ValueError(f"{self.path} has the configurations {', '.join(files)}; set config=...")
        config = self.config if self.config is not None else ("" if "" in files else next(iter(files)))
        if config not in files:
            raise ValueError(
                f"{self.path} has no configuration {config!r}{near_miss(config, files, listed=True)}; it has "
                f"{', '.join(files)}"
            )
        return {split: joined(f"{self.path} {split}", paths) for split, paths in files[config].items()}

    def _fetched(self) -> Path:
        """Return the local copy of a data set of the hub; fetch it where the network is allowed.

        Raises FileNotFoundError where there is no such folder, and the name is no name of the hub or cannot be fetched.
        """
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.path) or Path(self.path).parent.is_dir():
            files = [file.name for file in Path(self.path).parent.iterdir()] if Path(self.path).parent.is_dir() else []
            raise FileNotFoundError(
                f"no folder {self.path}{near_miss(Path(self.path).name, files)}; expected a folder that `datasets` "
                "wrote, or the name of a data set on the hub, user/name"
            )
        from tlx.data.sources.hub import fetched_dataset

        return fetched_dataset(self.path, self.revision or BRANCH, local_only=bool(offline()))


def saved(folder: Path) -> RawTable:
    """Return the table of a folder that `save_to_disk` wrote, mapped into memory where it lies."""
    import pyarrow as pa

    if not (folder / "state.json").is_file():
        raise ValueError(
            f"{folder} has no state.json; expected a folder that `datasets` wrote: save the data set again"
        )
    state, parts = read_json(folder / "state.json"), []
    for entry in state["_data_files"]:
        file = folder / entry["filename"]
        if not file.is_file():
            raise ValueError(f"{folder} lacks {entry['filename']}; save the data set again")
        try:
            parts.append(pa.ipc.open_stream(pa.memory_map(str(file))).read_all())
        except pa.ArrowInvalid as error:
            raise ValueError(f"{file} cannot be read ({error}); save the data set again") from None
    info = read_json(folder / "dataset_info.json") if (folder / "dataset_info.json").is_file() else {}
    table, kinds = described(pa.concat_tables(parts), info["features"] if info.get("features") else None)
    digests = [sha256_once(folder / entry["filename"]) for entry in state["_data_files"]]
    return RawTable(str(folder), table, digest_of(digests), folder, kinds)


def joined(name: str, paths: list[Path]) -> RawTable:
    """Return the table of several Parquet files with the same columns."""
    digest = digest_of([sha256_once(path) for path in paths])
    arrow = stored(key_of("parquet", digest), lambda: (batch for path in paths for batch in batches(str(path))), name)
    arrow, kinds = described(arrow)
    return RawTable(name, arrow, digest, paths[0].parent, kinds)


def digest_of(digests: list[str]) -> str:
    """Return one digest for several; that of one file is its own."""
    return digests[0] if len(digests) == 1 else hashlib.sha256(json.dumps(digests).encode()).hexdigest()
