"""Measure the time that the feature cache and vectorised runs save, in whole processes from start to last file.

    python benchmarks/studies.py cache      [--depth 0|1|2] [--sentences 5000] [--epochs 20] [--pairs 1]
    python benchmarks/studies.py vectorised [--runs 32] [--epochs 20] [--pairs 1]
    python benchmarks/studies.py lora       [--runs 16] [--pairs 1]
    python benchmarks/studies.py scripts    [--runs 32] [--naive 2] [--pairs 1]

`cache`: MiniLM on movie reviews with the feature cache (`cached`) against the same run without it (`uncached`).
`--depth` is the number of trainable blocks beside the head (0: a linear probe). The cache is empty when the run begins.
The script prints the arithmetic limit (frozen + trainable) / (frozen / epochs + trainable), in passes through a block;
a trainable block counts three passes.
`vectorised`: probe runs that differ in seed and learning rate. In one program (`vectorised`), against one process per
run (`processes`, as with that number of `tlx run` calls), against the runs one after another in one process
(`sequential`), and against one run (`single`). All sides read features that are already in the cache.
`lora`: LoRA runs on a small ViT, vectorised and sequential, and the choice of the planner between the two.
`scripts`: a study of probe runs with an empty feature cache (`study`) against two scripts written by hand. The
`careful` script computes the features once with torch and fits each run with scikit-learn. The `naive` script computes
the features again for each run; it is measured for `--naive` runs and its time is scaled to `--runs`.

Every side is a separate process, measured from its start to its end. The sides take turns (A B, B A, ...). One
unmeasured turn fills the compilation cache of JAX first. The script prints the share of the cores that other processes
use.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pairs import processor, settle

TOKENS = 48
# Number of validation and test sentences. Every side reads them once.
HELD_OUT = 3056


def recipe(sentences: int, epochs: int, depth: int = 0, seed: int = 0, rate: float = 1e-3) -> Any:
    """Return a recipe of MiniLM on movie reviews in which `depth` blocks and the head are trainable."""
    from tlx import Data, Optim, Recipe, Train, Weights, tasks, tuning

    way = tuning.Probe() if depth == 0 else tuning.Freeze(through=f"blocks/{5 - depth:02d}")
    # Both sides put texts of similar length into one batch. This means less padding, so the cache saves less.
    data = Data(
        target="sentiment/movies",
        shots=sentences // 2,
        subset_seed=0,
        tokens=TOKENS,
        buckets=(16, 24, 32, 48),
        group=16,
    )
    return Recipe(
        data=data,
        task=tasks.Classification(classes=2),
        weights=Weights("minilm-l6", pooling="mean"),
        tuning=way,
        optim=Optim(lr=rate, weight_decay=0.01, warmup=0.1, schedule="linear"),
        train=Train(epochs=epochs, batch=32, eval_every=epochs * -(-sentences // 32)),
        seed=seed,
    )


def grid(runs: int, sentences: int, epochs: int) -> list[Any]:
    """Return recipes of linear probes: all combinations of seeds and learning rates."""
    return [recipe(sentences, epochs, seed=n // 8, rate=1e-3 * 2 ** (n % 8)) for n in range(runs)]


def vit(seed: int, rate: float) -> Any:
    """Return a recipe of LoRA on a small vision transformer."""
    from tlx import Data, Optim, Recipe, Train, models, tasks, tuning

    return Recipe(
        data=Data(target="digits", subset_seed=0),
        task=tasks.Classification(classes=10),
        model=models.Vit(size=8, patch=2, channels=1, width=64, depth=4, heads=4, mlp=128),
        tuning=tuning.Lora(rank=4),
        optim=Optim(lr=rate),
        train=Train(steps=60, batch=32, eval_every=60),
        seed=seed,
    )


def work(side: str, out: Path, options: argparse.Namespace) -> None:
    """Do the work of one side in this process."""
    if side in ("careful", "naive"):
        by_hand(side, options)
        return
    from tlx import run
    from tlx.training import run_many
    from tlx.training.loop import How

    if side in ("cached", "uncached"):
        experiment = recipe(options.sentences, options.epochs, options.depth)
        run(experiment, out, how=How(quiet=True, leave="learned", feature_cache=side == "cached"))
        return
    lora = side.startswith("lora")
    if lora:
        recipes = [vit(n // 4, 1e-3 * 2 ** (n % 4)) for n in range(options.runs)]
    else:
        recipes = grid(options.runs, options.sentences, options.epochs)
    most = {"sequential": 1, "lora sequential": 1}.get(side, 64)
    if side == "single":
        recipes = recipes[options.nth : options.nth + 1]
    if side == "processes":
        for n in range(options.runs):
            arguments = [*sys.argv[1:], "--side", "single", "--nth", str(n), "--out", str(out / str(n))]
            subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True)
        return
    if side == "study":
        study_of(options, out)
        return
    if side == "lora vectorised":
        # The planner groups runs if the expected time of the group is below GAIN times that of the single runs.
        run_many.GAIN = 1e9
    choices: list[Any] = []
    outcomes = run_many.run_many(recipes, [out / str(n) for n in range(len(recipes))], most=most, note=choices.append)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    for choice in choices:
        print(f"planner: {choice['how']}, {choice['why']}", flush=True)


def study_of(options: argparse.Namespace, out: Path) -> None:
    """Run the probes as a study: with claims, records, the table of results and the report."""
    from tlx import Study
    from tlx.study import run_study

    cells = [{"seed": n // 8, "optim.lr": 1e-3 * 2 ** (n % 8)} for n in range(options.runs)]
    base = recipe(options.sentences, options.epochs)
    summary = run_study(Study(base=base, cells=cells, question="Which rate?"), out, quiet=True)
    if summary.counts["done"] < options.runs:
        raise SystemExit(f"the study did not finish all cells: {summary.counts}")


def by_hand(side: str, options: argparse.Namespace) -> None:
    """Run a script written by hand.

    It computes the features with torch (mean over tokens, texts sorted by length), fits one logistic regression per run
    with scikit-learn, and prints its accuracies.
    """
    import numpy as np
    import torch
    from sklearn.linear_model import LogisticRegression
    from transformers import AutoModel, AutoTokenizer

    from tlx import assets, data

    directory = assets.extract("minilm-l6")
    splits = data.load(recipe(options.sentences, 1).data, 0)
    tokenizer, model = AutoTokenizer.from_pretrained(directory), AutoModel.from_pretrained(directory).eval()

    def features(examples: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the features and the labels of a split."""
        texts = [examples[n]["text"] for n in range(len(examples))]
        order = np.argsort([len(text) for text in texts])
        values = np.empty((len(texts), 384), np.float32)
        with torch.inference_mode():
            for start in range(0, len(texts), 64):
                rows = order[start : start + 64]
                inputs = tokenizer(
                    [texts[n] for n in rows], padding=True, truncation=True, max_length=TOKENS, return_tensors="pt"
                )
                hidden = model(**inputs).last_hidden_state
                mask = inputs["attention_mask"][..., None]
                values[rows] = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
        return values, examples.labels()

    runs = options.runs if side == "careful" else options.naive
    arrays = None
    for n in range(runs):
        if arrays is None or side == "naive":
            arrays = [features(part) for part in (splits.train, splits.validation, splits.test)]
        (x, y), *evaluation = arrays
        # The regularisation varies between runs as the learning rate varies in the study.
        fit = LogisticRegression(C=10.0 ** (n % 8 - 3), max_iter=1000, random_state=n).fit(x, y)
        print(n, *(f"{fit.score(*other):.4f}" for other in evaluation))


