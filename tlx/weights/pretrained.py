"""Load pretrained models in the layouts of Hugging Face, timm, torchvision and tlx."""

import os
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from tlx import config as records
from tlx import models, sharding
from tlx.files.documents import digests
from tlx.models import Architecture, Head
from tlx.models.neck import NECK
from tlx.partition import compile_rule
from tlx.processors import ImageProcessor, Processor
from tlx.tasks import Task
from tlx.tasks.classes import format_names
from tlx.trees import Json, flatten
from tlx.types import Model
from tlx.weights.adapters import CONFIG as ADAPTER_CONFIG
from tlx.weights.adapters import TENSORS as ADAPTER_TENSORS
from tlx.weights.adapters import kept_leaves, read_adapter, with_adapter
from tlx.weights.channels import First, adapted, recoloured, with_channels
from tlx.weights.files import CONFIG, read_config, read_tensors, tensor_files, with_generation
from tlx.weights.fitting import resized, with_processor
from tlx.weights.form import (
    OWN,
    STATS,
    Place,
    Pretrained,
    fill,
    kind_of,
    name_table,
    prefixed_stats,
)
from tlx.weights.formats import Format, foreign
from tlx.weights.heads import Stated, fit, left_out
from tlx.weights.layouts import completed, stateless
from tlx.weights.mapped import widened
from tlx.weights.peft_read import Found
from tlx.weights.reconcile import Entry, Manifest, reconcile
from tlx.weights.source import locate
from tlx.weights.stated import stated_head
from tlx.weights.trained import checksum_new_leaves
from tlx.weights.values import check_values

ADAPTER = "adapter"


@dataclass(frozen=True)
class Weights:
    """The pretrained weights of a recipe.

    Attributes:
        source: A Hugging Face directory, a hub id, a run directory or a named asset.
        reset: Patterns of leaves (fullmatch on the path) that are initialised at random instead of loaded; `(r".*",)`
            trains the same network from scratch.
        resize: The new image side, or the new number of text positions, to which position embeddings are resized; None
            never resizes. A network whose parameters do not depend on the size takes that of `Data(size=...)` too.
        pooling: "mean" puts the head on the mean over the tokens of a text, as sentence encoders need it; None keeps
            the head of the family.
        first: How the first convolution is changed for images with another number of channels (`Data(channels=...)`):
            "sum" adds the kernels of all channels, for grey images; "repeat" repeats them, for more channels.
        stochastic_depth: The rate of stochastic depth (Huang et al., 2016) in the last block of an image network, in
            place of that of the checkpoint. None keeps it.
    """

    source: str
    _: KW_ONLY
    reset: tuple[str, ...] = ()
    resize: int | None = None
    pooling: Literal["first", "mean"] | None = None
    first: First | None = None
    stochastic_depth: float | None = None


