"""Read an adapter that peft wrote. Missing, misshapen and extra tensors stop the load with an error."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tlx.models.names import Name, inward, outward
from tlx.trees import Json
from tlx.weights.peft import DENSE, LEARNED_TOKENS, PeftLayout, Spelling, blocks_of
from tlx.weights.peft_targets import check_patterns, full, kept_paths, pattern, spelled, why_not
from tlx.weights.reconcile import stop

# Our name of each tensor of a module, by the end of its name in peft.
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
Found = dict[str, tuple[np.ndarray, str]]
Shape = tuple[int, ...]


class Reading(NamedTuple):
    """The result so far: arrays by our path, each with the name of its tensor, and the tensors that do not fit."""

    arrays: Found
    missing: list[str]
    misshapen: list[str]
    extra: list[str]

    def take(self, path: str, tensor: np.ndarray, key: str, shape: Shape, turned: bool = False) -> None:
        """Add a tensor under `path` if it has this `shape`; `turned` transposes it to our layout."""
        if tensor.shape != shape:
            self.misshapen.append(f"{path} expects {shape}, but {key!r} is {tensor.shape}")
            return
        self.arrays[path] = (np.ascontiguousarray(tensor.T if turned else tensor), key)

    def once(self, parts: dict[str, tuple[np.ndarray, str]], part: str, tensor: np.ndarray, key: str) -> None:
        """Add a part of an adapter to `parts`; a second tensor for one part is extra."""
        if part in parts:
            self.extra.append(f"{key!r} {tensor.shape}: duplicate of {parts[part][1]!r}")
        else:
            parts[part] = (tensor, key)


def read(
    form: PeftLayout,
    document: Json,
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, Shape],
    source: str,
) -> Found:
    """Read the leaves of an adapter, and the declared leaves saved with it (a head).

    Args:
        form: The layout of the model.
        document: The content of adapter_config.json.
        tensors: The tensors of the file by name.
        shapes: The shapes of the declared leaves by path.
        source: The adapter, for the error.

    Returns:
        The leaves by our path, each with the name of its tensor.

    Raises:
        ValueError: Tensors are missing, extra or misshapen. A tensor of a layer that the config does not name is extra.
            A tensor of a module that the config keeps whole is missing if the file lacks it.
    """
    kind = document["peft_type"]
    reading = Reading({}, [], [], [])
    bare = {key: key.removeprefix("base_model.").removeprefix("model.") for key in tensors}
    suffixes = {key: next((end for end in PARTS[kind] if name.endswith(end)), "") for key, name in bare.items()}
    modules = {bare[key].removesuffix(end) for key, end in suffixes.items() if end}
    spelling = spelled(form, modules, source)
    layers: dict[str, Found] = {}
    shared: Found = {}
    for key, tensor in sorted(tensors.items()):
        suffix, (module, _, name) = suffixes[key], bare[key].rpartition(".")
        if bare[key] in (("vera_A", "vera_B") if kind == "VERA" else ("prompt_embeddings",) * (kind in LEARNED_TOKENS)):
            reading.once(shared, bare[key], tensor, key)
        elif suffix and (layer := form.layer(module := bare[key].removesuffix(suffix))):
            if reason := why_not_layer(form, document, layer, module):
                reading.extra.append(f"{key!r} {tensor.shape}: {reason}")
            else:
                reading.once(layers.setdefault(layer, {}), PARTS[kind][suffix], tensor, key)
        elif not suffix and (path := form.modules.get(module, {}).get(name)):
            read_declared(form.places[path].name, tensor, key, shapes[path], reading)
        else:
            reading.extra.append(f"{key!r} {tensor.shape}")
    if kind in LEARNED_TOKENS:
        read_tokens(form, document, shared, shapes, reading)
    else:
        read_layers(form, document, spelling, layers, shared, shapes, source, reading)
    read_paths = reading.arrays.keys() | {message.split(" ")[0] for message in reading.misshapen}
    for path, tensor_name in sorted(kept_paths(document, spelling).items()):
        if path not in read_paths:
            reading.missing.append(f"{path} {shapes[path]} (as {tensor_name!r}; the config trains this module in full)")
    stop(source, reading.missing, reading.misshapen, reading.extra)
    return reading.arrays


def read_declared(name: Name, tensor: np.ndarray, key: str, shape: Shape, reading: Reading) -> None:
    """Add a tensor of a module that is saved whole; a second tensor for one leaf is extra."""
    path = name.ours
    if path in reading.arrays:
        reading.extra.append(f"{key!r} {tensor.shape}: duplicate of {reading.arrays[path][1]!r}")
        return
    reading.take(path, tensor, key, outward(name, np.empty(shape, bool)).shape)
    if path in reading.arrays:
        reading.arrays[path] = (inward(name, tensor), key)


def read_layers(
    form: PeftLayout,
    document: Json,
    spelling: Spelling,
    layers: Mapping[str, Found],
    shared: Found,
    shapes: Mapping[str, Shape],
    source: str,
    reading: Reading,
) -> None:
    """Add the leaves of every layer that the config names, from the tensors in `layers` and those that layers share."""
    module_names = {layer: module for module in spelling.modules if (layer := form.layer(module))}
    expected_layers = {
        layer for layer, module in module_names.items() if not why_not_layer(form, document, layer, module)
    }
    if not spelling.whole:  # A bare backbone has no head that the config could name.
        expected_layers -= {layer for layer in expected_layers if form.places[f"{layer}/kernel"].name.head}
    check_patterns(document, form, {layer: module_names[layer] for layer in layers}, source)
    read = READERS[document["peft_type"]]
    check_groups(form, document["peft_type"], {layer: module_names[layer] for layer in expected_layers}, source)
    for layer in sorted(layers.keys() | expected_layers):
        shape = shapes[f"{layer}/kernel"]
        read(module_names[layer], document, layer, shape, layers.get(layer, {}), shared, reading)


def why_not_layer(form: PeftLayout, document: Json, layer: str, module: str) -> str:
    """Return why peft puts no adapter into one of our layers; "" if it does."""
    dense = form.kernel_layout(layer) in DENSE
    if document["peft_type"] == "VERA" and not dense:
        return "VeRA is for dense layers"
    return why_not(document, module, dense)


def check_groups(form: PeftLayout, kind: str, modules: Mapping[str, str], source: str) -> None:
    """Raise ValueError for LoRA of peft in a convolution with groups: it mixes the groups and equals no kernel."""
    for layer, module in sorted(modules.items()):
        if kind != "IA3" and form.kernel_layout(layer) == "grouped":
            raise ValueError(
                f"{source} has {kind} in {module!r}, a convolution with groups of channels, where tlx reads IA3 only; "
                "train the adapter without this layer, or with a tuning of tlx"
            )


def read_lora(
    module: str, document: Json, layer: str, shape: Shape, tensors: Found, shared: Found, reading: Reading
) -> None:
    rank = int(pattern(document, "rank_pattern", module, document["r"]))
    alpha = pattern(document, "alpha_pattern", module, document["lora_alpha"])
    inputs, outputs = shape[-2:]
    places, one = shape[:-2], (1,) * len(shape[:-2])
    expected: dict[str, Shape] = {"lora/a": (rank, inputs, *places), "lora/b": (outputs, rank, *one)}
    if document.get("use_dora"):
        expected["lora/magnitude"] = (1, outputs, *one) if one else (outputs,)
    for name, size in expected.items():
        if name not in tensors:
            reading.missing.append(f"{layer}/{name} {size[::-1]}")
            continue
        tensor, key = tensors[name]
        reading.take(f"{layer}/{name}", tensor, key, size, turned=not one)
        if one and f"{layer}/{name}" in reading.arrays:
            array = tensor.reshape(-1) if name == "lora/magnitude" else np.transpose(tensor, (2, 3, 1, 0))
            reading.arrays[f"{layer}/{name}"] = (array[0, 0] if name == "lora/b" else array, key)
    if extra_names := tensors.keys() - expected.keys():
        tensor, key = tensors[min(extra_names)]
        reading.extra.append(f"{key!r} {tensor.shape}")
    scale = alpha / (rank**0.5 if document.get("use_rslora") else rank)
    reading.arrays[f"{layer}/lora/scale"] = (np.asarray(scale, np.float32), "lora_alpha")
    if rate := document.get("lora_dropout"):
        reading.arrays[f"{layer}/lora/dropout"] = (np.asarray(rate, np.float32), "lora_dropout")


def read_ia3(
    module: str, document: Json, layer: str, shape: Shape, tensors: Found, shared: Found, reading: Reading
) -> None:
    inner = document.get("feedforward_modules") or []
    on_inputs = full(inner, module, "feedforward_modules") if isinstance(inner, str) else module.endswith(tuple(inner))
    path, size = (f"{layer}/ia3/input", shape[-2]) if on_inputs else (f"{layer}/ia3/output", shape[-1])
    if "ia3" not in tensors:
        reading.missing.append(f"{path} {(size,)}")
        return
    tensor, key = tensors["ia3"]
    of_dense = (1, size) if on_inputs else (size, 1)
    reading.take(path, tensor, key, of_dense if len(shape) == 2 else (1, size, 1, 1))
    if path in reading.arrays:
        reading.arrays[path] = (tensor.reshape(-1), key)


def read_vera(
    module: str, document: Json, layer: str, shape: Shape, tensors: Found, shared: Found, reading: Reading
) -> None:
    rank = document["r"]
    for name, width in (("vera/inner", rank), ("vera/outer", shape[1])):
        if name in tensors:
            tensor, key = tensors[name]
            reading.take(f"{layer}/{name}", tensor, key, (width,))
        else:
            reading.missing.append(f"{layer}/{name} {(width,)}")
    for name, key, size in (("a", "vera_A", (rank, shape[0])), ("b", "vera_B", (shape[1], rank))):
        if key in shared:
            tensor, foreign = shared[key]
            # These have the size of the widest layers; a narrower layer reads a part. All layers have one rank.
            part = tensor if tensor.ndim != 2 else tensor[:, : size[1]] if name == "a" else tensor[: size[0]]
            reading.take(f"{layer}/vera/{name}", part, foreign, size, turned=True)
        else:
            reading.missing.append(f"{layer}/vera/{name} {size[::-1]} (as {key!r}; save it with save_projection=True)")


READERS = {"LORA": read_lora, "IA3": read_ia3, "VERA": read_vera}


def read_tokens(form: PeftLayout, document: Json, shared: Found, shapes: Mapping[str, Shape], reading: Reading) -> None:
    count, prefix = document.get("num_virtual_tokens"), document["peft_type"] == "PREFIX_TUNING"
    words = shapes.get("stem/words/embedding")
    if words is None:
        raise ValueError(f"{document['peft_type']} is for text models; this model is a {type(form.config).__name__}")
    blocks = blocks_of(form.config)
    expected_shape = (count, 2 * len(blocks) * form.config.width if prefix else words[1])
    if "prompt_embeddings" not in shared:
        reading.missing.append(f"'prompt_embeddings' {expected_shape}")
        return
    tensor, key = shared["prompt_embeddings"]
    if tensor.shape != expected_shape:
        reading.misshapen.append(f"the model expects {expected_shape}, but {key!r} is {tensor.shape}")
    elif not prefix:
        reading.arrays["stem/prompt/tokens"] = (tensor, key)
    else:
        rows = iter(np.split(tensor, 2 * len(blocks), axis=1))
        for block in blocks:
            for name in ("key", "value"):
                reading.arrays[f"{block}/prefix/{name}"] = (next(rows), key)
