"""Hash the source code that a recipe depends on, the user's classes and functions in it, so that an edit is noticed.

A class or function of the user counts with its file and with every file of the user that this file imports, directly or
not. Installed packages, the standard library and tlx itself are left out. Of the file that defines the recipe (a
config, a study, a script, the cells of a notebook) only the statements count that the class or function needs, so that
an edit of the rest changes nothing. A file counts as its syntax tree without docstrings: comments and layout do not
matter. Names that are built at run time (`globals()["Net"]`, `importlib.import_module`) are not followed.

A file is read once for as long as its module stays loaded: the imported code runs, not later edits.
"""

import ast
import functools
import hashlib
import linecache
import re
import sys
import types
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tlx.files import syntax

# Files that `tlx` runs for the value of a function in them (see `cli.group.function_of`), and scripts.
ENTRY = re.compile(r"__(mp_)?main__|tlx_(config|study|space)_.*")
# Separates a file from a name in it.
MARK = "::"
# Separates a name from its number, where several have one name.
NUMBER = "#"
PACKAGE = Path(__file__).resolve().parents[1]
PLAIN = (type(None), bool, int, float, complex, str, bytes)


class File(NamedTuple):
    """A file as it was imported: the `spec` of its module then, and its syntax tree (None where it is no Python)."""

    spec: Any
    tree: ast.Module | None
    digest: str


_files: dict[str, File] = {}


def of(values: Iterable[Any]) -> tuple[dict[str, str], list[str]]:
    """Return the sources that these values depend on, and the other state of the user's functions among them.

    Returns:
        The SHA-256 of each source, by its absolute path, `path::name` where only that name's statements count, or
        `module::name` where there is no file; and texts for default arguments, closures and attributes.
    """
    sources: dict[str, str] = {}
    state: list[str] = []
    for item in _reached(values):
        for key, digest in _sources(item).items():
            # Several lambdas of one function have one name.
            name, number = key, 1
            while sources.get(name, digest) != digest:
                number += 1
                name = f"{key}{NUMBER}{number}"
            sources[name] = digest
        if text := _state(item):
            state.append(text)
    return sources, state


def changed(sources: Mapping[str, str], folder: Path) -> list[str]:
    """Return the names of the sources that have changed, for paths from `folder`.

    A missing file is left out: a run may be read on another machine.
    """
    paths = []
    for key, expected in sources.items():
        name, _, part = key.partition(MARK)
        part, path = part.partition(NUMBER)[0], folder / name
        if not path.is_file():
            continue
        stat = path.stat()
        if expected not in _now(str(path), part, (stat.st_mtime_ns, stat.st_size)):
            paths.append(format_path(path))
    return list(dict.fromkeys(paths))


@functools.lru_cache(maxsize=1024)
def _now(path: str, part: str, stamp: tuple[int, int]) -> frozenset[str]:
    """Return the digests that a source may have in its current file on disk. A name may occur in several places of a
    file."""
    tree, digest = _read(Path(path))
    texts = syntax.candidates(tree, part) if part and tree is not None else []
    return frozenset(map(_digest, texts)) if texts else frozenset((digest,))


def format_path(path: Path) -> str:
    """Return a path as the user would write it."""
    path = path.resolve()
    here = Path.cwd()
    inside = path.is_relative_to(here) and here != Path(here.anchor)
    return str(path.relative_to(here) if inside else path)


def _reached(values: Iterable[Any]) -> Iterator[Any]:
    """Yield the user's classes, functions and plain objects in some values, each once."""
    waiting, reached = list(values), dict[int, Any]()
    while waiting:
        value = waiting.pop(0)
        if isinstance(value, PLAIN) or id(value) in reached:
            continue
        # Stored, because the address of a deleted object may be used by another.
        reached[id(value)] = value
        if isinstance(value, type):
            if _users(value):
                yield value
                waiting += value.__mro__[1:]
                waiting += [inner for function in _functions(value) for inner in _closed(function)]
        elif isinstance(value, types.FunctionType):
            if _users(value):
                yield value
                waiting += [*_closed(value), *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
            waiting.append(getattr(value, "__wrapped__", None))
        elif isinstance(value, types.MethodType):
            waiting += [value.__func__, value.__self__]
        elif isinstance(value, functools.partial):
            waiting += [value.func, *value.args, *value.keywords.values()]
        elif isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, tuple | list | set | frozenset):
            waiting += [type(value), *value]
        else:
            waiting.append(type(value))
            if is_dataclass(value):
                waiting += [getattr(value, field.name, None) for field in fields(value)]
            elif _users(type(value)) and hasattr(value, "__dict__"):
                yield value
                waiting += vars(value).values()
            if callable(value):
                waiting.append(getattr(value, "__wrapped__", None))