def clear(side: str) -> None:
    """Empty the feature cache for the sides that begin without cached features."""
    if side in ("cached", "study"):
        from tlx.training import feature_cache

        feature_cache.clear()


def measure(side: str, arguments: list[str], patience: float, show: bool) -> tuple[float, float]:
    """Run one side in a new process.

    Args:
        side: name of the side.
        arguments: arguments of this script.
        patience: longest time to wait for an idle machine, in seconds.
        show: print the choices of the planner.

    Returns:
        The seconds of the process, and the share of the cores that other processes used.
    """
    clear(side)
    settle(patience)
    with tempfile.TemporaryDirectory() as folder:
        before, used, start = processor(), child_seconds(), time.perf_counter()
        process = subprocess.run(
            [sys.executable, __file__, *arguments, "--side", side, "--out", folder],
            capture_output=True,
            text=True,
            check=False,
        )
        seconds, after = time.perf_counter() - start, processor()
        if process.returncode:
            raise SystemExit(process.stderr)
        if show:
            print("".join(line + "\n" for line in process.stdout.splitlines() if line.startswith("planner")), end="")
    others = after[0] - before[0] - (child_seconds() - used)
    return seconds, max(0.0, others / max(after[1] - before[1], 1e-9))


def child_seconds() -> float:
    """Return the CPU seconds of the child processes that have ended."""
    import resource

    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


