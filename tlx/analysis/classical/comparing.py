"""The methods on a recipe's data: features of the model as it was brought, seeds, differences, the document."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tlx import config
from tlx.analysis.classical.methods import BASE, METHODS, Answer, Given, optimal_transport, standard
from tlx.data import Examples, Splits, has_test, load
from tlx.functional import significance
from tlx.recipe import Recipe
from tlx.records import run_directory
from tlx.records.log import write_json
from tlx.training.evaluate import feature_reader
from tlx.training.prepare import Prepared, prepare
from tlx.trees import flatten, near_miss

DOCUMENT = "classical.json"
Say = Callable[[str], None]


def compare(
    recipe: Recipe,
    out: str | Path,
    *,
    methods: Sequence[str] | None = None,
    seeds: int = 5,
    say: Say | None = None,
) -> dict[str, Any]:
    """Measures classical methods on what the head of the recipe's model reads before any training, against logistic
    regression on the source; writes `classical.json` into the folder `out` and returns the document (see
    `tlx.analysis.classical`).

    `methods` None are all that the setting grants labels for, without transport where its extra is not installed.
    Seeds count from the recipe's; each draws the target's labels anew. `say(sentence)` is called as the work goes on.
    Raises ValueError for a recipe without a source, a task that is no classification, a method that is not there or
    needs labels that are not granted; ImportError, before anything is measured, where "ot" is named and the extra
    `tlx[classical]` is missing.
    """
    chosen = check(recipe, methods, seeds)
    path, tell = Path(out), say or (lambda sentence: None)
    with run_directory.writing(path):
        return _compare(recipe, path, chosen, seeds, tell)


def _compare(recipe: Recipe, path: Path, chosen: list[str], seeds: int, tell: Say) -> dict[str, Any]:
    """Do the work of `compare` in a folder that is locked."""
    if (path / run_directory.RECIPE).is_file():
        raise FileExistsError(f"{path} holds a run, which stays as it is; choose another folder with --out")
    read = Reader()
    said: dict[str, list[Answer]] = {name: [] for name in chosen}
    seconds = dict.fromkeys(chosen, 0.0)
    drawn: list[tuple[Splits, Prepared]] = []
    given: Given | None = None
    for seed in range(recipe.seed, recipe.seed + seeds):
        own = dataclasses.replace(recipe, seed=seed)
        splits = load(own.data, seed)
        ready = read.ready(own, splits)
        before, given = given, read.given(splits)
        drawn.append((splits, ready))
        for name in chosen:
            # Without granted labels there may be nothing that a seed changes.
            if before is not None and not METHODS[name].needs and same(before, given):
                said[name].append(said[name][-1])
                continue
            tell(f"seed {seed}: {METHODS[name].about}")
            start = time.perf_counter()
            said[name].append(METHODS[name].answer(standard(given)))
            seconds[name] += time.perf_counter() - start
    document = told(recipe, drawn, said, seconds, given)
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / DOCUMENT, document)
    return document


def check(recipe: Recipe, methods: Sequence[str] | None, seeds: int) -> list[str]:
    """The methods that are to be measured, source-only first; the errors of `compare`."""
    if recipe.data.source is None:
        raise ValueError("the recipe has no source, which these methods transfer from; give Data(source=...)")
    if len(recipe.data.sources) > 1:
        raise ValueError(f"these methods transfer from one source, and data.source is {recipe.data.source}: name one")
    if not recipe.task.exclusive:
        raise ValueError(f"classical methods are for tasks.Classification, not tasks.{type(recipe.task).__name__}")
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; give 1 or more, and 2 for intervals over seeds")
    if not has_test(recipe.data):
        raise ValueError(
            f"these methods are compared on the test split, and {recipe.data.target!r} has none with labels: "
            "data.test_on='validation' tests on its validation split"
        )
    granted = "labelled" in recipe.data.stream_names
    asked = methods
    if asked is None:
        asked = [name for name, method in METHODS.items() if granted or not method.needs]
        if find_spec("ot") is None:
            asked.remove("ot")
    for name in asked:
        if name not in METHODS:
            raise ValueError(f"no method {name!r}{near_miss(name, METHODS)}")
        if METHODS[name].needs and not granted:
            raise ValueError(f"the method {name!r} needs labels of the target; data.labels is 0, which grants none")
    if "ot" in asked:
        optimal_transport()
    return list(dict.fromkeys([BASE, *asked]))


class Reader:
    """Features by the split they are of, kept while the numbers below the head stay the same."""

    def __init__(self) -> None:
        self.known: dict[Any, np.ndarray] = {}
        self.last: Prepared | None = None
        self.read: Callable[[Examples], dict[str, np.ndarray]] | None = None

    def ready(self, recipe: Recipe, splits: Splits) -> Prepared:
        """The recipe made ready, whose model is the one that is read from now on."""
        ready = prepare(recipe, splits, self.last)
        if self.last is None or not alike(self.last, ready):
            self.known.clear()
            self.read = partial(feature_reader(ready), ready.pretrained)
        self.last = ready
        return ready

    def given(self, splits: Splits) -> Given:
        """What the streams of the data grant; the test split's labels are not among it."""
        source, target = (splits.streams[name] for name in ("source", "unlabelled"))
        rows, labelled = self.rows(target), splits.streams.get("labelled")
        known = np.zeros(0, int) if labelled is None else np.searchsorted(target.rows, labelled.rows)
        labels = np.zeros(0, np.int32) if labelled is None else labelled.labels()
        return Given(self.rows(source), source.labels(), rows, rows[known], labels, self.rows(splits.test))

    def rows(self, examples: Examples) -> np.ndarray:
        """What the head reads of each example, in order, [N, W] in float64."""
        key = (examples.name, examples.split, examples.identity)
        if key not in self.known:
            assert self.read is not None
            self.known[key] = self.read(examples)["features"].astype(np.float64)
        return self.known[key]


