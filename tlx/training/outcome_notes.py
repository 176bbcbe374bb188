"""Notes on the outcomes of a run: answers that are all the same, texts that are too long, metrics without a value."""

import math
from collections.abc import Mapping

from tlx.functional.texts import WRITTEN, unpacked
from tlx.records.run_directory import Predictions
from tlx.tasks import Task


def constant(task: Task, outcomes: Mapping[str, Predictions]) -> list[str]:
    """Return a note for each split where the model answers all examples alike although the labels differ."""
    notes = []
    for split, predictions in outcomes.items():
        if not {"label", "prediction"} <= predictions.scores.keys() or len(predictions) < 2:
            continue
        labels, answers = predictions.scores["label"], predictions.scores["prediction"]
        if (labels == labels[0]).all() or not (answers == answers[0]).all():
            continue
        if task.names and answers.ndim == 1:
            answer = f"{task.names[int(answers[0])]!r}"
            notes.append(f"the model predicts {answer} for all {len(predictions):,} {split} examples")
        else:
            what = "the same classes" if task.names else "the same numbers"
            notes.append(f"the model predicts {what} for all {len(predictions):,} {split} examples")
    return notes


def texts(task: Task, outcomes: Mapping[str, Predictions]) -> list[str]:
    """Return a note for each split with true texts that are longer than every written answer may be, or that are not
    the texts of their tokens, and for each where the model writes one text for all examples although the true texts
    differ."""
    notes = []
    for split, predictions in outcomes.items():
        scores = predictions.scores
        if WRITTEN not in scores or len(predictions) < 2:
            continue
        longest, likeliest = getattr(task, "longest", math.inf), scores["right"] == scores["tokens"]
        longer = scores["tokens"] > longest
        if longer.any():
            notes.append(
                f"{longer.sum():,} of {len(predictions):,} true texts of the {split} split have more than {longest} "
                "tokens, where an answer ends (task.longest)"
            )
        if getattr(task, "beams", 1) == 1 and (other := int((likeliest & ~longer & ~scores["correct"]).sum())):
            notes.append(
                f"{other:,} of {len(predictions):,} answers of the {split} split have the tokens of the true text, and "
                "not its characters: the tokenizer changes some, such as upper case, or data.tokens cuts the text"
            )
        if (scores[WRITTEN] == scores[WRITTEN][0]).all() and not scores["correct"].all():
            text = unpacked(scores[WRITTEN][:1])[0]
            notes.append(f"the model writes {text[:80]!r} for all {len(predictions):,} {split} examples")
    return notes


def undefined(metrics: Mapping[str, float]) -> list[str]:
    """Return a note for each split with metrics that are not defined, which are nan."""
    names: dict[str, list[str]] = {}
    for name, value in metrics.items():
        if math.isnan(value):
            names.setdefault(name.partition("/")[0], []).append(name)
    return [
        f"{', '.join(listed)}: not defined (nan), because the labels or the predictions of the {split} split do not "
        "vary, or a class has no examples"
        for split, listed in names.items()
    ]