def load_pretrained(
    source: str | os.PathLike[str],
    task: Task | None = None,
    *,
    reset: Sequence[str] = (),
    resize: int | None = None,
    pooling: str | None = None,
    channels: int | None = None,
    first: First | None = None,
    stochastic_depth: float | None = None,
    model: Architecture | None = None,
    processors: tuple[type[Processor], ...] = (),
    seed: int = 0,
    mesh: sharding.AnyMesh | None = None,
) -> Pretrained:
    """Read a model from a local Hugging Face directory, a hub id, a named asset or a run directory.

    The directory may be one of timm. A state dict of torchvision in a safetensors file does not describe its
    architecture: pass it as `model`.

    Classes in another order are reordered by name. Names such as "LABEL_0" cannot be compared; the head is then kept by
    position.

    Args:
        source: The directory, hub id, asset or run, or a safetensors file.
        task: The model gets the head of this task: the head of the checkpoint if its shape, its kind of task and its
            classes fit, else a head drawn from `seed`. A task without names gets those of the checkpoint. None takes
            the task that the checkpoint states; if it states none, the model is the bare backbone.
        reset: As in `Weights`.
        resize: As in `Weights`.
        pooling: As in `Weights`.
        channels: The channels of the images; None for those of the checkpoint.
        first: As in `Weights`; required if `channels` differs from the channels of the checkpoint.
        stochastic_depth: As in `Weights`.
        model: The dataclass of the architecture, if the checkpoint cannot name it (a bridged module, a state dict).
        processors: The user's classes of processors, which open a processor.json that names them.
        seed: The seed of the leaves that are initialised at random.
        mesh: The devices that will hold the parameters. Where it cuts them, tensors stay in their file until each
            device reads its part, and parameters that are drawn or have 16 bits lie on the devices, so that no host
            has the whole model in memory. The files must stay unchanged meanwhile.

    Returns:
        The model, with a manifest that has a line for every tensor.

    Raises:
        FileNotFoundError: There is nothing to read.
        ValueError: Tensors are missing, extra or misshapen, files are damaged or pickles, or a bridged module has its
            classes in another order (tlx does not know which of its parameters compute the logits).
    """
    records.check_seed(seed, "seed")
    checkpoint = open_checkpoint(source, task, model)
    stored = checkpoint.settings
    settings = requested_settings(stored, pooling=pooling, stochastic_depth=stochastic_depth, resize=resize)
    settings = with_channels(settings, channels, first)
    requested_task, task = task, task or checkpoint.stated.task
    head = checkpoint.stated.head if task is None else task.head()
    check_size(settings, head, checkpoint.directory)
    built = models.build(settings, head)
    adapter = stored_adapter(checkpoint, head)
    # The hash of a base that an adapter needs is one of whole parameters.
    spread = mesh is not None and not sharding.is_plain(mesh) and not adapter
    resets = declared_resets(reset, built, adapter)
    arrays, entries = read_arrays(checkpoint, built, resets, resize, first=first, mapped=spread)
    order = None
    if requested_task is not None:
        arrays, entries, task, order = fit(built, arrays, entries, checkpoint.stated, requested_task, str(source))
    if getattr(stored, "pooling", None) != getattr(settings, "pooling", None):
        reason = (
            f"the checkpoint's head reads pooling={stored.pooling!r}, the new head reads pooling={settings.pooling!r}"
        )
        arrays, entries = left_out(built, arrays, entries, reason)
    if any(entry.action == "reset" and entry.path.startswith(f"{NECK}/") for entry in entries):
        arrays, entries = left_out(built, arrays, entries, "the neck below it is new")
    place = placer(mesh, built, checkpoint.resettable(built)) if spread else None
    variables = fill(built, arrays, seed, place)
    new_leaves = checksum_new_leaves(entries, variables, checkpoint.resettable(built))
    manifest = Manifest(str(source), checkpoint.document, entries, new_leaves)
    pretrained = Pretrained(built, variables, None, manifest, task)
    kept_adapter = kept_leaves(adapter, reset, pretrained)
    pretrained = with_adapter(pretrained, kept_adapter, order, str(checkpoint.directory / ADAPTER))
    pretrained = with_processor(pretrained, checkpoint.directory, processors)
    return recoloured(pretrained if resize is None else resized(pretrained))


class Checkpoint(NamedTuple):
    """A checkpoint on disk.

    Attributes:
        source: The directory, hub id, asset or run that the user named.
        directory: The directory of the files.
        document: The content of config.json.
        form: The format of the document and of the names of the tensors.
        stated: The head that the document states.
        settings: The architecture that the document states.
    """

    source: str
    directory: Path
    document: Json
    form: Format
    stated: Stated
    settings: Any

    @property
    def kind(self) -> str:
        """Return the `model_type`."""
        return str(self.document["model_type"])

    def resettable(self, model: Model) -> tuple[str, ...]:
        """Return the stages of `model` that the checkpoint may lack."""
        return (model.stages[-1].name if self.kind == OWN else "head", "pool", NECK)


def open_checkpoint(source: str | os.PathLike[str], task: Task | None, model: Architecture | None) -> Checkpoint:
    """Return the checkpoint, with the tensors unread.

    `task` and `model` are those that the user gives in place of those that the checkpoint states, or None.
    """
    directory = locate(source)
    digests.verify_below(directory)
    described = (directory / CONFIG).is_file()
    document = completed(read_config(directory), directory / CONFIG) if described else stateless(directory, model)
    kind = document["model_type"]
    # Our own form describes its head in the same way as a foreign form.
    form = Format() if kind == OWN else foreign(kind, None if model is None else type(model))
    document = with_generation(document, directory, form.generation)
    stated = stated_head(document, form, directory / CONFIG)
    if stated.task is not None and stated.task.by_class and not stated.task.names and task is None:
        raise ValueError(
            f"{directory / CONFIG}: id2label uses one name for several classes {format_names(stated.names)}; correct "
            "it, or pass the task: tasks.Classification(names=...)"
        )
    settings: Any = model if not described else own_settings(document, model) if kind == OWN else form.read(document)
    if settings.any_size and kind != OWN and form.layout == Format.layout and document.get("image_size") is None:
        settings = sized(settings, directory)
    return Checkpoint(str(source), directory, document, form, stated, settings)


def sized(settings: Architecture, directory: Path) -> Architecture:
    """Return the architecture for images of the size that the image processor in `directory` makes, if there is one."""
    if not ImageProcessor.opens(directory):
        return settings
    return records.replace(settings, size=ImageProcessor.load(directory).shape[:2])


