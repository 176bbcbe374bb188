"""What the loop of `tlx.run` adds to a bare jitted loop over the same step.

    python benchmarks/loop.py [--config large|small] [--steps 30] [--pairs 5]

In one process, in alternation: `tlx.run` (data pipeline, records, TensorBoard events, checks for NaN) against a loop of
three lines over the same compiled step and batches that lie ready in memory. Printed is the ratio of seconds a step,
pair by pair. The goal is at most 1.03. `large` is a transformer of MiniLM's shape (six blocks, 384 wide, 65 tokens) on
8x8 images, whose evaluation is short; `small` is a CNN, whose step takes milliseconds.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax

from tlx import Data, Optim, Recipe, Train, models, run, sharding, tasks
from tlx.data import train_batches
from tlx.training.prepare import open_data, prepare
from tlx.training.step import compile_step, initial_state


def recipe(name: str, steps: int) -> Recipe:
    large = models.Vit(size=8, patch=1, channels=1, width=384, depth=6, heads=12, mlp=1536, dropout=0.1)
    return Recipe(
        data=Data(target="digits"),
        task=tasks.Classification(classes=10),
        model=large if name == "large" else models.Cnn(size=8, widths=(32, 64)),
        optim=Optim(lr=1e-4),
        train=Train(steps=steps, batch=32, eval_every=steps),
    )


def bare(asked: Recipe) -> Any:
    """A function that trains over the recipe's own batches and gives the seconds a step, the first step left out."""
    splits = open_data(asked)
    ready = prepare(asked, splits)
    steps = asked.train.steps or 1
    made = train_batches(splits.train, ready.processor, batch=32, seed=0, buckets=asked.data.lengths)
    batches = [{"labelled": next(made)} for _ in range(steps)]
    compiled = compile_step(ready.parts(0), sharding.make_mesh())

    def once() -> float:
        state = compiled.place(initial_state(ready.parts(0), ready.variables, steps, jax.random.key(0)))
        state, metrics = compiled.train(state, {"labelled": compiled.put(batches[0]["labelled"])})
        jax.block_until_ready(metrics)
        start = time.perf_counter()
        for batch in batches[1:]:
            state, metrics = compiled.train(state, {"labelled": compiled.put(batch["labelled"])})
        jax.block_until_ready(state.step)
        return (time.perf_counter() - start) / (steps - 1)

    return once


def ours(asked: Recipe, out: Path) -> float:
    """Seconds a step of `tlx.run`, by its own records, the first step left out."""
    run(asked, out, overwrite=True, quiet=True)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    times = [line["time"] for line in lines if line["name"] == "train/loss"]
    return (times[-1] - times[0]) / (len(times) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=("large", "small"), default="large")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    asked = recipe(options.config, options.steps)
    once = bare(asked)
    once()
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for pair in range(options.pairs):
            a, b = ours(asked, Path(folder) / "run"), once()
            ratios.append(a / b)
            print(
                f"pair {pair + 1}: tlx.run {1e3 * a:.2f} ms, bare {1e3 * b:.2f} ms a step, ratio {a / b:.3f}",
                flush=True,
            )
    print(f"ratio: min {min(ratios):.3f}, median {statistics.median(ratios):.3f}, max {max(ratios):.3f}")


if __name__ == "__main__":
    main()
