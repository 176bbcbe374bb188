"""Write a config for data that nobody has described yet: `tlx start`.

The defaults follow the measured results in docs/results/tunings.md; each line of the config states its reason.
"""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tlx import assets
from tlx.analysis.data.columns import table_rows, unused
from tlx.analysis.data.labels import counts, imbalance
from tlx.analysis.data.repeats import repeats
from tlx.analysis.data.sizes import sizes
from tlx.data import Data, load, open_dataset
from tlx.data.sources.folder import Folder
from tlx.data.sources.named import source_named
from tlx.data.sources.tabular import Tabular
from tlx.processors import TextProcessor
from tlx.processors.columns import LABEL, inputs, kind_of

if TYPE_CHECKING:
    from tlx.data import Examples, Splits
    from tlx.data.sources import Source

WEIGHTS = "minilm-l6"
# Training examples up to which a few parameters are enough, and up to which three passes are: the geometric means of
# the sizes in docs/results/tunings.md.
FEW, MANY = 250, 2600
TOKENS = (16, 32, 48, 64, 96, 128, 192, 256)
# Sides of the images of a new network.
SIDES = (16, 24, 28, 32, 48, 64)
# Test examples from which on an interval is narrow enough not to be named.
SURE = 400
# Duplicates are looked for in at most this many examples.
COMPARED = 100_000
WIDTH = 110
# The texts that may stand between several classes of one cell.
SEPARATORS = (";", "|", ",")
TASKS = {
    "class": "Classification()", "classes": "MultiLabel()", "tags": "TokenClassification()", "number": "Regression()",
}  # fmt: skip


class Draft(NamedTuple):
    """A config: its `text`, a `summary` of the data in a sentence, the name for files, and an example for `tlx
    predict`."""

    text: str
    summary: str
    name: str
    example: str


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
    rows = table_rows(splits.train)
    explicit = stated(named, {} if rows is None else rows.roles)
    kind, label = kind_of(splits.columns), splits.columns[LABEL]
    name = name_of(named)
    data = data_lines(explicit, splits)
    if kind in ("text", "words"):
        lines = text_lines(splits)
    elif kind in ("image", "audio"):
        lines = picture_lines(splits, kind)
    else:
        raise ValueError(f"{dataset.name} has inputs of the kind {kind}; tlx start knows texts, images and sounds")
    data += [line for line in lines if line.field.startswith("data.")]
    lines = [line for line in lines if not line.field.startswith("data.")]
    number = len(splits.train[0][LABEL]) if label.kind == "numbers" else 0
    task = Line("task", f"tasks.{TASKS.get(label.kind, f'Regression(outputs={number})')}", task_reason(splits))
    total = sum(len(part) for part in (splits.train, splits.validation, splits.test))
    summary = f"{total:,} {nouns(kind)} with {labels_in_words(splits)}"
    text = assembled(summary, dataset.name, command, name, data, [task, *lines])
    return Draft(text, f"{dataset.name}: {summary}", name, example_of(splits, kind))


def with_separator(source: Source) -> Source:
    """Return a source that reads several classes from a cell such as "plot;music", where its labels look like it: a
    tenth of the labels hold the separator, and there are fewer classes between separators than different cells."""
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
        if several[labels].mean() >= 0.1 and len(parts) < len(train.classes):
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
    short = source.short
    lines = [Line("data.target", code(short), reason)]
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    if sum(map(len, parts.values())) <= COMPARED:
        found = repeats({name: part for name, part in parts.items() if len(part)})
        within = sum(row["exact"] + row["near"] for row in found["within"] if row["split"] != "test")
        across = sum(row["exact"] + row["near"] for row in found["across"])
        if within or across:
            repeated = f"{within:,} training or validation examples repeat another one." if within else ""
            leaked = f" {across:,} held-out examples are also in another split." if across else ""
            lines.append(Line("data.drop_duplicates", "True", f"{repeated}{leaked}".strip()))
    return lines


def text_lines(splits: Splits) -> list[Line]:
    """Return the fields for texts: lengths, weights, tuning, optimiser, training."""
    count, label = len(splits.train), splits.columns[LABEL]
    processor = tokenizer()
    rows = sizes({"train": splits.train}, Data(target="x"), processor)
    at = {row["measure"]: row["at"] for row in rows}
    longest = at["tokens"][4] if processor else 1.5 * at["words"][4] + 2
    tokens = next((size for size in TOKENS if size >= longest), TOKENS[-1])
    buckets = tuple(sorted({next(size for size in TOKENS if size >= share * tokens) for share in (0.4, 0.7, 1.0)}))
    about = "have at most" if longest <= tokens else "would need"
    reason = (
        f"95 % of the texts {about} {math.ceil(longest)} tokens ({at['words'][4]:.0f} words); longer ones are cut, "
        "and a batch is padded to the smallest of the buckets that holds it."
    )
    lines = [Line("data.tokens", str(tokens), reason), Line("data.buckets", repr(buckets))]
    foreign = foreign_share(splits.train)
    weights = "A small BERT (23 million parameters), of which the head reads the mean over the tokens."
    if foreign > 0.2:
        weights += (
            " It knows English; many letters here are of another script, so a multilingual model of the hub will be "
            "better: Weights('owner/name')."
        )
    per_word = label.kind == "tags"
    value = f'Weights("{WEIGHTS}")' if per_word else f'Weights("{WEIGHTS}", pooling="mean")'
    return [*lines, Line("weights", value, weights), *tuning_lines(count, label.kind)]


