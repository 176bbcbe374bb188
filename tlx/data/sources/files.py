"""The common part of the sources that are files: one file for each split."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from tlx.data.sources.raw_table import RawTable
from tlx.data.sources.tabular import Tabular
from tlx.trees import near_miss


@dataclass(frozen=True, kw_only=True)
class FileTable(Tabular):
    """A table in a file, or in a file for each split. A subclass defines `table(path)`."""

    path: str = field(kw_only=False)
    validation: str | None = None
    test: str | None = None

    PLACES: ClassVar[tuple[str, ...]] = ("path", "validation", "test")
    # The file in messages.
    NOUN: ClassVar[str] = "a file"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split is not None and (self.validation is not None or self.test is not None):
            raise ValueError(
                f"split={self.split!r} and validation={self.validation!r}, test={self.test!r} are both set; name the "
                "splits by a column or by files"
            )

    def __str__(self) -> str:
        return Path(self.path).name

    @property
    def paths(self) -> dict[str, str]:
        """Return the file of each split that has one."""
        files = {"train": self.path, "validation": self.validation, "test": self.test}
        return {split: path for split, path in files.items() if path is not None}

    def table(self, path: str) -> RawTable:
        """Return all columns of one file."""
        raise TypeError(f"{type(self).__name__} defines no table(path)")

    def tables(self) -> dict[str, RawTable]:
        """Return the table of each file by split."""
        return {split: self.table(path) for split, path in self.paths.items()}

    def stamps(self) -> tuple[Any, ...]:
        """Return the time and the size of each file.

        Raises FileNotFoundError with the nearest name in its folder, or IsADirectoryError.
        """
        stamps = []
        for path in map(Path, self.paths.values()):
            if path.is_dir():
                raise IsADirectoryError(f"{path} is a directory; expected {self.NOUN}")
            if not path.is_file():
                files = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
                raise FileNotFoundError(f"no file {path}{near_miss(path.name, files)}; expected {self.NOUN}")
            stamps.append((path.stat().st_mtime_ns, path.stat().st_size))
        return tuple(stamps)
