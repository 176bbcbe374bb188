"""Measure parameters in fewer bits on MiniLM: memory, seconds per step and accuracy, against float32.

    python benchmarks/precision.py [--only memory speed accuracy] [--rounds 10] [--seeds 5] [--out FOLDER]

The settings are `train.parameter_dtype="bfloat16"` (float32 masters) for full fine-tuning and for LoRA of rank 8, and
`train.frozen_dtype="int8"` for LoRA. All compute in float32 activations.

* memory: the bytes of the parameters and of the optimiser's state, and the temporaries of the compiled step as the
  compiler states them, for batches of 32 x 48 tokens.
* speed: all steps of a tuning run in one process and take turns, in forward and reversed order. The ratio of a round is
  the time of the step divided by the time of the float32 step in the same round; the table has the median and the
  quartiles.
* accuracy: LoRA on 64 labelled movie reviews a class, 40 steps of 16, the last checkpoint, on the 2,070 test sentences;
  the difference from float32 of the same seed, its mean over the seeds and the 95 % interval of Student's t.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy import stats

import tlx
from tlx import Data, Optim, Recipe, Train, Weights, sharding, tasks, tuning
from tlx.training.prepare import prepare
from tlx.training.step import compile_step, initial_state

BATCH, TOKENS, MIB = 32, 48, 2**20
SETTINGS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"parameter_dtype": "bfloat16"},
    "int8 base": {"frozen_dtype": "int8"},
}
TUNINGS = {
    "all trainable": (tuning.Full(), ("float32", "bfloat16")),
    "LoRA": (tuning.Lora(rank=8), ("float32", "bfloat16", "int8 base")),
}


def recipe_of(how: Any, setting: str, seed: int = 0) -> Recipe:
    """Return a recipe of the benchmark."""
    return Recipe(
        data=Data(target="sentiment/movies", tokens=TOKENS, buckets=(TOKENS,), shots=64),
        task=tasks.Classification(classes=2),
        weights=Weights("minilm-l6", pooling="mean"),
        tuning=how,
        optim=Optim(lr=1e-3, weight_decay=0.01, warmup=0.1, schedule="linear", clip=1.0),
        train=Train(steps=40, batch=16, eval_batch=64, **SETTINGS[setting]),
        seed=seed,
    )


def random_batch(seed: int) -> dict[str, Any]:
    """Return a batch of random tokens and labels."""
    generator = np.random.default_rng(seed)
    ids = generator.integers(1000, 30522, (BATCH, TOKENS)).astype(np.int32)
    label = generator.integers(0, 2, BATCH).astype(np.int32)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": 0 * ids}
    return {**inputs, "label": label, "index": np.arange(BATCH, dtype=np.int32)}


def stepper(how: Any, setting: str) -> tuple[Callable[[], float], dict[str, float]]:
    """Return a function that takes a step and returns its seconds, and the memory of the step in MiB."""
    ready = prepare(recipe_of(how, setting))
    parts = ready.parts(0)
    compiled = compile_step(parts, sharding.make_mesh(jax.devices()[:1]))
    state = compiled.place(initial_state(parts, ready.variables, 1000, jax.random.key(0)))
    batch = {"labelled": compiled.put(random_batch(0))}

    def held(tree: Any) -> float:
        return sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) / MIB

    analysis = compiled.train.lower(state, batch).compile().memory_analysis()  # type: ignore[attr-defined]
    memory = {
        "parameters": held((state.trainable, state.frozen)),
        "optimiser": held(state.optimiser),
        "temporaries": analysis.temp_size_in_bytes / MIB,
    }

    def step() -> float:
        nonlocal state
        start = time.perf_counter()
        state, metrics = compiled.train(state, batch)
        jax.block_until_ready(metrics)
        return time.perf_counter() - start

    return step, memory


def measure_steps(rounds: int) -> list[dict[str, Any]]:
    """Return a row for each tuning and setting: its memory, and the ratios of its time to float32."""
    rows = []
    for name, (how, settings) in TUNINGS.items():
        steps = {setting: stepper(how, setting) for setting in settings}
        times: dict[str, list[float]] = {setting: [] for setting in settings}
        for step, _ in steps.values():
            step()
        for number in range(rounds):
            for setting in settings if number % 2 == 0 else reversed(settings):
                times[setting].append(steps[setting][0]())
        for setting in settings:
            row: dict[str, Any] = {"tuning": name, "setting": setting, **steps[setting][1]}
            if rounds:
                ratios = [mine / plain for mine, plain in zip(times[setting], times["float32"], strict=True)]
                row |= dict(zip(("low", "ratio", "high"), np.quantile(ratios, [0.25, 0.5, 0.75]).tolist(), strict=True))
                row["seconds"] = statistics.median(times[setting])
            rows.append(row)
    return rows


def measure_accuracy(seeds: int) -> list[dict[str, Any]]:
    """Return a row for each setting of LoRA: the accuracies of the seeds, and the differences from float32."""
    how, settings = TUNINGS["LoRA"]
    accuracies: dict[str, list[float]] = {setting: [] for setting in settings}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            for setting in settings:
                run = tlx.run(
                    recipe_of(how, setting, seed), Path(folder, f"{seed} {setting}"),
                    how=tlx.How(quiet=True, leave="learned", feature_cache=False),
                )  # fmt: skip
                accuracies[setting].append(run.metrics["test/accuracy"])
                print(f"seed {seed}, {setting}: {accuracies[setting][-1]:.4f}", flush=True)
    return [
        {"setting": setting, "accuracies": values, **difference(values, accuracies["float32"])}
        for setting, values in accuracies.items()
    ]


def difference(values: list[float], plain: list[float]) -> dict[str, float]:
    """Return the mean of the paired differences in points, and half the width of its 95 % interval."""
    differences = 100 * (np.array(values) - np.array(plain))
    half = stats.t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / len(differences) ** 0.5
    return {"mean": 100 * statistics.fmean(values), "difference": float(differences.mean()), "half_width": float(half)}


def step_table(rows: list[dict[str, Any]]) -> str:
    """Return the Markdown table of memory and speed."""
    lines = [
        "| tuning | setting | parameters, MiB | optimiser, MiB | temporaries, MiB | seconds / float32 [quartiles] |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        ratio = f"{row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]" if "ratio" in row else "-"
        memory = " | ".join(f"{row[name]:.1f}" for name in ("parameters", "optimiser", "temporaries"))
        lines.append(f"| {row['tuning']} | {row['setting']} | {memory} | {ratio} |")
    return "\n".join(lines)


def accuracy_table(rows: list[dict[str, Any]]) -> str:
    """Return the Markdown table of the accuracies."""
    lines = ["| setting | test accuracy, mean | difference from float32, points [95 %] |", "| --- | ---: | ---: |"]
    for row in rows:
        low, high = row["difference"] - row["half_width"], row["difference"] + row["half_width"]
        cell = "-" if row["setting"] == "float32" else f"{row['difference']:+.2f} [{low:+.2f}, {high:+.2f}]"
        lines.append(f"| {row['setting']} | {row['mean']:.2f} % | {cell} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = ("memory", "speed", "accuracy")
    parser.add_argument("--only", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--rounds", type=int, default=10, help="measurements of each step")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each setting, at least 2")
    parser.add_argument("--out", type=Path, help="folder for the tables and their numbers")
    options = parser.parse_args()
    results: dict[str, tuple[str, list[dict[str, Any]]]] = {}
    if {"memory", "speed"} & set(options.only):
        rows = measure_steps(options.rounds if "speed" in options.only else 0)
        results["steps"] = step_table(rows), rows
    if "accuracy" in options.only:
        rows = measure_accuracy(options.seeds)
        results["accuracy"] = accuracy_table(rows), rows
    for name, (table, rows) in results.items():
        print(f"\n{table}")
        if options.out is not None:
            options.out.mkdir(parents=True, exist_ok=True)
            (options.out / f"precision-{name}.md").write_text(table + "\n", encoding="utf-8")
            (options.out / f"precision-{name}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
