"""The examples of an evaluation: a split of the data of the run, or other data with its inputs and classes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tlx import config
from tlx.analysis.evaluation.classes import ClassLookup, aligned, spelled_classes
from tlx.data import Arrays, Concat, Folder, Frame, Where
from tlx.data.examples import Examples, Sealed
from tlx.data.sources.base import Dataset, Source
from tlx.data.sources.named import source_named
from tlx.data.sources.roles import INPUTS, roles_of
from tlx.data.sources.tabular import Tabular
from tlx.files.documents import holds_file
from tlx.predict.opening import OpenedModel, target_settings
from tlx.predict.rows import check_names, chosen_columns
from tlx.processors.columns import LABEL
from tlx.processors.columns import inputs as inputs_among
from tlx.records.run_directory import RESULT, read
from tlx.training.reopen import data_of, recipe_of
from tlx.trees import near_miss

if TYPE_CHECKING:
    from tlx.recipe import Recipe

# The splits that are evaluated where none is named, in this order.
ORDER = ("test", "validation", "train")
OF_CLASSES = ("class", "classes", "tags")


class EvaluatedData(NamedTuple):
    """The examples of an evaluation.

    Attributes:
        examples: The examples, with labels in the order of the run's classes.
        split: The name of the split.
        source: The name of the source.
        settings: The source as a user would write it.
        fingerprint: A hash of the content and of the chosen examples.
        notes: Sentences for the output.
    """

    examples: Examples
    split: str
    source: str
    settings: str
    fingerprint: str
    notes: tuple[str, ...] = ()


def own_data(model: OpenedModel, split: str | None, recipe: Recipe | None) -> EvaluatedData:
    """Return a split of the data of the run: the test split by default, where there is one.

    Raises:
        FileNotFoundError: The model is no run.
        ValueError: The data differ from those that the run used, or have no such split.
    """
    path = model.source
    if not holds_file(path / RESULT):
        raise FileNotFoundError(f"{path} is no run, so it records no data; name the data: --data NAME")
    recipe = recipe_of(path, recipe)
    splits = data_of(path, recipe, read(path))
    unread = model.task.self_supervised
    named = {
        name: part
        for name, part in splits.by_name.items()
        if (part.labelled or unread) and not isinstance(part, Sealed)
    }
    chosen = split or ("test" if "test" in splits.measured else "validation")
    if chosen not in named:
        raise ValueError(
            f"the data of {path} have no labelled split {chosen!r}{near_miss(chosen, named, listed=True)}; they have "
            f"{', '.join(map(repr, named))}"
        )
    notes = (f"{splits.untested}; the validation split is measured",) if splits.untested and split is None else ()
    target = recipe.data.target
    fingerprint = digest(splits.fingerprint, named[chosen])
    return EvaluatedData(named[chosen], chosen, str(target), config.source(target), fingerprint, notes)


def other_data(
    model: OpenedModel, data: Any, split: str | None, stated: Mapping[str, tuple[str, ...]], missing: str | None
) -> EvaluatedData:
    """Return other data with the inputs and the classes of the run.

    Args:
        model: The opened model.
        data: A source, the name or the path of one, a data frame, or a mapping from column to values.
        split: The split; by default the test split, else the validation split, else all rows.
        stated: The columns of the inputs and of the label, where the user names them.
        missing: How to treat rows without a label, "error" or "drop"; by default as the run did.

    Raises:
        FileNotFoundError: There is no such data set.
        ValueError: A column is missing, or a label is no class of the run; the message has the row and the nearest
            name.
    """
    source = source_of(data)
    task = model.task
    kind, classes = task.label_kind(), task.label_names
    if holds_file(model.source / RESULT):
        result = read(model.source)
        kind, classes = str(result.get("label", kind)), tuple(result["classes"]) or classes
    if task.self_supervised:
        kind, classes = "", ()
        if isinstance(source, Tabular) and source.label is None:
            source = replace(source, label=())
    lookup = ClassLookup(classes, task.label_names)
    source = settled_tables(source, model, kind, lookup, stated, missing)
    dataset = source.open()
    check_like(dataset, model, kind)
    examples = chosen_split(dataset, split)
    if examples.kind in OF_CLASSES and lookup.classes:
        examples = aligned(examples, lookup)
    notes = [*dataset.notes, *trained_on(model, source)]
    fingerprint = digest(dataset.fingerprint, examples)
    return EvaluatedData(examples, examples.split, str(source), config.source(source), fingerprint, tuple(notes))


def source_of(data: Any) -> Source:
    """Return the source of data of any kind."""
    if isinstance(data, Source):
        return data
    if isinstance(data, str | Path):
        return source_named(str(data))
    if isinstance(data, Mapping):
        return Arrays(data, test_share=0.0)
    return Frame(data, test_share=0.0)


def settled_tables(
    source: Source, model: OpenedModel, kind: str, lookup: ClassLookup, stated: Mapping[str, tuple[str, ...]],
    missing: str | None,
) -> Source:  # fmt: skip
    """Return a source in which every table, also one of several, is `settled`.

    Raises ValueError where the user names columns of a source that is no table.
    """
    if isinstance(source, Tabular):
        return settled(source, model, kind, lookup, stated, missing)
    if isinstance(source, Concat | Where):
        parts = source.sources if isinstance(source, Concat) else (source.source,)
        tables = tuple(settled_tables(source_of(part), model, kind, lookup, stated, missing) for part in parts)
        return Concat(tables) if isinstance(source, Concat) else replace(source, source=tables[0])
    if stated or missing:
        raise ValueError(f"{source} states its columns itself; columns are named for a table only")
    return source


def settled(
    source: Tabular, model: OpenedModel, kind: str, lookup: ClassLookup, stated: Mapping[str, tuple[str, ...]],
    missing: str | None,
) -> Tabular:  # fmt: skip
    """Return a table with the settings of the run where it does not state its own: the columns, the kind of the label,
    and the classes."""
    source.stamps()
    tables = source.tables()
    table, recorded = next(iter(tables.values())), target_settings_of(model)
    changes: dict[str, Any] = {}
    if not any(getattr(source, role) is not None for role in INPUTS):
        columns = {role: names for role, names in stated.items() if role != LABEL}
        roles = chosen_columns(table, model.inputs, columns)
        changes |= {role: names[0] if len(names) == 1 else names for role, names in roles.items() if role in INPUTS}
    label = stated.get(LABEL) or model.inputs.label
    by_folder = isinstance(source, Folder) and source.table is None
    if source.label is None and label and not by_folder:
        check_names(table, LABEL, label)
        changes["label"] = label[0] if len(label) == 1 else label
    if kind and source.label_kind is None:
        changes["label_kind"] = kind
    if kind == "classes" and source.separator is None:
        changes["separator"] = recorded.get("separator") or ";"
    if missing or "missing" in recorded:
        changes["missing"] = missing or recorded["missing"]
    if len(tables) == 1 and source.split is None:
        changes["test_share"] = 0.0
    source = replace(source, **changes)
    if kind in OF_CLASSES and not source.classes and lookup.classes:
        names = roles_of(source, table)[0][LABEL]
        if len(names) == 1:
            source = replace(source, classes=spelled_classes(source, tables, names[0], kind, lookup))
    return source


def target_settings_of(model: OpenedModel) -> dict[str, Any]:
    """Return the settings of the table in the recipe of a run; {} where there is none."""
    return target_settings(model.source) if holds_file(model.source / RESULT) else {}


def check_like(dataset: Dataset, model: OpenedModel, kind: str) -> None:
    """Raise ValueError where data have no label, another kind of label, or lack an input of the model."""
    if LABEL not in dataset.columns and not model.task.self_supervised:
        raise ValueError(f"{dataset.name} has no label; evaluation needs one (to predict without labels: tlx predict)")
    actual = dataset.columns[LABEL].kind if LABEL in dataset.columns else "nothing"
    if kind and actual != kind and {actual, kind} != {"class", "classes"}:
        raise ValueError(
            f"{dataset.name} has a label of the kind {actual!r}, but the run was trained on the kind {kind!r}; name "
            "another column: --label COLUMN (label=...)"
        )
    present = inputs_among(dataset.columns)
    if missing := [role for role in model.inputs.columns if role not in present]:
        raise ValueError(
            f"{dataset.name} has no input {missing[0]!r}; it has {', '.join(present)}, and {model.source} reads "
            f"{model.inputs.reads}"
        )


def chosen_split(dataset: Dataset, split: str | None) -> Examples:
    """Return the split to evaluate. Raises ValueError where it is missing or empty."""
    filled = {name: part for name, part in dataset.splits.items() if len(part)}
    chosen = split or next((name for name in ORDER if name in filled), "")
    if chosen not in filled:
        raise ValueError(
            f"{dataset.name} has no examples in a split {chosen or 'test'!r}{near_miss(chosen, filled, listed=True)}; "
            f"it has {', '.join(map(repr, filled)) or 'no examples'}"
        )
    return filled[chosen]


def trained_on(model: OpenedModel, source: Source) -> list[str]:
    """Return a note where the data are the file or the data set that the run was trained on."""
    place = getattr(source, "path", None) or getattr(source, "name", None)
    recorded = target_settings_of(model)
    if place is None or not holds_file(model.source / RESULT):
        return []
    target = recorded.get("path") or read(model.source, "recipe.json")["recipe"]["data"]["target"]
    if not isinstance(target, str) or (target != place and not same_file(target, str(place))):
        return []
    return [
        f"the run was trained on {place}, so the numbers may count training examples; the run's own test split is "
        "measured without --data"
    ]


def same_file(first: str, second: str) -> bool:
    """Return whether two paths name one file."""
    return Path(first).exists() and Path(second).exists() and Path(first).samefile(second)


def digest(fingerprint: str, examples: Examples) -> str:
    """Return a hash of a data set and of the examples of it."""
    return hashlib.sha256(f"{fingerprint} {examples.split} ".encode() + examples.identity).hexdigest()[:16]


__all__ = ["EvaluatedData", "other_data", "own_data"]
