"""Save and load adapters: the leaves that a tuning inserted, and the head, without the base they were trained on.

The directory has the layout of peft: `adapter_config.json` and `adapter_model.safetensors`. Adapters that peft has no
form for are written in the same two files under our own names, with `peft_type` "TLX".
"""

import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tlx import config as records
from tlx import models
from tlx.files.documents import digests
from tlx.partition import compile_rule
from tlx.tasks.classes import format_names, match, placeholder
from tlx.trees import Json, Tree, flatten, nest
from tlx.types import ArrayMap, Key, Model, Param, Variables
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
BROUGHT = "adapter "  # begins the note of every leaf in the manifest that came from an adapter


def save_adapter(
    pretrained: Pretrained,
    directory: str | os.PathLike[str],
    *,
    moved: Collection[str] = (),
    untrained: bool = False,
) -> Path:
    """Write the adapter of a model and its head.

    `peft.PeftModel.from_pretrained(base, directory)` opens the directory. An adapter that peft has no form for is
    opened by `load_adapter` only. The files also hold the leaves that the manifest lists as drawn at random or as
    loaded with an adapter, a hash of all other leaves of the base, and the class names. A base with its classes in
    another order gets the head in that order.

    Args:
        pretrained: The model.
        directory: The directory to write; it is created if needed.
        moved: Paths of leaves of the base that were trained too, for example norms; they are saved with the head.
        untrained: Whether to write a head or a pooler that was drawn at random and never trained.

    Returns:
        The directory.

    Raises:
        ValueError: The model has no adapter, `moved` has a path that the model does not declare, or the head or the
            pooler was never trained and `untrained` is not set.
        OSError: The disk does not take the files. The error names the file.
    """
    leaves = {path: np.asarray(leaf) for path, leaf in inserted(pretrained).items()}
    if not leaves:
        raise ValueError("the model has no adapter; save_pretrained saves all its parameters")
    if not untrained:
        check_trained(pretrained, "Train it first, or save it without training: save_adapter(..., untrained=True)")
    declared = flatten(pretrained.model.params).keys()
    if undeclared := sorted(set(moved) - declared):
        raise ValueError(f"moved names {undeclared[0]!r}, which is not a parameter of the model")
    base_leaves = {
        path: np.asarray(leaf) for path, leaf in flatten(pretrained.variables.params).items() if path in declared
    }
    saved_paths = head_paths(pretrained.model) | set(moved) | (absent_from_base(pretrained) & declared)
    fields, tensors = adapter_files(pretrained, leaves, base_leaves, saved_paths)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_file(directory / TENSORS, tensors)
    partial = directory / f".{CONFIG}.partial"
    partial.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(partial, directory / CONFIG)
    return directory


def absent_from_base(pretrained: Pretrained) -> set[str]:
    """Return the leaves that the checkpoint of the base lacks: drawn at random, or loaded with an adapter."""
    entries = pretrained.manifest.entries
    return {entry.path for entry in entries if entry.action == "reset" or entry.note.startswith(BROUGHT)}


def adapter_files(
    pretrained: Pretrained,
    leaves: dict[str, np.ndarray],
    base_leaves: dict[str, np.ndarray],
    saved_paths: set[str],
) -> tuple[Json, dict[str, np.ndarray]]:
    """Return the fields of adapter_config.json and the tensors: in the form of peft, or under our names.

    Args:
        pretrained: The model.
        leaves: The leaves of the adapter by path.
        base_leaves: All leaves of the base by path.
        saved_paths: The leaves of the base to save. The form of peft saves the whole modules that they belong to.
    """
    kind, written = foreign_kind(pretrained), None
    mapping: Json = {}
    if kind != OWN:
        model = pretrained.model
        foreign = format_of(kind, model)
        form = layout(foreign, model.config, model.head)
        document = foreign.write(model.config, model.head, {"model_type": kind})
        # peft looks here for the class of a base; a field that it does not know would make it warn.
        mapping = {"base_model_class": document["architectures"][0], "parent_library": "transformers"}
        written = write(form, leaves, base_leaves, saved_paths)
        if written is not None:
            modules = {form.places[path].module for path in saved_paths}
            saved_paths = {path for path, place in form.places.items() if place.module in modules}
    if written is None:
        stats = {STATS + path: np.asarray(leaf) for path, leaf in flatten(pretrained.variables.stats).items()}
        written = {"peft_type": TLX}, leaves | {path: base_leaves[path] for path in saved_paths} | stats
    fields, tensors = written
    fields["base_model_name_or_path"] = pretrained.manifest.source if pretrained.manifest.entries else None
    fields["auto_mapping"] = mapping | {BASE: fingerprint(pretrained, saved_paths)}
    if names := getattr(pretrained.task, "names", ()):
        fields["auto_mapping"][CLASSES] = list(names)
    return fields, tensors


