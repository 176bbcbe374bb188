"""Write adapters in the layout of peft. Shapes: I inputs, O outputs, R rank, P tokens.

| peft_type | tensors of a module | ours |
| --- | --- | --- |
| LORA | `lora_A.weight` [R, I], `lora_B.weight` [O, R] | `lora/a`, `lora/b` |
| with `use_dora` | and `lora_magnitude_vector` [O] | `lora/magnitude` |
| of a convolution | [R, I, height, width], [O, R, 1, 1], [1, O, 1, 1] | |
| IA3 | `ia3_l` [O, 1], or [1, I] in `feedforward_modules` | `ia3/output`, `ia3/input` |
| of a convolution | [1, O, 1, 1], or [1, I, 1, 1] | |
| VERA | `vera_lambda_d` [R], `vera_lambda_b` [O] | `vera/inner`, `vera/outer` |
| once for all | `vera_A` [R, I], `vera_B` [O, R] | `vera/a`, `vera/b` |
| PREFIX_TUNING | `prompt_embeddings` [P, layers x (key, value) x width] | `prefix/key`, `prefix/value` |
| PROMPT_TUNING | `prompt_embeddings` [P, width] | `prompt/tokens` |
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from tlx.models import Architecture, Head
from tlx.models.names import Name, outward
from tlx.weights.formats import Format

Leaves = Mapping[str, np.ndarray]
Layers = dict[str, dict[str, np.ndarray]]
Written = tuple[dict[str, Any], dict[str, np.ndarray]]
MODEL = "base_model.model."
DENSE = ("transpose", "Conv1D")
CONVOLUTIONS = ("convolution", "grouped")
LEARNED_TOKENS = ("PREFIX_TUNING", "PROMPT_TUNING")


class Place(NamedTuple):
    """The place of a declared leaf: the `tensor` (weight or bias) of a `module` in memory.

    `module` is None if the leaf has no module in memory.
    """

    module: str | None
    tensor: str
    name: Name


class Spelling(NamedTuple):
    """One way to name the modules of a model.

    Attributes:
        whole: Whether the names begin with the prefix of the backbone, as within a model that has a head.
        modules: The paths of the leaves of each module, by the name of the tensor.
    """

    whole: bool
    modules: dict[str, dict[str, str]]


class PeftLayout(NamedTuple):
    """The names of a model in peft.

    Attributes:
        format: The foreign format.
        config: The architecture.
        head: The head.
        places: The place of each declared leaf, by path.
        modules: The paths of the leaves of a module by tensor, under any name that the module may have: with or without
            the prefix of the backbone, as in a file or as in memory.
        spellings: The ways to name the modules, the likeliest first; each has every module under one name.
    """

    format: Format
    config: Any
    head: Head | None
    places: dict[str, Place]
    modules: dict[str, dict[str, str]]
    spellings: tuple[Spelling, ...]

    def module(self, layer: str) -> str | None:
        """Return the module of one of our dense layers or convolutions; None if it has none."""
        place = self.places.get(f"{layer}/kernel")
        return place.module if place and place.name.layout in (*DENSE, *CONVOLUTIONS) else None

    def kernel_layout(self, layer: str) -> str:
        """Return the layout of the kernel of a layer that has a module."""
        return self.places[f"{layer}/kernel"].name.layout

    def inputs_first(self, layers: Iterable[str]) -> bool:
        """Return whether the kernels of these layers are (in, out) in the other library."""
        return any(self.kernel_layout(layer) == "Conv1D" for layer in layers)

    def layer(self, module: str) -> str | None:
        """Return our dense layer or convolution for a module; None if there is none."""
        path = self.modules.get(module, {}).get("weight", "")
        return path.removesuffix("/kernel") if path in self.places and self.module(path[: -len("/kernel")]) else None


def layout(form: Format, config: Architecture, head: Head | None) -> PeftLayout:
    """Return the layout of a model in a foreign form."""
    prefix = form.prefix(config)
    begin = "" if form.bare(config, head) else prefix
    places: dict[str, Place] = {}
    modules: dict[str, dict[str, str]] = {}
    spellings: dict[tuple[bool, bool], dict[str, dict[str, str]]] = {}
    for name in form.names(config, head):
        stem, _, tensor = name.foreign.rpartition(".")
        if tensor not in ("weight", "bias"):
            continue
        memory = form.in_memory(config, stem)
        memory_prefix = "" if name.head else begin
        places[name.ours] = Place(None if memory is None else memory_prefix + memory, tensor, name)
        for bare in dict.fromkeys((stem, memory or stem)):
            for alias in (bare,) if name.head else (bare, prefix + bare):
                modules.setdefault(alias, {})[tensor] = name.ours
        # Older versions of transformers name the modules in memory as in a file.
        for as_in_file, whole in ((False, begin != ""), (False, begin == ""), (True, begin != ""), (True, begin == "")):
            module = stem if as_in_file else memory
            if module is not None:
                alias = prefix + module if whole and not name.head else module
                spellings.setdefault((as_in_file, whole), {}).setdefault(alias, {})[tensor] = name.ours
    all_spellings = tuple(Spelling(whole, names) for (_, whole), names in spellings.items())
    return PeftLayout(form, config, head, places, modules, all_spellings)


def grouped(leaves: Leaves) -> dict[str, Layers] | None:
    """Return inserted leaves by entry (`lora`, ...), layer and name; None if peft does not know one of the entries."""
    groups: dict[str, Layers] = {}
    inserted = re.compile(rf"(.+)/({'|'.join(WRITERS)})/([^/]+)")
    for path, leaf in leaves.items():
        parts = inserted.fullmatch(path)
        if parts is None:
            return None
        groups.setdefault(parts[2], {}).setdefault(parts[1], {})[parts[3]] = np.asarray(leaf)
    return groups


def write(form: PeftLayout, leaves: Leaves, declared: Leaves, paths: Collection[str]) -> Written | None:
    """Return the fields of adapter_config.json and the tensors; None if peft has no form for the adapter.

    peft has no form, for example, for an adapter in a module that is saved whole.

    Args:
        form: The layout of the model.
        leaves: The inserted leaves by path.
        declared: The declared leaves by path.
        paths: The paths of declared leaves to save; the other leaves of their modules are saved with them.
    """
    groups = grouped(leaves)
    if not groups or len(groups) != 1 or any(getattr(form.places.get(path), "module", None) is None for path in paths):
        return None
    ((entry, layers),) = groups.items()
    written = WRITERS[entry](form, layers)
    if written is None:
        return None
    fields, tensors = written
    prefix = "base_model." if fields["peft_type"] in LEARNED_TOKENS else MODEL
    saved_modules = {form.places[path].module for path in paths}
    heads = set()
    for path, place in form.places.items():
        if place.module in saved_modules:
            tensors[f"{prefix}{place.module}.{place.tensor}"] = outward(place.name, np.asarray(declared[path]))
            # peft always saves the whole classifier; a part of it listed by name would be saved twice.
            heads.add(str(place.module).split(".", maxsplit=1)[0] if place.name.head else str(place.module))
    if any(within(module, heads) for module in adapted(form, fields)):
        return None
    if form.format.bare(form.config, form.head):
        # The head has no class in transformers: its tensors are in the file, and peft ignores them.
        heads -= {place.module for place in form.places.values() if place.name.head}
    fields |= {
        "task_type": form.format.peft_task(form.config, form.head),
        "modules_to_save": sorted(heads) or None,
        "inference_mode": True,
    }
    return fields, tensors


def adapted(form: PeftLayout, fields: Mapping[str, Any]) -> list[str]:
    """Return the modules that must not be kept whole.

    peft puts no adapter into a module that it keeps whole, and looks prompts up in the original embedding.
    """
    if fields["peft_type"] == "PROMPT_TUNING":
        return [str(form.places["stem/words/embedding"].module)]
    return list(fields.get("target_modules", ()))


def within(module: str, names: Collection[str]) -> bool:
    """Return whether peft treats a module as one of those in `modules_to_save`, or as a part of one."""
    return any(f".{name}." in f".{module}." for name in names)


def write_lora(form: PeftLayout, layers: Layers) -> Written | None:
    modules = {layer: form.module(layer) for layer in layers}
    kinds = {frozenset(leaves) - {"dropout"} for leaves in layers.values()}
    rates = {float(leaves.get("dropout", 0.0)) for leaves in layers.values()}
    if None in modules.values() or len(kinds) > 1 or len(rates) > 1:
        return None
    if any(form.kernel_layout(layer) == "grouped" for layer in layers):
        # There `a` mixes the groups, so its product with `b` is no kernel.
        return None
    tensors, ranks, alphas = {}, {}, {}
    for layer, leaves in layers.items():
        module = str(modules[layer])
        ranks[module] = leaves["a"].shape[-1]
        alphas[module] = float(leaves["scale"]) * ranks[module]
        for name, ours in (("lora_A.weight", "a"), ("lora_B.weight", "b"), ("lora_magnitude_vector", "magnitude")):
            if ours in leaves:
                tensors[f"{MODEL}{module}.{name}"] = turned(form.kernel_layout(layer), leaves[ours])
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    fields = {
        "peft_type": "LORA",
        "target_modules": sorted(ranks),
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {module: leaves for module, leaves in ranks.items() if leaves != rank},
        "alpha_pattern": {module: leaves for module, leaves in alphas.items() if leaves != alpha},
        "lora_dropout": rates.pop(),
        "use_dora": "magnitude" in next(iter(kinds)),
        # alpha is computed from the scale of the layer, so that plain LoRA has the same scale.
        "use_rslora": False,
        "bias": "none",
        "fan_in_fan_out": form.inputs_first(layers),
    }
    return fields, tensors


def turned(kernel_layout: str, leaf: np.ndarray) -> np.ndarray:
    """Return a leaf of LoRA in the layout of peft: torch's, in which a vector has the axes of a kernel's outputs."""
    if kernel_layout in DENSE:
        return leaf.T
    if leaf.ndim == 1:
        return leaf[None, :, None, None]
    return np.transpose(leaf if leaf.ndim == 4 else leaf[None, None], (3, 2, 0, 1))


def write_ia3(form: PeftLayout, layers: Layers) -> Written | None:
    modules = {layer: form.module(layer) for layer in layers}
    if None in modules.values() or any(len(leaves) != 1 for leaves in layers.values()):
        return None
    tensors, inner = {}, []
    for layer, leaves in layers.items():
        ((side, factor),) = leaves.items()
        shape = (1, -1) if side == "input" else (-1, 1)
        convolution = form.kernel_layout(layer) in CONVOLUTIONS
        tensors[f"{MODEL}{modules[layer]}.ia3_l"] = factor.reshape((1, -1, 1, 1) if convolution else shape)
        inner += [str(modules[layer])] * (side == "input")
    targets = sorted(map(str, modules.values()))
    fields = {"peft_type": "IA3", "target_modules": targets, "feedforward_modules": sorted(inner)}
    return fields | {"fan_in_fan_out": form.inputs_first(layers)}, tensors


def write_vera(form: PeftLayout, layers: Layers) -> Written | None:
    modules = {layer: form.module(layer) for layer in layers}
    a = max((leaves["a"] for leaves in layers.values()), key=len)
    b = max((leaves["b"] for leaves in layers.values()), key=lambda leaf: leaf.shape[1])
    shared = all(
        np.array_equal(leaves["a"], a[: len(leaves["a"])]) and np.array_equal(leaves["b"], b[:, : leaves["b"].shape[1]])
        for leaves in layers.values()
    )
    if None in modules.values() or not shared:
        return None
    tensors = {"base_model.vera_A": a.T, "base_model.vera_B": b.T}
    for layer, leaves in layers.items():
        tensors[f"{MODEL}{modules[layer]}.vera_lambda_d"] = leaves["inner"]
        tensors[f"{MODEL}{modules[layer]}.vera_lambda_b"] = leaves["outer"]
    fields: dict[str, Any] = {"fan_in_fan_out": form.inputs_first(layers)}
    fields |= {"peft_type": "VERA", "target_modules": sorted(map(str, modules.values())), "r": a.shape[1]}
    return fields | {"save_projection": True, "vera_dropout": 0.0, "bias": "none"}, tensors


def token_fields(config: Any, kind: str, tokens: int, width: int) -> dict[str, Any]:
    fields = {"peft_type": kind, "num_virtual_tokens": tokens, "token_dim": width, "num_layers": config.depth}
    return fields | {"num_attention_heads": config.heads, "num_transformer_submodules": 1}


def blocks_of(config: Any) -> list[str]:
    return [f"blocks/{n:02d}/attention" for n in range(config.depth)]


def write_prefix(form: PeftLayout, layers: Layers) -> Written | None:
    config = form.config
    if not form.format.reads_prefix(config) or sorted(layers) != blocks_of(config):
        return None
    rows = [layers[block][name] for block in blocks_of(config) for name in ("key", "value")]
    if len({len(leaf) for leaf in rows}) > 1:
        return None
    fields = token_fields(config, "PREFIX_TUNING", len(rows[0]), config.width)
    fields |= {"encoder_hidden_size": config.width, "prefix_projection": False}
    return fields, {"prompt_embeddings": np.concatenate(rows, axis=1)}


def write_prompt(form: PeftLayout, layers: Layers) -> Written | None:
    if not form.format.reads_prompt(form.config):
        return None
    tokens = layers["stem"]["tokens"]
    fields = token_fields(form.config, "PROMPT_TUNING", *tokens.shape)
    return fields | {"prompt_tuning_init": "RANDOM"}, {"prompt_embeddings": tokens}


WRITERS = {
    "lora": write_lora,
    "ia3": write_ia3,
    "vera": write_vera,
    "prefix": write_prefix,
    "prompt": write_prompt,
}
