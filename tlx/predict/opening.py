"""Open the model of a run, or of another folder, for prediction, and say which inputs it reads."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tlx import config, models
from tlx.data.collate import collate
from tlx.data.sources.roles import INPUTS
from tlx.data.sources.tabular import KINDS
from tlx.files import run_files
from tlx.files.documents import holds_file
from tlx.processors.base import FILE, Processor, users_class
from tlx.processors.columns import LABEL
from tlx.records.remote import fetched, is_url
from tlx.records.run_directory import RECIPE, RESULT, read
from tlx.records.studies import is_study
from tlx.tasks import Task
from tlx.trees import Json
from tlx.types import Column
from tlx.weights import Pretrained, check_trained, load_pretrained
from tlx.weights.saving import ADVICE
from tlx.weights.source import MODEL_IN_RUN

log = logging.getLogger(__name__)

# The lengths of a batch where no run states any.
LENGTHS = (32, 64, 128, 256, 512)


class ModelInputs(NamedTuple):
    """The inputs that a model reads.

    Attributes:
        columns: The kind of each input by its role: `text`, `text_pair`, `words`, `image`, `audio` or another name.
        names: By role, the columns of the table that the model was trained on, where these are known.
        stated: Whether the records of a run state the inputs. Otherwise they follow from the processor, and a text may
            be a pair of texts.
        label: The columns of the label in that table; () where they are not known.
    """

    columns: Mapping[str, Column]
    names: Mapping[str, tuple[str, ...]] = {}
    stated: bool = False
    label: tuple[str, ...] = ()

    @property
    def reads(self) -> str:
        """Return the inputs in words, such as "texts"."""
        words = {"text": "texts", "image": "images", "audio": "sounds", "words": "lists of words"}
        if self.stated and "text_pair" in self.columns:
            return "pairs of texts"
        return " and ".join(words.get(role, role) for role in self.columns) or "other inputs"


class OpenedModel(NamedTuple):
    """A trained model: its weights, its processor, its inputs, and the lengths to which its batches are padded."""

    source: Path
    pretrained: Pretrained
    processor: Processor
    inputs: ModelInputs
    lengths: tuple[int, ...]

    @property
    def task(self) -> Task:
        """Return the task, which `open_model` has checked."""
        assert self.pretrained.task is not None
        return self.pretrained.task


def open_model(
    source: str | Path,
    model: models.Architecture | None = None,
    processor: Processor | None = None,
    task: Task | None = None,
) -> OpenedModel:
    """Open the model of a run, or another saved model, for prediction. The arguments are those of `predict`.

    Raises:
        FileNotFoundError: There is no model, or the run is not finished.
        ValueError: The model has no head, an untrained head or pooler, or no processor.
    """
    path = fetched(source)
    check_finished(path)
    task = recorded_task(path) if task is None else task
    pretrained = opened(path if is_url(source) else source, model, processor, task)
    if pretrained.task is None and pretrained.model.head is not None:
        raise ValueError(
            f"{source} was trained for a task that tlx does not know; give the config file of the run: --config FILE"
        )
    if pretrained.task is None:
        raise ValueError(f"{source} has no trained head, so it cannot predict; fine-tune it first: tlx run CONFIG")
    return prepared(path, pretrained)


def prepared(path: Path, pretrained: Pretrained) -> OpenedModel:
    """Return a loaded model, which was saved in `path`, with its inputs and the lengths of its batches.

    Raises ValueError for a model with an untrained head or pooler, and for one without a processor.
    """
    check_trained(pretrained, ADVICE)
    reader = processor_of(pretrained, path)
    if pretrained.task is not None:
        reader = pretrained.task.reader(reader)
    reader.check_shape(models.image_shape(pretrained.model.config), pretrained.manifest.source)
    return OpenedModel(path, pretrained, reader, inputs_of(path, pretrained, reader), lengths_of(path, reader))


def check_finished(path: Path) -> None:
    """Raise FileNotFoundError for the folder of an unfinished run, or of a study."""
    if (path / MODEL_IN_RUN / "config.json").is_file() or (path / "config.json").is_file():
        return
    if is_study(path):
        raise FileNotFoundError(f"{path} contains a study; name the folder of one of its runs: {path}/cells/...")
    if holds_file(path / RECIPE) and not holds_file(path / RESULT):
        raise FileNotFoundError(
            f"{path} contains an unfinished run: there is no {RESULT}; finish it: {run_files.finishing(path)}"
        )


def recorded_task(path: Path) -> Task | None:
    """Return the task in the recipe of a run, with its settings and without its classes; None where there is no run, or
    where the files cannot name its class."""
    from tlx.recipe import classes

    if not holds_file(path / RESULT) or not holds_file(path / RECIPE):
        return None
    document, known = read(path, RECIPE)["recipe"]["task"], classes()
    if "class" in document or document["kind"] not in known:
        return None
    try:
        # Predictions need no metrics, and the functions of the user's metrics are in a file that is not imported.
        task = config.load({name: value for name, value in document.items() if name != "extra_metrics"}, known)
    except (ValueError, TypeError):
        # A part of the task is an object of the user.
        return None
    return task if isinstance(task, Task) else None


def inputs_of(path: Path, pretrained: Pretrained, processor: Processor) -> ModelInputs:
    """Return the inputs that the records of a run state; else those that the processor and the head suggest."""
    recorded = recorded_inputs(path)
    if recorded is not None:
        return recorded
    if isinstance(pretrained.model.head, models.Span):
        return ModelInputs({"text": Column("text"), "text_pair": Column("text")})
    kinds = [kind for kind in processor.reads if kind in KINDS.values()]
    if "words" in kinds and isinstance(pretrained.model.head, models.PerToken) and reads_words(processor):
        kinds = ["words"]
    rate = getattr(processor, "rate", 0)
    return ModelInputs({kind: Column(kind, rate=rate if kind == "audio" else 0) for kind in kinds[:1]})  # type: ignore[arg-type]


def reads_words(processor: Processor) -> bool:
    """Return whether the processor can read a list of words."""
    try:
        processor.word_ids({"words": ["a"]})
    except (ValueError, TypeError):
        return False
    return True


def recorded_inputs(path: Path) -> ModelInputs | None:
    """Return the inputs of a run from its result; those of earlier versions from the source in its recipe, where it
    names its columns. None where neither states them."""
    if not holds_file(path / RESULT) or not holds_file(path / RECIPE):
        return None
    result = read(path)
    if "columns" in result:
        columns = {role: Column(entry["kind"], rate=entry["rate"]) for role, entry in result["columns"].items()}
        names = {role: tuple(entry["names"]) for role, entry in result["columns"].items() if entry["names"]}
        label = names.pop(LABEL, ())
        columns.pop(LABEL, None)
        return ModelInputs(columns, names, True, label)
    settings = target_settings(path)
    names = {role: name_tuple(settings[role]) for role in (*INPUTS, LABEL) if settings.get(role) is not None}
    label = names.pop(LABEL, ())
    if not names.keys() - {"text_pair"} or "audio" in names:
        return None
    return ModelInputs({role: Column(KINDS[role]) for role in names}, names, True, label)


def target_settings(path: Path) -> Json:
    """Return the settings of the target in the recipe of a run: of the first table where it combines several; {} where
    the target is a name."""
    target = read(path, RECIPE)["recipe"]["data"]["target"]
    while isinstance(target, dict) and ("sources" in target or "source" in target):
        target = target["sources"][0] if "sources" in target else target["source"]
    return target if isinstance(target, dict) else {}


def name_tuple(names: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of one column or of several as a tuple."""
    return (names,) if isinstance(names, str) else tuple(names)