def _functions(item: object) -> list[types.FunctionType]:
    """Return a function, or the functions that a class defines, without their wrappers."""
    if isinstance(item, types.FunctionType):
        return [item]
    functions: list[types.FunctionType] = []
    for member in vars(item).values():
        # The function in a property, a class method, a cached property, and in wrappers of it.
        value: Any = next(
            (inner for name in ("fget", "__func__", "func") if (inner := getattr(member, name, None))), member
        )
        while hasattr(value, "__wrapped__"):
            value = value.__wrapped__
        # The functions that `dataclass` generates depend on the fields alone.
        if isinstance(value, types.FunctionType) and not value.__code__.co_qualname.startswith("__create_fn__"):
            functions.append(value)
    return functions


def _closed(function: types.FunctionType) -> list[Any]:
    """Return the free variables of a function, without the class that `super` needs."""
    contents = []
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            content = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
        if name != "__class__" and content is not function:
            contents.append(content)
    return contents


def _users(item: object) -> bool:
    """Return whether a class or a function belongs neither to tlx nor to an installed package."""
    module = _module(item)
    if module.partition(".")[0] in ("tlx", "builtins"):
        return False
    path = path_of(item)
    if path is not None and Path(path).is_file():
        return is_users(path)
    is_standard = module.partition(".")[0] in sys.stdlib_module_names and module != "__main__"
    return not is_standard and bool(_functions(item))


@functools.cache
def is_users(path: str) -> bool:
    """Return whether a file belongs to the user: not to tlx, the standard library or an installed package."""
    resolved = Path(path).resolve()
    if resolved.is_relative_to(PACKAGE) or {"site-packages", "dist-packages"} & {*resolved.parts}:
        return False
    return not resolved.is_relative_to(Path(ast.__file__).resolve().parent)


def _module(item: object) -> str:
    """Return the name of the module in which a class or a function is defined."""
    name = item.__globals__.get("__name__") if isinstance(item, types.FunctionType) else item.__module__
    return name if isinstance(name, str) else ""


def path_of(item: Any) -> str | None:
    """Return the file that a class or a function was defined in, None where there is none."""
    if isinstance(item, types.FunctionType):
        return item.__code__.co_filename
    module = sys.modules.get(_module(item))
    value: Any = module
    for part in item.__qualname__.split("."):
        value = getattr(value, part, None)
    if value is item and getattr(module, "__file__", None):
        return str(module.__file__)  # type: ignore[union-attr]
    # Another module of that name was loaded since, or the class is local to a function: its methods have the file.
    for function in _functions(item):
        if _module(function) == _module(item) and not function.__code__.co_filename.startswith("<string"):
            return function.__code__.co_filename
    return getattr(module, "__file__", None)


def _sources(item: object) -> dict[str, str]:
    """Return the sources of one class, function or object of the user's."""
    item = item if isinstance(item, type | types.FunctionType) else type(item)
    code = item.__code__ if isinstance(item, types.FunctionType) else None
    module, path = _module(item), path_of(item)
    name, line = (code.co_qualname, code.co_firstlineno) if code else (item.__qualname__, None)
    if path is not None and Path(path).is_file():
        path = str(Path(path).resolve())
        tree = _file(path, module).tree
        if tree is None or not ENTRY.fullmatch(module):
            return _with_imports(path, module)
        return _slice(tree, name, (line, _column(code)), path, Path(path).parent)
    if lines := linecache.getlines(path) if path is not None else []:
        # A cell of a notebook.
        try:
            tree = ast.parse("".join(lines))
            return _slice(tree, name, (line, _column(code)), module, Path.cwd(), sys.modules.get(module))
        except SyntaxError:
            pass
    spelled = "\n".join(_code(function.__code__) for function in _functions(item))
    return {f"{module}{MARK}{name}": _digest(spelled)}


def _column(code: types.CodeType | None) -> int | None:
    """Return where the body of a lambda begins in its line, None where Python has no column for it."""
    if code is None or code.co_name != "<lambda>":
        return None
    places = [(line, column) for line, _, column, end in code.co_positions() if line and end and column is not None]
    return min(places)[1] if places else None


def _slice(
    tree: ast.Module, name: str, at: tuple[int | None, int | None], key: str, directory: Path, module: Any = None
) -> dict[str, str]:
    """Return the source of everything that the name needs in its file or cell, and the files that this imports."""
    part = syntax.part(tree, name, *at)
    digests = {f"{key}{MARK}{name}": _digest(part.spelled)}
    for path, imported in _imports(part.nodes, directory, ""):
        digests |= {other: digest for other, digest in _with_imports(path, imported).items() if other not in digests}
    # Names of other cells.
    for other in sorted(part.missing) if module is not None else ():
        value = vars(module).get(other)
        if isinstance(value, type | types.FunctionType) and value.__module__ == module.__name__ and _users(value):
            if f"{key}{MARK}{value.__qualname__}" not in digests and value.__qualname__ != name:
                digests |= _sources(value)
        elif isinstance(value, PLAIN):
            digests[f"{key}{MARK}{other}"] = _digest(repr(value))
    return digests


