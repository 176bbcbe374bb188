"""Adapters as files of their own: what a tuning inserted, and the head, apart from the base they were trained on.

The directory is peft's: `adapter_config.json` and `adapter_model.safetensors`. What peft has no form for lies in the
same two files under our own names, with `peft_type` "TLX".
"""

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tlx import config as records
from tlx import models
from tlx.files.documents import digests
from tlx.tasks.classes import match, placeholder, shown
from tlx.trees import Tree, flatten, nest
from tlx.types import Model, Param, Variables
from tlx.weights.files import read_file, write_file
from tlx.weights.fitting import within
from tlx.weights.form import (
    OWN,
    STATS,
    Pretrained,
    fingerprint,
    foreign_kind,
    format_of,
    head_paths,
    inserted,
    prefixed_stats,
)
from tlx.weights.heads import check_known, class_axis, in_order, orders, permuted
from tlx.weights.peft import layout, write
from tlx.weights.peft_config import BASE, CLASSES, TLX, read_config
from tlx.weights.peft_read import Found, read
from tlx.weights.reconcile import Entry, stop
from tlx.weights.trained import check_trained
from tlx.weights.values import check_values

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
BROUGHT = "adapter "  # begins the manifest's note of every leaf that an adapter brought


def save_adapter(
    pretrained: Pretrained,
    directory: str | os.PathLike[str],
    *,
    moved: Collection[str] = (),
    untrained: bool = False,
) -> Path:
    """Writes the adapter of a model and its head for `peft.PeftModel.from_pretrained(base, directory)` to open, or, for
    what peft has no form for, for `load_adapter` alone. Returns the directory.

    `moved` are paths of the base's own leaves that were trained too (norms, say): they go along with the head, and so
    do the leaves that the manifest says were drawn at random, or came with an adapter. The base is known by a hash of
    the rest. The class names go along too: a base with its classes in another order gets the head in that order.

    Raises ValueError where nothing was inserted, for a path in `moved` that the model does not declare, and, unless
    `untrained` is set, if the head or the pooler is still as it was drawn at random; OSError, naming the file, where
    the disk does not take it.
    """
    leaves = {path: np.asarray(leaf) for path, leaf in inserted(pretrained).items()}
    if not leaves:
        raise ValueError("the model carries no adapter: every parameter is its own; save_pretrained saves it whole")
    if not untrained:
        check_trained(pretrained, "Train it first, or write it as it is: save_adapter(..., untrained=True)")
    declared = flatten(pretrained.model.params).keys()
    if strange := sorted(set(moved) - declared):
        raise ValueError(f"moved names {strange[0]!r}, which is no parameter of the model")
    own = {path: np.asarray(leaf) for path, leaf in flatten(pretrained.variables.params).items() if path in declared}
    # The base's checkpoint lacks what was drawn at random, and what came with the adapter that was loaded.
    apart = {
        line.path for line in pretrained.manifest.entries if line.action == "reset" or line.note.startswith(BROUGHT)
    }
    kept = head_paths(pretrained.model) | set(moved) | (apart & declared)
    kind, written = foreign_kind(pretrained), None
    mapping: dict[str, Any] = {}
    if kind != OWN:
        model = pretrained.model
        foreign = format_of(kind, model)
        form = layout(foreign, model.config, model.head)
        document = foreign.write(model.config, model.head, {"model_type": kind})
        # Where peft itself looks for the class of a base; a field it does not know would make it warn.
        mapping = {"base_model_class": document["architectures"][0], "parent_library": "transformers"}
        written = write(form, leaves, own, kept)
        if written is not None:
            modules = {form.places[path].module for path in kept}
            kept = {path for path, place in form.places.items() if place.module in modules}
    if written is None:
        stats = {STATS + path: np.asarray(leaf) for path, leaf in flatten(pretrained.variables.stats).items()}
        written = {"peft_type": TLX}, leaves | {path: own[path] for path in kept} | stats
    fields, tensors = written
    fields["base_model_name_or_path"] = pretrained.manifest.source if pretrained.manifest.entries else None
    fields["auto_mapping"] = mapping | {BASE: fingerprint(pretrained, kept)}
    if names := getattr(pretrained.task, "names", ()):
        fields["auto_mapping"][CLASSES] = list(names)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_file(directory / TENSORS, tensors)
    partial = directory / f".{CONFIG}.partial"
    partial.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(partial, directory / CONFIG)
    return directory


