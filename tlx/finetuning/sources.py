"""Make a source from the data of the user: a frame, arrays, pairs, a file, a folder, or the name of a data set."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tlx.data import Arrays, Frame, Source
from tlx.data.sources.files import FileTable
from tlx.data.sources.in_memory import InMemory
from tlx.data.sources.named import source_named
from tlx.data.sources.roles import roles_of
from tlx.data.sources.tabular import Tabular
from tlx.processors.base import format_source

Settings = Mapping[str, Any]


def source_of(train: Any, validation: Any, test: Any, settings: Settings) -> tuple[Source, tuple[str, ...]]:
    """Return the source of some data, with the columns by name, and notes on the columns that were chosen.

    Args:
        train: The data, or the training data: see `tlx.finetune`.
        validation: The validation data of the same kind, or None.
        test: The test data of the same kind, or None.
        settings: Fields of `tlx.data.sources.tabular.Tabular`; those that are None are left out.

    Raises:
        TypeError: The data are of no kind that tlx knows, or of different kinds.
        ValueError: The data are empty or ragged, a setting does not apply to them, or two splits are the same data.
    """
    parts = {"train": train, "validation": validation, "test": test}
    parts = {split: part for split, part in parts.items() if part is not None}
    settings = {name: value for name, value in settings.items() if value is not None}
    if not parts.keys() >= {"train"}:
        raise TypeError("train is None; expected a frame, arrays, pairs, the path of a file, or the name of a data set")
    source = opened(parts, settings)
    check_different(source)
    return named_columns(source)


def opened(parts: dict[str, Any], settings: Settings) -> Source:
    """Return the source of the data of each split, with the settings."""
    kinds = {split: kind_of(part, split) for split, part in parts.items()}
    if different := [split for split, kind in kinds.items() if kind != kinds["train"]]:
        split = different[0]
        raise TypeError(
            f"train is {kinds['train']} and {split} is {kinds[split]}; give both in the same form, or leave {split} out"
        )
    train, others = parts["train"], {split: part for split, part in parts.items() if split != "train"}
    if kinds["train"] == "a data frame":
        return Frame(train, **others, **settings)
    if kinds["train"] in ("a mapping", "a list"):
        columns: dict[str, Any] = {split: columns_of(part, split) for split, part in parts.items()}
        return Arrays(**columns, **settings)
    source = train if isinstance(train, Source) else source_named(str(train))
    if others:
        if isinstance(train, Source) or not isinstance(source, FileTable):
            raise ValueError(
                f"train is {format_source(train)}, which has splits of its own, so {' and '.join(others)} cannot be "
                "given; name all splits in one source, such as Csv('train.csv', test='test.csv')"
            )
        settings = {**settings, **{split: str(part) for split, part in others.items()}}
    if settings and not isinstance(source, Tabular):
        name = next(iter(settings))
        raise ValueError(
            f"{name}={settings[name]!r} does not apply to {format_source(source.short)}, whose columns are fixed; "
            f"remove {name}"
        )
    return replace(source, **settings) if settings else source


def kind_of(part: Any, split: str) -> str:
    """Return the form of some data in words. Raises TypeError for another type."""
    if isinstance(part, Source):
        return "a source"
    if isinstance(part, str | Path):
        return "a path or a name"
    if isinstance(part, Mapping):
        return "a mapping"
    if hasattr(part, "to_arrow") or (hasattr(part, "columns") and hasattr(part, "iloc")) or is_arrow(part):
        return "a data frame"
    if isinstance(part, list | tuple):
        return "a list"
    raise TypeError(
        f"{split} is {type(part).__name__}; expected a data frame of pandas or polars, a mapping from column to "
        "values, a list of (text, label) pairs, the path of a CSV, JSON Lines or Parquet file or of a folder, a "
        "source, or the name of a data set"
    )


def is_arrow(part: Any) -> bool:
    """Return whether some data are an Arrow table, which is imported already where it is one."""
    return type(part).__module__.partition(".")[0] == "pyarrow" and hasattr(part, "column_names")


def columns_of(part: Any, split: str) -> Mapping[str, Any]:
    """Return the columns of a mapping, or of a list of (text, label) pairs.

    Raises ValueError, with the row, for a list of anything else.
    """
    if isinstance(part, Mapping):
        return part
    if not part:
        raise ValueError(f"{split} is an empty list; expected (text, label) pairs")
    for row, item in enumerate(part):
        if not isinstance(item, tuple | list) or len(item) != 2 or not isinstance(item[0], str):
            shown = f"{item!r:.60}"
            raise ValueError(
                f"{split} row {row} is {shown}; expected a pair (text, label). Give other columns by name: "
                "{'text': [...], 'label': [...]}"
            )
    texts, labels = zip(*part, strict=True)
    return {"text": list(texts), "label": list(labels)}


def check_different(source: Source) -> None:
    """Raise ValueError where two splits of a source are the same data: its metrics would then be those of training."""
    if isinstance(source, FileTable):
        paths = {split: Path(path).resolve() for split, path in source.paths.items()}
    elif isinstance(source, InMemory):
        paths = {split: value for split in ("train", "validation", "test") if (value := getattr(source, split))}
    else:
        return
    seen: dict[Any, str] = {}
    for split, place in paths.items():
        if place in seen:
            raise ValueError(
                f"{seen[place]} and {split} are the same data; leave {split} out, and a share of {seen[place]} is held "
                "out for it"
            )
        seen[place] = split


def named_columns(source: Source) -> tuple[Source, tuple[str, ...]]:
    """Return a table with the name of each column that it uses, so that its recipe says them, and the notes on those
    that were chosen. Other sources are returned unchanged."""
    if not isinstance(source, Tabular):
        return source, ()
    # The stamps of a source raise the errors of its paths.
    source.stamps()
    table = source.tables()["train"]
    if not len(table):
        return source, ()
    roles, notes = roles_of(source, table)
    chosen: dict[str, Any] = {role: names[0] if len(names) == 1 else names for role, names in roles.items()}
    return replace(source, **chosen), notes
