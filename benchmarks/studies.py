"""What stored prefixes and packed arms save, everything included: whole processes, from start to their last file.

    python benchmarks/studies.py prefix  [--depth 0|1|2] [--sentences 5000] [--epochs 20] [--pairs 1]
    python benchmarks/studies.py arms    [--arms 32] [--epochs 20] [--pairs 1]
    python benchmarks/studies.py lora    [--arms 16] [--pairs 1]
    python benchmarks/studies.py scripts [--arms 32] [--naive 2] [--pairs 1]

`prefix`: MiniLM on movie reviews with a stored prefix against the same run without one; `--depth` is how many blocks
learn beside the head (0: a linear probe). The store is empty when the run begins. The arithmetic limit is printed:
(below + above) / (below / epochs + above), in passes through a block, where a block that learns costs three.
`arms`: probe arms that differ in seed and rate, packed, against one run after another, each a process of its own
(as so many calls of `tlx run`), against the same in one process, and against a single run; all share stored features,
which lie ready.
`lora`: LoRA arms on a small ViT, packed and one by one, and which of the two the planner chooses.
`scripts`: a study of probe cells from an empty store against the careful script that a researcher writes by hand
(torch computes the features once, scikit-learn fits every cell), and against the naive one, which computes them again
for every cell: its time is that of `--naive` cells times the number of cells over theirs.

Every side is a process of its own, whose seconds are from its start to its end; sides take turns (A B, B A, ...) and
compiled programs lie in JAX's cache after a first, unmeasured turn. Other processes' share of the cores is printed.
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
# Sentences of validation and test, which every side reads once.
HELD_OUT = 3056


def recipe(sentences: int, epochs: int, depth: int = 0, seed: int = 0, rate: float = 1e-3) -> Any:
    from tlx import Data, Optim, Recipe, Train, Weights, tasks, tuning

    own = tuning.Probe() if depth == 0 else tuning.Freeze(through=f"blocks/{5 - depth:02d}")
    # Short texts with short ones, on both sides: less padding, and so the less for a prefix to save.
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
        tuning=own,
        optim=Optim(lr=rate, weight_decay=0.01, warmup=0.1, schedule="linear"),
        train=Train(epochs=epochs, batch=32, eval_every=epochs * -(-sentences // 32)),
        seed=seed,
    )


def grid(arms: int, sentences: int, epochs: int) -> list[Any]:
    """Probe cells: seeds by rates."""
    return [recipe(sentences, epochs, seed=n // 8, rate=1e-3 * 2 ** (n % 8)) for n in range(arms)]


def vit(seed: int, rate: float) -> Any:
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
    """What one process does."""
    if side in ("careful", "naive"):
        by_hand(side, options)
        return
    from tlx import run
    from tlx.training import run_many
    from tlx.training.loop import How

    if side in ("stored", "plain"):
        asked = recipe(options.sentences, options.epochs, options.depth)
        run(asked, out, how=How(quiet=True, leave="learned", feature_cache=side == "stored"))
        return
    lora = side.startswith("lora")
    if lora:
        recipes = [vit(n // 4, 1e-3 * 2 ** (n % 4)) for n in range(options.arms)]
    else:
        recipes = grid(options.arms, options.sentences, options.epochs)
    most = {"one by one": 1, "lora one by one": 1}.get(side, 64)
    if side == "single":
        recipes = recipes[options.nth : options.nth + 1]
    if side == "runs":
        for n in range(options.arms):
            again = [*sys.argv[1:], "--side", "single", "--nth", str(n), "--out", str(out / str(n))]
            subprocess.run([sys.executable, __file__, *again], check=True, capture_output=True)
        return
    if side == "study":
        study_of(options, out)
        return
    if side == "lora packed":
        run_many.GAIN = 1e9
    told: list[Any] = []
    found = run_many.run_many(recipes, [out / str(n) for n in range(len(recipes))], most=most, note=told.append)
    for outcome in found:
        if isinstance(outcome, Exception):
            raise outcome
    for choice in told:
        print(f"planner: {choice['how']}, {choice['why']}", flush=True)


def study_of(options: argparse.Namespace, out: Path) -> None:
    """The same cells as a study: claims, records, the table of results and the page."""
    from tlx import Study
    from tlx.study import run_study

    cells = [{"seed": n // 8, "optim.lr": 1e-3 * 2 ** (n % 8)} for n in range(options.arms)]
    base = recipe(options.sentences, options.epochs)
    found = run_study(Study(base=base, cells=cells, question="Which rate?"), out, quiet=True)
    if found.counts["done"] < options.arms:
        raise SystemExit(f"of the study's cells: {found.counts}")


def by_hand(side: str, options: argparse.Namespace) -> None:
    """Features by torch, mean over tokens, sorted by length; a logistic regression a cell by scikit-learn."""
    import numpy as np
    import torch
    from sklearn.linear_model import LogisticRegression
    from transformers import AutoModel, AutoTokenizer

    from tlx import assets, data

    directory = assets.extract("minilm-l6")
    splits = data.load(recipe(options.sentences, 1).data, 0)
    tokenizer, model = AutoTokenizer.from_pretrained(directory), AutoModel.from_pretrained(directory).eval()

    def features(examples: Any) -> tuple[np.ndarray, np.ndarray]:
        texts = [examples[n]["text"] for n in range(len(examples))]
        order = np.argsort([len(text) for text in texts])
        out = np.empty((len(texts), 384), np.float32)
        with torch.inference_mode():
            for start in range(0, len(texts), 64):
                rows = order[start : start + 64]
                given = tokenizer(
                    [texts[n] for n in rows], padding=True, truncation=True, max_length=TOKENS, return_tensors="pt"
                )
                hidden = model(**given).last_hidden_state
                mask = given["attention_mask"][..., None]
                out[rows] = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
        return out, examples.labels()

    cells = options.arms if side == "careful" else options.naive
    kept = None
    for n in range(cells):
        if kept is None or side == "naive":
            kept = [features(part) for part in (splits.train, splits.validation, splits.test)]
        (x, y), *others = kept
        # The same number of cells over a range of regularisation, as a probe's study has over rates.
        fit = LogisticRegression(C=10.0 ** (n % 8 - 3), max_iter=1000, random_state=n).fit(x, y)
        print(n, *(f"{fit.score(*other):.4f}" for other in others))


def clear(side: str) -> None:
    """An empty store for the sides that begin with one."""
    if side in ("stored", "study"):
        from tlx.training import feature_cache

        feature_cache.clear()


def timed(side: str, words: list[str], patience: float, show: bool) -> tuple[float, float]:
    """Seconds of a process, and the share of the cores that others used."""
    clear(side)
    settle(patience)
    with tempfile.TemporaryDirectory() as folder:
        before, spent, start = processor(), used(), time.perf_counter()
        done = subprocess.run(
            [sys.executable, __file__, *words, "--side", side, "--out", folder],
            capture_output=True,
            text=True,
            check=False,
        )
        seconds, after = time.perf_counter() - start, processor()
        if done.returncode:
            raise SystemExit(done.stderr)
        if show:
            print("".join(line + "\n" for line in done.stdout.splitlines() if line.startswith("planner")), end="")
    others = after[0] - before[0] - (used() - spent)
    return seconds, max(0.0, others / max(after[1] - before[1], 1e-9))


def used() -> float:
    """CPU seconds of the processes that have ended."""
    import resource

    told = resource.getrusage(resource.RUSAGE_CHILDREN)
    return told.ru_utime + told.ru_stime


SIDES = {
    "prefix": ("stored", "plain"),
    "arms": ("packed", "runs", "one by one", "single"),
    "lora": ("lora packed", "lora one by one", "lora planned"),
    "scripts": ("study", "careful", "naive"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=SIDES)
    parser.add_argument("--depth", type=int, choices=(0, 1, 2), default=0)
    parser.add_argument("--sentences", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--arms", type=int, default=32)
    parser.add_argument("--naive", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--patience", type=float, default=20.0)
    parser.add_argument("--no-warm", action="store_true", help="Measure without a first turn.")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--nth", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        work(options.side, options.out, options)
        return
    names = ("depth", "sentences", "epochs", "arms", "naive")
    words = [options.what, *(word for name in names for word in (f"--{name}", str(getattr(options, name))))]
    sides = SIDES[options.what]
    if not options.no_warm:
        # Few epochs compile the same programs.
        short = words.copy()
        short[short.index("--epochs") + 1] = "1"
        short[short.index("--naive") + 1] = "1"
        for side in sides:
            timed(side, short, 0.0, False)
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(options.pairs):
        for side in sides if turn % 2 == 0 else reversed(sides):
            spent, others = timed(side, words, options.patience, turn == 0)
            spent *= options.arms / options.naive if side == "naive" else 1
            seconds[side].append(spent)
            print(f"turn {turn + 1}: {side} {spent:.1f} s (others {others:.0%} of the cores)", flush=True)
    first, *rest = sides
    for side in rest:
        ratios = [b / a for a, b in zip(seconds[first], seconds[side], strict=True)]
        if side == "single":
            print(f"packed over {side}: {statistics.median(1 / ratio for ratio in ratios):.2f}")
        else:
            print(f"{side} over {first}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    if options.what == "prefix":
        below, above = 6 - options.depth, 3 * options.depth
        trained = options.sentences * options.epochs
        alone = (below + above) / (below / options.epochs + above)
        # Both sides read every held-out sentence once, and stop where it is stored: one pass through all blocks.
        held = HELD_OUT * 6
        whole = (trained * (below + above) + held) / (options.sentences * below + trained * above + held)
        print(f"the limit, of training alone: {alone:.2f}, with {HELD_OUT:,} held-out sentences: {whole:.2f}")


if __name__ == "__main__":
    main()