def tuning_lines(count: int, label: str) -> list[Line]:
    """Return the tuning of pretrained texts, with its learning rate and steps, by the number of training examples."""
    rule = "docs/results/tunings.md"
    other = "" if label == "class" else f" Measured for classes of whole texts; not yet for {label}."
    if count <= FEW:
        tuning = (
            "tuning.BitFit()",
            "With few labels (64 in the measurement) training the biases and the head alone was 3.4 points better than "
            f"training everything ({rule}).{other}",
        )
        rate, train = "3e-3", "Train(steps=60, batch=16)"
        reason = "60 small steps, as in the measurement with 64 labels."
    else:
        tuning = (
            "tuning.Full()",
            f"With 1,000 labels or more no other way of tuning was shown to be better than training everything "
            f"({rule}). Faster, and 1 to 2 points worse: tuning.Lora(rank=8) with lr=2e-3.{other}",
        )
        rate = "2e-4"
        passes = 3 if count <= MANY else 1
        train = f"Train(epochs={passes}, batch=32)"
        times = {3: "Three passes", 1: "One pass"}[passes]
        reason = f"{times} over the training examples, as in the measurement of this size."
    return [
        Line("tuning", *tuning),
        Line(
            "optim",
            f'Optim(lr={rate}, weight_decay=0.01, warmup=0.1, schedule="linear", clip=1.0)',
            "The learning rate of that measurement. `tlx lr-find` suggests one for your data.",
        ),
        Line("train", train, reason),
    ]


def picture_lines(splits: Splits, kind: str) -> list[Line]:
    """Return the fields for images and sounds: a new small network."""
    count = len(splits.train)
    rows = sizes({"train": splits.train}, Data(target="x"), None)
    at = {row["measure"]: row["at"] for row in rows}
    if kind == "audio":
        side, channels = 64, 1
        seconds = max(0.1, round(at["seconds"][4], 1))
        lines = [
            Line("data.size", "64", "A sound becomes a picture of 64 mel bands by 64 moments."),
            Line(
                "data.seconds", f"{seconds:g}", f"95 % of the sounds have at most {seconds:g} seconds; the rest is cut."
            ),
        ]
    else:
        largest = max(at["height in pixels"][2], at["width in pixels"][2])
        side = next((size for size in SIDES if size >= largest), SIDES[-1])
        channels = 3 if any(splits.train[n]["image"].shape[-1] > 2 for n in range(min(32, count))) else 1
        same = at["height in pixels"][0] == at["height in pixels"][-1] == at["width in pixels"][0] == side
        median = f"{at['height in pixels'][2]:.0f} × {at['width in pixels'][2]:.0f}"
        lines = [
            Line(
                "data.size",
                str(side),
                f"All images have {side} × {side} pixels."
                if same
                else f"Half of the images are smaller than {median} pixels; all are resized to a square.",
            ),
            Line("data.channels", str(channels), "Grey." if channels == 1 else "Colours."),
            Line(
                "data.augment",
                f"(Crop(padding={max(1, side // 16)}),)",
                "Every step moves an image by a few pixels. Flip() too, unless left and right differ (digits, signs).",
            ),
        ]
    epochs = min(60, max(3, math.ceil(600 * 32 / max(count, 1))))
    model = (
        "A new small network. A pretrained one needs fewer labels: where the network is allowed, write "
        'weights=Weights("google/vit-base-patch16-224-in21k"), tuning=tuning.Probe() in the place of this line, and '
        "leave data.size and data.channels out."
    )
    return [
        *lines,
        Line("model", f"models.Cnn(size={side}, channels={channels}, widths=(16, 32, 64))", model),
        Line("optim", "Optim(lr=2e-3, weight_decay=1e-2, warmup=0.05)", "As in configs/cnn_mnist.py."),
        Line("train", f"Train(epochs={epochs}, batch=32)", f"About {math.ceil(epochs * count / 32):,} steps."),
    ]


def tokenizer() -> TextProcessor | None:
    """Return the tokenizer of the weights, where they are in the cache."""
    if not assets.path(WEIGHTS).is_file():
        return None
    return TextProcessor.load(assets.extract(WEIGHTS))


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
    words = {"number": "a number each", "numbers": "several numbers each"}
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


def example_of(splits: Splits, kind: str) -> str:
    """Return an input for `tlx predict`."""
    part = splits.test if len(splits.test) else splits.validation
    if kind not in ("text", "words"):
        return ""
    example = part.light(0)
    text = example["text"] if "text" in example else " ".join(example["words"])
    return " ".join(text.split())[:80]


def code(value: Any) -> str:
    """Return the code of a value, with fields that may be given by position first, and without defaults:
    `Csv("reviews.csv", text="body")`."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple):
        return f"({', '.join(map(code, value))}{',' if len(value) == 1 else ''})"
    if not is_dataclass(value):
        return repr(value)
    by_position = [field.name for field in fields(value) if not field.kw_only]
    others = [field.name for field in fields(value) if field.kw_only and getattr(value, field.name) != field.default]
    parts = [code(getattr(value, name)) for name in by_position]
    parts += [f"{name}={code(getattr(value, name))}" for name in others]
    return f"{type(value).__name__}({', '.join(parts)})"


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
            f'"""{head}', "", f"Written by `{command}`. Change what you like, here or on the command line:",
            f"tlx run {name}.py --set optim.lr=1e-4", '"""', "", *imports, "", "", "def recipe() -> Recipe:",
            "    return Recipe(", *body, "    )", "",
        ]
    )  # fmt: skip


def written(line: Line, indent: int, field: str) -> list[str]:
    """Return the lines of a field in the config: the reason as a comment, then the value."""
    pad = " " * indent
    comment = textwrap.wrap(line.reason, WIDTH - indent - 2, break_long_words=False, break_on_hyphens=False)
    return [*(f"{pad}# {part}" for part in comment), f"{pad}{field}={line.value},"]
