"""Compare the methods on a recipe's data: features of the pretrained model, seeds, differences, the document."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tlx import config
from tlx.analysis.classical.methods import BASE, METHODS, Answer, Inputs, optimal_transport, standard
from tlx.data import Examples, Splits, has_test, load
from tlx.files.documents import holds_file
from tlx.functional import significance
from tlx.recipe import Recipe
from tlx.records import run_directory
from tlx.records.log import write_json
from tlx.training.evaluate import feature_reader
from tlx.training.prepare import Prepared, prepare
from tlx.trees import Json, flatten, near_miss

DOCUMENT = "classical.json"
Say = Callable[[str], None]


def compare(
    recipe: Recipe,
    out: str | Path,
    *,
    methods: Sequence[str] | None = None,
    seeds: int = 5,
    say: Say | None = None,
) -> Json:
    """Measure classical methods on the inputs of the head before any training, against logistic regression on the
    source.

    Writes `classical.json` into the folder `out`.

    Args:
        recipe: a recipe with one source and a classification task.
        out: the folder of the document.
        methods: names of methods; None for all whose labels the setting grants, without transport if its extra is
            missing.
        seeds: the number of seeds, from the recipe's seed on; each draws other labels of the target.
        say: called with a sentence to report progress.

    Returns:
        The document (see `tlx.analysis.classical`).

    Raises:
        ValueError: The recipe has no source, the task is no classification, or a method is unknown or needs labels that
            are not granted.
        ImportError: "ot" is named and the extra `tlx[classical]` is missing; raised before any measurement.
    """
    chosen = check(recipe, methods, seeds)
    path, report_progress = Path(out), say or (lambda sentence: None)
    with run_directory.writing(path):
        return _compare(recipe, path, chosen, seeds, report_progress)


def _compare(recipe: Recipe, path: Path, chosen: list[str], seeds: int, report_progress: Say) -> Json:
    """Run `compare` in a folder that is locked."""
    if holds_file(path / run_directory.RECIPE):
        raise FileExistsError(f"{path} contains a run, and tlx does not overwrite it; choose another folder with --out")
    read = Reader()
    answers: dict[str, list[Answer]] = {name: [] for name in chosen}
    seconds = dict.fromkeys(chosen, 0.0)
    draws: list[tuple[Splits, Prepared]] = []
    inputs: Inputs | None = None
    for seed in range(recipe.seed, recipe.seed + seeds):
        seeded = dataclasses.replace(recipe, seed=seed)
        splits = load(seeded.data, seed)
        ready = read.ready(seeded, splits)
        before, inputs = inputs, read.inputs(splits)
        draws.append((splits, ready))
        for name in chosen:
            # Without granted labels, the seed may change nothing.
            if before is not None and not METHODS[name].needs and same(before, inputs):
                answers[name].append(answers[name][-1])
                continue
            report_progress(f"seed {seed}: {METHODS[name].about}")
            start = time.perf_counter()
            answers[name].append(METHODS[name].answer(standard(inputs)))
            seconds[name] += time.perf_counter() - start
    document = build_document(recipe, draws, answers, seconds, inputs)
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / DOCUMENT, document)
    return document


def check(recipe: Recipe, methods: Sequence[str] | None, seeds: int) -> list[str]:
    """Return the methods to measure, source-only first; raises the errors of `compare`."""
    if recipe.data.source is None:
        raise ValueError("the recipe has no source, but these methods transfer from a source; give Data(source=...)")
    if len(recipe.data.sources) > 1:
        raise ValueError(
            f"these methods transfer from one source, but data.source is {recipe.data.source}: name one source"
        )
    if not recipe.task.exclusive:
        raise ValueError(f"classical methods are for tasks.Classification, not tasks.{type(recipe.task).__name__}")
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; expected 1 or more, and 2 or more for intervals over seeds")
    if not has_test(recipe.data):
        raise ValueError(
            f"these methods are compared on the test split, but {recipe.data.target!r} has no test split with "
            "labels: set data.test_on='validation' to test on its validation split"
        )
    granted = "labelled" in recipe.data.stream_names
    names = methods
    if names is None:
        names = [name for name, method in METHODS.items() if granted or not method.needs]
        if find_spec("ot") is None:
            names.remove("ot")
    for name in names:
        if name not in METHODS:
            raise ValueError(f"there is no method {name!r}{near_miss(name, METHODS)}")
        if METHODS[name].needs and not granted:
            raise ValueError(f"the method {name!r} needs labels of the target, but data.labels is 0, which grants none")
    if "ot" in names:
        optimal_transport()
    return list(dict.fromkeys([BASE, *names]))


class Reader:
    """Compute and cache features by split, as long as the weights below the head stay the same."""

    def __init__(self) -> None:
        self.features: dict[Any, np.ndarray] = {}
        self.last: Prepared | None = None
        self.read: Callable[[Examples], dict[str, np.ndarray]] | None = None

    def ready(self, recipe: Recipe, splits: Splits) -> Prepared:
        """Return the prepared recipe, whose model computes the features from now on."""
        ready = prepare(recipe, splits, self.last)
        if self.last is None or not alike(self.last, ready):
            self.features.clear()
            self.read = partial(feature_reader(ready), ready.pretrained)
        self.last = ready
        return ready

    def inputs(self, splits: Splits) -> Inputs:
        """Return the data that the streams grant, without the labels of the test split."""
        source, target = (splits.streams[name] for name in ("source", "unlabelled"))
        rows, labelled = self.rows(target), splits.streams.get("labelled")
        positions = np.zeros(0, int) if labelled is None else np.searchsorted(target.rows, labelled.rows)
        labels = np.zeros(0, np.int32) if labelled is None else labelled.labels()
        return Inputs(self.rows(source), source.labels(), rows, rows[positions], labels, self.rows(splits.test))

    def rows(self, examples: Examples) -> np.ndarray:
        """Return the inputs of the head for each example, in order, [N, W] in float64."""
        key = (examples.name, examples.split, examples.identity)
        if key not in self.features:
            assert self.read is not None
            self.features[key] = self.read(examples)["features"].astype(np.float64)
        return self.features[key]


def alike(first: Prepared, second: Prepared) -> bool:
    """Return whether both compute the same features: their weights differ at most in the head."""
    head = f"{second.model.stages[-1].name}/"
    sides = [
        {
            **flatten(prepared.pretrained.params),
            **{f"stats:{path}": leaf for path, leaf in flatten(prepared.pretrained.stats).items()},
        }
        for prepared in (first, second)
    ]
    below = [path for path in sides[1] if not path.startswith(head)]
    return all(sides[0][path] is sides[1][path] or np.array_equal(sides[0][path], sides[1][path]) for path in below)


def same(first: Inputs, second: Inputs) -> bool:
    """Return whether a method that reads no granted label gets the same arrays."""
    return all(getattr(first, name) is getattr(second, name) for name in ("source", "target", "test"))


def build_document(
    recipe: Recipe,
    draws: Sequence[tuple[Splits, Prepared]],
    answers_by_method: dict[str, list[Answer]],
    seconds: dict[str, float],
    inputs: Inputs | None,
) -> Json:
    """Return the document."""
    assert inputs is not None
    test = draws[0][0].test
    labels = test.labels()
    correct = {
        name: np.stack([item.classes == labels for item in answers]) for name, answers in answers_by_method.items()
    }
    rows = [method_row(name, answers, seconds[name], correct) for name, answers in answers_by_method.items()]
    add_verdicts([row["difference"] for row in rows if "difference" in row])
    ready = draws[0][1]
    return {
        "version": 1,
        "recipe": config.fingerprint(recipe),
        "source": recipe.data.source,
        "target": recipe.data.target,
        "weights": ready.manifest.source,
        "width": inputs.source.shape[1],
        "examples": {
            "source": len(inputs.source), "target": len(inputs.target), "granted": len(inputs.granted),
            "test": len(test),
        },
        "seeds": [
            {"seed": item.recipe.seed, "data": splits.fingerprint, "granted": granted_rows(splits)}
            for splits, item in draws
        ],
        "methods": rows,
        "predictions": {
            "classes": list(ready.task.names),
            "indices": test.rows.tolist(),
            "labels": labels.tolist(),
            "by_method": {
                name: [item.classes.tolist() for item in answers] for name, answers in answers_by_method.items()
            },
        },
        "notes": notes(recipe, draws, answers_by_method),
    }  # fmt: skip


def method_row(name: str, answers: Sequence[Answer], seconds: float, correct: Mapping[str, np.ndarray]) -> Json:
    """Return the row of a method in the document.

    `correct` [seeds, examples] says, for each method, which answers are right.
    """
    accuracies = correct[name].mean(1)
    mean, low, high = significance.over_seeds(accuracies, (0.0, 1.0))
    row = {
        "name": name, "about": METHODS[name].about, "accuracies": accuracies.tolist(), "accuracy": mean,
        "low": number(low), "high": number(high), "seconds": seconds, "told": [item.details for item in answers],
    }  # fmt: skip
    return row if name == BASE else row | {"difference": difference_from(correct[name], correct[BASE])}


def difference_from(correct: np.ndarray, base: np.ndarray) -> Json:
    """Return the gain in accuracy over the base, with intervals and a p-value; both arrays are [seeds, examples]."""
    gain = significance.paired(correct.mean(1), base.mean(1), (0.0, 1.0))
    both = significance.over_seeds_and_examples(correct, base)
    # If no seed changes a method, there is one pair of models, compared over the examples alone.
    fixed = all((side == side[0]).all() for side in (correct, base))
    p = significance.mcnemar(correct[0], base[0]) if fixed else significance.t_test(gain)
    return {
        "mean": gain.mean, "low": number(gain.low), "high": number(gain.high), "pairs": gain.pairs,
        "examples_low": both[1], "examples_high": both[2], "p": p, "by": "examples" if fixed else "seeds",
    }  # fmt: skip


def add_verdicts(differences: Sequence[Json]) -> None:
    """Add Holm's p-value over all `differences`, and the verdict, to each."""
    corrected = significance.holm([difference["p"] for difference in differences])
    for difference, p in zip(differences, corrected, strict=True):
        ends = [
            difference[end]
            for end in (("examples_low", "examples_high") if difference["by"] == "examples" else ("low", "high"))
        ]
        verdict = "not compared" if None in ends else significance.verdict(*ends)
        if verdict != "not compared" and p >= 1 - significance.LEVEL:
            verdict = "no difference shown"
        difference |= {"holm": p, "verdict": verdict}


