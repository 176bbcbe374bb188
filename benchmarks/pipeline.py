"""Measure how many examples a second the input pipeline makes, and how much of its time the training step hides.

    python benchmarks/pipeline.py [--only texts pictures] [--steps 20] [--rounds 3] [--out FOLDER]

Three sides take turns in one process, each over `--steps` batches of 32:

  alone   the batches of `tlx.run` are made, and nothing else happens
  step    the compiled step runs on batches that are already in memory
  both    the batches are made and the step runs on them, as in the loop of `tlx.run`

The table has the ratio step / alone (how many times more examples a second the pipeline makes than the step uses; the
goal is 3) and the hidden share, 1 - (both - step) / alone (the goal is 90 %). `texts` is MiniLM on movie reviews,
`pictures` a small vision transformer of 64 pixels on JPEG files of 128 pixels, which are decoded, resized, cropped and
mirrored for every batch. On a CPU the pipeline and the step share the cores, so time that the pipeline uses is hidden
only as far as the step leaves cores idle; on an accelerator the pipeline has the cores for itself.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from pairs import keep

from tlx import Data, Optim, Recipe, Train, Weights, models, sharding, tasks
from tlx.data.augment import Crop, Flip
from tlx.training.prepare import open_data, prepare, training_batches
from tlx.training.step import compile_step, initial_state

BATCH, SIZE, FILES = 32, 64, 512


def texts(steps: int, folder: Path) -> Recipe:
    """Return the recipe of MiniLM on movie reviews."""
    return Recipe(
        data=Data(target="sentiment/movies", tokens=48),
        task=tasks.Classification(classes=2),
        weights=Weights("minilm-l6", pooling="mean"),
        optim=Optim(lr=1e-5),
        train=Train(steps=steps, batch=BATCH, eval_every=steps),
    )


def pictures(steps: int, folder: Path) -> Recipe:
    """Return the recipe of a vision transformer on JPEG files, which are written into `folder`."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(FILES):
        place = folder / f"class-{number % 4}"
        place.mkdir(exist_ok=True)
        # Smooth pictures, since noise takes longer to decode than photographs.
        small = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        small.resize((128, 128), Image.Resampling.BICUBIC).save(place / f"{number}.jpg", quality=90)
    return Recipe(
        data=Data(target=str(folder), size=SIZE, augment=(Flip(), Crop(padding=4))),
        task=tasks.Classification(classes=4),
        model=models.Vit(size=SIZE, patch=8, channels=3, width=192, depth=6, heads=6, mlp=768),
        optim=Optim(lr=1e-4),
        train=Train(steps=steps, batch=BATCH, eval_every=steps),
    )


CASES = {"texts": texts, "pictures": pictures}


def sides(recipe: Recipe) -> dict[str, Callable[[], float]]:
    """Return the sides by name, each a function that returns its seconds for a batch."""
    splits = open_data(recipe)
    ready = prepare(recipe, splits)
    steps = recipe.train.steps or 1
    compiled = compile_step(ready.parts(0), sharding.make_mesh())
    memory = [batch for batch, _ in zip(training_batches(ready, splits), range(steps + 1), strict=False)]

    def fresh() -> Any:
        return compiled.place(initial_state(ready.parts(0), ready.variables, steps, jax.random.key(0)))

    def train(batches: Any) -> float:
        state = fresh()
        state, metrics = compiled.train(state, compiled.put(next(batches)))
        jax.block_until_ready(metrics)
        start = time.perf_counter()
        for _ in range(steps):
            state, _ = compiled.train(state, compiled.put(next(batches)))
        jax.block_until_ready(state.step)
        return (time.perf_counter() - start) / steps

    def alone() -> float:
        batches = training_batches(ready, splits)
        next(batches)
        start = time.perf_counter()
        for _ in range(steps):
            next(batches)
        return (time.perf_counter() - start) / steps

    return {"alone": alone, "step": lambda: train(iter(memory)), "both": lambda: train(training_batches(ready, splits))}


def measure(name: str, steps: int, rounds: int) -> dict[str, Any]:
    """Return the seconds of every side in every round, and the two figures of the table by round."""
    with tempfile.TemporaryDirectory() as folder:
        by_name = sides(CASES[name](steps, Path(folder)))
        for side in by_name.values():
            side()  # compile, and read the files once
        rows = []
        for number in range(rounds):
            order = list(by_name)[:: 1 if number % 2 == 0 else -1]
            seconds = {side: by_name[side]() for side in order}
            rows.append(
                seconds
                | {
                    "faster": seconds["step"] / seconds["alone"],
                    "hidden": 1 - max(0.0, seconds["both"] - seconds["step"]) / seconds["alone"],
                }
            )
    return {"case": name, "batch": BATCH, "steps": steps, "rounds": rows}


def spread(values: list[float], form: str) -> str:
    """Return the median of the rounds and their range."""
    middle, low, high = (format(value, form) for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({low} to {high})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), help="cases")
    parser.add_argument("--steps", type=int, default=20, help="batches of a side in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a folder for the table and its numbers")
    options = parser.parse_args()
    results = []
    table = [
        "| case | examples/s alone | examples/s of the step | step / alone | hidden |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    print("\n".join(table))
    for name in options.only:
        result = measure(name, options.steps, options.rounds)
        results.append(result)
        column = {key: [row[key] for row in result["rounds"]] for key in result["rounds"][0]}
        table.append(
            f"| {name} | {BATCH / statistics.median(column['alone']):,.0f} | "
            f"{BATCH / statistics.median(column['step']):,.0f} | {spread(column['faster'], '.1f')} | "
            f"{spread(column['hidden'], '.0%')} |"
        )
        print(table[-1], flush=True)
    keep(options.out, "pipeline", "\n".join(table), results)


if __name__ == "__main__":
    main()