def load_adapter(pretrained: Pretrained, directory: str | os.PathLike[str]) -> Pretrained:
    """The model with the adapter in `directory`, ours or peft's, and with the head that came along.

    Adapters of one kind and shape give variables of one structure: a compiled forward pass serves them all. Raises
    FileNotFoundError where there is no adapter; ValueError for an adapter of a kind that we do not know, for one that
    was trained on another base, for tensors that are missing (among them those of a head that its config names), extra
    or misshapen, for a head of other classes than the model's, and for a model that carries an adapter already.

    A head that came along with its class names is put in the order of the model's classes.
    """
    if held := sorted(inserted(pretrained)):
        raise ValueError(f"the model carries an adapter already ({held[0]!r}, ...): merge it, or load the base again")
    document, found = read_adapter(pretrained.model, foreign_kind(pretrained), Path(directory))
    declared = flatten(pretrained.model.params).keys()
    given = (document.get("auto_mapping") or {}).get(BASE)
    if given is not None and given != (own := fingerprint(pretrained, found.keys() & declared)):
        raise ValueError(
            f"{directory} was trained on another base: on {document.get('base_model_name_or_path') or 'one'} with the "
            f"weights {given}; those of {pretrained.manifest.source} are {own}"
        )
    names = (document.get("auto_mapping") or {}).get(CLASSES) or ()
    # A prompt or a prefix takes positions from the text.
    return within(with_head(pretrained, found, tuple(map(str, names)), str(directory)))


def with_head(pretrained: Pretrained, found: Found, names: tuple[str, ...], source: str) -> Pretrained:
    """The model with the leaves in `found`, of which those of a head for the classes `names` are put in the order of
    the model's classes. Raises ValueError, with both lists, for other classes."""
    classes, task = class_axis(pretrained.model), pretrained.task
    bridged = not pretrained.model.inserts and bool(head_paths(pretrained.model) & found.keys())
    if not names or task is None or not (bridged or any(classes(path) for path in found)):
        return with_leaves(pretrained, found, source)
    if task.by_class and not task.names:
        return with_leaves(pretrained._replace(task=records.replace(task, names=names)), found, source)
    ours: tuple[str, ...] = task.names
    how = match(names, ours)
    if how.take is None:
        raise ValueError(
            f"{source} brings a head for the classes {shown(names)}, the model has {shown(ours)}; load the base with "
            f"the adapter's classes: load_pretrained(..., tasks.{type(task).__name__}(names={names}))"
        )
    if how.moves:
        check_known(pretrained.model, source, orders(names, ours))
        leaves = in_order({path: array for path, (array, _) in found.items()}, pretrained.model, how.take)
        adapted = with_leaves(pretrained, {path: (leaves[path], key) for path, (_, key) in found.items()}, source)
        manifest = permuted(adapted.manifest, found, pretrained.model, orders(names, ours))
        return adapted._replace(manifest=manifest)
    if task.by_class and how.by_position and not all(placeholder(name, n) for n, name in enumerate(names)):
        # The head is the adapter's, and so are its names where the base has none that say anything.
        said = tuple(names[n] if placeholder(name, n) else name for n, name in enumerate(ours))
        pretrained = pretrained._replace(task=records.replace(task, names=said))
    return with_leaves(pretrained, found, source)


def with_leaves(pretrained: Pretrained, found: Found, source: str) -> Pretrained:
    """The model with the leaves in `found` added or in the place of its own, each with its line in the manifest."""
    params, stats = flatten(pretrained.variables.params), flatten(pretrained.variables.stats)
    for path, (array, _) in found.items():
        if path.startswith(STATS):
            stats[path.removeprefix(STATS)] = array
        else:
            params[path] = array
    lines = [line for line in pretrained.manifest.entries if line.path not in found]
    for path, (_, key) in sorted(found.items()):
        lines.append(Entry("loaded" if key == path else "renamed", path, key, f"{BROUGHT}{source}"))
    variables = Variables(nest(dict(sorted(params.items()))), nest(dict(sorted(stats.items()))))
    return pretrained._replace(variables=variables, manifest=pretrained.manifest._replace(entries=tuple(lines)))


