"""Compare the weights and features of a finished run before and after training, stage by stage.

`weights` measures the change of each leaf and the spectra of kernels, `features` the similarity of features and linear
probes, `line` the loss between initial and fine-tuned weights. The document, `moved.json`, contains

* `version` 1, `fingerprint` and `data` as in `result.json`;
* `before`: `source`, `scratch` (no pretrained weights), `fresh` (paths with random initial values), `fresh_stages`;
  `after`: `selection` and `step` of the checkpoint;
* `examples`: their number and their `indices`, by split; the test split is never opened;
* `leaves`: a row per leaf with `path`, `stage`, `kind`, `count`, norms `before`, `after`, `change`, and `relative`;
* `stages`: a row per stage with `name`; `weights` by kind (`all`, `kernels`, `biases`, `norms`, `embeddings`, `added`,
  `others`), each with `count`, the norms and `relative`; `similarity` (`cka`, `plain`, `batches`); `probe` (`before`
  and `after`, each `measure`, `value`, `low`, `high`, `method`, `converged`; for an accuracy `right` and `examples`);
* `kernels`: a row per kernel with `path`, `stage`, `shape`, `matrix`, and `before`, `after`, `change`, each with
  `effective_rank` and `singular_values` (the eight largest);
* `line`: a row per point with `share` and, by metric, `value`, `low`, `high`;
* `notes`: sentences for the reader of the numbers.

An undefined number is null.
"""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from tlx import report
from tlx.analysis.changes import features, line, weights
from tlx.data import Examples, subset
from tlx.functional.selection import reads_validation
from tlx.recipe import Recipe
from tlx.records.log import write_json
from tlx.records.run_directory import MOVED, writing
from tlx.training.reopen import Batches, Reopened, batches_of, reopen
from tlx.trees import Json, flatten

EXAMPLES = 512
Say = Callable[[str, int, int], None]


def moved(
    run: str | Path | Any, *, examples: int = EXAMPLES, recipe: Recipe | None = None, say: Say | None = None
) -> Json:
    """Measure how a finished run changed its weights and features, write `moved.json` into its folder, and redraw its
    page.

    Args:
        run: the folder, or the return value of `tlx.run`.
        examples: the largest number of examples of the training split (for the probes) and of the validation split (for
            everything). The test split is never read.
        recipe: the recipe of the run's config file; needed if the model is your own module.
        say: called as `say(part, done, total)` to report progress.

    Returns:
        The document (see `tlx.analysis.changes`).

    Raises:
        FileNotFoundError: There is no finished run.
        ValueError: The initial weights cannot be rebuilt, or `examples` is too small.
    """
    if examples < 8:
        raise ValueError(
            f"examples is {examples}; expected 8 or more, because the unbiased similarity needs 4 in each batch"
        )
    path = Path(getattr(run, "folder", run))
    report_progress = say or (lambda part, done, total: None)
    with writing(path) if path.is_dir() else nullcontext():
        opened = reopen(path, recipe)
        splits = opened.splits
        chosen = {"train": some(splits.labelled, examples), "validation": some(splits.validation, examples)}
        document = measured(opened, chosen, report_progress)
        write_json(path / MOVED, document)
        if report.available():
            report_progress("page", 0, 1)
            report.write_run(path, opened.ready.task)
            report_progress("page", 1, 1)
    return document


def some(examples: Examples, count: int) -> Examples:
    """Return at most `count` of the examples, in equal shares of every class; the draw is the same each time."""
    if len(examples) <= count:
        return examples
    positions = subset(examples.strata(), fraction=count / len(examples), seed=0)
    # Shares are rounded, so the draw may exceed the requested count by a few examples.
    return examples.view(np.sort(np.random.default_rng(0).permutation(positions)[:count]))


