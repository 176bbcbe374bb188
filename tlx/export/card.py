"""Write the model card of an exported directory, `README.md`, from the records of the run alone.

A number that no record holds is not in the card; what was not measured is in its section "Limits". Names and notes are
foreign texts, so all of them go through `tlx.export.markdown` or the YAML writer of the hub's client.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tlx import assets, config
from tlx.export import temperature
from tlx.export.blends import sections
from tlx.export.markdown import block, code, items, plain, table
from tlx.export.usage import pipeline_of
from tlx.files.documents import holds_file
from tlx.functional.selection import BY_VALIDATION
from tlx.recipe import classes as classes_of_recipes
from tlx.records import run_directory
from tlx.records.members import measured_on
from tlx.records.run_directory import Predictions
from tlx.report import intervals, reading, words
from tlx.report.intervals import Interval
from tlx.tasks import Task
from tlx.trees import Json
from tlx.weights import Pretrained
from tlx.weights.hub import cached_hub_id
from tlx.weights.source import MODEL_IN_RUN

NAME = "README.md"
# A class with fewer examples in a split has an interval of its share that is wider than 0.4 (Wilson, at one half).
FEW = 20


class CardRecords(NamedTuple):
    """The records of a run that a card reads.

    Attributes:
        folder: The directory of the run.
        document: The content of recipe.json.
        result: The content of result.json.
        task: The task, with the class names that the run used.
        predictions: The scores of every measured split by its name.
        environment: The content of environment.json; empty if there is none.
    """

    folder: Path
    document: Json
    result: Json
    task: Task
    predictions: dict[str, Predictions]
    environment: Json

    @property
    def recipe(self) -> Json:
        """Return the dumped recipe."""
        return self.document["recipe"]

    @property
    def split(self) -> str:
        """Return the split that the card is about: the test split, if it was measured."""
        return "test" if "test" in self.predictions else "validation"


class Measured(NamedTuple):
    """A measured metric: its split, name, value, interval and number of examples; None for what no record holds."""

    split: str
    name: str
    value: float
    interval: Interval | None
    examples: int | None


def records_of(source: str | Path, task: Task | None = None) -> CardRecords | None:
    """Return the records of the run that a model belongs to; None if it belongs to no run.

    Args:
        source: The directory of the run, or of its `model/`.
        task: The resolved task, if it is of a user's class.

    Raises:
        ValueError: A record is damaged, or belongs to another run.
    """
    path = Path(source).expanduser()
    folders = (path, path.parent) if path.name == MODEL_IN_RUN else (path,)
    folder = next((place for place in folders if holds_file(place / run_directory.RESULT)), None)
    if folder is None:
        return None
    document, result = reading.read_recipe(folder), run_directory.read(folder)
    splits = {name.partition("/")[0] for name in result["metrics"]}
    predictions = {split: run_directory.read_predictions(folder, split) for split in sorted(splits)}
    environment = folder / "environment.json"
    return CardRecords(
        folder,
        document,
        result,
        reading.read_task(document["recipe"]["task"], result) if task is None else task,
        {split: scores for split, scores in predictions.items() if scores is not None},
        run_directory.read(folder, environment.name) if environment.exists() else {},
    )


def values_of(records: CardRecords) -> list[Measured]:
    """Return every metric of every split, the splits that chose nothing first."""
    order = ("test", *records.result.get("tests", ()), "validation")
    values = []
    for key, value in records.result["metrics"].items():
        split, _, name = key.rpartition("/")
        scores = records.predictions.get(key.partition("/")[0])
        parts = [] if scores is None else measured_on(scores, key, records.result)
        interval = None
        if parts and name in records.task.metrics:
            interval = intervals.over_parts(name, parts, records.task)
        values.append(Measured(split, name, value, interval, sum(map(len, parts)) or None))
    places = {split: place for place, split in enumerate(order)}
    return sorted(values, key=lambda row: places.get(row.split.partition("/")[0], len(order)))


def card(
    pretrained: Pretrained, records: CardRecords | None, form: str, library: str, use: str, blend: Json | None = None
) -> str:
    """Return the model card of an exported directory.

    Args:
        pretrained: The model.
        records: The records of its run; None if it belongs to no run.
        form: The form of the export, as in `tlx export --to`.
        library: The library that opens the directory, as the hub names it.
        use: The section that shows how to load the model.
        blend: The content of `blend.json`, if the model is blended from runs.
    """
    values = [] if records is None else values_of(records)
    source = cached_hub_id(pretrained.manifest.source) or Path(pretrained.manifest.source).name
    title = source if records is None else words.headline(records.recipe)
    parts = [f"---\n{header(pretrained, records, values, form, library)}\n---", f"# {plain(title)}"]
    if records is None:
        unknown = " tlx has no record of its training and of its measurements." if blend is None else ""
        parts.append(f"`tlx export` wrote this directory from the model {code(source)}.{unknown}")
    else:
        parts.append(
            f"`tlx export` wrote this directory from the run {code(records.folder.resolve().name)} with the "
            f"fingerprint {code(records.result['fingerprint'])}. All numbers are from the records of this run."
        )
    parts += ["## Use", f"Run the code in this directory.\n\n{use}"]
    if records is not None:
        parts += ["## Results", *results(records, values), "## Data", *data(records)]
        parts += ["## Classes", *classes(records)] if records.task.names else []
    if calibration := temperature.in_words(pretrained, form):
        parts += ["## Calibration", calibration]
    if records is not None:
        parts += ["## Training", *training(records)]
    parts += sections(blend) if blend is not None else []
    parts += ["## Limits", items(limits(pretrained, records))]
    if records is not None and records.result.get("notes"):
        parts += ["The run noted:", items(plain(note) for note in records.result["notes"])]
    return "\n\n".join(parts) + "\n"


def header(pretrained: Pretrained, records: CardRecords | None, values: list[Measured], form: str, library: str) -> str:
    """Return the YAML header that the hub reads, without its fences."""
    from huggingface_hub import EvalResult, ModelCardData

    tags = ["tlx", "transfer-learning", *([form] if form not in (library, "huggingface") else [])]
    weights = records.recipe["weights"] if records is not None else {"source": pretrained.manifest.source}
    base = weights["source"] if weights and cached_hub_id(weights["source"]) else None
    fields: dict[str, Any] = {"license": "unknown", "library_name": library, "base_model": base, "tags": tags}
    pipeline = pipeline_of(pretrained)
    if records is not None:
        dataset = words.data_name(records.recipe["data"]["target"])
        fields |= {
            "model_name": words.headline(records.recipe),
            "metrics": list(dict.fromkeys(value.name for value in values)),
            "eval_results": [
                EvalResult(
                    task_type=pipeline or "other",
                    dataset_type=dataset,
                    dataset_name=dataset,
                    dataset_split=value.split,
                    metric_type=value.name,
                    metric_name=f"{value.split} {value.name}{in_words(value.interval)}",
                    metric_value=value.value,
                )
                for value in values
            ],
        }
    return ModelCardData(pipeline_tag=pipeline, **fields).to_yaml()


def in_words(interval: Interval | None) -> str:
    """Return an interval as the end of the name of a metric."""
    return "" if interval is None else f", 95 % interval {bounds(interval)}"


def bounds(interval: Interval) -> str:
    return f"{words.number(interval.low, pad=True)} to {words.number(interval.high, pad=True)}"


def results(records: CardRecords, values: list[Measured]) -> list[str]:
    """Return the table of all metrics with their intervals, and the rule that chose the checkpoint."""
    rows = [
        (
            plain(value.split),
            plain(value.name),
            words.number(value.value, pad=True),
            "–" if value.interval is None else bounds(value.interval),
            "–" if value.interval is None else plain(value.interval.method),
            "–" if value.examples is None else words.count(value.examples),
        )
        for value in values
    ]
    result = records.result
    rule, steps = result["selection"], result.get("steps")
    reason = f", {words.RULES[rule]}" if rule in words.RULES else ""
    of = f" of {words.count(steps)}" if steps is not None else ""
    sentences = [f"The checkpoint is that of step {result['selected_step']}{of}, by the rule {code(rule)}{reason}."]
    if rule in BY_VALIDATION:
        sentences.append("The rule reads labels of the validation split, so the validation numbers favour this model.")
    return [
        table(("split", "metric", "value", "95 % interval", "method", "examples"), rows),
        " ".join(sentences),
    ]


def data(records: CardRecords) -> list[str]:
    """Return the names, the sizes, the granted labels and the fingerprint of the data."""
    settings, result = records.recipe["data"], records.result
    sources = settings.get("source") or []
    lines = [f"Target: {code(words.source(settings['target']))}"]
    lines += [f"Source: {code(words.source(name))}" for name in (sources if isinstance(sources, list) else [sources])]
    lines += [f"Fingerprint of the content: {code(result['data'])}"] if "data" in result else []
    if settings.get("labels") is not None:
        lines.append(f"The run was trained {words.granting(settings['labels'])} of the target.")
    if settings.get("shots") is not None:
        lines.append(f"Training used {settings['shots']} examples of each class.")
    if settings.get("fraction") is not None:
        lines.append(f"Training used the share {settings['fraction']} of each class.")
    sizes = [(plain(name), words.count(count)) for name, count in result.get("examples", {}).items()]
    return [items(lines), table(("examples", "number"), sizes)]


def support(records: CardRecords) -> Counter[int] | None:
    """Return the number of examples of each class in the reported split; None if the scores hold no classes."""
    scores = records.predictions.get(records.split)
    labels = None if scores is None else scores.scores.get("label")
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
        return None
    return Counter(labels.tolist())


def classes(records: CardRecords) -> list[str]:
    """Return the table of the classes by the number of the output."""
    counts = support(records)
    heads = ("output", "class") if counts is None else ("output", "class", f"{records.split} examples")
    rows = []
    for number, name in enumerate(records.task.names):
        row = (str(number), plain(str(name)))
        rows.append(row if counts is None else (*row, words.count(counts[number])))
    return [table(heads, rows)]


def training(records: CardRecords) -> list[str]:
    """Return the recipe, the number of trained parameters, and the versions."""
    recipe, result = records.recipe, records.result
    lines = [f"Base weights: {code(recipe['weights']['source'])}" if recipe["weights"] else "Trained from scratch"]
    lines.append(f"Tuning: {code(words.source(without_defaults(recipe['tuning']), -1))}")
    if parameters := result.get("parameters"):
        counts = (words.count(parameters[name]) for name in ("trainable", "total"))
        lines.append("Trained parameters: {} of {}".format(*counts))
    if versions := records.environment.get("packages"):
        shown = ", ".join(f"{name} {versions[name]}" for name in ("tlx", "jax", "flax", "numpy") if name in versions)
        lines.append(plain(f"Python {records.environment['python']}, {shown}"))
    return [
        items(lines),
        "The recipe, without fields at their default:",
        block(words.source(without_defaults(recipe)), "python"),
    ]


def without_defaults(document: Any) -> Any:
    """Return a dumped recipe without the fields that have the default of a class of tlx."""
    if isinstance(document, list):
        return [without_defaults(value) for value in document]
    if not isinstance(document, dict):
        return document
    known = classes_of_recipes()
    kind = known[document["kind"]] if document.get("kind") in known and "class" not in document else None
    defaults = {}
    for field in dataclasses.fields(kind) if kind is not None and dataclasses.is_dataclass(kind) else ():
        if field.default is not dataclasses.MISSING:
            defaults[field.name] = config.dump(field.default)
    return {
        name: without_defaults(value)
        for name, value in document.items()
        if name not in defaults or defaults[name] != value
    }


def limits(pretrained: Pretrained, records: CardRecords | None) -> Iterator[str]:
    """Yield what was not measured, and what is known to be weak, one sentence each."""
    yield "The licence of this model is not known to tlx; it depends on the base weights and on the data."
    weights = {"source": pretrained.manifest.source} if records is None else records.recipe["weights"]
    if weights and weights["source"] in assets.ASSETS:
        licence = assets.find(weights["source"]).licence
        yield f"The licence of the weights {code(weights['source'])} is {plain(licence)}."
    processor = pretrained.processor
    if processor is not None and processor.longest:
        yield f"Inputs are cut at {processor.longest} tokens; the rest is not read."
    if records is None:
        yield "No other numbers than those above are known."
        return
    result = records.result
    if "test" not in records.predictions:
        reason = "was not evaluated" if result.get("test_split") == "not looked at" else "does not exist"
        yield f"The test split {reason}: no number above is of examples that had no part in the choice of the model."
    yield (
        f"This is one run with the seed {records.recipe['seed']}. The intervals are over the examples of a split; the "
        "differences between seeds are not in them."
    )
    yield "Nothing but the splits above was measured: no other data, no groups of people, no attacks."
    if (counts := support(records)) is not None and records.task.names:
        few = [plain(str(name)) for n, name in enumerate(records.task.names) if counts[n] < FEW]
        if few:
            yield (
                f"Classes with fewer than {FEW} {records.split} examples, whose numbers are uncertain: "
                f"{', '.join(few[:50])}{f' and {len(few) - 50} more' if len(few) > 50 else ''}."
            )
        yield "The number of training examples of each class is not recorded."
    if records.recipe["train"].get("dtype", "float32") != "float32":
        yield f"It was measured with activations in {records.recipe['train']['dtype']}; this export uses float32."
    if changed := run_directory.stale(records.folder):
        yield f"Source code changed since the run: {plain(', '.join(changed))}."