def read_adapter(model: Model, kind: str, directory: Path) -> tuple[dict[str, Any], Found]:
    """`(adapter_config.json, leaves by our path)` for a `model` of the Hugging Face `model_type` `kind`."""
    digests.verify_below(directory)
    document = read_adapter_config(directory)
    tensors = read_file(directory / TENSORS)
    declared = flatten(model.params)
    if document["peft_type"] == TLX:
        found = read_own(model, tensors, directory)
    elif kind == OWN:
        raise ValueError(f"{directory} is peft's, for a model of transformers; this model has no form there")
    else:
        shapes = {path: param.shape for path, param in declared.items()}
        found = read(
            layout(format_of(kind, model), model.config, model.head), document, tensors, shapes, str(directory)
        )
    keys = {path: key for path, (_, key) in found.items() if key in tensors}
    arrays = {path: array for path, (array, _) in found.items()}
    check_values(arrays, keys, declared | prefixed_stats(model), lambda key: directory / TENSORS)
    return document, found


def read_own(model: Model, tensors: dict[str, np.ndarray], directory: Path) -> Found:
    """An adapter under our own names."""
    shapes = {path: param.shape for path, param in flatten(model.params).items()}
    shapes |= {STATS + path: param.shape for path, param in flatten(model.stats).items()}
    stages = tuple(f"{stage.name}/" for stage in model.stages)
    misshapen = [
        f"{path} wants {shapes[path]}, the adapter gives {tensor.shape}"
        for path, tensor in sorted(tensors.items())
        if path in shapes and tensor.shape != shapes[path]
    ]
    extra = [
        f"{path!r} {t.shape}" for path, t in sorted(tensors.items()) if not path.removeprefix(STATS).startswith(stages)
    ]
    missing = [f"{path} {shapes[path]}" for path in sorted(head_paths(model) - tensors.keys())]
    stop(str(directory), missing, misshapen, extra)
    check_reads(model, tensors, directory)
    return {path: (tensor, path) for path, tensor in tensors.items()}


def check_reads(model: Model, tensors: dict[str, np.ndarray], directory: Path) -> None:
    """ValueError where the layers cannot read what is inserted among their parameters: a part of it is missing, or of
    another shape, or nobody asks for it. Our own form has no list of what belongs to a layer, so a pass is traced."""
    leaves: dict[str, Any] = {p: jax.ShapeDtypeStruct(own.shape, "float32") for p, own in flatten(model.params).items()}
    added = {path: tensor for path, tensor in tensors.items() if path not in leaves and not path.startswith(STATS)}
    leaves |= {path: tensor for path, tensor in tensors.items() if not path.startswith(STATS)}
    try:
        read = paths_read(model, nest(dict(sorted(leaves.items()))))
    except (KeyError, TypeError, ValueError) as error:
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"{directory} holds an adapter that the layers of the model cannot read ({told})") from None
    stop(str(directory), [], [], [f"{path!r} {t.shape}" for path, t in sorted(added.items()) if path not in read])


def paths_read(model: Model, params: Tree) -> set[str]:
    """The paths of the parameters that a step of training reads; there, for dropout has leaves that no other pass asks
    for."""
    stats = jax.tree.map(
        lambda own: jax.ShapeDtypeStruct(own.shape, "float32"), model.stats, is_leaf=lambda own: isinstance(own, Param)
    )

    def taps(own: Tree, stats: Tree, inputs: dict[str, Any], key: Any) -> dict[str, Any]:
        return models.forward(model, Variables(own, stats), inputs, key=key, train=True)[0]

    inputs = models.example_inputs(model.config, tokens=1)
    traced = jax.make_jaxpr(taps)(params, stats, inputs, jax.random.key(0)).jaxpr
    names = jax.tree.leaves(nest({path: path for path in flatten(params)}))
    asked = {id(own) for equation in traced.eqns for own in equation.invars} | set(map(id, traced.outvars))
    return {path for path, own in zip(names, traced.invars, strict=False) if id(own) in asked}


def read_adapter_config(directory: Path) -> dict[str, Any]:
    """`adapter_config.json` as a dict; FileNotFoundError or ValueError say what is wrong with the directory."""
    if (directory / PICKLE).is_file() and not (directory / TENSORS).is_file():
        raise ValueError(
            f"{directory} holds {PICKLE}, a pickle, which can run code when it is opened; tlx reads {TENSORS} only. "
            "Where you trust the file, convert it once: "
            f"peft.PeftModel.from_pretrained(BASE_MODEL, {str(directory)!r}).save_pretrained(NEW_DIRECTORY)"
        )
    if missing := [name for name in (CONFIG, TENSORS) if not (directory / name).is_file()]:
        raise FileNotFoundError(f"{directory} holds no {missing[0]}; an adapter is {CONFIG} and {TENSORS}")
    return read_config(directory / CONFIG)
