"""Write a config for data that nobody has described yet: `tlx start`.

The recipe is that of `tlx.finetune` for these data; each line of the config states its reason.
"""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tlx import config, models
from tlx.analysis.data.columns import table_rows, unused
from tlx.analysis.data.labels import counts, imbalance
from tlx.analysis.data.repeats import repeats
from tlx.analysis.data.sizes import sizes
from tlx.data import Data, load, open_dataset
from tlx.data.sources.folder import Folder
from tlx.data.sources.named import source_named
from tlx.data.sources.tabular import Tabular
from tlx.files import class_names
from tlx.finetuning import Choices, chosen
from tlx.finetuning.defaults import MOST_TOKENS, PERCENTILE
from tlx.processors.columns import LABEL, inputs, kind_of

if TYPE_CHECKING:
    from tlx.data import Examples, Splits
    from tlx.data.sources import Source
    from tlx.recipe import Recipe

WEIGHTS = "minilm-l6"
# Sides of the images of a new network.
SIDES = (16, 24, 28, 32, 48, 64)
# Test examples from which on an interval is narrow enough not to be named.
SURE = 400
# Duplicates are looked for in at most this many examples.
COMPARED = 100_000
WIDTH = 110
# The texts that may stand between several classes of one cell.
SEPARATORS = (";", "|", ",")
# Why a tuning is chosen.
REASONS = {
    "BitFit": "With 64 labels training the biases and the head alone was 3.4 points better than training everything "
    "(docs/results/tunings.md).",
    "Full": "With 1,000 labels or more no other way of tuning was shown to be better than training everything "
    "(docs/results/tunings.md). Faster, and 1 to 2 points worse: tuning.Lora(rank=8) with lr=2e-3.",
}


class Draft(NamedTuple):
    """A config: its `text`, a `summary` of the data in a sentence, the name for files, an example for `tlx predict`,
    and the second text of the example if the inputs are pairs."""

    text: str
    summary: str
    name: str
    example: str
    pair: str = ""


@dataclass(frozen=True)
class Line:
    """A field of the recipe in the config: its value as code, with the reason."""

    field: str
    value: str
    reason: str = ""


def draft(source: str | Source, command: str = "tlx start") -> Draft:
    """Look at data and return a config for them.

    Args:
        source: The data set.
        command: The command that asked, for the docstring of the config.

    Raises:
        ValueError: The data cannot be read, a column is not clear, or there is no label.
    """
    named = with_separator(source_named(source) if isinstance(source, str) else source)
    dataset = open_dataset(named)
    splits = load(Data(target=named), 0)
    if LABEL not in splits.columns:
        raise ValueError(
            f"{dataset.name} has no labels, so there is nothing to train on; name the column: --label NAME"
        )
    rows, kind, name = table_rows(splits.train), kind_of(splits.columns), name_of(named)
    if kind not in ("text", "words", "image", "audio"):
        raise ValueError(f"{dataset.name} has inputs of the kind {kind}; tlx start knows texts, images and sounds")
    named = stated(named, {} if rows is None else rows.roles)
    recipe = chosen(WEIGHTS if kind in ("text", "words") else network(splits, kind), named, Choices()).recipe
    data = [*data_lines(named, splits), *(text_lines(recipe, splits) if recipe.weights else picture_lines(recipe))]
    lines = [Line("task", f"tasks.{code(recipe.task)}", task_reason(splits))]
    lines += weights_lines(recipe, splits) if recipe.weights else model_lines(recipe, kind)
    lines += training_lines(recipe, splits)
    total = sum(len(part) for part in (splits.train, splits.validation, splits.test))
    summary = f"{total:,} {nouns(kind)} with {labels_in_words(splits)}"
    text = assembled(summary, dataset.name, command, name, data, lines)
    pair = example_of(splits, kind, "text_pair") if "text_pair" in splits.columns else ""
    return Draft(text, f"{dataset.name}: {summary}", name, example_of(splits, kind), pair)


