"""Read the version of recipe.json, and convert older versions.

| schema | contents |
| --- | --- |
| 1 | no `schema`; a user's class by its bare name alone; every field of a user's class counts in the fingerprint |
| 2 | `schema`; `class` (`module:Class`) beside the `kind` of a user's class; `classes`, the files of these; |
| | in the fingerprint a field at its default counts only if schema 1 always wrote it |

A migration takes the document of one version and returns the document of the next version. It keeps `fingerprint`,
which names the run in all its files, and the version of the rule that computed it (`fingerprint_schema`).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tlx.config import SCHEMA
from tlx.trees import Json

OLDEST = 1


def from_1(document: Json) -> Json:
    """Return the document of schema 2. No entry moves, and the fingerprint stays the one of schema 1."""
    return document | {"schema": 2, "classes": {}, "fingerprint_schema": 1}


MIGRATIONS: Mapping[int, Callable[[Json], Json]] = {1: from_1}


def schema_of(document: Json, path: Path) -> int:
    """Return the version of a recipe.json.

    Raises:
        ValueError: The version is no whole number from 1, or newer than this tlx can read.
    """
    schema = document.get("schema", OLDEST)
    if isinstance(schema, bool) or not isinstance(schema, int) or schema < OLDEST:
        raise ValueError(
            f"{path}: schema is {schema!r}; expected a whole number from {OLDEST} to {SCHEMA}: restore the file"
        )
    if schema > SCHEMA:
        raise ValueError(
            f"{path} has schema {schema}, but this tlx reads schemas {OLDEST} to {SCHEMA}: open the run with the "
            "tlx that wrote it, or install a newer tlx"
        )
    return schema


def migrated(document: Json, path: Path) -> Json:
    """Return the document of a recipe.json in the newest version.

    Raises:
        ValueError: See `schema_of`.
    """
    schema = schema_of(document, path)
    document = {name: value for name, value in document.items() if name != "fingerprint_schema"}
    for version in range(schema, SCHEMA):
        document = MIGRATIONS[version](document)
    return document


def rule_of(document: Mapping[str, Any]) -> int:
    """Return the version of the rule that computed the fingerprint of a migrated document."""
    return int(document.get("fingerprint_schema", document["schema"]))
