"""Measure how much time the loop of `tlx.run` adds to a plain loop over the same compiled step.

    python benchmarks/loop.py [--config large|small] [--steps 30] [--pairs 5]

Two sides alternate in one process. One side is `tlx.run`: data pipeline, records, TensorBoard events, checks for NaN.
The other side is a loop of three lines over the same compiled step; its batches are already in memory. For each pair
the script prints the ratio of the seconds per step, tlx.run / plain loop. The goal is at most 1.03. `large` is a
transformer with the shape of MiniLM (six blocks of width 384, 65 tokens) on 8x8 images, so evaluation is short. `small`
is a CNN with a step of a few milliseconds.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax

from tlx import Data, Optim, Recipe, Train, models, run, sharding, tasks
from tlx.data import train_batches
from tlx.training.prepare import open_data, prepare
from tlx.training.step import compile_step, initial_state


def recipe(name: str, steps: int) -> Recipe:
    """Return the recipe of the configuration `name`, "large" or "small"."""
    large = models.Vit(size=8, patch=1, channels=1, width=384, depth=6, heads=12, mlp=1536, dropout=0.1)
    return Recipe(
        data=Data(target="digits"),
        task=tasks.Classification(classes=10),
        model=large if name == "large" else models.Cnn(size=8, widths=(32, 64)),
        optim=Optim(lr=1e-4),
        train=Train(steps=steps, batch=32, eval_every=steps),
    )


def plain_loop(experiment: Recipe) -> Callable[[], float]:
    """Prepare the plain loop.

    Returns:
        A function that trains over the batches of the recipe and returns the seconds per step, without the first step.
    """
    splits = open_data(experiment)
    ready = prepare(experiment, splits)
    steps = experiment.train.steps or 1
    stream = train_batches(splits.train, ready.processor, batch=32, seed=0, buckets=experiment.data.lengths)
    batches = [{"labelled": next(stream)} for _ in range(steps)]
    compiled = compile_step(ready.parts(0), sharding.make_mesh())

    def seconds_per_step() -> float:
        state = compiled.place(initial_state(ready.parts(0), ready.variables, steps, jax.random.key(0)))
        state, metrics = compiled.train(state, {"labelled": compiled.put(batches[0]["labelled"])})
        jax.block_until_ready(metrics)
        start = time.perf_counter()
        for batch in batches[1:]:
            state, metrics = compiled.train(state, {"labelled": compiled.put(batch["labelled"])})
        jax.block_until_ready(state.step)
        return (time.perf_counter() - start) / (steps - 1)

    return seconds_per_step


def tlx_loop(experiment: Recipe, out: Path) -> float:
    """Run `tlx.run` and return its seconds per step, without the first step, from its records."""
    run(experiment, out, overwrite=True, quiet=True)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    times = [line["time"] for line in lines if line["name"] == "train/loss"]
    return (times[-1] - times[0]) / (len(times) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=("large", "small"), default="large")
    parser.add_argument("--steps", type=int, default=30, help="steps of each loop")
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    experiment = recipe(options.config, options.steps)
    plain_seconds = plain_loop(experiment)
    plain_seconds()  # compile
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for pair in range(options.pairs):
            tlx_side, plain_side = tlx_loop(experiment, Path(folder) / "run"), plain_seconds()
            ratios.append(tlx_side / plain_side)
            times = f"tlx.run {1e3 * tlx_side:.2f} ms per step, plain loop {1e3 * plain_side:.2f} ms per step"
            print(f"pair {pair + 1}: {times}, ratio {ratios[-1]:.3f}", flush=True)
    print(f"ratio: min {min(ratios):.3f}, median {statistics.median(ratios):.3f}, max {max(ratios):.3f}")


if __name__ == "__main__":
    main()