def lengths_of(path: Path, processor: Processor) -> tuple[int, ...]:
    """Return the lengths to which batches of texts are padded: those of the run, else `LENGTHS`, up to the longest of
    the processor; () where nothing is ragged or no longest is known."""
    if not processor.ragged or not processor.longest:
        return ()
    buckets = LENGTHS
    if holds_file(path / RECIPE) and holds_file(path / RESULT):
        buckets = tuple(read(path, RECIPE)["recipe"]["data"]["buckets"])
    return (*sorted({length for length in buckets if length < processor.longest}), processor.longest)


def opened(
    source: str | Path, model: Any = None, processor: Processor | None = None, task: Task | None = None
) -> Pretrained:
    """Return the model of a run or of another folder, as in `predict`.

    The class of the `processor` opens the files that were saved; where it opens none, the `processor` itself is used.
    """
    check_code(Path(source), model)
    pretrained = load_pretrained(
        source,
        None if task is None else resolved(Path(source), task),
        model=model,
        processors=() if processor is None else (type(processor),),
    )
    if processor is not None and not isinstance(pretrained.processor, type(processor)):
        pretrained = pretrained._replace(processor=processor)
    if pretrained.processor is None:
        check_class(Path(source))
    return pretrained


def resolved(source: Path, task: Task) -> Task | None:
    """Return the task with the classes of the run in `source`; where that is not a run, the task unchanged if it knows
    its outputs."""
    if not holds_file(source / RESULT):
        return None if task.outputs is None else task
    result = read(source)
    classes = tuple(result["classes"])
    task = task.resolve({"label": Column(result.get("label", "class" if classes else "number"), classes)})
    return task.of_run(result)


def check_code(source: Path, model: models.Architecture | None) -> None:
    """Raise ValueError where the code of a user's model differs from the code that the run in `source` trained."""
    if model is None or not holds_file(source / RECIPE):
        return
    recorded = read(source, RECIPE).get("sources") or {}
    digests = {*recorded.values()}
    changed = [path for path, digest in config.sources(model).items() if digest not in digests]
    if recorded and changed:
        names = ", ".join(dict.fromkeys(Path(path.partition("::")[0]).name for path in changed))
        raise ValueError(f"{source} is stale: {names} changed since it ran; restore the code, or run it again")


def prepare_inputs(pretrained: Pretrained, examples: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the model's inputs for a batch of texts, or of image or sound files.

    Returns:
        Arrays [B, ...] by name, B the length of `examples`.

    Raises:
        ValueError: The model has no processor, a file does not exist or cannot be read, or the model has no embedding
            for a token.
    """
    processor = processor_of(pretrained, Path(pretrained.manifest.source))
    processor.check_shape(models.image_shape(pretrained.model.config), pretrained.manifest.source)
    return collate([processor(processor.read(argument)) for argument in examples], processor.fields)


def processor_of(pretrained: Pretrained, source: Path) -> Processor:
    """Return the processor of a model; raise ValueError where it has none, or one of a user's class."""
    if pretrained.processor is not None:
        return pretrained.processor
    check_class(source)
    raise ValueError(f"the model of {source} has no processor, so tlx cannot convert raw examples to its inputs")


def check_class(source: Path) -> None:
    """Raise ValueError where the processor of a run or of another folder is of a user's class."""
    for folder in (source, source / MODEL_IN_RUN):
        if name := users_class(folder):
            raise ValueError(
                f"{folder / FILE} uses your own class {name!r}; give the file that defines it: --config FILE"
            )