def granted_rows(splits: Splits) -> list[int]:
    return splits.streams["labelled"].rows.tolist() if "labelled" in splits.streams else []


def number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def notes(
    recipe: Recipe, draws: Sequence[tuple[Splits, Prepared]], answers_by_method: dict[str, list[Answer]]
) -> list[str]:
    """Return the notes for the reader of the numbers."""
    messages = [
        "The features are the inputs of the head before any training, scaled by the mean and spread of source and "
        "target."
    ]
    messages += [f"{note[0].upper()}{note[1:]}." for note in draws[0][1].notes]
    if "ot" not in answers_by_method and find_spec("ot") is None:
        messages.append("Optimal transport was left out, because POT is not installed: pip install 'tlx[classical]'.")
    if not draws[0][1].manifest.entries:
        messages.append(
            "There are no pretrained weights: the features of each seed come from its random initial weights."
        )
    elif len(draws) > 1:
        messages.append(
            "A method that reads no granted label predicts the same for every seed: its p is McNemar's over the "
            "examples, and its verdict uses the interval over the examples."
        )
    if short := sorted(
        name for name, answers in answers_by_method.items() if any(not item.details["converged"] for item in answers)
    ):
        messages.append(f"The fits of {', '.join(short)} reached the maximum number of steps before they converged.")
    if len(draws) > 1 and recipe.data.subset_seed is not None:
        messages.append(f"data.subset_seed is {recipe.data.subset_seed}: every seed uses the same labels.")
    return messages
