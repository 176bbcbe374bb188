"""Describe data in words, for the page and for the terminal."""

from tlx.trees import Json


def lead(document: Json) -> str:
    """Return the first sentence: what the data are, and how they are divided."""
    own = [row for row in document["splits"] if not row["source"]]
    further = [f"{row['name']} ({row['examples']:,})" for row in document["splits"] if row["source"]]
    total = sum(row["examples"] for row in own)
    classes = document["counts"]["classes"]
    kinds = {"classes": "sets of", "tags": "tags of"}
    what = f" with {kinds.get(document['counts']['kind'], '')} {len(classes)} classes".replace("  ", " ")
    if not classes:
        what = " with numbers as labels" if document["counts"]["rows"] else " without labels"
        what = " with answers" if document["counts"]["kind"] == "answers" else what
    parts = ", ".join(f"{row['examples']:,} {row['name']}" for row in own)
    beside = f"; compared with {', '.join(further)}" if further else ""
    return f"{total:,} examples of {document['inputs']}{what}: {parts}{beside}."


def class_rows(document: Json) -> list[Json]:
    """Return a row per class with its number in each split, the largest of the training split first."""
    counted = document["counts"]
    order = sorted(
        range(len(counted["classes"])),
        key=lambda n: -next((row["counts"][n] for row in counted["rows"] if row["split"] == document["train"]), 0),
    )
    return [
        {"name": counted["classes"][n], "counts": [row["counts"][n] for row in counted["rows"]]} for n in order
    ]  # fmt: skip
