"""The processor of a pretrained model: that of its directory, held to the embeddings and positions of the model."""

import json
import logging
from dataclasses import replace
from pathlib import Path

from tlx import models, processors
from tlx.processors import TextProcessor, vocabulary
from tlx.weights.form import Pretrained
from tlx.weights.source import MODEL_IN_RUN

log = logging.getLogger(__name__)
RECIPE = "recipe.json"


def with_processor(pretrained: Pretrained, directory: Path) -> Pretrained:
    """Return the model with the processor of `directory`.

    Texts are cut at the length of the run that `directory` lies in, else at the length that tokenizer_config.json
    states, else at as many tokens as the model has positions for.

    Raises ValueError where the tokenizer and the model cannot belong together.
    """
    room = models.text_room(pretrained.model, pretrained.variables.params)
    processor = processors.load(directory, recipe_tokens(directory), room)
    return within(pretrained._replace(processor=processor))


def within(pretrained: Pretrained) -> Pretrained:
    """Return the model with a text processor that knows how many ids, types and positions the model has."""
    processor, rows = pretrained.processor, pretrained.model.config.embedding_rows()
    if not isinstance(processor, TextProcessor) or "input_ids" not in rows:
        return pretrained
    room = models.text_room(pretrained.model, pretrained.variables.params)
    if room is not None and room < processor.tokens:
        log.warning("texts are cut at %d tokens, not %d: the model has no more positions", room, processor.tokens)
        processor = replace(processor, tokens=room)
    # DistilBERT has no types; transformers would be given them by a tokenizer of another class.
    type_rows = rows.get("token_type_ids", 0)
    types = processor.token_types and type_rows > 0
    processor = replace(processor, rows=rows["input_ids"], type_rows=type_rows, token_types=types)
    vocabulary.check(processor)
    return pretrained._replace(processor=processor)


def recipe_tokens(directory: Path) -> int | None:
    """Return the text length of the run whose model lies in `directory`; None where it lies in no run."""
    path = directory.parent / RECIPE
    if directory.name != MODEL_IN_RUN or not path.is_file():
        return None
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["recipe"]["data"]["tokens"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is damaged: it names no recipe.data.tokens; restore it, or run it again") from None