def load_adapter(pretrained: Pretrained, directory: str | os.PathLike[str]) -> Pretrained:
    """Return the model with the adapter in `directory`, written by tlx or peft, and with the head saved in it.

    A head with class names is put in the order of the model's classes. Adapters of one kind and shape have variables
    of one structure: one compiled forward pass serves them all.

    Args:
        pretrained: The base.
        directory: The directory of the adapter.

    Raises:
        FileNotFoundError: There is no adapter.
        ValueError: The kind of adapter is unknown, it was trained on another base, its tensors (or those of a head that
            its config names) are missing, extra or misshapen, its head has other classes than the model, or the model
            has an adapter already.
    """
    if inserted_paths := sorted(inserted(pretrained)):
        raise ValueError(
            f"the model already has an adapter ({inserted_paths[0]!r}, ...): merge it, or load the base model again"
        )
    document, leaves = read_adapter(pretrained.model, foreign_kind(pretrained), Path(directory))
    declared = flatten(pretrained.model.params).keys()
    stored_hash = (document.get("auto_mapping") or {}).get(BASE)
    if stored_hash is not None and stored_hash != (base_hash := fingerprint(pretrained, leaves.keys() & declared)):
        raise ValueError(
            f"{directory} was trained on another base model: {document.get('base_model_name_or_path') or '(no name)'} "
            f"with the weights {stored_hash}; the weights of {pretrained.manifest.source} are {base_hash}. Load that "
            "base model first"
        )
    names = (document.get("auto_mapping") or {}).get(CLASSES) or ()
    # A prompt or a prefix takes positions from the text.
    return within(with_head(pretrained, leaves, tuple(map(str, names)), str(directory)))


def with_head(pretrained: Pretrained, tensors: Found, names: tuple[str, ...], source: str) -> Pretrained:
    """Return the model with the leaves in `tensors`, and a head for the classes `names` in the order of its own
    classes.

    Raises ValueError, with both lists, for other classes.
    """
    classes, task = class_axis(pretrained.model), pretrained.task
    bridged = not pretrained.model.inserts and bool(head_paths(pretrained.model) & tensors.keys())
    if not names or task is None or not (bridged or any(classes(path) for path in tensors)):
        return with_leaves(pretrained, tensors, source)
    if task.by_class and not task.names:
        return with_leaves(pretrained._replace(task=records.replace(task, names=names)), tensors, source)
    ours: tuple[str, ...] = task.names
    matching = match(names, ours)
    if matching.take is None:
        raise ValueError(
            f"{source} has a head for the classes {format_names(names)}, but the model has the classes "
            f"{format_names(ours)}; load the base model with the classes of the adapter: load_pretrained(..., "
            f"tasks.{type(task).__name__}(names={names}))"
        )
    if matching.moves:
        check_known(pretrained.model, source, orders(names, ours))
        leaves = in_order({path: array for path, (array, _) in tensors.items()}, pretrained.model, matching.take)
        adapted = with_leaves(pretrained, {path: (leaves[path], key) for path, (_, key) in tensors.items()}, source)
        manifest = permuted(adapted.manifest, tensors, pretrained.model, orders(names, ours))
        return adapted._replace(manifest=manifest)
    if task.by_class and matching.by_position and not all(placeholder(name, n) for n, name in enumerate(names)):
        # The head comes from the adapter, so its names replace placeholders of the base.
        head_names = tuple(names[n] if placeholder(name, n) else name for n, name in enumerate(ours))
        pretrained = pretrained._replace(task=records.replace(task, names=head_names))
    return with_leaves(pretrained, tensors, source)


