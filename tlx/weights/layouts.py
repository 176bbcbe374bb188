"""The layouts of saved models: which libraries they belong to, and how a checkpoint without our config.json is read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tlx import models
from tlx.models import Architecture, Pooled
from tlx.trees import Json, near_miss
from tlx.weights.files import tensor_files
from tlx.weights.form import OWN, Pretrained, written_kind
from tlx.weights.formats import Format, foreign_kinds, formats_of
from tlx.weights.header import read_header

TORCHVISION = "torchvision"
LAYOUTS = (Format.layout, "timm", TORCHVISION, OWN)
# The layouts whose tensors are read without a config.json.
STATELESS = (TORCHVISION, "timm")
HALF = 0.5
# The number of families that an error names.
MOST = 2


def kind_in(pretrained: Pretrained, layout: str | None) -> str:
    """Return the `model_type` to write in a layout; None for transformers' if there is one, else for tlx's.

    Raises:
        ValueError: There is no such layout, or it has no form for the model.
    """
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(
            f"there is no layout {layout!r}; expected one of {', '.join(LAYOUTS)}{near_miss(layout, LAYOUTS)}"
        )
    model, usual = pretrained.model, written_kind(pretrained)
    if layout is None or layout == OWN:
        return usual if layout is None else OWN
    if layout == Format.layout and usual != OWN:
        return usual
    kind = type(model.config)
    forms = [] if layout == Format.layout else [form for form in formats_of(kind) if form.layout == layout]
    for form in forms:
        # The error names the setting that the library does not have.
        form.write(model.config, model.head, {})
        return form.kind(model.config)
    others = sorted({form.layout for form in formats_of(kind)} - {layout} | {OWN})
    raise ValueError(
        f"{layout} has no form for this {kind.__name__}; save it in another layout: {', '.join(map(repr, others))}"
    )


def completed(document: Json, file: Path) -> Json:
    """Return a config.json of timm with our `model_type` and the class names where transformers has them; any other
    document unchanged.

    Raises:
        ValueError: timm's architecture is not one of tlx. The error has the nearest names.
    """
    if "model_type" in document:
        return document
    name = document["architecture"]
    kinds = {known: kind for kind, form in foreign_kinds().items() for known in getattr(form, "architectures", {})}
    if name not in kinds:
        raise ValueError(f"{file}: tlx does not have timm's architecture {name!r}{near_miss(name, kinds)}")
    classes = foreign_kinds()[kinds[name]].classes_in(document)  # type: ignore[attr-defined]
    names = document.get("label_names") or []
    for key in ("id2label", "label_names"):
        if classes and document.get(key) and len(document[key]) != classes:
            raise ValueError(
                f"{file}: {key} has {len(document[key]):,} names, but the network has {classes:,} classes; correct the "
                "list, or remove it"
            )
    if "id2label" not in document and len(names) == classes:
        document = document | {"id2label": {str(n): label for n, label in enumerate(names)}}
    return document | {"model_type": kinds[name], "num_labels": classes}


def stateless(path: Path, model: Architecture | None) -> Json:
    """Return a document for tensors without a config.json, whose architecture is `model`.

    Args:
        path: A file of tensors, or the directory of `model.safetensors`.
        model: The architecture that the user names.

    Raises:
        ValueError: The architecture is not named, or the tensors have the names of no library for it.
    """
    files = sorted(set(tensor_files(path).values()))
    shapes = {name: extent.shape for file in files for name, extent in read_header(file).tensors.items()}
    kinds = models.architectures() if model is None else (type(model),)
    matches = [
        (share, kind.__name__, form.kind(config), form)
        for kind in kinds
        for form in formats_of(kind)
        if form.layout in STATELESS
        for config in (kind() if model is None else model,)
        if (share := matching(form, config, shapes)) > 0
    ]
    # Where both libraries have the same names, the file is taken for one of torchvision.
    matches.sort(key=lambda match: (match[0], match[3].layout == TORCHVISION), reverse=True)
    if model is None:
        families = list(dict.fromkeys(f"models.{family}" for _, family, _, _ in matches))[:MOST]
        unknown = f"{path} has no config.json, so its architecture is not known"
        if not families:
            raise ValueError(f"{unknown}; copy config.json from the source of the model to this directory")
        raise ValueError(
            f"{unknown}; its tensors are named as those of {' or '.join(families)}: pass it, such as "
            f"model={families[0]}(...)"
        )
    share, _, kind, form = matches[0] if matches else (0.0, "", "", Format())
    if share < HALF:
        names = ", ".join(map(repr, sorted(shapes)[:3]))
        raise ValueError(
            f"{path} has no config.json, and its tensors {names}, ... are not named as those of a "
            f"{type(model).__name__} in {' or '.join(STATELESS)}; expected a state dict of this architecture"
        )
    return {"model_type": kind, "num_labels": classes_of(form, model, shapes)}


def matching(form: Format, config: Architecture, names: Mapping[str, Any]) -> float:
    """Return the share of the backbone's tensors that `names` contains under the names of a format."""
    expected = [name.foreign for name in form.names(config, None)]
    return sum(name in names for name in expected) / max(len(expected), 1)


def classes_of(form: Format, config: Architecture, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the number of outputs of the classifier among tensors with the names of a format; 0 if it is absent."""
    heads = (name.foreign for name in form.names(config, Pooled(1)) if name.head and name.layout != "same")
    return next((shapes[name][0] for name in heads if name in shapes), 0)
