"""Write the report on a terminal."""

from collections.abc import Sequence

from tlx.analysis.negative.words import interval, is_share, size
from tlx.functional.significance import p_text
from tlx.trees import Json

EFFECT_HEADS = ("with", "score of", "effect [95 %]", "the member", "p, Holm", "detectable", "with it", "without it")
TABLE_HEADS = ("member", "alone", "in the mixture", "difference [95 %]", "the mixture", "p, Holm", "detectable")


def effect_rows(document: Json, kind: str = "effects") -> list[tuple[str, ...]]:
    """Return the effects of a kind, "effects" or "pairs", as text, in the order of `EFFECT_HEADS`; shares in points."""
    share = is_share(document)
    return [
        (
            item["row"], item["column"], interval({**item, "gap": item["effect"]}, share), item["verdict"],
            *tested(item, share), size(item["with"], share), size(item["without"], share),
        )
        for item in document[kind]
    ]  # fmt: skip


def table_rows(document: Json) -> list[tuple[str, ...]]:
    """Return the table of members as text, in the order of `TABLE_HEADS`; shares in points."""
    share = is_share(document)
    return [
        (
            item["member"], size(item["alone"]["mean"], share), size(item["mixture"]["mean"], share),
            interval({**item, "gap": item["difference"]}, share), item["verdict"], *tested(item, share),
        )
        for item in document["table"]
    ]  # fmt: skip


def tested(item: Json, share: bool) -> tuple[str, str]:
    """Return the corrected p and the minimum detectable difference of a comparison as text."""
    return (
        "-" if item["holm"] is None else p_text(item["holm"]),
        "-" if item["detectable"] is None else size(item["detectable"], share),
    )


def answer(document: Json) -> list[str]:
    """Return a sentence for each effect that is shown, or one that none is."""
    share = is_share(document)
    lines = [
        f"{item['row']} {item['verdict']} {item['column']}: {interval({**item, 'gap': item['effect']}, share)}"
        for item in document["effects"]
        if item["verdict"] in ("helps", "hurts")
    ]
    return lines or ["no member is shown to help or hurt another one"]


def budget(document: Json) -> str:
    """Return what the arms have equal, in a sentence."""
    steps: Sequence[int] = [arm["steps"] for arm in document["arms"]]
    if document["budget"] == "steps":
        return (
            f"all arms take {steps[0]:,} steps, so that an arm of fewer members draws each of them more often (the "
            "comparison of T5)"
        )
    return (
        f"each member has the same number of draws in all arms, so that an arm of fewer members takes fewer steps "
        f"({min(steps):,} to {max(steps):,})"
    )


def notes(document: Json) -> list[str]:
    """Return the notes for the reader of the numbers."""
    unit = "points" if is_share(document) else "its unit"
    return [
        f"effect = {document['split']} {document['metric']} of the second member, with the first one in the mixture "
        f"minus without it; in {unit}, with p corrected over the table",
        budget(document),
        f"{len(document['seeds'])} paired seeds, selection: {document['selection']}",
        *document["notes"],
    ]
