"""Name a class in the file of a recipe, and find it again without importing anything.

Classes of tlx are named by their bare name and found in the packages that export them. A user's class is also named
`module:Class`. It is found only in what the user passes: the values of a recipe, and the files of the command line.
"""

import dataclasses
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from tlx.files.user_code import ENTRY, path_of
from tlx.trees import near_miss

OWN = "tlx"


def is_record_class(kind: Any) -> bool:
    """Return whether the values of a class are records: a frozen dataclass or a named tuple."""
    if not isinstance(kind, type):
        return False
    parameters = getattr(kind, "__dataclass_params__", None)
    return hasattr(kind, "_fields") or (parameters is not None and parameters.frozen)


def defaults(kind: type) -> dict[str, Any]:
    """Return the defaults of the optional fields of a class of records."""
    if hasattr(kind, "_field_defaults"):
        return dict(kind._field_defaults)
    defaults: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if field.default is not dataclasses.MISSING:
            defaults[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            defaults[field.name] = field.default_factory()
    return defaults


def is_own(kind: Any) -> bool:
    """Return whether a class or a function is defined in tlx."""
    return str(getattr(kind, "__module__", "")).partition(".")[0] in (OWN, "builtins")


def place(kind: type | types.FunctionType) -> str | None:
    """Return `module:Class` for a user's class or function, None for one of ours.

    >>> import fractions
    >>> place(fractions.Fraction), place(Classes)
    ('fractions:Fraction', None)
    """
    return None if is_own(kind) else f"{kind.__module__}:{kind.__qualname__}"


def files_of(value: object) -> dict[str, str]:
    """Return the file of each of the user's record classes in a value, by `module:Class`."""
    kinds = {type(part) for part in _parts([value])}
    paths = {str(place(kind)): path_of(kind) for kind in kinds if is_record_class(kind) and not is_own(kind)}
    return {name: path for name, path in sorted(paths.items()) if path is not None}


def users_classes(values: Iterable[Any]) -> dict[str, type]:
    """Return the user's record classes by `module:Class`.

    They are those of some values, those of the modules of these classes and functions, and those of the files that this
    process received on its command line, the newest first.
    """
    classes: dict[str, type] = {}
    modules: list[str] = []
    for item in _parts(values):
        kind = item if isinstance(item, type | types.FunctionType) else type(item)
        if not is_own(kind):
            _add(classes, kind)
            modules.append(str(kind.__module__))
    modules += [name for name in reversed(list(sys.modules)) if ENTRY.fullmatch(name)]
    for name in dict.fromkeys(modules):
        for item in list(vars(sys.modules[name]).values()) if name in sys.modules else ():
            _add(classes, item)
    return classes


def _add(classes: dict[str, type], kind: Any) -> None:
    if is_record_class(kind) and not is_own(kind):
        classes.setdefault(f"{kind.__module__}:{kind.__qualname__}", kind)


def _parts(values: Iterable[Any]) -> Iterator[Any]:
    """Yield some values and everything below the records, tuples and mappings among them."""
    waiting = list(values)
    while waiting:
        value = waiting.pop(0)
        yield value
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, tuple | list):
            waiting += value
        elif dataclasses.is_dataclass(value) and is_record_class(type(value)):
            waiting += [getattr(value, field.name) for field in dataclasses.fields(value)]


class Exports(Mapping[str, type]):
    """The record classes that some packages export, by name. A class that is exported lazily is loaded on first use."""

    def __init__(self, packages: Sequence[types.ModuleType], more: Mapping[str, type]):
        self.packages, self.more = packages, more

    @cached_property
    def homes(self) -> dict[str, types.ModuleType]:
        """Return the package of every exported name that begins with a capital letter."""
        imported = {name: package for package in self.packages for name in vars(package)}
        # A package may import a type with the name of a class that another one exports.
        listed = {name: package for package in self.packages for name in _listed(package)}
        return {name: package for name, package in (imported | listed).items() if name[:1].isupper()}

    def __getitem__(self, name: str) -> type:
        if name in self.more:
            return self.more[name]
        kind: Any = getattr(self.homes[name], name)
        # A named tuple of ours is a value inside the library, not a part of a recipe.
        if not is_own(kind) or not is_record_class(kind) or hasattr(kind, "_fields") or kind.__name__ != name:
            raise KeyError(name)
        return kind

    def __iter__(self) -> Iterator[str]:
        return (name for name in sorted({*self.more, *self.homes}) if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _listed(package: types.ModuleType) -> Iterable[str]:
    return getattr(package, "__all__", ())


class Classes(Mapping[str, type]):
    """The classes that may be named in a recipe: `own` by bare name, and `users` by `module:Class`.

    `files` has the file of each user's class that a document names, for messages.
    """

    def __init__(
        self,
        library: Mapping[str, type],
        users: Mapping[str, type] | None = None,
        files: Mapping[str, str] | None = None,
    ):
        self.library, self.users, self.files = library, users or {}, files or {}

    @cached_property
    def by_name(self) -> dict[str, type]:
        """Return the user's classes by bare name; of two classes with one name the first."""
        return {kind.__name__: kind for kind in reversed(list(self.users.values()))}

    def __getitem__(self, name: str) -> type:
        return self.library[name] if name in self.library else self.by_name[name]

    def __iter__(self) -> Iterator[str]:
        yield from self.library
        yield from (name for name in self.by_name if name not in self.library)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def written(self, name: str, where: str | None) -> type:
        """Return the class that a document names `name`, and `where` (`module:Class`) if it is a user's.

        Raises:
            ValueError: There is no such class here. For a user's class the message names its file, and what to pass.
        """
        if where is None:
            return self._look_up(name)
        if where in self.users:
            return self.users[where]
        if name in self.by_name:
            return self.by_name[name]
        file = f" in {self.files[where]}" if where in self.files else ""
        raise ValueError(
            f"the class {where}{file} is a user's class, and tlx does not import it automatically; pass the file that "
            "uses it: --config FILE on the command line, given=recipe in Python"
        )

    def typed(self, name: str) -> type:
        """Return the class that a user calls `name` in an override.

        Raises:
            ValueError: No class has this name, or a class of tlx and one of the user both have it.
        """
        if name in self.by_name and name in self.library:
            raise ValueError(
                f"{name!r} is the name of a class of tlx ({self.library[name].__module__}) and of a class of "
                f"{self.by_name[name].__module__}: rename the second class"
            )
        return self._look_up(name)

    def _look_up(self, name: str) -> type:
        try:
            return self[name]
        except KeyError:
            homes = self.library.homes if isinstance(self.library, Exports) else self.library
            raise ValueError(f"tlx has no class {name!r}{near_miss(name, [*homes, *self.by_name])}") from None


def as_classes(classes: Mapping[str, type]) -> Classes:
    """Return classes by name as `Classes`, which also finds them by `module:Class`."""
    return classes if isinstance(classes, Classes) else Classes(classes)