def with_leaves(pretrained: Pretrained, tensors: Found, source: str) -> Pretrained:
    """Return the model with the leaves in `tensors` added or replaced, each with its line in the manifest."""
    params, stats = flatten(pretrained.variables.params), flatten(pretrained.variables.stats)
    for path, (array, _) in tensors.items():
        if path.startswith(STATS):
            stats[path.removeprefix(STATS)] = array
        else:
            params[path] = array
    entries = [entry for entry in pretrained.manifest.entries if entry.path not in tensors]
    for path, (_, key) in sorted(tensors.items()):
        entries.append(Entry("loaded" if key == path else "renamed", path, key, f"{BROUGHT}{source}"))
    variables = Variables(nest(dict(sorted(params.items()))), nest(dict(sorted(stats.items()))))
    return pretrained._replace(variables=variables, manifest=pretrained.manifest._replace(entries=tuple(entries)))


def kept_leaves(adapter: Found, reset: Sequence[str], pretrained: Pretrained) -> Found:
    """Return the leaves of an adapter without those that `reset` matches and those in a head that was reset."""
    model = pretrained.model
    head = head_paths(model)
    head_was_reset = any(entry.action == "reset" and entry.path in head for entry in pretrained.manifest.entries)
    head_patterns = [f"{model.stages[-1].name}/.*"] if head_was_reset else []
    rules = [compile_rule(pattern) for pattern in (*reset, *head_patterns)]
    return {path: leaf for path, leaf in adapter.items() if not any(rule.fullmatch(path) for rule in rules)}


def with_adapter(pretrained: Pretrained, adapter: Found, order: Sequence[int] | None, source: str) -> Pretrained:
    """Return the model with the leaves of its adapter, in the new `order` of the classes (None: they stay)."""
    if not adapter:
        return pretrained
    if order is None:
        return with_leaves(pretrained, adapter, source)
    note = next(entry.note for entry in pretrained.manifest.entries if entry.action == "permuted")
    leaves = in_order({path: array for path, (array, _) in adapter.items()}, pretrained.model, order)
    pretrained = with_leaves(pretrained, {path: (leaves[path], key) for path, (_, key) in adapter.items()}, source)
    return pretrained._replace(manifest=permuted(pretrained.manifest, adapter, pretrained.model, note))


def read_adapter(model: Model, kind: str, directory: Path) -> tuple[Json, Found]:
    """Return adapter_config.json and the leaves by our path, for a `model` of the Hugging Face `model_type` `kind`."""
    digests.verify_below(directory)
    document = read_adapter_config(directory)
    tensors = read_file(directory / TENSORS)
    declared = flatten(model.params)
    if document["peft_type"] == TLX:
        leaves = read_own(model, tensors, directory)
    elif kind == OWN:
        raise ValueError(
            f"{directory} is an adapter of peft, which requires a model of transformers; transformers has no class for "
            "this model. Use an adapter that tlx saved"
        )
    else:
        shapes = {path: param.shape for path, param in declared.items()}
        leaves = read(
            layout(format_of(kind, model), model.config, model.head), document, tensors, shapes, str(directory)
        )
    keys = {path: key for path, (_, key) in leaves.items() if key in tensors}
    arrays = {path: array for path, (array, _) in leaves.items()}
    check_values(arrays, keys, declared | prefixed_stats(model), lambda key: directory / TENSORS)
    return document, leaves


