"""What a term between domains costs: a step with it over a plain step on the same source and target examples.

    python benchmarks/domains.py [--models mlp cnn minilm] [--rounds 15] [--out FILE]

The plain step is `Supervised` on both streams, so both steps make the same passes over the same 32 + 32 examples; the
other reads the source's labels and has the term in the place of the target's. All steps of a model live in one process
and take turns, forwards and backwards; a number is the median over the rounds of the step's time over that of the plain
step in the same round. FLOPs are those that the compiler counts. Batches are drawn from a seed: no data are read.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
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
    """The plain step's."""
    shared: dict[str, Any] = {
        "objective": (SOURCE, terms.Supervised(on="labelled")),
        "optim": Optim(lr=1e-4, schedule="constant"),
        "train": Train(steps=1000, batch=BATCH),
    }
    if model == "minilm":
        data = Data(source="sentiment/amazon", target="sentiment/movies", tokens=48, buckets=(48,))
        weights = Weights("minilm-l6", pooling="mean")
        return Recipe(data=data, task=tasks.Classification(classes=2), weights=weights, tuning=tuning.Full(), **shared)
    data, task = Data(source="mnist5k", target="digits", size=28), tasks.Classification(classes=10)
    kinds = {"mlp": models.Mlp(inputs=(28, 28, 1), widths=(512, 512)), "cnn": models.Cnn(size=28, widths=(16, 32, 64))}
    return Recipe(data=data, task=task, model=kinds[model], **shared)


def batch(model: str, seed: int) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    index = np.arange(BATCH, dtype=np.int32)
    if model == "minilm":
        ids = draw.integers(1000, 30522, (BATCH, 48)).astype(np.int32)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": 0 * ids}
        return {**inputs, "label": draw.integers(0, 2, BATCH).astype(np.int32), "index": index}
    image = draw.normal(size=(BATCH, 28, 28, 1)).astype(np.float32)
    return {"image": image, "label": draw.integers(0, 10, BATCH).astype(np.int32), "index": index}


def stepper(model: str, objective: tuple[Any, ...], target: str) -> tuple[Callable[[], float], float]:
    """A function that takes a step and gives its seconds, and the step's FLOPs."""
    recipe = replace(recipe_of(model), objective=objective)
    ready = prepare(recipe)
    parts = ready.parts(0)
    compiled = compile_step(parts, sharding.make_mesh())
    state = compiled.place(initial_state(parts, ready.variables, 1000, jax.random.key(0)))
    streams = {"source": batch(model, 0), target: batch(model, 1)}
    if target == "unlabelled":
        del streams[target]["label"]
    given = {name: compiled.put(own) for name, own in streams.items()}
    flops = compiled.train.lower(state, given).compile().cost_analysis()["flops"]  # type: ignore[attr-defined]

    def step() -> float:
        nonlocal state
        start = time.perf_counter()
        state, told = compiled.train(state, given)
        jax.block_until_ready(told)
        return time.perf_counter() - start

    step()
    return step, flops


def measured(model: str, rounds: int) -> list[dict[str, Any]]:
    plain = partial(stepper, model, recipe_of(model).objective, "labelled")
    steps = {"plain": plain()}
    steps |= {name: stepper(model, (SOURCE, term), "unlabelled") for name, term in TERMS.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds):
        for name in steps if turn % 2 == 0 else reversed(steps):
            times[name].append(min(steps[name][0]() for _ in range(3)))
    rows = []
    for name in TERMS:
        ratios = [own / base for own, base in zip(times[name], times["plain"], strict=True)]
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        told = {"time": float(middle), "quarter": float(low), "three_quarters": float(high)}
        seconds = statistics.median(times["plain"])
        rows.append(
            {"model": model, "term": name, **told, "flops": steps[name][1] / steps["plain"][1], "plain": seconds}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=["mlp", "cnn", "minilm"], default=["mlp", "cnn", "minilm"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = [row for model in options.models for row in measured(model, options.rounds)]
    print(
        "| model | term | time / plain [quarters] | FLOPs / plain | plain step, ms |\n| --- | --- | --- | ---: | ---: |"
    )
    for row in rows:
        told = f"{row['time']:.2f} [{row['quarter']:.2f}, {row['three_quarters']:.2f}]"
        print(f"| {row['model']} | {row['term']} | {told} | {row['flops']:.3f} | {1000 * row['plain']:.1f} |")
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
