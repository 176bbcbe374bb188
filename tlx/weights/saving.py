"""Save models in the layouts of Hugging Face, timm, torchvision and tlx."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from tlx import config as records
from tlx import models
from tlx.models.names import tensors_of
from tlx.trees import Json, flatten
from tlx.types import Model
from tlx.weights.adapters import CONFIG as ADAPTER_CONFIG
from tlx.weights.adapters import TENSORS as ADAPTER_TENSORS
from tlx.weights.adapters import save_adapter
from tlx.weights.files import CONFIG, write_tensors
from tlx.weights.form import OWN, STATS, Pretrained, format_of, inserted, name_table
from tlx.weights.formats import Format
from tlx.weights.formats.base import LANGUAGE
from tlx.weights.heads import FIELDS, TASK
from tlx.weights.layouts import TORCHVISION, kind_in
from tlx.weights.stated import task_entries
from tlx.weights.trained import check_trained

ADAPTER = "adapter"
ADVICE = "Correct the checkpoint (its config.json or its weights), or train it first: tlx run CONFIG"
# Fields of the config.json read from a checkpoint that may be wrong for the written one: a dtype, a quantisation of the
# tensors, code of a repository, a count beside the names of the classes.
DROPPED = ("torch_dtype", "quantization_config", "auto_map", "num_labels", "_num_labels", "_name_or_path")


def save_pretrained(
    pretrained: Pretrained,
    directory: str | os.PathLike[str],
    *,
    untrained: bool = False,
    layout: str | None = None,
) -> Path:
    """Write config.json, model.safetensors, and the files of the processor.

    `transformers.AutoModel*.from_pretrained` opens the directory. An architecture without a form in transformers is
    written for `load_pretrained`. In the layout of timm, config.json holds the processor; in that of torchvision there
    is no config.json, and the class names are not saved. Adapters are written beside the base in `adapter/`, and
    `load_pretrained` inserts them again; `tlx.weights.merge` merges them into plain weights if that is possible.

    Args:
        pretrained: The model.
        directory: The directory to write; it is created if needed.
        untrained: Whether to write a head or a pooler that was drawn at random and never trained.
        layout: "transformers", "timm", "torchvision" or "tlx"; None for transformers' if it has the architecture, else
            tlx's.

    Returns:
        The directory.

    Raises:
        FileExistsError: The layout has no config.json, and the directory has one of another layout.
        ValueError: The head or the pooler was never trained, and `untrained` is not set; or the layout has no form for
            the model or its processor.
        OSError: The disk does not take the files. The error names the directory; existing files are not lost.
    """
    if not untrained:
        check_trained(pretrained, f"{ADVICE}; save_pretrained(..., untrained=True) saves it without training")
    directory = Path(directory)
    model, variables = pretrained.model, pretrained.variables
    kind = kind_in(pretrained, layout)
    document = write_document(pretrained, kind)
    if not has_document(kind, model) and (directory / CONFIG).exists():
        raise FileExistsError(
            f"{directory} has a {CONFIG}, which a state dict of torchvision does not have; choose another directory"
        )
    directory.mkdir(parents=True, exist_ok=True)
    arrays = {path: np.asarray(leaf) for path, leaf in flatten(variables.params).items()}
    arrays |= {STATS + path: np.asarray(leaf) for path, leaf in flatten(variables.stats).items()}
    table = name_table(kind, model)
    # The names in a file of the bare backbone's class have no prefix.
    bare = kind == OWN or is_bare(document) or format_of(kind, model).bare(model.config, model.head)
    prefix = "" if bare else format_of(kind, model).prefix(model.config)
    table = [name if name.head else name._replace(foreign=prefix + name.foreign) for name in table]
    tensors = tensors_of(table, arrays)
    constants = {} if kind == OWN else format_of(kind, model).constants(model.config, model.head)
    write_tensors(directory, tensors | constants)
    for name in (ADAPTER_CONFIG, ADAPTER_TENSORS):
        (directory / ADAPTER / name).unlink(missing_ok=True)
    if inserted(pretrained):
        save_adapter(pretrained, directory / ADAPTER, untrained=untrained)
    if has_document(kind, model):
        partial = directory / f".{CONFIG}.partial"
        partial.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, directory / CONFIG)
    if pretrained.processor is not None and "pretrained_cfg" not in document:
        pretrained.processor.save(directory)
    return directory


def is_bare(document: Json) -> bool:
    """Return whether config.json names a class without a head, or none."""
    name = document.get("architectures", ["Model"])[0]
    return name.endswith("Model") and not name.endswith(LANGUAGE)


def has_document(kind: str, model: Model) -> bool:
    """Return whether a layout has a config.json; a state dict of torchvision has none."""
    return kind == OWN or format_of(kind, model).layout != TORCHVISION


def write_document(pretrained: Pretrained, kind: str) -> dict[str, Any]:
    """Return the `config.json` of a model to be saved."""
    model, task = pretrained.model, pretrained.task
    if kind == OWN:
        document: Json = {"model_type": OWN, "model": records.dump(model.config), "outputs": model.outputs}
        token = "Token" if isinstance(model.head, models.PerToken) else ""
        use = "QuestionAnswering" if isinstance(model.head, models.Span) else f"{token}Classification"
        document["architectures"] = [f"{type(model.config).__name__}For{use}"] if task or token else []
    else:
        source_document = pretrained.manifest.document
        base_document = dict(source_document) if source_document.get("model_type") == kind else {"model_type": kind}
        document = format_of(kind, model).write(model.config, model.head, base_document) | {"dtype": "float32"}
        for name in DROPPED:
            document.pop(name, None)
    if task is not None:
        for name in (TASK, FIELDS):
            document.pop(name, None)
        document |= task_entries(task, document, format_of(kind, model) if kind != OWN else Format())
    elif isinstance(model.head, models.PerToken):
        stored = pretrained.manifest.document.get("id2label") or {}
        names = tuple(str(stored.get(str(n), f"LABEL_{n}")) for n in range(model.head.outputs))
        names = names if len(stored) == len(names) else tuple(f"LABEL_{n}" for n in range(len(names)))
        document |= {
            "id2label": {str(n): name for n, name in enumerate(names)},
            "label2id": {name: n for n, name in enumerate(names)},
        }
    return document if kind == OWN else format_of(kind, model).finished(document, pretrained.processor)
