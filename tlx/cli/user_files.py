"""Python files of the user: configs, studies and spaces. An error names the file, the line and the closest names."""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib.machinery
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from tlx.files.mistakes import USER_ERRORS

if TYPE_CHECKING:
    from tlx.recipe import Recipe

# Python files that cannot be parsed.
UNREADABLE = (SyntaxError, ValueError, OSError, RecursionError, MemoryError)
UNEXPECTED = re.compile(r"(\w+)(?:\.__(?:init|new)__)?\(\) got an unexpected keyword argument '(\w+)'")
MISSING = re.compile(r"(\w+)(?:\.__(?:init|new)__)?\(\) missing \d+ required [\w-]+(?: [\w-]+)* arguments?: '(\w+)'")
POSITIONAL = re.compile(r"(\w+)\.__init__\(\) takes (?:from \d+ to )?\d+ positional arguments? but (\d+) ")
NO_NAME = re.compile(r"cannot import name '(\w+)' from '([\w.]+)'")
QUOTED = re.compile(r"'([^']{2,})'|\"([^\"]{2,})\"")


class NoFunction(ValueError):
    """A user's file lacks the function that a command needs."""


def function_of(path: str, name: str, what: str) -> Callable[[], Any]:
    """Return the function `name()` of a user's Python file; error messages call the file a `what` file."""
    file = Path(path)
    if file.is_dir():
        raise IsADirectoryError(
            f"{path} is a directory; expected a {what} file: a Python file with a function {name}()"
        )
    if not file.is_file():
        raise FileNotFoundError(f"there is no {what} file {path}; expected a Python file with a function {name}()")
    loader = importlib.machinery.SourceFileLoader(f"tlx_{what}_{file.stem}", str(file))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    # Named again, it is the newest (see `class_names.users_classes`).
    sys.modules.pop(loader.name, None)
    sys.modules[loader.name] = module
    with beside(file), located(file, what):
        loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        from tlx.trees import near_miss

        functions = [attribute for attribute, value in vars(module).items() if isinstance(value, FunctionType)]
        near = near_miss(name, functions) if functions else ""
        raise NoFunction(
            f"{path} has no function {name}(){near}; a {what} file must define this function, without arguments"
        )

    def call() -> Any:
        with beside(file), located(file, what):
            return function()

    return call


@contextlib.contextmanager
def beside(file: Path) -> Iterator[None]:
    """Let a user's file import the modules of its folder, in the command and in its workers.

    The import works only while that file runs, and installed packages come first: a data set that is read later cannot
    import from the folder.
    """
    place = str(file.resolve().parent)
    present = place in sys.path
    if not present:
        sys.path.append(place)
    try:
        yield
    finally:
        if not present and place in sys.path:
            sys.path.remove(place)


@contextlib.contextmanager
def located(file: Path, what: str) -> Iterator[None]:
    """Add the line of the user's file, and the closest names, to the message of an error."""
    try:
        yield
    except SyntaxError as error:
        where = error.filename if error.filename and Path(error.filename) != file else file
        raise ValueError(
            f"{where} line {error.lineno or 1}: {error.msg}; expected a Python file: correct it"
        ) from error
    except SystemExit as error:
        raise ValueError(
            f"{file}{line_in(file, error)} exits the program; a {what} file must only return a value"
        ) from error
    except Exception as error:
        message = explained(error)
        line = line_of_text(file, message) or line_of_argument(file, message) or line_in(file, error)
        raise kind_of(error)(f"{file}{line}: {message}") from error


def kind_of(error: Exception) -> type[Exception]:
    """Return the class of the error that replaces an error of a user's file."""
    kinds = (FileNotFoundError, FileExistsError, TypeError)
    return next((kind for kind in kinds if isinstance(error, kind)), ValueError)


def line_in(file: Path, error: BaseException) -> str:
    """` line N`, the innermost line of the file in the traceback of `error`; nothing where it is in none."""
    numbers = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
    return f" line {numbers[-1]}" if numbers else ""


def line_of_text(file: Path, message: str) -> str:
    """` line N`, the only line of the file with the first text that a message quotes; nothing where there is none or
    several."""
    if not (quoted := QUOTED.search(message)):
        return ""
    with contextlib.suppress(*UNREADABLE):
        nodes = ast.walk(ast.parse(file.read_bytes()))
        text = quoted[1] or quoted[2]
        lines = {node.lineno for node in nodes if isinstance(node, ast.Constant) and node.value == text}
        return f" line {lines.pop()}" if len(lines) == 1 else ""
    return ""


def line_of_argument(file: Path, message: str) -> str:
    """` line N`, the only line of the file with a named argument that a message begins with (`train.steps is ...`);
    nothing where there is none or several."""
    path = re.match(r"([\w.]+) is ", message)
    if path is None:
        return ""
    with contextlib.suppress(*UNREADABLE):
        name, nodes = path[1].rpartition(".")[2], ast.walk(ast.parse(file.read_bytes()))
        lines = {node.value.lineno for node in nodes if isinstance(node, ast.keyword) and node.arg == name}
        return f" line {lines.pop()}" if len(lines) == 1 else ""
    return ""