def read_own(model: Model, tensors: dict[str, np.ndarray], directory: Path) -> Found:
    """Return the leaves of an adapter that is stored under our own names."""
    shapes = {path: param.shape for path, param in flatten(model.params).items()}
    shapes |= {STATS + path: param.shape for path, param in flatten(model.stats).items()}
    stages = tuple(f"{stage.name}/" for stage in model.stages)
    misshapen = [
        f"{path} expects {shapes[path]}, but the adapter has {tensor.shape}"
        for path, tensor in sorted(tensors.items())
        if path in shapes and tensor.shape != shapes[path]
    ]
    extra = [
        f"{path!r} {tensor.shape}"
        for path, tensor in sorted(tensors.items())
        if not path.removeprefix(STATS).startswith(stages)
    ]
    missing = [f"{path} {shapes[path]}" for path in sorted(head_paths(model) - tensors.keys())]
    stop(str(directory), missing, misshapen, extra)
    check_reads(model, tensors, directory)
    return {path: (tensor, path) for path, tensor in tensors.items()}


def check_reads(model: Model, tensors: dict[str, np.ndarray], directory: Path) -> None:
    """Raise ValueError if the layers cannot read the adapter: a part is missing, misshapen, or read by no layer.

    Our own form has no list of the leaves that belong to a layer, so a forward pass is traced.
    """
    leaves: dict[str, Any] = {
        path: jax.ShapeDtypeStruct(param.shape, "float32") for path, param in flatten(model.params).items()
    }
    added = {path: tensor for path, tensor in tensors.items() if path not in leaves and not path.startswith(STATS)}
    leaves |= {path: tensor for path, tensor in tensors.items() if not path.startswith(STATS)}
    try:
        read = paths_read(model, nest(dict(sorted(leaves.items()))))
    except (KeyError, TypeError, ValueError) as error:
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(
            f"{directory} contains an adapter that the layers of the model cannot read ({message})"
        ) from None
    stop(
        str(directory),
        [],
        [],
        [f"{path!r} {tensor.shape}" for path, tensor in sorted(added.items()) if path not in read],
    )


def paths_read(model: Model, params: Tree) -> set[str]:
    """Return the paths of the parameters that a training step reads.

    Only a training step reads all of them: no other pass reads the leaves of dropout.
    """
    stats = jax.tree.map(
        lambda param: jax.ShapeDtypeStruct(param.shape, "float32"),
        model.stats,
        is_leaf=lambda leaf: isinstance(leaf, Param),
    )

    def taps(tree: Tree, stats: Tree, inputs: ArrayMap, key: Key) -> ArrayMap:
        return models.forward(model, Variables(tree, stats), inputs, key=key, train=True)[0]

    inputs = models.example_inputs(model.config, tokens=1)
    traced = jax.make_jaxpr(taps)(params, stats, inputs, jax.random.key(0)).jaxpr
    names = jax.tree.leaves(nest({path: path for path in flatten(params)}))
    read_ids = {id(var) for equation in traced.eqns for var in equation.invars} | set(map(id, traced.outvars))
    return {path for path, var in zip(names, traced.invars, strict=False) if id(var) in read_ids}


def read_adapter_config(directory: Path) -> Json:
    """Return `adapter_config.json` as a dict. Raises FileNotFoundError or ValueError for an unreadable directory."""
    if (directory / PICKLE).is_file() and not (directory / TENSORS).is_file():
        raise ValueError(
            f"{directory} contains {PICKLE}, a pickle, which can run code when it is opened; tlx reads {TENSORS} only. "
            "If you trust the file, convert it once: peft.PeftModel.from_pretrained(BASE_MODEL, "
            f"{str(directory)!r}).save_pretrained(NEW_DIRECTORY)"
        )
    if missing := [name for name in (CONFIG, TENSORS) if not (directory / name).is_file()]:
        raise FileNotFoundError(f"{directory} has no {missing[0]}; expected an adapter with {CONFIG} and {TENSORS}")
    return read_config(directory / CONFIG)