def with_separator(source: Source) -> Source:
    """Return a source that reads several classes from a cell such as "plot;music", where its labels look like it: a
    tenth of the labels hold the separator, there are fewer classes between separators than different cells, and not all
    of them are digits."""
    if not isinstance(source, Tabular) or source.separator or source.label_kind or isinstance(source.label, tuple):
        return source
    dataset = open_dataset(source)
    train = dataset.splits["train"]
    if train.kind != "class":
        return source
    labels = train.labels()
    for separator in SEPARATORS:
        parts = {part.strip() for name in train.classes for part in name.split(separator)}
        several = np.array([separator in name for name in train.classes])
        # Digits between separators are parts of numbers: "1,5", "2;3".
        digits = all(part.isdigit() for part in parts if part)
        if several[labels].mean() >= 0.1 and len(parts) < len(train.classes) and not digits:
            return replace(source, separator=separator)
    return source


def stated(source: Source, roles: Mapping[str, tuple[str, ...]]) -> Source:
    """Return a source that names the columns that it takes, so that the config shows them."""
    if not isinstance(source, Tabular) or (isinstance(source, Folder) and source.table is None):
        return source
    chosen: dict[str, Any] = {role: names[0] if len(names) == 1 else names for role, names in roles.items()}
    return replace(source, **{role: value for role, value in chosen.items() if getattr(source, role) is None})


def data_lines(source: Source, splits: Splits) -> list[Line]:
    """Return the fields of `Data` that all kinds of data have."""
    rows = table_rows(splits.train)
    others = [column["name"] for column in unused(rows)]
    reason = f"Not used: {', '.join(map(repr, others))}. " if others else ""
    if rows is not None and splits.test.source is not None and splits.test.split == "test":
        reason += (
            f"{len(splits.train):,} examples are trained on, {len(splits.validation):,} choose the checkpoint "
            f"(validation), {len(splits.test):,} are tested; the same ones in every run."
        )
        if len(splits.test) < SURE and splits.columns[LABEL].kind == "class":
            points = 196 * (0.8 * 0.2 / len(splits.test)) ** 0.5
            reason += (
                f" An accuracy of 80 % on so few test examples is known to about {points:.0f} points; a study over "
                "folds tests every row (docs/guides/studies.md)."
            )
    lines = [Line("data.target", code(source.short), reason)]
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    if sum(map(len, parts.values())) <= COMPARED:
        found = repeats({name: part for name, part in parts.items() if len(part)})
        within = sum(row["exact"] + row["near"] for row in found["within"] if row["split"] != "test")
        across = sum(row["exact"] + row["near"] for row in found["across"])
        if within or across:
            repeated = f"Training or validation examples that repeat another one: {within:,}." if within else ""
            leaked = f" Held-out examples that are also in another split: {across:,}." if across else ""
            lines.append(Line("data.drop_duplicates", "True", f"{repeated}{leaked}".strip()))
    return lines


def text_lines(recipe: Recipe, splits: Splits) -> list[Line]:
    """Return the fields of `Data` for texts: their lengths."""
    data = recipe.data
    at = {row["measure"]: row["at"] for row in sizes({"train": splits.train}, Data(target="x"), None)}
    reason = (
        f"{PERCENTILE} % of the texts have at most {data.tokens} tokens; longer ones are cut."
        if data.tokens < MOST_TOKENS
        else "Longer texts are cut, because the time of a step grows with their length."
    )
    reason += f" Half of the texts have more than {at['words'][2]:.0f} words."
    lines = [Line("data.tokens", str(data.tokens), reason)]
    reason = "A batch is padded to the smallest of these lengths that holds it." if len(data.buckets) > 1 else ""
    lines.append(Line("data.buckets", repr(data.buckets), reason))
    if data.group > 1:
        lines.append(Line("data.group", str(data.group), "Texts of similar length are in one batch."))
    return lines