def _with_imports(path: str, module: str) -> dict[str, str]:
    """Return the digest of a file and of every file of the user's that it imports, directly or not."""
    digests: dict[str, str] = {}
    waiting = [(path, module)]
    while waiting:
        path, module = waiting.pop()
        if path in digests:
            continue
        file = _file(path, module)
        digests[path] = file.digest
        if file.tree is not None:
            package = module if Path(path).name == "__init__.py" else module.rpartition(".")[0]
            waiting += _imports([file.tree], Path(path).parent, package)
    return digests


def _imports(nodes: Iterable[ast.AST], directory: Path, package: str) -> list[tuple[str, str]]:
    """Return the user's files that are imported somewhere in these nodes, with the names of their modules.

    `directory` is that of the importing file, `package` the name of its package.
    """
    files: list[tuple[str, str]] = []
    above = package.split(".") if package else []
    for name, level in syntax.imports(nodes):
        parts = name.split(".") if name else []
        outer = above[: len(above) - level + 1] if level else []
        # An absolute name is looked for beside the file and at the root of its package.
        places = [Path(directory, *[".."] * (level - 1))] if level else [directory, *directory.parents[: len(above)]]
        for end in range(0 if level else 1, len(parts) + 1):
            full = ".".join([*outer, *parts[:end]])
            path = _module_file(full, parts[:end], places)
            if path is not None and is_users(str(path)):
                files.append((str(path.resolve()), full))
    return files


def _module_file(full: str, parts: list[str], places: Iterable[Path]) -> Path | None:
    """Return the file of a module: that of the loaded module, else one beside the importing file."""
    if loaded := getattr(sys.modules.get(full), "__file__", None):
        return Path(loaded) if Path(loaded).is_file() else None
    for place in places:
        stem = place.joinpath(*parts)
        for path in (*([stem.with_name(f"{stem.name}.py")] if parts else []), stem / "__init__.py"):
            if path.is_file():
                return path
    return None


def _file(path: str, module: str) -> File:
    """Return a file as it was when its module was loaded. It is read again when the module is loaded again."""
    spec = getattr(sys.modules.get(module), "__spec__", None)
    file = _files.get(path)
    if file is None or file.spec is not spec:
        tree, digest = _read(Path(path))
        file = _files[path] = File(spec, tree, digest)
    return file


def _read(path: Path) -> tuple[ast.Module | None, str]:
    """Return the syntax tree and the digest of a file. A file that is no Python is hashed unchanged."""
    content = path.read_bytes()
    if path.suffix in (".py", ""):
        try:
            tree = ast.parse(content)
            return tree, _digest(syntax.spelled(tree))
        except (SyntaxError, ValueError, RecursionError):
            pass
    return None, hashlib.sha256(content).hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _code(code: types.CodeType) -> str:
    """Return a text for a function without source: its byte code and constants, without places and lines."""
    constants = [_code(item) if isinstance(item, types.CodeType) else _spelled(item) for item in code.co_consts]
    return repr((code.co_code.hex(), code.co_names, code.co_varnames, code.co_freevars, constants))


def _state(item: object) -> str:
    """Return a text for the other state of a function, class or object: closure, default arguments, attributes.

    It is the state when the item was first read, so that a recipe keeps its fingerprint while it runs.
    """
    stored = _states.get(id(item))
    if stored is not None and stored[0]() is item:
        return stored[1]
    if isinstance(item, type | types.FunctionType):
        parts = [[_closed(function), function.__defaults__, function.__kwdefaults__] for function in _functions(item)]
        text = "".join(_spelled(value) for values in parts for part in values if part for value in _values(part))
    else:
        text = _spelled(tuple(vars(item).items()))
    with suppress(TypeError):
        _states[id(item)] = weakref.ref(item), text
    return text


_states: dict[int, tuple[weakref.ref[Any], str]] = {}


def _values(part: Any) -> list[Any]:
    return [*part.items()] if isinstance(part, dict) else [*part]


def _spelled(value: object) -> str:
    """Return a text that is the same for equal values in every process. Mutable contents are left out."""
    if isinstance(value, list | dict | set | bytearray):
        return type(value).__name__
    if isinstance(value, frozenset):
        return f"frozenset{sorted(map(_spelled, value))}"
    if isinstance(value, tuple):
        return f"{type(value).__name__}{list(map(_spelled, value))}"
    if hasattr(value, "__array__") and hasattr(value, "dtype"):
        import numpy as np

        with suppress(Exception):  # an array of a traced program has no numbers
            array = np.asarray(value)
            return f"array {array.shape} {array.dtype} {hashlib.sha256(array.tobytes()).hexdigest()}"
        return type(value).__name__
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