def line_of_field(file: Path, recipe: Recipe, path: str) -> str:
    """` line N`, the line of the file that sets the field at a dotted path of its recipe; nothing where it is
    unclear."""
    from tlx import config

    *parents, name = [part for part in path.split(".") if not part.isdigit()] or [path]
    kinds = [type(config.at(recipe, path.rpartition(f".{name}")[0])).__name__] if parents else ["Recipe", "replace"]
    with contextlib.suppress(*UNREADABLE):
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
        calls = [node for node in nodes if isinstance(node, ast.Call)]
        named = [
            keyword.value.lineno
            for call in calls
            if ast.unparse(call.func).rpartition(".")[2] in kinds
            for keyword in call.keywords
            if keyword.arg == name
        ]
        loose = [node.value.lineno for node in nodes if isinstance(node, ast.keyword) and node.arg == name]
        made = [call.lineno for call in calls if ast.unparse(call.func).rpartition(".")[2] in kinds]
        for lines in (named, loose, made):
            if len(set(lines)) == 1:
                return f" line {lines[0]}"
    return ""


def explained(error: Exception) -> str:
    """Return the message of an error in a user's file, with the closest names where a name or a type is wrong."""
    from tlx.trees import near_miss

    text = " ".join(str(error).split())
    frame = innermost(error)
    if isinstance(error, TypeError) and (fault := call_fault_of(text, frame)):
        return fault
    if fault := type_fault(error):
        return fault
    if isinstance(error, ImportError) and (names := NO_NAME.search(text)):
        text = f"{text.partition(' (')[0]}{near_miss(names[1], public(sys.modules.get(names[2])))}"
    elif isinstance(error, AttributeError) and error.name:
        text += near_miss(error.name, public(error.obj))
    elif isinstance(error, NameError) and error.name and frame is not None:
        text += near_miss(error.name, {*frame.f_globals, *frame.f_locals, *vars(builtins)}, n=2)
    return text if isinstance(error, USER_ERRORS) and text else f"{type(error).__name__}: {text}"


def public(value: object) -> list[str]:
    """Return the public names of a module or another object."""
    return [name for name in getattr(value, "__all__", dir(value)) if not name.startswith("_")]


def innermost(error: BaseException) -> FrameType | None:
    """Return the frame that raised an error."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return frames[-1] if frames else None


def call_fault_of(text: str, frame: FrameType | None) -> str:
    """Return the message about a call with unknown, missing or too many arguments, with the closest names; an empty
    text for another error.

    Args:
        text: The message of Python, which names the class or the function.
        frame: The frame of the call, in whose names it is looked up.
    """
    from tlx.config import call_fault

    unexpected, missing, positional = UNEXPECTED.search(text), MISSING.search(text), POSITIONAL.search(text)
    match = unexpected or missing or positional
    function = None if match is None or frame is None else looked_up(match[1], frame)
    if match is None or function is None:
        return ""
    with contextlib.suppress(ValueError, TypeError):
        if unexpected:
            return call_fault(function, 0, [unexpected[2]])
        return call_fault(function, int(positional[2]) - 1 if positional else 0, [])
    return ""


def looked_up(name: str, frame: FrameType) -> Any:
    """Return the class or the function of that name among the names of a frame, or in the modules among them."""
    values = [*frame.f_locals.values(), *frame.f_globals.values()]
    candidates = [getattr(value, name, None) if isinstance(value, ModuleType) else value for value in values]
    return next((value for value in candidates if callable(value) and getattr(value, "__name__", "") == name), None)


def type_fault(error: Exception) -> str:
    """Return the message about the field of a wrong type whose record failed to check itself; an empty text for another
    error."""
    from tlx import config

    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        record = frame.f_locals.get("self")
        if frame.f_code.co_name == "__post_init__" and config.is_record(record):
            with contextlib.suppress(AttributeError, NameError):
                for _, fault in config.faults(record):
                    return str(fault)
    return ""


def load_recipe(path: str, changes: Sequence[str]) -> tuple[Recipe, Recipe]:
    """Return the recipe of a config file, before and after the overrides `path=value`."""
    from tlx.recipe import Recipe

    base = function_of(path, "recipe", "config")()
    if not isinstance(base, Recipe):
        raise TypeError(f"recipe() in {path} returned {type(base).__name__}; expected a tlx.Recipe")
    check_fields(path, base)
    return base, changed(base, changes)


def check_fields(path: str, recipe: Recipe) -> None:
    """Raise the error of the first field of a recipe with a wrong type, with the line of the user's file."""
    from tlx import config

    for field, error in config.faults(recipe):
        raise kind_of(error)(f"{path}{line_of_field(Path(path), recipe, field)}: {error}") from error


def changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """Return the recipe with the overrides `path=value` of the command line, which are set together."""
    from tlx import config
    from tlx.recipe import classes

    texts: dict[str, str] = {}
    for change in changes:
        name, sign, value = change.partition("=")
        if not sign:
            raise ValueError(f"--set {change!r} is not of the form path=value, for example optim.lr=0.01")
        texts[name.strip()] = value
    return config.override_all(recipe, texts, classes(recipe)) if texts else recipe


def optional_recipe(config: str | None) -> Recipe | None:
    """Return the recipe of a config file, or the base of a study file; None where no file is given."""
    if not config:
        return None
    try:
        return load_recipe(config, ())[1]
    except NoFunction:
        with contextlib.suppress(NoFunction):
            return function_of(config, "study", "study")().base
        raise


def place_of(message: str, files: Sequence[str], changes: Sequence[str]) -> str:
    """Return `FILE line N`, where one of the user's files has the first text that a message quotes; an empty text where
    none has it, or where it may come from an override of the command line."""
    quoted = QUOTED.search(message)
    if quoted is None or any((quoted[1] or quoted[2]) in change for change in changes):
        return ""
    if any(message.startswith(file) for file in files):
        return ""
    return next((f"{file}{line}" for file in files if (line := line_of_text(Path(file), message))), "")