def weights_lines(recipe: Recipe, splits: Splits) -> list[Line]:
    """Return the field of the pretrained weights for texts."""
    reason = "A small BERT (23 million parameters), of which the head reads the mean over the tokens."
    if foreign_share(splits.train) > 0.2:
        reason += (
            " It knows English; many letters here are of another script, so a multilingual model of the hub will be "
            "better: Weights('owner/name')."
        )
    return [Line("weights", code(recipe.weights), reason)]


def network(splits: Splits, kind: str) -> models.Cnn:
    """Return a new small network for images or sounds, of the size of the images."""
    if kind == "audio":
        # A sound becomes a picture of 64 mel bands.
        return models.Cnn(size=64, channels=1, widths=(16, 32, 64))
    at = {row["measure"]: row["at"] for row in sizes({"train": splits.train}, Data(target="x"), None)}
    largest = max(at["height in pixels"][2], at["width in pixels"][2])
    side = next((size for size in SIDES if size >= largest), SIDES[-1])
    few = range(min(32, len(splits.train)))
    channels = 3 if any(splits.train[n]["image"].shape[-1] > 2 for n in few) else 1
    return models.Cnn(size=side, channels=channels, widths=(16, 32, 64))


def picture_lines(recipe: Recipe) -> list[Line]:
    """Return the fields of `Data` for images and sounds."""
    data, lines = recipe.data, []
    if data.seconds != Data(target="x").seconds:
        lines.append(Line("data.seconds", f"{data.seconds:g}", f"{PERCENTILE} % of the sounds are no longer."))
    if data.augment:
        reason = "Every step moves an image by a few pixels. Flip() too, unless left and right differ (digits, signs)."
        lines.append(Line("data.augment", code(data.augment), reason))
    return lines


def model_lines(recipe: Recipe, kind: str) -> list[Line]:
    """Return the field of a new network."""
    reason = "A new small network."
    if kind == "image":
        reason += (
            " Images are resized to the square that it reads. A pretrained one needs fewer labels: where the network "
            'is allowed, write weights=Weights("google/vit-base-patch16-224-in21k"), tuning=tuning.Probe() in place '
            "of this line."
        )
    return [Line("model", f"models.{code(recipe.model)}", reason)]


def training_lines(recipe: Recipe, splits: Splits) -> list[Line]:
    """Return the tuning, the optimiser and the length of training."""
    label, count, lines = splits.columns[LABEL].kind, len(splits.train), []
    if recipe.weights is not None:
        other = "" if label == "class" else f" Measured for classes of whole texts; not yet for {label}."
        reason = REASONS[type(recipe.tuning).__name__]
        lines.append(Line("tuning", f"tuning.{code(recipe.tuning)}", reason + other))
    rate = "A usual rate for this way of training. `tlx lr-find` suggests one for your data."
    lines.append(Line("optim", code(recipe.optim), rate))
    steps = math.ceil((recipe.train.epochs or 0) * math.ceil(count / recipe.train.batch))
    length = f"About {steps:,} steps, with five validations. `tlx lengthen` trains a finished run further."
    lines.append(Line("train", code(recipe.train), length))
    return lines


def foreign_share(examples: Examples) -> float:
    """Return the share of letters beyond the Latin script in some texts."""
    letters = foreign = 0
    for position in range(min(200, len(examples))):
        for name in inputs(examples.columns):
            for letter in "".join(examples.light(position).get(name) or ()):
                if letter.isalpha():
                    letters += 1
                    foreign += ord(letter) > 0x24F
    return foreign / max(letters, 1)


