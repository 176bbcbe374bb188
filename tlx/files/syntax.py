"""Analyse Python source as syntax trees: the part of a file that a definition needs, as text without comments and
layout."""

import ast
from collections.abc import Iterable, Iterator
from typing import NamedTuple

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
DOCUMENTED = (ast.Module, *DEFINITIONS)
IMPORTS = (ast.Import, ast.ImportFrom)
# Where names are looked up at run time, the whole file counts.
DYNAMIC = {"globals", "locals", "vars", "eval", "exec", "__import__"}


class CodePart(NamedTuple):
    """The statements of a file that a definition needs: as text, as nodes, and with the names that the file does not
    bind."""

    spelled: str
    nodes: list[ast.AST]
    missing: set[str]


def spelled(node: ast.AST | list | object) -> str:
    """Return a text for a syntax tree: the same in every version of Python, without docstrings, comments and layout.

    >>> spelled(ast.parse("x = 1  # one")) == spelled(ast.parse("x=1"))
    True
    """
    if isinstance(node, list):
        return f"[{','.join(map(spelled, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    parts = []
    for name, content in ast.iter_fields(node):
        documented = name == "body" and isinstance(node, DOCUMENTED)
        value = content[_documented(content) :] if documented else content
        # Newer versions have fields that older ones lack; those are empty in what both can read.
        if value is None or value == [] or name in ("ctx", "kind", "type_comment", "type_ignores"):
            continue
        parts.append(f"{name}={spelled(value)}")
    return f"{type(node).__name__}({','.join(parts)})"


def _documented(body: list[ast.stmt]) -> int:
    """Return 1 where the body begins with a docstring, else 0."""
    first = body[0].value if body and isinstance(body[0], ast.Expr) else None
    return int(isinstance(first, ast.Constant) and isinstance(first.value, str))


def imports(nodes: Iterable[ast.AST]) -> list[tuple[str, int]]:
    """Return the modules that are imported somewhere in the nodes, each with its number of leading dots.

    `from a import b` counts as both `a` and `a.b`, because `b` may be a module.
    """
    modules: dict[tuple[str, int], None] = {}
    for node in nodes:
        for inner in ast.walk(node):
            if isinstance(inner, ast.Import):
                modules |= dict.fromkeys((name.name, 0) for name in inner.names)
            elif isinstance(inner, ast.ImportFrom):
                base = inner.module or ""
                modules[base, inner.level] = None
                joined = (f"{base}.{name.name}" if base else name.name for name in inner.names if name.name != "*")
                modules |= dict.fromkeys((name, inner.level) for name in joined)
    return list(modules)


def candidates(tree: ast.Module, name: str) -> list[str]:
    """Return the text of every part of the file that a definition of this qualified name may mean."""
    places: dict[tuple[int, int | None], None] = {}
    for node in _nodes(tree, name):
        places[_first_line(node), None] = None
        if isinstance(node, ast.Lambda):
            places[_first_line(node), node.body.col_offset] = None
    return [*(part(tree, name, *place).spelled for place in places), spelled(tree)]


def part(tree: ast.Module, name: str, line: int | None = None, column: int | None = None) -> CodePart:
    """Return the part of a file that the definition of a qualified name needs.

    Args:
        tree: The file.
        name: As in `__qualname__`: `Net`, `recipe.<locals>.<lambda>`.
        line: The first line of the definition, where several have one name; None is the last of them.
        column: Where the body of a lambda begins, where one line has several; None is all of them.
    """
    roots: list[ast.AST] = _nodes(tree, name)
    line = line if line is not None or not roots else max(map(_first_line, roots))
    roots = [node for node in roots if _first_line(node) == line]
    lambdas: list[ast.AST] = [n for n in roots if isinstance(n, ast.Lambda) and n.body.col_offset == column]
    roots = lambdas or roots
    if not roots or any(isinstance(node, ast.Name) and node.id in DYNAMIC for root in roots for node in ast.walk(root)):
        return CodePart(spelled(tree), [tree], set())
    needed = {name for root in roots for name in _read(root)}
    included = [statement in roots for statement in tree.body]
    defined = {root.name for root in roots if isinstance(root, DEFINITIONS)}
    bound = [_bound(statement) for statement in tree.body]
    has_grown = True
    while has_grown:
        has_grown = False
        for n, statement in enumerate(tree.body):
            if included[n] or _main_guard(statement):
                continue
            names, touched = bound[n]
            if "*" in names or names & needed or (touched & defined and not isinstance(statement, IMPORTS)):
                included[n] = has_grown = True
                needed |= _read(statement)
                if not isinstance(statement, IMPORTS):
                    defined |= names
    nodes: list[ast.AST] = [statement for n, statement in enumerate(tree.body) if included[n]]
    nodes = [*(root for root in roots if root not in tree.body), *nodes]
    if any(isinstance(node, ast.Name) and node.id in DYNAMIC for top in nodes for node in ast.walk(top)):
        return CodePart(spelled(tree), [tree], set())
    bound_names = {name for names, _ in bound for name in names}
    return CodePart("\n".join(map(spelled, nodes)), nodes, needed - bound_names)


def _nodes(tree: ast.Module, name: str) -> list[ast.AST]:
    """Return all definitions of a qualified name in a file, which may have several."""
    scopes: list[ast.AST] = [tree]
    for step in (step for step in name.split(".") if step != "<locals>"):
        scopes = [node for scope in scopes for node in _inner(scope) if _has_name(node, step)]
    return scopes


def _has_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Lambda) if name == "<lambda>" else isinstance(node, DEFINITIONS) and node.name == name


def _inner(scope: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a scope, without those in a scope within it."""
    for child in ast.iter_child_nodes(scope):
        yield child
        if not isinstance(child, (*DEFINITIONS, ast.Lambda)):
            yield from _inner(child)
        elif isinstance(child, DEFINITIONS):
            # Decorators and default values belong to the scope around.
            for outer in (*child.decorator_list, *_defaults(child)):
                yield from (outer, *_inner(outer))


def _defaults(node: ast.AST) -> list[ast.expr]:
    arguments = getattr(node, "args", None)
    return [] if arguments is None else [item for item in (*arguments.defaults, *arguments.kw_defaults) if item]


def _first_line(node: ast.AST) -> int:
    decorators = getattr(node, "decorator_list", [])
    return min(item.lineno for item in (node, *decorators))


def _read(node: ast.AST) -> set[str]:
    """Return every name that occurs in a node."""
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def _bound(statement: ast.stmt) -> tuple[set[str], set[str]]:
    """Return the names that a statement of a module binds, and those with values that it may change in place."""
    names: set[str] = set()
    touched: set[str] = set()
    if isinstance(statement, DEFINITIONS):
        return {statement.name}, set()
    for node in (statement, *_inner(statement)):
        if isinstance(node, DEFINITIONS):
            names.add(node.name)
        elif isinstance(node, IMPORTS):
            names |= {(alias.asname or alias.name.partition(".")[0]) for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
            names.add(node.id)
        elif isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            touched.add(_root(node))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            call = node.value
            touched.add(_root(call.func) if isinstance(call.func, ast.Attribute) else "")
            if isinstance(call.func, ast.Name) and call.func.id in ("setattr", "delattr") and call.args:
                touched.add(_root(call.args[0]))
    return names, touched - {""}


def _root(node: ast.AST) -> str:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _main_guard(statement: ast.stmt) -> bool:
    """Return whether a statement is `if __name__ == "__main__":`."""
    return isinstance(statement, ast.If) and "__name__" in _read(statement.test)
