"""Which modules an adapter's config names: those that are adapted, and those that are kept whole."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from tlx.files.documents import shown
from tlx.files.patterns import compile_pattern
from tlx.weights.peft import Layout, Spelling

ALL = "all-linear"
# The modules that peft keeps whole for the classification of sequences and of tokens, whatever the config names.
HEADS = ("classifier", "score")
CLASSIFYING = ("SEQ_CLS", "TOKEN_CLS")
NUMBERED = re.compile(r".*?\.[^.]*\.(\d+)\..*")

Config = Mapping[str, Any]


def spelled(form: Layout, modules: Collection[str], source: str) -> Spelling:
    """Return the names of the model's modules, spelled as in an adapter's file.

    Args:
        form: the model.
        modules: the modules whose tensors the file holds; some may be no module of the model.
        source: the adapter, for the error.

    Raises:
        ValueError: where the file spells some modules in one way and some in another.
    """
    ours = {module for module in modules if module in form.modules}
    for spelling in form.spellings:
        if ours <= spelling.modules.keys():
            return spelling
    first = max((spelling.modules.keys() & ours for spelling in form.spellings), key=len)
    raise ValueError(
        f"{source} spells the model's modules in two ways: {min(first)!r} and {min(ours - first)!r}; expected one, "
        "that of the version of transformers that wrote it"
    )


def full(pattern: str, module: str, field: str) -> bool:
    return compile_pattern(pattern, f"{field} of the adapter:").fullmatch(module)


def listed(names: Any, module: str, field: str) -> bool:
    """Whether a list of names, or a regular expression, names a module."""
    if isinstance(names, str):
        return full(names, module, field)
    return any(module == name or module.endswith(f".{name}") for name in names or ())


def kept_names(config: Config) -> list[str]:
    """The names of modules that go along whole."""
    return [*(config.get("modules_to_save") or ()), *(HEADS if config.get("task_type") in CLASSIFYING else ())]


def why_not(config: Config, module: str) -> str:
    """Return why peft puts no adapter into a module; "" where it does. (peft: `check_target_module_exists`.)"""
    if config.get("exclude_modules") and listed(config["exclude_modules"], module, "exclude_modules"):
        return f"exclude_modules {shown(config['exclude_modules'])} leaves it out"
    for name in kept_names(config):
        if full(rf"(^|.*\.){name}($|\..*)", module, "modules_to_save"):
            return f"modules_to_save keeps {name!r} whole"
    targets = config["target_modules"]
    if isinstance(targets, str) and targets.lower() == ALL:
        return ""
    if isinstance(targets, list) and module in targets:
        return ""
    if not listed(targets, module, "target_modules"):
        return f"target_modules {shown(targets)} does not name {module!r}"
    layers = config.get("layers_to_transform")
    if layers is not None and layers != []:
        number = layer_number(module, config.get("layers_pattern"))
        if number not in (layers if isinstance(layers, list) else [layers]):
            return f"layers_to_transform {shown(layers)} leaves it out"
    return ""


def layer_number(module: str, lists: Any) -> int | None:
    """The number of the layer that a module is in, in one of the `lists` of layers; None where it is in none."""
    if not lists:
        numbered = NUMBERED.fullmatch(module)
        return int(numbered[1]) if numbered else None
    parts = module.split(".")
    for name in [lists] if isinstance(lists, str) else lists:
        for place, part in enumerate(parts[:-1]):
            if part.isdecimal() and full(rf"(?:^|.*?\.){name}", ".".join(parts[:place]), "layers_pattern"):
                return int(part)
    return None


def kept_paths(config: Config, spelling: Spelling) -> dict[str, str]:
    """Return the leaves that the config says the file has whole, with the names of their tensors.

    As in peft, a name stands for every module whose name ends with it, and for all that lies within.
    """
    ends = tuple(kept_names(config))
    paths: dict[str, str] = {}
    for module, tensors in spelling.modules.items():
        parts = module.split(".")
        if any(".".join(parts[: count + 1]).endswith(ends) for count in range(len(parts))):
            paths |= {path: f"{module}.{tensor}" for tensor, path in tensors.items()}
    return paths


def pattern(config: Config, field: str, module: str, default: float) -> float:
    """The module's own rank or alpha where a pattern names it."""
    own = config.get(field) or {}
    return next((value for key, value in own.items() if full(rf"(.*\.)?({key})", module, field)), default)


def check_patterns(config: Config, form: Layout, names: Mapping[str, str], source: str) -> None:
    """ValueError where a pattern of ranks or alphas names an adapted layer by a spelling that the file does not use.

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
                        f"{source}: {field} names {key!r}, another spelling of {names[layer]!r}; write it as there"
                    )
