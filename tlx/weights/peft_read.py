"""An adapter that peft wrote, as leaves of ours. What cannot be explained stops the load with both sides listed."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tlx.models.names import inward, outward
from tlx.trees import near_miss
from tlx.weights.peft import LEARNED_TOKENS, Layout, blocks_of
from tlx.weights.reconcile import stop

# The tensors of a module, by what their names end in, as ours.
PARTS = {
    "LORA": {
        ".lora_A.weight": "lora/a",
        ".lora_B.weight": "lora/b",
        ".lora_magnitude_vector": "lora/magnitude",
        ".lora_magnitude_vector.weight": "lora/magnitude",
    },
    "IA3": {".ia3_l": "ia3"},
    "VERA": {".vera_lambda_d": "vera/inner", ".vera_lambda_b": "vera/outer"},
    "PREFIX_TUNING": {},
    "PROMPT_TUNING": {},
}
# The modules that peft saves along with an adapter for classifying sequences, whatever its config names.
HEADS = ("classifier", "score")
# Fields that change what a layer computes, beyond what is ours; peft's default of each is a kind of nothing.
UNKNOWN = (
    "alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "lora_bias", "monteclora_config",
    "target_parameters", "trainable_token_indices", "use_bdlora", "use_qalora",
)  # fmt: skip
# How LoRA's matrices may have begun. By any other of peft's ways (PiSSA, OLoRA, CorDA, LoRA-GA, LoftQ), it takes out of
# the base's kernels what they begin with, each time that it opens the adapter.
BEGUN = (None, True, False, "gaussian", "eva", "orthogonal", "mica")
Found = dict[str, tuple[np.ndarray, str]]


class Reading(NamedTuple):
    """What was found so far: arrays by our path, each with the tensor it came from, and what does not fit."""

    arrays: Found
    missing: list[str]
    misshapen: list[str]
    extra: list[str]

    def take(self, path: str, tensor: np.ndarray, key: str, wanted: tuple[int, ...], turned: bool = False) -> None:
        """A tensor of shape `wanted`, the transpose of ours where `turned`."""
        if tensor.shape != wanted:
            self.misshapen.append(f"{path} wants {wanted}, {key!r} gives {tensor.shape}")
            return
        self.arrays[path] = (np.ascontiguousarray(tensor.T if turned else tensor), key)


def check(document: Mapping[str, Any]) -> None:
    """ValueError for an adapter of a kind that we do not know, or with settings that we do not."""
    kind = document.get("peft_type")
    if kind not in PARTS:
        raise ValueError(f"no adapter of peft_type {kind!r}{near_miss(str(kind), [*PARTS, 'TLX'])}")
    if strange := [name for name in UNKNOWN if document.get(name)]:
        raise ValueError(f"the adapter sets {strange[0]} to {document[strange[0]]!r}, which tlx does not know")
    begun = document.get("init_lora_weights")
    if (begun.lower() if isinstance(begun, str) else begun) not in BEGUN:
        raise ValueError(
            f"the adapter sets init_lora_weights to {begun!r}, by which peft changes the base's own weights; tlx "
            "leaves them as they are. Save it as plain LoRA: peft's "
            "save_pretrained(..., path_initial_model_for_weight_conversion=...)"
        )
    if document.get("bias", "none") != "none":
        raise ValueError(f"the adapter sets bias to {document['bias']!r}; tlx knows 'none'")


def read(
    form: Layout,
    document: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    source: str,
) -> Found:
    """The adapter's leaves by our path, and the declared leaves that it brings along (a head), each with the name of
    the tensor it came from. `shapes` are those of the declared leaves.

    Raises ValueError for an unknown kind, and for tensors that are missing, extra or misshapen.
    """
    check(document)
    kind = document["peft_type"]
    found = Reading({}, [], [], [])
    layers: dict[str, dict[str, tuple[np.ndarray, str]]] = {}
    shared: dict[str, tuple[np.ndarray, str]] = {}
    for key, tensor in sorted(tensors.items()):
        bare = key.removeprefix("base_model.").removeprefix("model.")
        suffix = next((end for end in PARTS[kind] if bare.endswith(end)), None)
        module, _, name = bare.rpartition(".")
        if bare in (("vera_A", "vera_B") if kind == "VERA" else ("prompt_embeddings",) * (kind in LEARNED_TOKENS)):
            shared[bare] = (tensor, key)
        elif suffix and (layer := form.layer(bare.removesuffix(suffix))):
            layers.setdefault(layer, {})[PARTS[kind][suffix]] = (tensor, key)
        elif not suffix and (path := form.modules.get(module, {}).get(name)):
            name_of = form.places[path].name
            found.take(path, tensor, key, outward(name_of, np.empty(shapes[path], bool)).shape)
            if path in found.arrays:
                found.arrays[path] = (inward(name_of, tensor), key)
        else:
            found.extra.append(f"{key!r} {tensor.shape}")
    if kind in LEARNED_TOKENS:
        read_tokens(form, document, shared, shapes, found)
    else:
        for layer in sorted(layers.keys() | targeted(form, document)):
            READERS[kind](form, document, layer, shapes[f"{layer}/kernel"], layers.get(layer, {}), shared, found)
    read = found.arrays.keys() | {line.split(" ")[0] for line in found.misshapen}
    for path in sorted(promised(form, document) - read):
        found.missing.append(f"{path} {shapes[path]} (as {form.places[path].name.foreign!r}, which the config names)")
    stop(source, found.missing, found.misshapen, found.extra)
    return found.arrays


def promised(form: Layout, document: Mapping[str, Any]) -> set[str]:
    """The model's own leaves that the config says the file has: those of `modules_to_save`, and, for `task_type`
    SEQ_CLS, those of a head. As in peft, a name stands for every module whose name ends with it."""
    named = tuple(document.get("modules_to_save") or ())
    heads = HEADS if document.get("task_type") == "SEQ_CLS" else ()
    paths = set()
    for path, place in form.places.items():
        if place.module is None:
            continue
        parts = place.module.split(".")
        ends = named + heads if place.name.head else named
        modules = [".".join(parts[: n + 1]) for n in range(len(parts))]
        paths |= {path} if any(module.endswith(ends) for module in modules) else set()
    return paths


def targeted(form: Layout, document: Mapping[str, Any]) -> set[str]:
    """The dense layers that `target_modules` names, as far as that alone decides; a kept module is none of them."""
    targets = document.get("target_modules") or []
    if document.get("layers_to_transform") is not None or document.get("exclude_modules") or targets == "all-linear":
        return set()
    kept = tuple(document.get("modules_to_save") or ())
    layers = set()
    for module in form.modules:
        layer = form.layer(module)
        if layer is None or form.places[f"{layer}/kernel"].name.head or module.endswith(kept):
            continue
        if isinstance(targets, str):
            named = re.fullmatch(targets, module) is not None
        else:
            named = any(module == target or module.endswith(f".{target}") for target in targets)
        layers |= {layer} if named else set()
    return layers


def pattern(document: Mapping[str, Any], field: str, module: str, default: float) -> float:
    """The module's own rank or alpha where a pattern names it."""
    given = document.get(field) or {}
    return next((value for key, value in given.items() if re.fullmatch(rf"(.*\.)?({key})", module)), default)