SIDES = {
    "cache": ("cached", "uncached"),
    "vectorised": ("vectorised", "processes", "sequential", "single"),
    "lora": ("lora vectorised", "lora sequential", "lora planned"),
    "scripts": ("study", "careful", "naive"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", choices=SIDES)
    parser.add_argument("--depth", type=int, choices=(0, 1, 2), default=0, help="trainable blocks beside the head")
    parser.add_argument("--sentences", type=int, default=5000, help="training sentences")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--runs", type=int, default=32, help="number of runs")
    parser.add_argument("--naive", type=int, default=2, help="runs of the naive script that are measured")
    parser.add_argument("--pairs", type=int, default=1, help="number of turns")
    parser.add_argument("--patience", type=float, default=20.0, help="seconds to wait for an idle machine")
    parser.add_argument("--no-warm", action="store_true", help="skip the unmeasured first turn")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--nth", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        work(options.side, options.out, options)
        return
    names = ("depth", "sentences", "epochs", "runs", "naive")
    arguments = [options.comparison]
    arguments += [word for name in names for word in (f"--{name}", str(getattr(options, name)))]
    sides = SIDES[options.comparison]
    if not options.no_warm:
        # One epoch compiles the same programs.
        short = arguments.copy()
        short[short.index("--epochs") + 1] = "1"
        short[short.index("--naive") + 1] = "1"
        for side in sides:
            measure(side, short, 0.0, False)
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(options.pairs):
        for side in sides if turn % 2 == 0 else reversed(sides):
            duration, others = measure(side, arguments, options.patience, turn == 0)
            duration *= options.runs / options.naive if side == "naive" else 1
            seconds[side].append(duration)
            print(f"turn {turn + 1}: {side} {duration:.1f} s (other processes: {others:.0%} of the cores)", flush=True)
    first, *rest = sides
    for side in rest:
        ratios = [other / base for base, other in zip(seconds[first], seconds[side], strict=True)]
        if side == "single":
            print(f"{first} / {side}: {statistics.median(1 / ratio for ratio in ratios):.2f}")
        else:
            print(f"{side} / {first}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    if options.comparison == "cache":
        frozen, trainable = 6 - options.depth, 3 * options.depth
        examples = options.sentences * options.epochs
        training = (frozen + trainable) / (frozen / options.epochs + trainable)
        # Both sides evaluate every validation and test sentence once: one pass through all six blocks.
        evaluation = HELD_OUT * 6
        uncached = examples * (frozen + trainable) + evaluation
        cached = options.sentences * frozen + examples * trainable + evaluation
        print(f"limit for training only: {training:.2f}")
        print(f"limit with {HELD_OUT:,} validation and test sentences: {uncached / cached:.2f}")


if __name__ == "__main__":
    main()
