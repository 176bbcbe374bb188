"""Ways of tuning MiniLM on movie reviews, side by side: what each gives, and what it costs.

    python experiments/tunings.py [--out runs/tunings] [--labels 64 1000 0] [--seeds 5] [--tunings Full Lora ...]
                                  [--no-cost]

`--labels` are labelled sentences in all, 0 is every one (7,014). The rate of each tuning is the one of three with the
best validation accuracy at seed 100, which is not among those reported; for all sentences it is that found at 1,000.
Every run of one seed has the same labelled subset, the same order of batches and the same number of steps, so
differences to `Full` are paired by seed; the p of a paired t-test is corrected over the tunings (Holm), and
"detectable" is the difference in points that so many seeds would have shown four times in five at that level. Finished
runs are kept and not run again; the table, and `tunings.json` with every number of it, are made from the runs' own
records.

Step time and memory are of the compiled step at batch 32 x 64 tokens: the median of rounds in which the tunings take
turns, over that of `Full`; arguments + temporaries as the compiler counts them. Of tunings in phases it is the last.
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

from tlx import Data, Optim, Recipe, Train, Weights, run, sharding, tasks, tuning
from tlx.functional import significance
from tlx.training import describe
from tlx.training.loop import How, Run
from tlx.training.prepare import Prepared, prepare
from tlx.training.step import compile_step, initial_state

BOTH = r".*/attention/(query|value)"
# Each with the middle one of its three rates.
TUNINGS: dict[str, tuple[tuning.Tuning, float]] = {
    "Full": (tuning.Full(), 2e-4),
    "Full, decay": (tuning.Full(decay=1 / 2.6), 5e-4),
    "Gradual": (tuning.Gradual(factor=1.0), 3e-4),
    "ULMFiT": (tuning.Gradual(schedule="slanted-triangular"), 5e-4),
    "LinearThenFull": (tuning.LinearThenFull(share=0.3), 3e-4),
    "Freeze": (tuning.Freeze(through="blocks/03"), 5e-4),
    "Probe": (tuning.Probe(), 1e-2),
    "SideHead": (tuning.SideHead(), 3e-3),
    "BitFit": (tuning.BitFit(), 3e-3),
    "NormTuning": (tuning.NormTuning(), 3e-3),
    "Ia3": (tuning.Ia3(), 1e-2),
    "Lora": (tuning.Lora(rank=8, on=BOTH), 2e-3),
    "Dora": (tuning.Dora(rank=8, on=BOTH), 2e-3),
    "Adapter": (tuning.Adapter(width=32), 2e-3),
    "Prefix": (tuning.Prefix(tokens=8), 1e-2),
    "Prompt": (tuning.Prompt(tokens=8), 1e-2),
}
# Its schedule begins with a rise of its own.
WARMUP = {"ULMFiT": 0.0}
GRID = (1 / 3, 1.0, 3.0)
CHOOSE = (100,)
TRAIN = {
    64: Train(steps=60, batch=16, eval_every=60),
    1000: Train(steps=94, batch=32, eval_every=94),
    0: Train(steps=220, batch=32, eval_every=220),
}


def recipe_of(name: str, labels: int, seed: int, rate: float) -> Recipe:
    shots = labels // 2 if labels else None
    return Recipe(
        data=Data(target="sentiment/movies", shots=shots, tokens=48, buckets=(24, 32, 48), group=4 if labels else 16),
        task=tasks.Classification(classes=2),
        weights=Weights("minilm-l6", pooling="mean"),
        tuning=TUNINGS[name][0],
        optim=Optim(lr=rate, weight_decay=0.01, warmup=WARMUP.get(name, 0.1), schedule="linear", clip=1.0),
        train=TRAIN[labels],
        seed=seed,
    )


def finished(out: Path, name: str, labels: int, seed: int, rate: float, test: bool = True) -> Run:
    """The run, which is not run twice. Where only its rate is judged, the test split stays sealed."""
    folder = out / f"{name.replace(', ', '-')}-{labels}-{seed}-{rate:.3g}"
    how = How(quiet=True, leave="learned", test=test, checkpoint_seconds=60)
    found = run(recipe_of(name, labels, seed, rate), folder, resume=folder.exists(), how=how)
    told = {name: f"{value:.4f}" for name, value in found.metrics.items() if name.endswith("/accuracy")}
    print(f"{folder.name}: {told}", flush=True)
    return found


def chosen(out: Path, name: str, labels: int) -> float:
    """The rate with the best mean validation accuracy over the seeds that are not reported."""
    rates = [factor * TUNINGS[name][1] for factor in GRID]
    means = []
    for rate in rates:
        runs = [finished(out, name, labels, seed, rate, test=False) for seed in CHOOSE]
        means.append(statistics.mean(run.metrics["validation/accuracy"] for run in runs))
    return rates[int(np.argmax(means))]


def cost(names: list[str], rounds: int = 9) -> dict[str, dict[str, float]]:
    """Of each tuning: learning parameters, optimiser bytes, seconds a step over those of Full, bytes of the step."""
    asked = {name: recipe_of(name, 1000, 0, 1e-4) for name in names}
    steps: dict[str, Callable[[], None]] = {}
    found: dict[str, dict[str, float]] = {}
    for name, recipe in asked.items():
        ready = prepare(replace(recipe, data=replace(recipe.data, tokens=64)))
        steps[name], memory = stepper(ready)
        totals = describe.totals(ready, len(ready.phases) - 1)
        found[name] = {"trainable": totals["trainable"], "optimiser_bytes": totals["optimiser_bytes"], **memory}
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            start = time.perf_counter()
            steps[name]()
            times[name].append(time.perf_counter() - start)
    for name in names:
        found[name]["step_seconds"] = statistics.median(times[name])
        found[name]["step_ratio"] = statistics.median(a / b for a, b in zip(times[name], times[names[0]], strict=True))
    return found


def stepper(ready: Prepared) -> tuple[Callable[[], None], dict[str, float]]:
    """A function that takes one step of the last phase, and the bytes of the compiled step."""
    last = ready.parts(len(ready.phases) - 1)
    draw = np.random.default_rng(0)
    batch: dict[str, Any] = {
        "input_ids": draw.integers(1000, 30522, (32, 64)).astype(np.int32),
        "attention_mask": np.ones((32, 64), np.int32),
        "token_type_ids": np.zeros((32, 64), np.int32),
        "label": draw.integers(0, 2, 32).astype(np.int32),
        "index": np.arange(32, dtype=np.int32),
    }
    compiled = compile_step(last, sharding.make_mesh())
    state = compiled.place(initial_state(last, ready.variables, 100, jax.random.key(0)))
    given = {"labelled": compiled.put(batch)}
    told = compiled.train.lower(state, given).compile().memory_analysis()  # type: ignore[attr-defined]
    memory = {"step_bytes": told.argument_size_in_bytes + told.temp_size_in_bytes}

    def step() -> None:
        nonlocal state
        state, metrics = compiled.train(state, given)
        jax.block_until_ready(metrics)

    step()
    return step, memory


def compared(rows: list[dict[str, Any]]) -> None:
    """Puts into each row of one number of labels its paired difference to the first (`Full`), in points, with a p that
    is corrected over the rows (Holm), and what so many seeds could have shown."""
    points = [100 * np.array(row["accuracy"]) for row in rows]
    found = [significance.paired(own, points[0]) for own in points[1:]]
    for row, own, p in zip(
        rows[1:], found, significance.holm([significance.t_test(own) for own in found]), strict=True
    ):
        shown = significance.verdict(own.low, own.high) if p < 0.05 else significance.verdict(-1, 1)
        row["to_full"] = own._asdict() | {"p": p, "verdict": shown}
        # As strict as the correction is where one difference alone is there.
        level = 1 - (1 - significance.LEVEL) / len(found)
        row["detectable"] = significance.detectable(own.deviation, own.pairs, level) if own.pairs > 1 else float("nan")


def table(rows: list[dict[str, Any]], costs: dict[str, dict[str, float]]) -> str:
    lines = [
        "| labels | tuning | rate | accuracy: mean [range] | to Full, paired [95 %] | p, Holm | shown | detectable |",
        "| ---: | --- | ---: | --- | --- | ---: | --- | ---: |",
    ]
    for row in rows:
        values = 100 * np.array(row["accuracy"])
        told = f"{values.mean():.1f} [{values.min():.1f}, {values.max():.1f}]"
        rest = "- | - | - | -"
        if "to_full" in row:
            gap = row["to_full"]
            rest = f"{gap['mean']:+.1f} [{gap['low']:+.1f}, {gap['high']:+.1f}] | {significance.p_text(gap['p'])} "
            rest += f"| {gap['verdict']} | {row['detectable']:.1f}"
        lines.append(f"| {row['labels'] or 'all'} | {row['tuning']} | {row['rate']:.1g} | {told} | {rest} |")
    if not costs:
        return "\n".join(lines)
    lines += ["", "| tuning | learn | optimiser state | step, ms | / Full | step memory, MiB | / Full |"]
    lines += ["| --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for name, told in costs.items():
        share = told["step_bytes"] / costs["Full"]["step_bytes"]
        lines.append(
            f"| {name} | {told['trainable']:,} | {told['optimiser_bytes'] / 2**20:.2f} MiB "
            f"| {1000 * told['step_seconds']:.0f} | {told['step_ratio']:.2f} "
            f"| {told['step_bytes'] / 2**20:.0f} | {share:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/tunings"))
    parser.add_argument("--labels", type=int, nargs="+", choices=list(TRAIN), default=list(TRAIN))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tunings", nargs="+", choices=list(TUNINGS), default=list(TUNINGS))
    parser.add_argument("--cost", action=argparse.BooleanOptionalAction, default=True, help="Time the steps, or not.")
    options = parser.parse_args()
    names = ["Full", *(name for name in options.tunings if name != "Full")]
    rows: list[dict[str, Any]] = []
    for labels in options.labels:
        found = []
        for name in names:
            rate = chosen(options.out, name, labels or 1000)
            runs = [finished(options.out, name, labels, seed, rate) for seed in range(options.seeds)]
            accuracy = [run.metrics["test/accuracy"] for run in runs]
            found.append({"labels": labels, "tuning": name, "rate": rate, "accuracy": accuracy})
        compared(found)
        rows += found
    costs = cost(names) if options.cost else {}
    print(table(rows, costs))
    (options.out / "tunings.json").write_text(json.dumps({"rows": rows, "cost": costs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
