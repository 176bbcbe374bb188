"""Draw the figures of one run from its records."""

import math
from collections.abc import Sequence

import numpy as np

from tlx.functional.calibration import calibration_bins
from tlx.functional.mixtures import AVERAGE
from tlx.functional.scores import confusion_matrix
from tlx.records.members import member_of
from tlx.report import charts, words
from tlx.report.charts import Figure, Rows
from tlx.report.intervals import wilson
from tlx.report.reading import Predictions, RunRecords, smooth, thin
from tlx.trees import Json

LIMIT = 2000
MAIN = ("train/loss", "train/rate", "train/gradient_norm")
# Validation losses that are drawn in one plot with the training loss.
LOSSES = ("validation/loss", "validation/mse")


def training(records: RunRecords) -> list[Figure]:
    """Draw the loss (raw and smoothed), the learning rate, the gradient norm, and the terms of the objective if
    there are several."""
    captions = {
        "train/loss": ("Training loss", "loss", "Loss of each batch, before the update."),
        "train/rate": (
            "Learning rate",
            "rate",
            "Learning rate of the schedule. Each parameter multiplies it by its factor.",
        ),
        "train/gradient_norm": ("Gradient norm", "norm", "Norm over all trainable parameters, before clipping."),
    }
    marks, figures = phases(records), []
    for name in MAIN:
        steps, values = records.series(name)
        if steps:
            title, axis, caption = captions[name]
            smoothed = name != "train/rate" and len(values) >= 25
            rows, note = thinned(steps, values, smoothed)
            measured = validation_loss(records) if name == "train/loss" else None
            if measured:
                both = [{"split": "training", **row} for row in rows]
                both += [{"split": "validation", "step": step, "value": finite(value)} for step, value in measured]
                caption = (
                    f"{caption} The training loss includes every term of the objective; the validation loss is the "
                    "loss of the task."
                )
                figures.append(
                    charts.losses(
                        slug(name), "Training and validation loss", f"{caption} {note}".strip(), both, axis=axis,
                        smoothed=smoothed, marks=[*marks, *chosen_step(records)],
                    )
                )  # fmt: skip
                continue
            look: Json = {"smoothed": smoothed, "may_log": name != "train/rate", "marks": marks}
            figures.append(charts.curve(slug(name), title, f"{caption} {note}".strip(), rows, axis=axis, **look))
    terms = [name for name in records.names("train/") if name not in MAIN]
    if len(terms) > 1:
        rows = []
        for name in terms:
            steps, values = records.series(name)
            positions = thin(values, max(50, LIMIT // len(terms)))
            rows += [
                {"term": name.removeprefix("train/"), "step": steps[n], "value": finite(values[n])} for n in positions
            ]
        caption = "Values that the terms of the objective log, for each batch."
        figures.append(charts.curves("train-terms", "Terms", caption, rows, axis="value", by="term"))
    return figures


def validation(records: RunRecords) -> list[Figure]:
    """Draw one curve per metric of the validation split, with the chosen step.

    A metric that was measured only once is not drawn, because the table contains it.
    """
    chosen = chosen_step(records)
    marks = [*phases(records), *chosen]
    note = f" The dashed line is the chosen step, {chosen[0]['step']:,}." if chosen else ""
    figures = []
    for name in records.names("validation/"):
        steps, values = records.series(name)
        if len(steps) < 2 or (name in LOSSES and validation_loss(records) and records.series("train/loss")[0]):
            continue
        rows, thinner = thinned(steps, values, False)
        title = f"Validation {words.metric(name)}"
        caption = f"{validated(records, name)}{note} {thinner}".strip()
        figures.append(
            charts.curve(
                slug(name),
                title,
                caption,
                rows,
                axis=words.metric(name),
                points=len(rows) <= 60,
                marks=marks,
            )
        )
    return figures


def validated(records: RunRecords, name: str) -> str:
    """Return a sentence with the number of examples of a metric of the validation split; for an average over the
    members of a mixture, what it is."""
    members, member = records.result.get("members") or {}, member_of(name)
    if member == AVERAGE:
        return "The unweighted average over the members of the mixture."
    counts = members[member]["examples"] if member in members else records.result["examples"]
    return f"Over {counts['validation']:,} examples."


def validation_loss(records: RunRecords) -> list[tuple[int, float]] | None:
    """Return the steps and values of the validation loss; None if it was not measured at several steps, or if the
    training loss has another unit, because the model learns standardised labels."""
    if "mean" in records.result.get("task", {}):
        return None
    for name in LOSSES:
        steps, values = records.series(name)
        if len(steps) > 1:
            return list(zip(steps, values, strict=True))
    return None


def chosen_step(records: RunRecords) -> Rows:
    """Return the mark of the step that the selection rule chose; empty if it is the last step."""
    if records.result["selection"] == "last":
        return []
    step = records.result["selected_step"]
    return [{"step": step, "what": f"chosen: step {step}"}]


def outcomes(records: RunRecords) -> list[Figure]:
    """Draw the predictions of the reported split, as its scores allow.

    For classes these are the confusion matrix and the calibration, for numbers the predicted against the true values;
    other tasks have none.
    """
    predictions, scores = records.predictions[records.split], records.predictions[records.split].scores
    if (counts := confusion_counts(records)) is not None:
        figures = [confusion(counts, records.task.names, records.split)]
        if {"confidence", "correct"} <= scores.keys():
            figures.append(reliability(calibration_bins(scores), records.split, len(counts)))
        return figures
    numbers = {"label", "prediction"} <= scores.keys() and not records.task.names
    return [regression(predictions, records.split)] if numbers else []


def confusion_counts(records: RunRecords) -> np.ndarray | None:
    """Count the examples of the reported split by true and predicted class, [C, C]; None if examples have no single
    class."""
    scores, names = records.predictions[records.split].scores, records.task.names
    if not names or not {"label", "prediction"} <= scores.keys():
        return None
    if any(scores[name].ndim > 1 or scores[name].dtype.kind not in "iu" for name in ("label", "prediction")):
        return None
    return confusion_matrix(scores["label"], scores["prediction"], len(names))


def confusion(counts: np.ndarray, names: Sequence[str], split: str = "test") -> Figure:
    """Draw counts [C, C], and shares of the examples of each true class."""
    totals = counts.sum(1)
    all_cells = len(names) <= 50
    rows = [
        {
            "true": names[t],
            "predicted": names[p],
            "count": int(counts[t, p]),
            "share": float(counts[t, p] / max(1, totals[t])),
        }
        for t in range(len(names))
        for p in range(len(names))
        if all_cells or counts[t, p]
    ]
    caption = f"{totals.sum():,} {split} examples; shares are of the examples of the true class (rows sum to 1)."
    return charts.confusion("confusion", "Confusion matrix", caption, rows, names)


def reliability(bins: np.ndarray, split: str = "test", classes: int = 2) -> Figure:
    """Draw mean confidence against accuracy, in bins of confidence (Guo et al., 2017)."""
    rows = []
    for number, confidence, right in bins[bins[:, 0] > 0].tolist():
        low, high, _ = wilson(round(right), round(number))
        rows.append(
            {
                "confidence": confidence / number,
                "accuracy": right / number,
                "low": low,
                "high": high,
                "count": round(number),
            }
        )
    caption = (
        f"{split.capitalize()} predictions in {len(bins)} bins of confidence. A larger dot has more examples; a "
        "line is a 95 % Wilson interval. Below the diagonal the model is overconfident."
    )
    return charts.reliability("reliability", "Calibration", caption, rows, height=charts.side(classes))


def regression(predictions: Predictions, split: str = "test") -> Figure:
    """Draw every example, or a seeded sample of `LIMIT` values."""
    labels, guesses = (predictions.scores[name].reshape(len(predictions), -1) for name in ("label", "prediction"))
    chosen, note = np.arange(len(labels)), f"{len(labels):,} {split} examples"
    if len(labels) * labels.shape[-1] > LIMIT:
        keep = max(1, LIMIT // labels.shape[-1])
        chosen = np.sort(np.random.default_rng(0).choice(len(labels), keep, replace=False))
        note = f"{keep:,} of {len(labels):,} {split} examples, drawn at random"
    outputs = [f"output {n}" for n in range(labels.shape[-1])]
    rows = [
        {
            "index": int(predictions.indices[n]),
            "output": output,
            "true": finite(float(labels[n, k])),
            "predicted": finite(float(guesses[n, k])),
        }
        for n in chosen
        for k, output in enumerate(outputs)
    ]
    caption = f"{note[0].upper()}{note[1:]}; predictions on the dashed line are exact."
    return charts.scatter("scatter", "Predicted against true", caption, rows, fields=outputs)


def phases(records: RunRecords) -> Rows:
    """Return the steps at which a new phase begins, as `train.phase_spans` defines them."""
    shares = [phase["share"] for phase in records.parameters["phases"]]
    ends = [round(records.result["steps"] * sum(shares[: n + 1])) for n in range(len(shares) - 1)]
    return [{"step": end, "what": f"phase {n + 2} begins"} for n, end in enumerate(ends)]


def thinned(steps: Sequence[int], values: Sequence[float], smoothed: bool) -> tuple[Rows, str]:
    """Return the rows of a curve, at most `LIMIT`, and a note for its caption."""
    positions = thin(values, LIMIT)
    notes = (
        [f"The figure shows {len(positions):,} of {len(values):,} steps, including the extremes."]
        if len(positions) < len(values)
        else []
    )
    if not smoothed:
        return [{"step": steps[n], "value": finite(values[n])} for n in positions], " ".join(notes)
    span = max(4, round(len(values) / 25))
    means = smooth(values, span)
    notes = [f"The bold line is an exponential average over about {span} steps.", *notes]
    return [{"step": steps[n], "value": finite(values[n]), "smoothed": finite(means[n])} for n in positions], " ".join(
        notes
    )


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def slug(name: str) -> str:
    """Return the name of a metric as an id and a file name.

    >>> slug("train/gradient_norm")
    'train-gradient-norm'
    """
    return "".join(letter if letter.isalnum() else "-" for letter in name)
