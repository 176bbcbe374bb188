"""Adapters in the layout of peft: which tensor holds what. Shapes: I inputs, O outputs, R rank, P tokens.

| peft_type | tensors of a module | ours |
| --- | --- | --- |
| LORA | `lora_A.weight` [R, I], `lora_B.weight` [O, R] | `lora/a`, `lora/b` |
| with `use_dora` | and `lora_magnitude_vector` [O] | `lora/magnitude` |
| IA3 | `ia3_l` [O, 1], or [1, I] in `feedforward_modules` | `ia3/output`, `ia3/input` |
| VERA | `vera_lambda_d` [R], `vera_lambda_b` [O] | `vera/inner`, `vera/outer` |
| once for all | `vera_A` [R, I], `vera_B` [O, R] | `vera/a`, `vera/b` |
| PREFIX_TUNING | `prompt_embeddings` [P, layers x (key, value) x width] | `prefix/key`, `prefix/value` |
| PROMPT_TUNING | `prompt_embeddings` [P, width] | `prompt/tokens` |
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from tlx.models import Head
from tlx.models.names import Name, outward
from tlx.weights.formats import Format

Leaves = Mapping[str, np.ndarray]
Layers = dict[str, dict[str, np.ndarray]]
Written = tuple[dict[str, Any], dict[str, np.ndarray]]
MODEL = "base_model.model."
LEARNED_TOKENS = ("PREFIX_TUNING", "PROMPT_TUNING")


class Place(NamedTuple):
    """Where a declared leaf lies: the `tensor` (weight or bias) of a `module` in memory; None where it has no such
    module there."""

    module: str | None
    tensor: str
    name: Name


class Spelling(NamedTuple):
    """One way of calling a model's modules: `modules` has the paths of their leaves by tensor. `whole` says whether the
    names begin with the backbone's prefix, as within a model that has a head."""

    whole: bool
    modules: dict[str, dict[str, str]]


class Layout(NamedTuple):
    """A model in peft's words: each declared leaf's `places` entry by path, and by any name that a module may have
    (with or without the backbone's prefix, as in a file or as in memory) its leaves' paths by tensor. Each of the
    `spellings` has every module under one name, the likeliest spelling first."""

    format: Format
    config: Any
    head: Head | None
    places: dict[str, Place]
    modules: dict[str, dict[str, str]]
    spellings: tuple[Spelling, ...]

    def module(self, layer: str) -> str | None:
        """The module of a dense layer of ours."""
        place = self.places.get(f"{layer}/kernel")
        return place.module if place and place.name.layout == "transpose" else None

    def layer(self, module: str) -> str | None:
        """The dense layer of ours that a module is."""
        path = self.modules.get(module, {}).get("weight", "")
        return path.removesuffix("/kernel") if path in self.places and self.module(path[: -len("/kernel")]) else None


def layout(form: Format, config: Any, head: Head | None) -> Layout:
    """The layout of a model in a foreign form."""
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
        before = "" if name.head else begin
        places[name.ours] = Place(None if memory is None else before + memory, tensor, name)
        for bare in dict.fromkeys((stem, memory or stem)):
            for alias in (bare,) if name.head else (bare, prefix + bare):
                modules.setdefault(alias, {})[tensor] = name.ours
        # Older versions of transformers call the modules in memory as in a file.
        for older, whole in ((False, begin != ""), (False, begin == ""), (True, begin != ""), (True, begin == "")):
            module = stem if older else memory
            if module is not None:
                alias = prefix + module if whole and not name.head else module
                spellings.setdefault((older, whole), {}).setdefault(alias, {})[tensor] = name.ours
    spelled = tuple(Spelling(whole, names) for (_, whole), names in spellings.items())
    return Layout(form, config, head, places, modules, spelled)


def grouped(leaves: Leaves) -> dict[str, Layers] | None:
    """Inserted leaves by entry (`lora`, ...), by layer, by name; None where one is of no entry that peft knows."""
    groups: dict[str, Layers] = {}
    inserted = re.compile(rf"(.+)/({'|'.join(WRITERS)})/([^/]+)")
    for path, leaf in leaves.items():
        found = inserted.fullmatch(path)
        if found is None:
            return None
        groups.setdefault(found[2], {}).setdefault(found[1], {})[found[3]] = np.asarray(leaf)
    return groups


def write(form: Layout, leaves: Leaves, declared: Leaves, kept: Collection[str]) -> Written | None:
    """`(fields of adapter_config.json, tensors)`; None for what peft has no form for: among others an adapter in a
    module that goes along whole.

    `leaves` are the inserted ones, `declared` the model's own, of which `kept` go along, with the rest of their module.
    """
    groups = grouped(leaves)
    if not groups or len(groups) != 1 or any(getattr(form.places.get(p), "module", None) is None for p in kept):
        return None
    ((entry, layers),) = groups.items()
    told = WRITERS[entry](form, layers)
    if told is None:
        return None
    fields, tensors = told
    before = "base_model." if fields["peft_type"] in LEARNED_TOKENS else MODEL
    own = {form.places[path].module for path in kept}
    heads = set()
    for path, place in form.places.items():
        if place.module in own:
            tensors[f"{before}{place.module}.{place.tensor}"] = outward(place.name, np.asarray(declared[path]))
            # peft takes a whole classifier along, and does so of itself; a part of it by name would be taken twice.
            heads.add(str(place.module).split(".", maxsplit=1)[0] if place.name.head else str(place.module))
    if any(within(module, heads) for module in adapted(form, fields)):
        return None
    if form.format.bare(form.config, form.head):
        # The head has no class in transformers: its tensors lie in the file, and peft leaves them alone.
        heads -= {place.module for place in form.places.values() if place.name.head}
    fields |= {
        "task_type": form.format.peft_task(form.config, form.head),
        "modules_to_save": sorted(heads) or None,
        "inference_mode": True,
    }
    return fields, tensors


