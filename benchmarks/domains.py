"""Measure the cost of a domain term: the time of a step with the term divided by the time of a plain step.

    python benchmarks/domains.py [--models mlp cnn minilm] [--rounds 15] [--out FILE]

The plain step has a supervised loss on both streams. The other step has a supervised loss on the source, and the term
instead of the supervised loss on the target. So both steps make the same passes over the same 32 + 32 examples. All
steps of a model run in one process and take turns, in forward and reversed order. The ratio of one round is the time of
the step divided by the time of the plain step in the same round; the table has the median and the quartiles over the
rounds. FLOPs are counted by the compiler. The batches are random numbers from a fixed seed; no data set is read.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tlx import Data, Optim, Recipe, Train, Weights, models, sharding, tasks, terms, tuning
from tlx.training.prepare import prepare
from tlx.training.step import compile_step, initial_state

BATCH = 32
SOURCE = terms.Supervised(on="source")
TERMS: dict[str, Any] = {
    "DANN": terms.Dann(),
    "CDAN": terms.Cdan(),
    "CORAL": terms.Coral(),
    "MMD": terms.Mmd(),
    "MCC": terms.Mcc(),
}


def recipe_of(model: str) -> Recipe:
    """Return the recipe of the plain step."""
    common: dict[str, Any] = {
        "objective": (SOURCE, terms.Supervised(on="labelled")),
        "optim": Optim(lr=1e-4, schedule="constant"),
        "train": Train(steps=1000, batch=BATCH),
    }
    if model == "minilm":
        data = Data(source="sentiment/amazon", target="sentiment/movies", tokens=48, buckets=(48,))
        weights = Weights("minilm-l6", pooling="mean")
        return Recipe(data=data, task=tasks.Classification(classes=2), weights=weights, tuning=tuning.Full(), **common)
    data, task = Data(source="mnist5k", target="digits", size=28), tasks.Classification(classes=10)
    kinds = {"mlp": models.Mlp(inputs=(28, 28, 1), widths=(512, 512)), "cnn": models.Cnn(size=28, widths=(16, 32, 64))}
    return Recipe(data=data, task=task, model=kinds[model], **common)


def random_batch(model: str, seed: int) -> dict[str, Any]:
    """Return a batch of random inputs and labels."""
    generator = np.random.default_rng(seed)
    index = np.arange(BATCH, dtype=np.int32)
    if model == "minilm":
        ids = generator.integers(1000, 30522, (BATCH, 48)).astype(np.int32)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": 0 * ids}
        return {**inputs, "label": generator.integers(0, 2, BATCH).astype(np.int32), "index": index}
    image = generator.normal(size=(BATCH, 28, 28, 1)).astype(np.float32)
    return {"image": image, "label": generator.integers(0, 10, BATCH).astype(np.int32), "index": index}


def stepper(model: str, objective: tuple[Any, ...], target: str) -> tuple[Callable[[], float], float]:
    """Compile one step.

    Args:
        model: "mlp", "cnn" or "minilm".
        objective: the terms of the loss.
        target: the stream that the target examples belong to, "labelled" or "unlabelled".

    Returns:
        A function that runs one step and returns its seconds, and the FLOPs of the step.
    """
    recipe = replace(recipe_of(model), objective=objective)
    ready = prepare(recipe)
    parts = ready.parts(0)
    compiled = compile_step(parts, sharding.make_mesh())
    state = compiled.place(initial_state(parts, ready.variables, 1000, jax.random.key(0)))
    streams = {"source": random_batch(model, 0), target: random_batch(model, 1)}
    if target == "unlabelled":
        del streams[target]["label"]
    batches = {name: compiled.put(batch) for name, batch in streams.items()}
    flops = compiled.train.lower(state, batches).compile().cost_analysis()["flops"]  # type: ignore[attr-defined]

    def step() -> float:
        nonlocal state
        start = time.perf_counter()
        state, metrics = compiled.train(state, batches)
        jax.block_until_ready(metrics)
        return time.perf_counter() - start

    step()
    return step, flops


def measure(model: str, rounds: int) -> list[dict[str, Any]]:
    """Return one row per term: the ratios of time and FLOPs to the plain step."""
    steps = {"plain": stepper(model, recipe_of(model).objective, "labelled")}
    steps |= {name: stepper(model, (SOURCE, term), "unlabelled") for name, term in TERMS.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds):
        for name in steps if number % 2 == 0 else reversed(steps):
            times[name].append(min(steps[name][0]() for _ in range(3)))
    rows = []
    for name in TERMS:
        ratios = [term / plain for term, plain in zip(times[name], times["plain"], strict=True)]
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        times_to_plain = {"time": float(middle), "quarter": float(low), "three_quarters": float(high)}
        seconds = statistics.median(times["plain"])
        flops = steps[name][1] / steps["plain"][1]
        rows.append({"model": model, "term": name, **times_to_plain, "flops": flops, "plain": seconds})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=["mlp", "cnn", "minilm"], default=["mlp", "cnn", "minilm"])
    parser.add_argument("--rounds", type=int, default=15, help="measurements of each step")
    parser.add_argument("--out", type=Path, help="JSON file for the rows")
    options = parser.parse_args()
    rows = [row for model in options.models for row in measure(model, options.rounds)]
    print("| model | term | time / plain [quartiles] | FLOPs / plain | plain step, ms |")
    print("| --- | --- | --- | ---: | ---: |")
    for row in rows:
        ratio = f"{row['time']:.2f} [{row['quarter']:.2f}, {row['three_quarters']:.2f}]"
        print(f"| {row['model']} | {row['term']} | {ratio} | {row['flops']:.3f} | {1000 * row['plain']:.1f} |")
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
