"""Write a recipe as a config file, which `tlx run` reads."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tlx import config
from tlx.files import class_names
from tlx.files.durable import write_whole
from tlx.recipe import OWN, Recipe
from tlx.report.words import headline, source
from tlx.trees import Json

# The classes that `tlx` itself exports.
TOP = ("Data", "Learn", "Optim", "Recipe", "Train", "Weights")


def code(value: object) -> str:
    """Return the Python code that makes a recipe or a part of one, without the fields at their defaults.

    >>> from tlx.types import Learn
    >>> code(Learn(lr=0.5))
    'Learn(lr=0.5)'
    """
    return source(shortened(value))


def write_config(recipe: Recipe, path: Path) -> Path:
    """Write a recipe as a config file, and return its path.

    Raises:
        FileExistsError: The file exists with another content.
        ValueError: The recipe holds a class or an object that an import cannot find.
    """
    text = config_file(recipe)
    if path.exists() and (not path.is_file() or path.read_text(encoding="utf-8") != text):
        raise FileExistsError(f"{path} exists already; choose another name for the config file")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, [text.encode()])
    return path


def config_file(recipe: Recipe) -> str:
    """Return the text of a config file whose function `recipe()` returns this recipe.

    Raises ValueError where the recipe holds a class or an object that an import cannot find.
    """
    places: dict[str, set[str]] = {}
    for kind in {type(part) for part in records(recipe)} | {Recipe}:
        place = class_names.place(kind)
        if place is not None and (
            place.startswith("__main__") or "<locals>" in place or kind.__name__ != kind.__qualname__
        ):
            raise ValueError(
                f"the recipe uses your class {kind.__name__} of this session; move it into a file beside the config"
            )
        module = place.partition(":")[0] if place else "tlx" if kind.__name__ in TOP else home(kind)
        places.setdefault(module, set()).add(kind.__name__)
    for path, value in config.leaves(recipe):
        if isinstance(config.dump(value), dict):
            raise ValueError(f"{path} is {value!r:.60}, which cannot be written as code; write the config by hand")
    imports = [f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(places.items())]
    body = source(shortened(recipe), 4, len("    return "))
    title = f"{headline(config.dump(recipe))}. Written by tlx from a run."
    return "\n".join([f'"""{title}"""', "", *imports, "", "", "def recipe() -> Recipe:", f"    return {body}", ""])


def home(kind: type) -> str:
    """Return the package that exports a class of tlx."""
    package = OWN.homes.get(kind.__name__)
    return kind.__module__ if package is None else package.__name__


def records(value: Any) -> Iterator[Any]:
    """Yield every record in a value that is not at its default, the value itself included."""
    if config.is_record(value):
        yield value
        for field in changed(value).values():
            yield from records(field)
    elif isinstance(value, tuple):
        for item in value:
            yield from records(item)


def changed(value: Any) -> dict[str, Any]:
    """Return the fields of a record that are not at their defaults."""
    defaults = class_names.defaults(type(value))
    missing = object()
    return {name: field for name, field in config.fields(value).items() if defaults.get(name, missing) != field}


def shortened(value: Any) -> Any:
    """Return a value as `config.dump` does, without the fields at their defaults."""
    if config.is_record(value):
        header: Json = {"kind": type(value).__name__}
        return header | {name: shortened(field) for name, field in changed(value).items()}
    if isinstance(value, tuple | list):
        return [shortened(item) for item in value]
    return config.dump(value)
