"""Find the modules that the config of an adapter names: adapted modules, and modules that are kept whole."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from tlx.files.documents import format_value
from tlx.files.patterns import compile_pattern
from tlx.trees import Json
from tlx.weights.peft import PeftLayout, Spelling

ALL = "all-linear"
# peft keeps these modules whole for the classification of sequences and of tokens, whatever the config names.
HEADS = ("classifier", "score")
CLASSIFYING = ("SEQ_CLS", "TOKEN_CLS")
NUMBERED = re.compile(r".*?\.[^.]*\.(\d+)\..*")


def spelled(form: PeftLayout, modules: Collection[str], source: str) -> Spelling:
    """Return the names of the modules of a model, spelled as in the file of an adapter.

    Args:
        form: The layout of the model.
        modules: The modules with tensors in the file; some may not belong to the model.
        source: The adapter, for the error.

    Raises:
        ValueError: The file spells some modules in one way and some in another.
    """
    ours = {module for module in modules if module in form.modules}
    for spelling in form.spellings:
        if ours <= spelling.modules.keys():
            return spelling
    first = max((spelling.modules.keys() & ours for spelling in form.spellings), key=len)
    raise ValueError(
        f"{source} spells the model's modules in two ways: {min(first)!r} and {min(ours - first)!r}; expected one "
        "spelling, that of the version of transformers that wrote it"
    )


def full(pattern: str, module: str, field: str) -> bool:
    return compile_pattern(pattern, f"{field} of the adapter:").fullmatch(module)


def listed(names: Any, module: str, field: str) -> bool:
    """Return whether a list of names, or a regular expression, names a module."""
    if isinstance(names, str):
        return full(names, module, field)
    return any(module == name or module.endswith(f".{name}") for name in names or ())


def kept_names(config: Json) -> list[str]:
    """Return the names of the modules that are kept whole."""
    return [*(config.get("modules_to_save") or ()), *(HEADS if config.get("task_type") in CLASSIFYING else ())]


def why_not(config: Json, module: str, dense: bool = True) -> str:
    """Return why peft puts no adapter into a module; "" if it does. (peft: `check_target_module_exists`.)

    `dense` is whether the module is a dense layer, not a convolution.
    """
    if config.get("exclude_modules") and listed(config["exclude_modules"], module, "exclude_modules"):
        return f"exclude_modules {format_value(config['exclude_modules'])} excludes it"
    for name in kept_names(config):
        if full(rf"(^|.*\.){name}($|\..*)", module, "modules_to_save"):
            return f"modules_to_save trains {name!r} in full, without an adapter"
    targets = config["target_modules"]
    if isinstance(targets, str) and targets.lower() == ALL:
        return "" if dense else f"target_modules {targets!r} names dense layers only"
    if isinstance(targets, list) and module in targets:
        return ""
    if not listed(targets, module, "target_modules"):
        return f"target_modules {format_value(targets)} does not name {module!r}"
    layers = config.get("layers_to_transform")
    if layers is not None and layers != []:
        number = layer_number(module, config.get("layers_pattern"))
        if number not in (layers if isinstance(layers, list) else [layers]):
            return f"layers_to_transform {format_value(layers)} does not list this layer"
    return ""


def layer_number(module: str, lists: Any) -> int | None:
    """Return the number of the layer that contains a module, in one of the `lists` of layers; None if there is none."""
    if not lists:
        layer_match = NUMBERED.fullmatch(module)
        return int(layer_match[1]) if layer_match else None
    parts = module.split(".")
    for name in [lists] if isinstance(lists, str) else lists:
        for place, part in enumerate(parts[:-1]):
            if part.isdecimal() and full(rf"(?:^|.*?\.){name}", ".".join(parts[:place]), "layers_pattern"):
                return int(part)
    return None


def kept_paths(config: Json, spelling: Spelling) -> dict[str, str]:
    """Return the leaves of the modules that the config keeps whole, with the names of their tensors.

    As in peft, a name means every module with a name that ends with it, and all modules within.
    """
    ends = tuple(kept_names(config))
    paths: dict[str, str] = {}
    for module, tensors in spelling.modules.items():
        parts = module.split(".")
        if any(".".join(parts[: count + 1]).endswith(ends) for count in range(len(parts))):
            paths |= {path: f"{module}.{tensor}" for tensor, path in tensors.items()}
    return paths


def pattern(config: Json, field: str, module: str, default: float) -> float:
    """Return the rank or alpha of a module if a pattern names the module; else `default`."""
    values = config.get(field) or {}
    return next((value for key, value in values.items() if full(rf"(.*\.)?({key})", module, field)), default)


def check_patterns(config: Json, form: PeftLayout, names: Mapping[str, str], source: str) -> None:
    """Raise ValueError if a pattern of ranks or alphas uses another spelling of an adapted layer than the file.

    `names` are the modules by layer, spelled as in the file.
    """
    for field in ("rank_pattern", "alpha_pattern"):
        for key in config.get(field) or {}:
            if any(full(rf"(.*\.)?({key})", module, field) for module in names.values()):
                continue
            for module in form.modules:
                layer = form.layer(module) or ""
                if layer in names and full(rf"(.*\.)?({key})", module, field):
                    raise ValueError(
                        f"{source}: {field} names {key!r}, another spelling of {names[layer]!r}; use the second "
                        "spelling"
                    )