def task_reason(splits: Splits) -> str:
    """Return what is to be known about the labels."""
    counted = counts({"train": splits.train})
    balance = imbalance(counted, "train")
    if balance is None:
        return ""
    names = splits.classes
    listed = ", ".join(map(repr, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    reason = f"The classes are {listed}."
    if balance["ratio"] >= 5:
        reason += (
            f" The largest is {balance['ratio']:.0f} times as frequent as the smallest: read macro F1, and see "
            "class_weights."
        )
    return reason


def labels_in_words(splits: Splits) -> str:
    """Return the kind of the labels in words."""
    label = splits.columns[LABEL]
    words = {"number": "a number each", "numbers": "several numbers each", "answers": "answers in the texts"}
    kinds = {"class": f"one of {len(label.classes)} classes", "classes": f"some of {len(label.classes)} classes"}
    return (words | kinds).get(label.kind, f"one of {len(label.classes)} tags for each word")


def nouns(kind: str) -> str:
    """Return what the examples are."""
    return {"text": "texts", "words": "texts in words", "image": "images", "audio": "sounds"}[kind]


def name_of(source: Source) -> str:
    """Return a name for the files of a config: letters, digits and underscores."""
    name = Path(str(source.short)).stem if isinstance(source.short, str) else Path(str(source)).stem
    name = re.sub(r"\W+", "_", name).strip("_").lower() or "data"
    return name if not name[0].isdigit() else f"data_{name}"


def example_of(splits: Splits, kind: str, role: str = "text") -> str:
    """Return an input for `tlx predict`: of texts the first one, or the one of another role."""
    part = splits.test if len(splits.test) else splits.validation
    if kind not in ("text", "words"):
        place = part.place(int(part.rows[0]))
        return place if Path(place).is_file() else ""
    example = part.light(0)
    text = example[role] if role in example else " ".join(example["words"])
    return " ".join(text.split())[:80]


def code(value: Any) -> str:
    """Return the code of a value, without fields at their defaults; a field that has none needs no name:
    `Csv("reviews.csv", text="body")`."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple):
        return f"({', '.join(map(code, value))}{',' if len(value) == 1 else ''})"
    if not config.is_record(value):
        return repr(value)
    values, defaults = config.fields(value), class_names.defaults(type(value))
    by_name = {field.name for field in fields(value) if field.kw_only or field.name in defaults}
    parts = [code(field) for name, field in values.items() if name not in by_name]
    changed = {name: field for name, field in values.items() if name in by_name and defaults.get(name) != field}
    return (
        f"{type(value).__name__}({', '.join([*parts, *(f'{name}={code(field)}' for name, field in changed.items())])})"
    )


def assembled(summary: str, source: str, command: str, name: str, data: list[Line], lines: list[Line]) -> str:
    """Return the text of the config."""
    used = "".join(line.value for line in (*data, *lines))
    top = [word for word in ("models", "tasks", "tuning") if re.search(rf"\b{word}\.", used)]
    names = [word for word in ("Optim", "Train", "Weights") if re.search(rf"\b{word}\(", used)]
    classes = sorted(set(re.findall(r"\b(Arrays|Concat|Csv|Crop|Folder|Frame|HfDataset|Jsonl|Parquet|Where)\(", used)))
    imports = [f"from tlx import {', '.join(sorted(['Data', 'Recipe', *names], key=str.lower) + top)}"]
    imports += [f"from tlx.data import {', '.join(classes)}"] if classes else []
    body = ["        data=Data("]
    for line in data:
        body += written(line, 12, line.field.removeprefix("data."))
    body.append("        ),")
    for line in lines:
        body += written(line, 8, line.field)
    head = textwrap.fill(f"{source}: {summary}.", WIDTH)
    return "\n".join(
        [
            f'"""{escaped(head)}', "",
            f"Written by `{escaped(command)}`. Change what you like, here or on the command line:",
            f"tlx run {name}.py --set optim.lr=1e-4", '"""', "", *imports, "", "", "def recipe() -> Recipe:",
            "    return Recipe(", *body, "    )", "",
        ]
    )  # fmt: skip


def escaped(text: str) -> str:
    """Return a text as it is written within a docstring."""
    return text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')


def written(line: Line, indent: int, field: str) -> list[str]:
    """Return the lines of a field in the config: the reason as a comment, then the value."""
    pad = " " * indent
    comment = textwrap.wrap(line.reason, WIDTH - indent - 2, break_long_words=False, break_on_hyphens=False)
    return [*(f"{pad}# {part}" for part in comment), f"{pad}{field}={line.value},"]