def alike(one: Prepared, other: Prepared) -> bool:
    """Whether both read the same features: their numbers differ in the head at most."""
    head = f"{other.model.stages[-1].name}/"
    sides = [
        {
            **flatten(own.pretrained.params),
            **{f"stats:{path}": leaf for path, leaf in flatten(own.pretrained.stats).items()},
        }
        for own in (one, other)
    ]
    below = [path for path in sides[1] if not path.startswith(head)]
    return all(sides[0][path] is sides[1][path] or np.array_equal(sides[0][path], sides[1][path]) for path in below)


def same(one: Given, other: Given) -> bool:
    """Whether a method that reads no granted label is given the same arrays."""
    return all(getattr(one, name) is getattr(other, name) for name in ("source", "target", "test"))


def told(
    recipe: Recipe,
    drawn: Sequence[tuple[Splits, Prepared]],
    said: dict[str, list[Answer]],
    seconds: dict[str, float],
    given: Given | None,
) -> dict[str, Any]:
    """The document."""
    assert given is not None
    test = drawn[0][0].test
    labels = test.labels()
    correct = {name: np.stack([own.classes == labels for own in answers]) for name, answers in said.items()}
    rows = []
    for name, answers in said.items():
        accuracies = correct[name].mean(1)
        mean, low, high = significance.over_seeds(accuracies, (0.0, 1.0))
        row = {
            "name": name, "about": METHODS[name].about, "accuracies": accuracies.tolist(), "accuracy": mean,
            "low": number(low), "high": number(high), "seconds": seconds[name], "told": [own.told for own in answers],
        }  # fmt: skip
        if name != BASE:
            gain = significance.paired(accuracies, correct[BASE].mean(1), (0.0, 1.0))
            both = significance.over_seeds_and_examples(correct[name], correct[BASE])
            # What no seed changes is one pair of models, of which the examples alone can tell.
            fixed = all((side == side[0]).all() for side in (correct[name], correct[BASE]))
            p = significance.mcnemar(correct[name][0], correct[BASE][0]) if fixed else significance.t_test(gain)
            row["difference"] = {
                "mean": gain.mean, "low": number(gain.low), "high": number(gain.high), "pairs": gain.pairs,
                "examples_low": both[1], "examples_high": both[2], "p": p, "by": "examples" if fixed else "seeds",
            }  # fmt: skip
        rows.append(row)
    compared = [row["difference"] for row in rows if "difference" in row]
    for found, p in zip(compared, significance.holm([one["p"] for one in compared]), strict=True):
        ends = [
            found[end] for end in (("examples_low", "examples_high") if found["by"] == "examples" else ("low", "high"))
        ]
        verdict = "not compared" if None in ends else significance.verdict(*ends)
        if verdict != "not compared" and p >= 1 - significance.LEVEL:
            verdict = "no difference shown"
        found |= {"holm": p, "verdict": verdict}
    ready = drawn[0][1]
    return {
        "version": 1,
        "recipe": config.fingerprint(recipe),
        "source": recipe.data.source,
        "target": recipe.data.target,
        "weights": ready.manifest.source,
        "width": given.source.shape[1],
        "examples": {
            "source": len(given.source), "target": len(given.target), "granted": len(given.granted), "test": len(test),
        },
        "seeds": [
            {"seed": own.recipe.seed, "data": splits.fingerprint, "granted": granted_rows(splits)}
            for splits, own in drawn
        ],
        "methods": rows,
        "predictions": {
            "classes": list(ready.task.names),
            "indices": test.rows.tolist(),
            "labels": labels.tolist(),
            "by_method": {name: [own.classes.tolist() for own in answers] for name, answers in said.items()},
        },
        "notes": notes(recipe, drawn, said),
    }  # fmt: skip


def granted_rows(splits: Splits) -> list[int]:
    return splits.streams["labelled"].rows.tolist() if "labelled" in splits.streams else []


def number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def notes(recipe: Recipe, drawn: Sequence[tuple[Splits, Prepared]], said: dict[str, list[Answer]]) -> list[str]:
    """What a reader of the numbers must know."""
    found = [
        "Features are what the head reads before any training, scaled by the mean and spread of source and target."
    ]
    found += [f"{note[0].upper()}{note[1:]}." for note in drawn[0][1].notes]
    if "ot" not in said and find_spec("ot") is None:
        found.append("Optimal transport was left out, for POT is not installed: pip install 'tlx[classical]'.")
    if not drawn[0][1].manifest.entries:
        found.append("Nothing was brought: each seed's features are those of its initial draw.")
    elif len(drawn) > 1:
        found.append(
            "What reads no granted label answers the same for every seed: its p is McNemar's over the examples, and "
            "its verdict goes by the interval over these."
        )
    if short := sorted(name for name, answers in said.items() if any(not own.told["converged"] for own in answers)):
        found.append(f"The fits of {', '.join(short)} ran out of steps before they had converged.")
    if len(drawn) > 1 and recipe.data.subset_seed is not None:
        found.append(f"data.subset_seed is {recipe.data.subset_seed}: every seed is granted the same labels.")
    return found
