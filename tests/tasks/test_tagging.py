"""Schemes of tags, and reports on illegal sequences; `test_parity_tagging.py` has the counts of entities."""

import jax
import numpy as np
import pytest

from tlx import tasks
from tlx.tasks.tagging import detected
from tlx.tasks.token_classification import IGNORED
from tlx.types import Column

# Unicode, a type with a hyphen, and a type that begins like a letter of the scheme.
TYPES = ("PER", "ГЕО", "B-LOC")
BIO = ("O", *(f"{letter}-{kind}" for kind in TYPES for letter in "BI"))
BIOES = ("O", *(f"{letter}-{kind}" for kind in TYPES for letter in "BIES"))


def batch_of(names, true, guess):
    """Tags as arrays, with tokens between them that do not count."""
    random, shape = np.random.default_rng(0), (len(true), 2 * max(map(len, true)))
    label, prediction = np.full(shape, IGNORED, np.int32), random.integers(0, len(names), shape)
    for row, (tags, guesses) in enumerate(zip(true, guess, strict=True)):
        places = np.sort(random.choice(shape[1], len(tags), replace=False))
        label[row, places] = [names.index(tag) for tag in tags]
        prediction[row, places] = [names.index(tag) for tag in guesses]
    return np.eye(len(names), dtype=np.float32)[prediction], label


def scores_of(task, true, guess):
    logits, label = batch_of(task.names, true, guess)
    scores = jax.jit(task.score)({"logits": logits}, {"label": label})
    return {name: np.asarray(array) for name, array in scores.items()}


def test_the_scheme_follows_from_the_class_names():
    assert [detected(names, "O") for names in (BIO, BIOES, ("I-A", "O"), ("O", "B", "I"))] == [
        "BIO", "BIOES", "IOB1", "BIO"
    ]  # fmt: skip
    for plain in (("O", "PER"), ("NOUN", "VERB"), ("O", "B"), ("O", "S-bar", "E-mail"), ("O", "B-PER", "PER"), ()):
        assert detected(plain, "O") == ""
    task = tasks.TokenClassification()
    assert task.primary == "micro_f1" and "entity_f1" in task.measures
    bio, plain = (task.resolve({"label": Column("tags", names)}) for names in (BIO, ("O", "PER")))
    assert (bio.primary, bio.scheme, next(iter(bio.measures))) == ("entity_f1", "BIO", "entity_f1")
    assert (plain.primary, plain.scheme, next(iter(plain.measures))) == ("micro_f1", "", "micro_f1")
    assert "entity_tp" not in scores_of(plain, [["O", "PER"]], [["PER", "O"]])
    chosen = tasks.TokenClassification(scheme="").resolve({"label": Column("tags", BIO)})
    assert chosen.primary == "micro_f1" and tasks.TokenClassification(scheme="BIO").primary == "entity_f1"


def test_a_run_of_an_early_version_counts_no_entities():
    resolved = tasks.TokenClassification().resolve({"label": Column("tags", BIO)})
    for result in ({}, {"task": {}}, {"task": {"outside": "none"}}):
        early = resolved.of_run(result)
        assert early.primary == "micro_f1" and "entity_f1" not in early.measures
    assert resolved.of_run({"task": resolved.kept_fields}) == resolved
    assert resolved.of_early_run({"kind", "names", "scheme"}) == resolved


def test_illegal_sequences_are_reported_with_what_is_done():
    def notes(names, texts, **settings):
        task = tasks.TokenClassification(**settings).resolve({"label": Column("tags", names)})
        return task.label_notes("train", [[names.index(tag) for tag in text.split()] for text in texts])

    assert notes(BIO, ["B-PER I-PER O B-ГЕО", "O"]) == []
    (note,) = notes(BIO, ["O I-PER I-PER", "O", "O I-PER O I-PER", "B-PER I-ГЕО"])
    assert all(part in note for part in ("3 of 4 texts of train", "4 in all", "'I-PER' after 'O' (3 times)", "begins"))
    (note,) = notes(BIO, ["I-PER O"], strict=True)
    assert "'I-PER' at the beginning of a text" in note and "only entities that follow" in note
    (note,) = notes(BIOES, ["B-PER", "S-PER E-PER B-PER I-PER E-PER"])
    assert "2 of 2 texts" in note and "2 in all" in note and "'B-PER' at the end of a text" in note
    assert notes(BIO, ["I-PER I-PER B-PER I-PER O I-ГЕО"], scheme="IOB1") == []
    (note,) = notes(BIO, ["O B-PER"], scheme="IOB1")
    assert "'B-PER' after 'O'" in note


def test_mistakes_show_entities_and_the_table_has_a_row_for_each_type():
    task = tasks.TokenClassification(names=BIO)
    example = {"words": ["Anna", "Smith", "sees", "Бонн"], "label": [1, 2, 0, 3]}
    label, answer = task.shown(example, ["B-PER", "O", "?", "I-ГЕО"])
    assert (label, answer) == ("Anna Smith (PER), Бонн (ГЕО)", "Anna (PER), Бонн (ГЕО)")
    assert task.shown(example, ["O"] * 4)[1] == "no entity"
    table = task.class_counts(scores_of(task, [["B-PER", "I-PER", "O"]], [["B-PER", "O", "B-ГЕО"]]))
    rows = dict(zip(table.names, np.stack([table.tp, table.fp, table.fn], -1).tolist(), strict=True))
    assert rows == {"PER": [0, 1, 1], "ГЕО": [0, 1, 0], "B-LOC": [0, 0, 0]}
    plain = tasks.TokenClassification(names=("O", "PER"))
    assert plain.class_counts(scores_of(plain, [["PER", "O"]], [["PER", "PER"]])).names == ("O", "PER")
    assert plain.shown({"words": ["a"], "label": [1]}, ["O"]) == ("PER", "O")


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: tasks.TokenClassification(names=("O", "E-PER"), scheme="BIO"), ("scheme='BIO'", "'E-PER'", "I-TYPE")),
        (lambda: tasks.TokenClassification(scheme="IOB1", strict=True), ("strict", "BIOES")),
    ],
)
def test_a_scheme_that_does_not_fit_is_refused(make, parts):
    with pytest.raises(ValueError) as error:
        make()
    assert all(part in str(error.value) for part in parts)
