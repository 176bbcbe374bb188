"""Overrides: set the fields of a recipe by their dotted paths, from values or from texts."""

import ast
import copy
import inspect
import re
import typing
from collections.abc import Mapping
from typing import Any

from tlx.config.checks import conform, mismatch
from tlx.config.fixes import accepted_kinds, call_fault, call_text, double_quoted
from tlx.config.records import MISSING, Named, Record, fields, is_record, leaves, replace
from tlx.files.class_names import Classes, as_classes
from tlx.trees import closest, near_miss


def override(value: Record, path: str, text: str, classes: Named) -> Record:
    """Return `value` with the field at the dotted `path` set to the value of `text`.

    `text` is a Python literal, a call of a known class with literal arguments (`Freeze(through='blocks/03')`), or a
    bare string. Raises ValueError for an unknown path, naming the nearest, and TypeError for a value that the field
    does not take.
    """
    return override_all(value, {path: text}, classes)


def override_all(value: Record, texts: Mapping[str, str], classes: Named) -> Record:
    """Return `value` with the fields at several dotted paths set, as `override` does.

    The order does not matter: a field is set before the fields below it, and the fields of one record are set together,
    so that it checks them together.
    """
    changes = {path: parse(text, classes) for path, text in texts.items()}
    return _assign(value, {tuple(path.split(".")): new for path, new in changes.items()}, (), value, classes)


def at(value: object, path: str) -> Any:
    """Return the field at the dotted `path`; raise ValueError for an unknown path, naming the nearest."""
    field = value
    for name in path.split("."):
        field = _parts(field).get(name, MISSING)
        if field is MISSING:
            raise _unknown(path, value)
    return field


def assign(value: Record, path: str, new: object) -> Record:
    """Return `value` with the field at the dotted `path` set to `new`; raises as `override` does."""
    return assign_all(value, {path: new})


def assign_all(value: Record, changes: Mapping[str, Any]) -> Record:
    """Return `value` with the fields at several dotted paths set, together as in `override_all`."""
    return _assign(value, {tuple(path.split(".")): new for path, new in changes.items()}, (), value, None)


def _assign(
    value: Any, changes: Mapping[tuple[str, ...], Any], place: tuple[str, ...], root: object, classes: Named | None
) -> Any:
    """Return the part at `place` of the record `root` with some fields below it changed, by their paths from it.

    `classes` are given where the changes come from a command line.
    """
    parts = _parts(value)
    changed: dict[str, Any] = {}
    hints = typing.get_type_hints(type(value)) if is_record(value) else {}
    for name in dict.fromkeys(path[0] for path in changes):
        path = ".".join((*place, name))
        if name not in parts:
            rest = next(rest for first, *rest in changes if first == name)
            raise _unknown(".".join((path, *rest)), root, value, ".".join(place))
        below = {tuple(rest): new for (first, *rest), new in changes.items() if first == name}
        field = below.pop((), parts[name])
        if below:
            field = _assign(field, below, (*place, name), root, classes)
        hint = hints.get(name, Any)
        if classes is None:
            changed[name] = conform(field, hint, path)
            continue
        # A text is a valid name of a data set, but a class without parentheses is a slip.
        if isinstance(field, str) and field in classes and field in accepted_kinds(hint, [classes[field]]):
            raise mismatch(field, hint, path, classes.values(), shell=True)
        changed[name] = conform(field, hint, path, classes.values(), shell=True)
    if not is_record(value):
        return tuple(changed.get(str(n), item) for n, item in enumerate(value))
    return replace(value, **changed)


def _parts(value: object) -> dict[str, Any]:
    """Return the next fields that a path may name: the fields of a record, the positions of a tuple."""
    if is_record(value):
        return fields(value)
    return {str(n): item for n, item in enumerate(value)} if isinstance(value, tuple) else {}


def _unknown(path: str, root: object, part: object = None, place: str = "") -> ValueError:
    """Return the error of an unknown path; `part` is the part of the changed `root` at the path `place`."""
    paths = {leaf.removesuffix(".kind") for leaf, _ in (*leaves(root), *(leaves(part, place) if place else ()))}
    return ValueError(f"the recipe has no field {path!r}{near_miss(path, paths)}")


def parse(text: str, classes: Named) -> Any:
    """Parse a value of the command line: a literal, a call of one of `classes`, or the text itself.

    Raises:
        ValueError: A call is not complete, or an argument is not a literal.
        TypeError: A class does not have an argument, or does not accept its value.
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        begun = re.match(r"\s*(?:\w+\.)*([A-Z]\w*)\(", text)
        if begun is not None and begun[1] in classes:
            raise ValueError(f"{text.strip()} is not a complete call: {error.msg}") from None
        return text
    if isinstance(node, ast.Call | ast.Tuple | ast.List):
        return _build(node, as_classes(classes))
    try:
        return ast.literal_eval(node)
    except ValueError:
        return text


def _build(node: ast.expr, classes: Classes, argument: str = "") -> Any:
    """Return the value of a literal or of a call; `argument` is `NAME=` for the value of an argument."""
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_build(item, classes) for item in node.elts)
    if not isinstance(node, ast.Call):
        try:
            return ast.literal_eval(node)
        except ValueError:
            raise _not_literal(node, classes, argument) from None
    kind = classes.typed(node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", ""))
    _check_call(node, kind)
    positional = [_build(item, classes) for item in node.args]
    arguments = {str(item.arg): _build(item.value, classes, f"{item.arg}=") for item in node.keywords}
    signature, hints = inspect.signature(kind), typing.get_type_hints(kind)
    try:
        for name, value in signature.bind(*positional, **arguments).arguments.items():
            if signature.parameters[name].kind is not inspect.Parameter.VAR_POSITIONAL:
                conform(value, hints.get(name, Any), name, classes.values())
        return kind(*positional, **arguments)
    except (TypeError, ValueError) as error:
        fault = TypeError if isinstance(error, TypeError) else ValueError
        raise fault(f"{ast.unparse(node)}: {error}") from None


def _check_call(node: ast.Call, kind: type) -> None:
    """Raise TypeError for a call with unknown or missing arguments, with the closest names and a call to write."""
    fault = call_fault(kind, len(node.args), [str(item.arg) for item in node.keywords])
    if not fault:
        return
    parameters = inspect.signature(kind).parameters
    mended = copy.deepcopy(node)
    for keyword in mended.keywords:
        if keyword.arg not in parameters and (near := closest(str(keyword.arg), parameters, n=1)):
            keyword.arg = near[0]
    if all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters.values()):
        named = [ast.keyword(name, item) for name, item in zip(parameters, mended.args, strict=False)]
        mended.args, mended.keywords = [], [*named, *mended.keywords]
    if not call_fault(kind, len(mended.args), [str(item.arg) for item in mended.keywords]):
        fault += f"; write {double_quoted(ast.unparse(mended))}"
    raise TypeError(f"{ast.unparse(node)}: {fault}")


def _not_literal(node: ast.expr, classes: Classes, argument: str) -> ValueError:
    """Return the error of an argument that is neither a literal nor a call: a name without quotes, or a class without
    parentheses."""
    text = ast.unparse(node)
    name = text.rpartition(".")[2]
    if isinstance(node, ast.Name | ast.Attribute) and name in classes:
        return ValueError(f"{text} is a class without parentheses; write {argument}{call_text(classes[name])}")
    quoted = f"; write {argument}{double_quoted(repr(text))}" if argument or isinstance(node, ast.Name) else ""
    return ValueError(f"{text!r} is not a literal; put quotes around a string{quoted}")
