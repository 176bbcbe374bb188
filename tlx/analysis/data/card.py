"""Put the description of data together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlx.analysis.data import columns, doubts, labels, repeats, shown, sizes
from tlx.analysis.data.features import FeatureSource
from tlx.data import Data, load, open_dataset
from tlx.data.oddities import of_labels, of_the_test, read_of
from tlx.processors import fit
from tlx.processors.base import format_source
from tlx.processors.columns import kind_of, spelled
from tlx.records.log import write_json
from tlx.trees import Json

if TYPE_CHECKING:
    from tlx.data import Examples, Splits
    from tlx.data.sources import Source
    from tlx.processors import Processor
    from tlx.recipe import Recipe
    from tlx.training.prepare import Prepared

DOCUMENT, PAGE = "data.json", "data.html"
VERSION = 1
# A class this many times as large as another is named.
UNEQUAL = 5.0
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Plain:
    """Data without a recipe, with the paths that their fields have in a recipe."""

    data: Data


def measure(
    data: Data,
    *,
    recipe: Recipe | None = None,
    others: Sequence[str | Source] = (),
    examples: int = 12,
    command: str = "",
    say: Say | None = None,
) -> Json:
    """Describe data (see `tlx.analysis.data`).

    Args:
        data: The data.
        recipe: The recipe that they belong to: its model and its processor are used.
        others: Further data sets, which are compared with the target as sources.
        examples: How many examples to show.
        command: The command that measured, for the page.
        say: Called with the name of each part before it is measured.

    Returns:
        The document.

    Raises:
        ValueError: The data cannot be read; another data set has other inputs, or is the target itself.
    """
    tell = say or (lambda part: None)
    tell("reading")
    splits, ready, processor = opened(data, recipe)
    parts = read_of(splits)
    if "unlabelled" in parts and "labelled" in parts and data.labels is None:
        del parts["unlabelled"]
    parts |= {str(other): further(other, data, splits) for other in others}
    compared_with = [name for name in parts if name in {*data.sources, *map(str, others)}]
    train = next(name for name in ("train", "labelled", *parts) if name in parts)
    features = FeatureSource(ready, kind_of(splits.columns))
    rows = columns.table_rows(parts[train])
    unused = columns.unused(rows)
    tell("labels and sizes")
    counted = labels.counts(parts)
    document: Json = {
        "version": VERSION,
        "title": title_of(data.target),
        "target": str(data.target),
        "sources": [*map(str, data.sources.values()), *map(str, others)],
        "inputs": spelled(splits.columns),
        "fingerprint": splits.fingerprint,
        "command": command,
        "fields": columns.fields(splits.columns, rows),
        "unused": unused,
        "splits": [
            {"name": name, "examples": len(part), "source": name in compared_with} for name, part in parts.items()
        ],
        "train": train,
        "counts": counted,
        "imbalance": labels.imbalance(counted, train),
        "sizes": sizes.sizes(parts, data, processor),
        "images": sizes.image_sizes(parts),
        "processor": "" if processor is None else type(processor).__name__,
    }
    document |= looked_at(parts, train, compared_with, data, processor, features, examples, tell)
    notes = [*splits.notes, *of_the_test(data, splits), *columns.split_groups(rows, unused, parts)]
    for name in (name for name in parts if name in read_of(splits)):
        notes += of_labels(data, splits, name, parts[name], 1)
    return document | {"notes": [*notes, *sentences(document)]}


def looked_at(
    parts: Mapping[str, Examples], train: str, compared_with: Sequence[str], data: Data, processor: Processor | None,
    features: FeatureSource, examples: int, tell: Say,
) -> Json:  # fmt: skip
    """Return the parts of the document that read the inputs: examples, duplicates, labels in doubt, distances."""
    tell("examples")
    document: Json = {"shown": shown.shown(parts[train], data, processor, examples)}
    tell("duplicates")
    alone = {name: part for name, part in parts.items() if (name, "unlabelled" in parts) != ("labelled", True)}
    document["duplicates"] = repeats.repeats(alone)
    tell("labels in doubt")
    document["doubts"] = doubts.doubts(parts[train], features)
    document["distances"] = []
    for name in compared_with:
        # It needs JAX, which takes seconds to import.
        from tlx.analysis.data.distances import distance

        tell(f"distance of {name}")
        target = parts.get("unlabelled", parts[train])
        document["distances"].append(distance(name, parts[name], target, features))
    return document


def opened(data: Data, recipe: Recipe | None) -> tuple[Splits, Prepared | None, Processor | None]:
    """Return the splits, the prepared recipe and the processor; the latter two are None where there is no recipe.

    Without a recipe images and sounds are processed where the data state a size.
    """
    if recipe is None:
        splits = load(data, 0)
        plain = kind_of(splits.columns) in ("image", "audio") and data.size is not None
        return splits, None, fit(data, splits.columns, example=lambda: splits.validation[0]) if plain else None
    from tlx.training.prepare import prepare

    splits = load(data, recipe.seed)
    ready = prepare(replace(recipe, data=data), splits)
    return splits, ready, ready.processor


def further(other: str | Source, data: Data, splits: Splits) -> Examples:
    """Return the training examples of another data set. Raises ValueError where it is the target, or has other
    inputs."""
    dataset = open_dataset(other)
    if dataset.fingerprint == open_dataset(data.target).fingerprint:
        raise ValueError(f"{format_source(other)} and {format_source(data.target)} are the same data set; name another")
    if spelled(dataset.columns) != spelled(splits.columns):
        raise ValueError(
            f"{format_source(other)} has {spelled(dataset.columns)}, but {format_source(data.target)} has "
            f"{spelled(splits.columns)}; expected the same inputs"
        )
    if "train" not in dataset.splits:
        raise ValueError(f"{format_source(other)} has no 'train' split")
    return dataset.splits["train"]


def title_of(target: str | Source) -> str:
    """Return the name of a data set for a headline."""
    name = str(target)
    return "/".join(Path(name).parts[-2:]) if Path(name).is_absolute() else name


def sentences(document: Json) -> list[str]:
    """Return what is unusual in the measurements, in sentences."""
    notes = []
    for field in document["fields"]:
        if field["missing"]:
            notes.append(f"{field['missing']:,} cells of {' + '.join(map(repr, field['from']))} are missing or empty")
    balance = document["imbalance"]
    if balance is not None and balance["ratio"] >= UNEQUAL:
        notes.append(
            f"{balance['largest']['class']!r} has {balance['largest']['examples']:,} training examples, "
            f"{balance['ratio']:.3g} times as many as {balance['smallest']['class']!r} "
            f"({balance['smallest']['examples']:,}): accuracy says little here; read macro F1"
        )
    for row in document["sizes"]:
        if row.get("cut", 0) >= 0.01:
            notes.append(
                f"{row['cut']:.0%} of {row['split']} are longer than {row['limit']:g} {row['measure']}: "
                f"{row['lost']:.0%} of all {row['measure']} are cut off"
            )
    for row in document["duplicates"]["within"]:
        other = f", {row['other_label']:,} of the exact ones with another label" if row["other_label"] else ""
        notes.append(f"{row['exact']:,} exact and {row['near']:,} near duplicates within {row['split']}{other}")
    for row in document["duplicates"]["across"]:
        notes.append(
            f"{row['exact'] + row['near']:,} of {row['of']:,} examples of {row['split']} are also in {row['other']} "
            f"({row['exact']:,} exactly, {row['near']:,} nearly); data.drop_duplicates=True leaves them out of training"
        )
    found = document["doubts"]
    if not found["why"] and found["in_doubt"]:
        notes.append(
            f"{found['in_doubt']:,} of {found['examples']:,} labels of {document['train']} are in doubt (by "
            f"{found['by']}; cross-validated {found['measure']} {found['score']:.3f})"
        )
    return notes


def write(document: Mapping[str, Any], folder: str | Path) -> list[Path]:
    """Write `data.json` and, where the extra that draws it is installed, `data.html`. Return the paths."""
    from tlx import report

    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / DOCUMENT, dict(document))
    files = [path / DOCUMENT]
    if report.available():
        from tlx.report import data as page

        files.append(page.write(path / PAGE, dict(document)))
    return files
