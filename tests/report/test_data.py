"""The page of a data set: drawn from its document only, escaped, with every part of the document."""

import copy
import re
from html import unescape

import pytest

from tlx.report import data, page

TEXT = "<script>alert(1)</script> fine"
PIXEL = "data:image/png;base64,iVBORw0KGgo="
DOCUMENT = {
    "version": 1, "title": "reviews.csv", "target": "reviews.csv", "sources": ["books.csv"], "inputs": "text",
    "fingerprint": "0123456789abcdef", "command": "tlx data reviews.csv", "train": "train",
    "processor": "TextProcessor",
    "fields": [
        {"name": "text", "kind": "text", "from": ["body"], "missing": 3},
        {"name": "label", "kind": "class, 2 classes", "from": [], "missing": None},
    ],
    "unused": [{"name": "id", "type": "string", "different": 300, "example": TEXT}],
    "splits": [
        {"name": "train", "examples": 240, "source": False}, {"name": "test", "examples": 60, "source": False},
        {"name": "books.csv", "examples": 400, "source": True},
    ],
    "counts": {
        "kind": "class", "classes": ["bad", "good"],
        "rows": [
            {"split": "train", "counts": [40, 200], "examples": 240, "sampled": 240},
            {"split": "test", "counts": [60, 0], "examples": 60, "sampled": 60},
        ],
    },
    "imbalance": {
        "largest": {"class": "good", "examples": 200}, "smallest": {"class": "bad", "examples": 40}, "ratio": 5.0,
        "constant": 0.8333, "effective": 1.57, "without": [],
    },
    "sizes": [
        {"measure": "tokens", "split": split, "examples": 60, "of": 60, "at": [3.0, 9.0, 15.0, 22.0, 40.0, 77.0],
         "limit": 32.0, "cut": 0.25, "lost": 0.08, "edges": [0.0, 10.0, 20.0, 40.0], "counts": [20, 30, 10]}
        for split in ("train", "test")
    ],
    "images": [],
    "shown": [
        {"place": "reviews.csv line 2", "label": "good", "text": TEXT,
         "after": {"text": "[CLS] fine [SEP]", "tokens": 3, "cut": 7}},
        {"place": "digits train[1]", "label": "bad", "image": PIXEL, "size": "8 × 8 × 1",
         "after": {"images": [PIXEL, PIXEL], "size": "8 × 8 × 1"}},
    ],
    "duplicates": {
        "within": [{"split": "train", "exact": 4, "near": 2, "of": 240, "other_label": 1}],
        "across": [{"split": "test", "other": "train", "exact": 3, "near": 1, "of": 60}],
        "listed": [
            {"exact": False, "examples": [
                {"split": "train", "place": "reviews.csv line 9", "label": "good", "text": "a fine film"},
                {"split": "test", "place": "reviews.csv line 12", "label": "bad", "text": "A fine film!"},
            ]},
        ],
    },
    "doubts": {
        "why": "", "by": "words", "examples": 240, "of": 240, "measure": "accuracy", "score": 0.9, "constant": 0.83,
        "in_doubt": 12,
        "listed": [{"place": "reviews.csv line 40", "text": "so dull", "label": "good", "suggested": "bad",
                    "confidence": 0.02, "other": 0.98}],
    },
    "distances": [{"source": "books.csv", "by": "words", "examples": [400, 240], "a": 1.2, "a_low": 1.0, "a_high": 1.4,
                   "mmd": 0.2, "chance": 0.01, "p": 0.005}],
    "notes": ["the split test has no example of class 'good'"],
}  # fmt: skip


def text(html):
    main = html.partition("<main>")[2].partition("</main>")[0]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", re.sub(r"<script.*?</script>", "", main, flags=re.S))).split())


def test_every_part_of_the_document_is_on_the_page():
    html = data.draw(DOCUMENT)
    assert "<script>alert" not in html
    shown = text(html)
    for part in (
        "300 examples of text with 2 classes: 240 train, 60 test; compared with books.csv (400)",
        "The split test has no example of class 'good'",
        "body 3",
        "cut at 32 tokens 25.0",
        "3 tokens, 7 cut off",
        "train, earlier (1 with another label) 4 2 240",
        "test train 3 1 60",
        "12 of 240 labels are contradicted",
        "label good , suggested bad",
        "books.csv 1.2 1 – 1.4",
        "tlx data reviews.csv",
    ):
        assert part in shown, part
    figures = page.specification(html)
    assert {(row["class"], row["split"]): row["examples"] for row in figures["classes"]["datasets"]["table"]} == {
        ("good", "train"): 200, ("good", "test"): 0, ("bad", "train"): 40, ("bad", "test"): 60,
    }  # fmt: skip
    assert figures["size-tokens"]["datasets"]["limits"] == [{"value": 32.0}]
    assert sum(row["share"] for row in figures["size-tokens"]["datasets"]["table"]) == pytest.approx(2)


def test_numbers_in_the_place_of_classes_and_parts_that_are_missing(tmp_path):
    document = copy.deepcopy(DOCUMENT) | {
        "imbalance": None, "sizes": [], "shown": [], "distances": [], "unused": [], "notes": [], "processor": "",
        "duplicates": {"within": [], "across": [], "listed": []},
        "doubts": {"why": "there are too few examples", "listed": []},
        "counts": {"kind": "number", "classes": [], "rows": [
            {"split": "train", "examples": 240, "quantiles": [0.0, 1.0, 2.0, 3.0, 9.0], "mean": 2.1, "deviation": 1.0,
             "edges": [0.0, 4.5, 9.0], "counts": [200, 40]},
        ]},
    }  # fmt: skip
    path = data.write(tmp_path / "data.html", document)
    shown = text(path.read_text(encoding="utf-8"))
    assert "300 examples of text with numbers as labels" in shown and "there are too few examples" in shown
    assert "There are none." in shown and "labels" in page.specification(path.read_text(encoding="utf-8"))