def measured(opened: Reopened, chosen: dict[str, Examples], report_progress: Say) -> Json:
    """Return the document of `moved.json`."""
    ready, result = opened.ready, opened.result
    names = [stage.name for stage in ready.model.stages]
    declared = flatten(ready.model.params)
    before, after = opened.before.params, opened.after.params
    leaves = weights.changes(before, after, names, declared.keys())
    owners = [*names, *sorted({row["stage"] for row in leaves} - set(names))]
    leaves.sort(key=lambda row: owners.index(row["stage"]))
    kernels = weights.spectra(
        before, after, leaves, lambda done, total: report_progress("spectra of kernels", done, total)
    )
    batches = {name: batches_of(opened, examples) for name, examples in chosen.items()}
    stage_rows = stages(opened, batches, report_progress)
    rows = []
    for name in owners:
        leaves_of_stage = [row for row in leaves if row["stage"] == name]
        rows.append(
            {"name": name, "weights": weights.by_kind(leaves_of_stage) if leaves_of_stage else {}}
            | stage_rows.get(name, {})
        )
    fresh = list(opened.new)
    return {
        "version": 1,
        "fingerprint": result["fingerprint"],
        "data": result["data"],
        "before": {
            "source": ready.manifest.source,
            "scratch": not ready.manifest.entries,
            "fresh": fresh,
            "fresh_stages": sorted({weights.stage_of(path, names) for path in fresh}, key=owners.index),
        },
        "after": {"selection": result["selection"], "step": result["selected_step"]},
        "examples": {
            name: {"count": len(examples), "of": len(getattr(opened.splits, name)), "indices": examples.rows.tolist()}
            for name, examples in chosen.items()
        },
        "leaves": leaves,
        "stages": rows,
        "kernels": kernels,
        "line": line.path(
            opened, batches["validation"], report_progress=lambda done, total: report_progress("the line", done, total)
        ),
        "notes": notes(opened, fresh),
    }


def stages(opened: Reopened, batches: dict[str, Batches], report_progress: Say) -> dict[str, Json]:
    """Return `similarity` and `probe` of every stage, by its name."""
    read, rows = features.reader(opened), {}
    sides = (opened.before, opened.after)
    passed: dict[str, list[features.Features]] = {"train": [], "validation": []}
    for split, tables in passed.items():
        for variables in sides:
            report_progress("features", sum(map(len, passed.values())), 4)
            tables.append(read(variables, batches[split]))
    report_progress("features", 4, 4)
    classes, names = bool(opened.ready.task.names), [stage.name for stage in opened.ready.model.stages]
    for number, name in enumerate(names, 1):
        old, new = (side[name] for side in passed["validation"])
        probes = {}
        for when, train, validation in zip(("before", "after"), passed["train"], passed["validation"], strict=True):
            # A probe reads one label for each example.
            if "label" in train and train["label"].ndim == 1:
                pairs = [(side[name].reshape(len(side["label"]), -1), side["label"]) for side in (train, validation)]
                probes[when] = features.probe(pairs[0], pairs[1], classes)
        rows[name] = {"similarity": features.similarity(old, new)} | ({"probe": probes} if probes else {})
        report_progress("probes", number, len(names))
    return rows


def notes(opened: Reopened, fresh: list[str]) -> list[str]:
    """Return the notes for the reader of the numbers."""
    messages, scratch = [], not opened.ready.manifest.entries
    if scratch:
        messages.append(
            "There are no pretrained weights: 'before' means the random initial weights from the recipe's seed."
        )
    elif fresh:
        messages.append(
            f"{len(fresh)} parameters are not in the pretrained weights and were drawn from the recipe's seed "
            f"({', '.join(fresh[:3])}{', ...' if len(fresh) > 3 else ''}): at share 0 of the line they are random."
        )
    if reads_validation(opened.result["selection"]):
        messages.append(
            "The checkpoint was chosen on the validation split, so measurements on this split are too optimistic "
            "'after'."
        )
    messages.append("A probe after training reads features that were fitted to the labels of its training examples.")
    return messages


__all__ = ["EXAMPLES", "moved"]