def adapted(form: Layout, fields: Mapping[str, Any]) -> list[str]:
    """The modules that peft would leave as they are where they are to be kept whole: it puts no adapter into one of
    those, and looks prompts up in the embedding as it was."""
    if fields["peft_type"] == "PROMPT_TUNING":
        return [str(form.places["stem/words/embedding"].module)]
    return list(fields.get("target_modules", ()))


def within(module: str, kept: Collection[str]) -> bool:
    """Whether peft takes a module for one of those in `modules_to_save`, or for a part of one."""
    return any(f".{own}." in f".{module}." for own in kept)


def write_lora(form: Layout, layers: Layers) -> Written | None:
    modules = {layer: form.module(layer) for layer in layers}
    kinds = {frozenset(own) - {"dropout"} for own in layers.values()}
    rates = {float(own.get("dropout", 0.0)) for own in layers.values()}
    if None in modules.values() or len(kinds) > 1 or len(rates) > 1:
        return None
    tensors, ranks, alphas = {}, {}, {}
    for layer, own in layers.items():
        module = str(modules[layer])
        ranks[module] = own["a"].shape[1]
        alphas[module] = float(own["scale"]) * ranks[module]
        tensors[f"{MODEL}{module}.lora_A.weight"] = own["a"].T
        tensors[f"{MODEL}{module}.lora_B.weight"] = own["b"].T
        if "magnitude" in own:
            tensors[f"{MODEL}{module}.lora_magnitude_vector"] = own["magnitude"]
    rank, alpha = (Counter(given.values()).most_common(1)[0][0] for given in (ranks, alphas))
    fields = {
        "peft_type": "LORA",
        "target_modules": sorted(ranks),
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {module: own for module, own in ranks.items() if own != rank},
        "alpha_pattern": {module: own for module, own in alphas.items() if own != alpha},
        "lora_dropout": rates.pop(),
        "use_dora": "magnitude" in next(iter(kinds)),
        # The scale of a layer is what it is: alpha says the same of both kinds.
        "use_rslora": False,
        "bias": "none",
        "fan_in_fan_out": False,
    }
    return fields, tensors


def write_ia3(form: Layout, layers: Layers) -> Written | None:
    modules = {layer: form.module(layer) for layer in layers}
    if None in modules.values() or any(len(own) != 1 for own in layers.values()):
        return None
    tensors, inner = {}, []
    for layer, own in layers.items():
        ((side, factor),) = own.items()
        tensors[f"{MODEL}{modules[layer]}.ia3_l"] = factor[None] if side == "input" else factor[:, None]
        inner += [str(modules[layer])] * (side == "input")
    targets = sorted(map(str, modules.values()))
    fields = {"peft_type": "IA3", "target_modules": targets, "feedforward_modules": sorted(inner)}
    return fields | {"fan_in_fan_out": False}, tensors


def write_vera(form: Layout, layers: Layers) -> Written | None:
    modules = {layer: form.module(layer) for layer in layers}
    a = max((own["a"] for own in layers.values()), key=len)
    b = max((own["b"] for own in layers.values()), key=lambda own: own.shape[1])
    shared = all(
        np.array_equal(own["a"], a[: len(own["a"])]) and np.array_equal(own["b"], b[:, : own["b"].shape[1]])
        for own in layers.values()
    )
    if None in modules.values() or not shared:
        return None
    tensors = {"base_model.vera_A": a.T, "base_model.vera_B": b.T}
    for layer, own in layers.items():
        tensors[f"{MODEL}{modules[layer]}.vera_lambda_d"] = own["inner"]
        tensors[f"{MODEL}{modules[layer]}.vera_lambda_b"] = own["outer"]
    fields = {"peft_type": "VERA", "target_modules": sorted(map(str, modules.values())), "r": a.shape[1]}
    return fields | {"save_projection": True, "vera_dropout": 0.0, "bias": "none", "fan_in_fan_out": False}, tensors


def token_fields(config: Any, kind: str, tokens: int, width: int) -> dict[str, Any]:
    fields = {"peft_type": kind, "num_virtual_tokens": tokens, "token_dim": width, "num_layers": config.depth}
    return fields | {"num_attention_heads": config.heads, "num_transformer_submodules": 1}


def blocks_of(config: Any) -> list[str]:
    return [f"blocks/{n:02d}/attention" for n in range(config.depth)]


def write_prefix(form: Layout, layers: Layers) -> Written | None:
    config = form.config
    if not form.format.reads_prefix(config) or sorted(layers) != blocks_of(config):
        return None
    rows = [layers[block][name] for block in blocks_of(config) for name in ("key", "value")]
    if len({len(own) for own in rows}) > 1:
        return None
    fields = token_fields(config, "PREFIX_TUNING", len(rows[0]), config.width)
    fields |= {"encoder_hidden_size": config.width, "prefix_projection": False}
    return fields, {"prompt_embeddings": np.concatenate(rows, axis=1)}


def write_prompt(form: Layout, layers: Layers) -> Written | None:
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
