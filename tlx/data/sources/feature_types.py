"""Read what `datasets` writes about the columns of a table: names of classes, images, sounds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tlx.data.sources.raw_table import CLASSES

if TYPE_CHECKING:
    import pyarrow as pa

ENTRY = b"huggingface"
# The kind of a column of each type of `datasets`.
MEDIA = {"Image": "image", "Audio": "audio"}


def kept_metadata(schema: pa.Schema) -> dict[bytes, bytes] | None:
    """Return the metadata by which `datasets` describes the columns, None where there are none."""
    metadata = schema.metadata or {}
    return {ENTRY: metadata[ENTRY]} if ENTRY in metadata else None


def described(arrow: pa.Table, features: dict[str, Any] | None = None) -> tuple[pa.Table, dict[str, str]]:
    """Return a table with the names of the classes in its columns, and the columns that hold images or sounds.

    Args:
        arrow: The table.
        features: The descriptions of `datasets` by column; by default those in the metadata of the table.
    """
    import pyarrow as pa

    if features is None:
        metadata = arrow.schema.metadata or {}
        features = json.loads(metadata[ENTRY])["info"]["features"] if ENTRY in metadata else {}
    fields, kinds = [], {}
    for field in arrow.schema:
        feature = features[field.name] if features is not None and field.name in features else None
        # A list is [feature] in old files, and {"feature": ..., "_type": "Sequence" or "List"} in new ones.
        inner = feature[0] if isinstance(feature, list) else feature
        if isinstance(inner, dict) and isinstance(inner.get("feature"), dict):
            inner = inner["feature"]
        kind = inner.get("_type") if isinstance(inner, dict) else None
        if kind == "ClassLabel" and inner is not None and inner.get("names"):
            field = field.with_metadata({CLASSES: json.dumps(inner["names"])})  # noqa: PLW2901
        if kind in MEDIA:
            kinds[field.name] = MEDIA[kind]
        elif pa.types.is_struct(field.type) and {"bytes", "path"} <= {part.name for part in field.type}:
            kinds[field.name] = "audio" if "audio" in field.name.lower() else "image"
        fields.append(field)
    return arrow.cast(pa.schema(fields)), kinds