def requested_settings(stored: Any, *, resize: int | None, **changes: str | float | None) -> Any:
    """Return the stored architecture with the pooling, the stochastic depth and the size that the user asks for."""
    settings = stored
    for name, value in changes.items():
        if value is None:
            continue
        if not hasattr(settings, name):
            kind = "text models" if name == "pooling" else "image networks with residual blocks"
            raise ValueError(
                f"{name}={value!r} is for {kind}; {type(settings).__name__} has no such setting: remove {name}"
            )
        settings = records.replace(settings, **{name: value})
    return settings if resize is None else settings.resized(resize)


def placer(mesh: Any, model: Model, whole: Sequence[str]) -> Place:
    """Return the function that places a parameter of the model on the devices of a mesh; those of the stages `whole`,
    whose checksums are computed, stay on the host."""
    axes = {path: param.axes for path, param in flatten(model.params).items()}

    def place(path: str, leaf: Any) -> Any:
        if path.startswith(tuple(f"{stage}/" for stage in whole)):
            return widened(leaf)
        return sharding.place_parameter(mesh, leaf, axes[path])

    return place


def read_arrays(
    checkpoint: Checkpoint,
    model: Model,
    reset: Sequence[str],
    resize: int | None,
    *,
    first: First | None = None,
    mapped: bool = False,
) -> tuple[dict[str, np.ndarray], tuple[Entry, ...]]:
    """Return the checked arrays of a checkpoint for `model`, and the entries of the manifest, as from `reconcile`.
    `mapped` is as in `read_file`."""
    stored, form, directory = checkpoint.settings, checkpoint.form, checkpoint.directory
    declared = {**model.params, **prefixed_stats(model)}
    shapes = {path: param.shape for path, param in flatten(declared).items()}

    def reshape(path: str, array: np.ndarray) -> np.ndarray | None:
        if resize is not None and (resized := stored.resize_positions(path, widened(array), resize)) is not None:
            return resized
        return adapted(path, array, shapes[path], first)

    arrays, entries = reconcile(
        declared,
        name_table(checkpoint.kind, model),
        read_tensors(directory, mapped),
        source=checkpoint.source,
        prefix=form.prefix(stored),
        unused=form.ignored(stored, model.head),
        resettable=checkpoint.resettable(model),
        reset=reset,
        reshape=reshape,
    )
    names = {entry.path: entry.foreign for entry in entries}
    check_values(arrays, names, flatten(declared), lambda key: tensor_files(directory)[key])
    return arrays, entries


def check_size(settings: Architecture, head: Head | None, directory: Path) -> None:
    """Raise ValueError if the architecture is far larger than the files of tensors, before it is built."""
    size = sum(path.stat().st_size for path in set(tensor_files(directory).values()))
    models.sizes.check_count(models.count(settings, head), size, settings, directory / CONFIG)


def stored_adapter(checkpoint: Checkpoint, head: Head | None) -> Found:
    """Return the leaves that a tuning inserted into the model of a checkpoint; empty if it has no adapter.

    `head` is the head of the model if the checkpoint states none that its architecture supports.
    """
    directory, settings, stated = checkpoint.directory / ADAPTER, checkpoint.settings, checkpoint.stated.head
    if not any((directory / name).exists() for name in (ADAPTER_CONFIG, ADAPTER_TENSORS)):
        return {}
    # A head of the user's own is stated by no config.json.
    supported = stated is None or isinstance(stated, settings.supported_heads)
    model = models.build(settings, stated if supported else head)
    declared = flatten(model.params).keys()
    _, leaves = read_adapter(model, kind_of(checkpoint.document, settings, model.head), directory)
    return {path: leaf for path, leaf in leaves.items() if path not in declared and not path.startswith(STATS)}


def declared_resets(reset: Sequence[str], model: Model, leaves: Found) -> list[str]:
    """Return the patterns for declared parameters, without those that match inserted leaves only."""
    declared = flatten(model.params)
    return [
        pattern
        for pattern in reset
        if any(compile_rule(pattern).fullmatch(path) for path in declared)
        or not any(compile_rule(pattern).fullmatch(path) for path in leaves)
    ]


def own_settings(document: Json, model: Architecture | None) -> Architecture:
    """Return the architecture of a checkpoint in our own form."""
    if model is not None:
        return model
    try:
        return records.load(document["model"], {kind.__name__: kind for kind in models.architectures()})
    except (ValueError, TypeError) as error:
        raise ValueError(f"the checkpoint does not describe its own architecture ({error}); pass model=...") from None
