"""Draw the report of which tasks of a mixture help or hurt which others, from `interference.json` alone."""

from pathlib import Path

from tlx.functional.metrics import find_metric
from tlx.report import page, words
from tlx.report.negative import SHOWN, signed, size, spread
from tlx.trees import Json


def write(path: Path, document: Json) -> Path:
    """Draw the report (see `tlx.analysis.interference`) into one file."""
    return page.write(path, draw(document))


def draw(document: Json) -> str:
    """Return the page as HTML."""
    share = find_metric(document["metric"], document.get("measures")).points
    names = [member["name"] for member in document["members"]]
    return page.render(
        "interference.html",
        title=f"{', '.join(names)}: who helps whom?",
        card=document,
        names=names,
        metric=f"{document['split']} {words.metric(document['metric'])}",
        share=share,
        shown=SHOWN,
        smallest=words.number(document["smallest"] * (100 if share else 1), 3),
        answer=[
            described(item, "effect", share) for item in document["effects"] if item["verdict"] in ("helps", "hurts")
        ],
        matrices=[
            {"name": name, "rows": matrix(document[kind], names, share), "without": without}
            for name, kind, without in (
                ("The others", "effects", "the other members without it"),
                ("One alone", "pairs", "the member of the column alone"),
            )
            if document[kind]
        ],
        table=[
            described(item, "difference", share) | {side: ends(item[side], share) for side in ("alone", "mixture")}
            for item in document["table"]
        ],
    )


def matrix(effects: list[Json], names: list[str], share: bool) -> list[Json]:
    """Return the rows of a matrix: for each member the effect on each other one, None on itself or without runs."""
    by_pair = {(item["row"], item["column"]): described(item, "effect", share) for item in effects}
    return [{"name": row, "cells": [by_pair.get((row, column)) for column in names]} for row in names]


def described(item: Json, name: str, share: bool) -> Json:
    """Return a comparison as text; `name` is the key of its difference."""
    sides = [f"{size(item[side], share)} {side}" for side in ("with", "without") if side in item]
    return {
        **{key: item[key] for key in ("row", "column", "member", "verdict", "folders", "pairs") if key in item},
        "value": item[name],
        "said": signed(item[name], share),
        "span": spread(item["low"], item["high"], share),
        "boot": spread(item["boot"][0], item["boot"][1], share) if item["boot"] else "",
        "holm": "–" if item["holm"] is None else words.number(item["holm"], 2),
        "detectable": "–" if item["detectable"] is None else size(item["detectable"], share),
        "sides": ", ".join(sides),
    }


def ends(side: Json, share: bool) -> Json:
    """Return the mean of an arm and its interval as text."""
    low, high = side["low"], side["high"]
    return {
        "value": side["mean"],
        "said": size(side["mean"], share),
        "span": "" if low is None or high is None else f"{size(low, share)} – {size(high, share)}",
    }
