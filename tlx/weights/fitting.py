"""The processor of a pretrained model, limited to the embeddings and positions of the model."""

import json
from pathlib import Path

from tlx import models, processors
from tlx.models import Architecture
from tlx.processors import Processor
from tlx.processors.timm_settings import processor_of, usual_processor
from tlx.trees import Json
from tlx.weights.files import CONFIG
from tlx.weights.form import Pretrained
from tlx.weights.formats import Format, foreign_kinds
from tlx.weights.layouts import TORCHVISION
from tlx.weights.source import MODEL_IN_RUN

RECIPE = "recipe.json"


def with_processor(pretrained: Pretrained, directory: Path, users: tuple[type[Processor], ...] = ()) -> Pretrained:
    """Return the model with the processor of `directory`, opened by one of the `users` classes where one opens it.

    Texts are cut at the text length of the run that contains `directory`, else at the length in tokenizer_config.json,
    else at the number of positions of the model.

    Raises ValueError if the tokenizer does not fit the model.
    """
    room = models.text_room(pretrained.model, pretrained.variables.params)
    settings = pretrained.model.config
    processor = processor_at(directory, pretrained.manifest.document, settings, room, users)
    return within(pretrained._replace(processor=processor))


def processor_at(
    directory: Path, document: Json, settings: Architecture, room: int | None, users: tuple[type[Processor], ...] = ()
) -> Processor | None:
    """Return the processor of a checkpoint; None if it has none.

    A config.json of timm describes it. A state dict of torchvision has that of torchvision's first ImageNet weights.

    Args:
        directory: The directory or the file of the checkpoint.
        document: The content of its config.json.
        settings: The architecture.
        room: As in `processors.load`.
        users: As in `with_processor`.
    """
    kind, shape = str(document.get("model_type")), models.image_shape(settings)
    form = foreign_kinds(type(settings)).get(kind, Format())
    if form.layout == "timm" and shape is not None and shape[2] in (1, 3):
        return processor_of(document.get("pretrained_cfg") or {}, directory / CONFIG)
    processor = processors.load(directory, recipe_tokens(directory), room, users)
    if processor is None and form.layout == TORCHVISION and shape is not None:
        return usual_processor(shape[:2], shape[2])
    return processor


def within(pretrained: Pretrained) -> Pretrained:
    """Return the model with a processor that knows the numbers of ids, types and positions of the model."""
    if pretrained.processor is None:
        return pretrained
    room = models.text_room(pretrained.model, pretrained.variables.params)
    rows = pretrained.model.config.embedding_rows()
    return pretrained._replace(processor=pretrained.processor.within(rows, room))


def resized(pretrained: Pretrained) -> Pretrained:
    """Return the model with a processor that makes images of the size of the model."""
    shape, processor = models.image_shape(pretrained.model.config), pretrained.processor
    if shape is None or type(processor) is not processors.ImageProcessor:
        return pretrained
    return pretrained._replace(processor=processor.with_sides(shape[:2]))


def recipe_tokens(directory: Path) -> int | None:
    """Return the text length of the run with its model in `directory`; None if it belongs to no run."""
    path = directory.parent / RECIPE
    if directory.name != MODEL_IN_RUN or not path.is_file():
        return None
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["recipe"]["data"]["tokens"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{path} is damaged: it has no recipe.data.tokens; restore the file, or run the recipe again"
        ) from None