def read_lora(form: Layout, document: Any, layer: str, shape: Any, own: Any, shared: Any, found: Reading) -> None:
    module = str(form.module(layer))
    rank = int(pattern(document, "rank_pattern", module, document.get("r", 8)))
    alpha = pattern(document, "alpha_pattern", module, document.get("lora_alpha", 8))
    wanted: dict[str, tuple[int, ...]] = {"lora/a": (rank, shape[0]), "lora/b": (shape[1], rank)}
    if document.get("use_dora"):
        wanted["lora/magnitude"] = (shape[1],)
    for name, size in wanted.items():
        if name not in own:
            found.missing.append(f"{layer}/{name} {size[::-1]}")
        else:
            tensor, key = own[name]
            found.take(f"{layer}/{name}", tensor, key, size, turned=True)
    if stray := own.keys() - wanted.keys():
        tensor, key = own[min(stray)]
        found.extra.append(f"{key!r} {tensor.shape}")
    scale = alpha / (rank**0.5 if document.get("use_rslora") else rank)
    found.arrays[f"{layer}/lora/scale"] = (np.asarray(scale, np.float32), "lora_alpha")
    if rate := document.get("lora_dropout"):
        found.arrays[f"{layer}/lora/dropout"] = (np.asarray(rate, np.float32), "lora_dropout")


def read_ia3(form: Layout, document: Any, layer: str, shape: Any, own: Any, shared: Any, found: Reading) -> None:
    module = str(form.module(layer))
    inner = document.get("feedforward_modules") or []
    names = {module, *(alias for alias, paths in form.modules.items() if paths.get("weight") == f"{layer}/kernel")}
    if isinstance(inner, str):
        before = any(re.fullmatch(inner, name) for name in names)
    else:
        before = any(name.endswith(tuple(inner)) for name in names)
    path, size = (f"{layer}/ia3/input", shape[0]) if before else (f"{layer}/ia3/output", shape[1])
    if "ia3" not in own:
        found.missing.append(f"{path} {(size,)}")
        return
    tensor, key = own["ia3"]
    found.take(path, tensor, key, (1, size) if before else (size, 1))
    if path in found.arrays:
        found.arrays[path] = (tensor.reshape(-1), key)


def read_vera(form: Layout, document: Any, layer: str, shape: Any, own: Any, shared: Any, found: Reading) -> None:
    rank = document.get("r", 256)
    for name, width in (("vera/inner", rank), ("vera/outer", shape[1])):
        if name in own:
            tensor, key = own[name]
            found.take(f"{layer}/{name}", tensor, key, (width,))
        else:
            found.missing.append(f"{layer}/{name} {(width,)}")
    for name, key, size in (("a", "vera_A", (rank, shape[0])), ("b", "vera_B", (shape[1], rank))):
        if key in shared:
            tensor, foreign = shared[key]
            found.take(f"{layer}/vera/{name}", tensor[: size[0], : size[1]], foreign, size, turned=True)
        else:
            found.missing.append(f"{layer}/vera/{name} {size[::-1]} (as {key!r}; save it with save_projection=True)")


READERS = {"LORA": read_lora, "IA3": read_ia3, "VERA": read_vera}


def read_tokens(form: Layout, document: Any, shared: Any, shapes: Mapping[str, Any], found: Reading) -> None:
    count, prefix = document.get("num_virtual_tokens"), document["peft_type"] == "PREFIX_TUNING"
    words = shapes.get("stem/words/embedding")
    if words is None:
        raise ValueError(f"{document['peft_type']} is for text; this model is a {type(form.config).__name__}")
    blocks = blocks_of(form.config)
    wanted = (count, 2 * len(blocks) * form.config.width if prefix else words[1])
    if "prompt_embeddings" not in shared:
        found.missing.append(f"'prompt_embeddings' {wanted}")
        return
    tensor, key = shared["prompt_embeddings"]
    if tensor.shape != wanted:
        found.misshapen.append(f"the model wants {wanted}, {key!r} gives {tensor.shape}")
    elif not prefix:
        found.arrays["stem/prompt/tokens"] = (tensor, key)
    else:
        rows = iter(np.split(tensor, 2 * len(blocks), axis=1))
        for block in blocks:
            for name in ("key", "value"):
                found.arrays[f"{block}/prefix/{name}"] = (next(rows), key)
