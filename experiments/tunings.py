"""Compare ways of tuning MiniLM on movie reviews: accuracy and cost.

    python experiments/tunings.py [--out runs/tunings] [--labels 64 1000 0] [--seeds 5] [--tunings Full Lora ...]
                                  [--no-cost]

`--labels` are numbers of labelled sentences; 0 means all 7,014. The learning rate of each tuning is the best of three
on the validation split at seed 100, which is not in the table. For all sentences it is the learning rate of the runs
with 1,000 sentences. All runs of one seed have the same labelled subset, the same order of batches and the same number
of steps, so differences to `Full` are paired by seed. The p value of the paired t-test is corrected over the tunings
(Holm). "detectable" is the minimum detectable difference in points: this number of seeds shows a difference of this
size with probability 0.8 at the corrected level. Finished runs are kept and are not repeated. The table and
`tunings.json`, which has all its numbers, are computed from the records of the runs.

Step time and step memory belong to the compiled step at batch 32 x 64 tokens. The time is a median over rounds in which
the tunings take turns, divided by the time of `Full`. The memory is the sum of arguments and temporaries, as the
compiler counts them. For a tuning with several phases both numbers belong to the last phase.
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
# Each tuning with the middle one of its three learning rates.
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
# The schedule of ULMFiT includes a warm-up.
WARMUP = {"ULMFiT": 0.0}
GRID = (1 / 3, 1.0, 3.0)
CHOOSE = (100,)
TRAIN = {
    64: Train(steps=60, batch=16, eval_every=60),
    1000: Train(steps=94, batch=32, eval_every=94),
    0: Train(steps=220, batch=32, eval_every=220),
}


def recipe_of(name: str, labels: int, seed: int, rate: float) -> Recipe:
    """Return the recipe of one run."""
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
    """Return a run; train only if it is not finished.

    Without `test` the run does not read the test split; this is used to choose the learning rate.
    """
    folder = out / f"{name.replace(', ', '-')}-{labels}-{seed}-{rate:.3g}"
    how = How(quiet=True, leave="learned", test=test, checkpoint_seconds=60)
    outcome = run(recipe_of(name, labels, seed, rate), folder, resume=folder.exists(), how=how)
    accuracies = {name: f"{value:.4f}" for name, value in outcome.metrics.items() if name.endswith("/accuracy")}
    print(f"{folder.name}: {accuracies}", flush=True)
    return outcome


def best_rate(out: Path, name: str, labels: int) -> float:
    """Return the learning rate with the best mean validation accuracy over the seeds in CHOOSE."""
    rates = [factor * TUNINGS[name][1] for factor in GRID]
    means = []
    for rate in rates:
        runs = [finished(out, name, labels, seed, rate, test=False) for seed in CHOOSE]
        means.append(statistics.mean(run.metrics["validation/accuracy"] for run in runs))
    return rates[int(np.argmax(means))]


def cost(names: list[str], rounds: int = 9) -> dict[str, dict[str, float]]:
    """Measure the cost of each tuning.

    Returns:
        For each tuning: the number of trainable parameters, the bytes of the optimiser state, the seconds of a step,
        the ratio to the step of the first tuning (`Full`), and the bytes of the step.
    """
    recipes = {name: recipe_of(name, 1000, 0, 1e-4) for name in names}
    steps: dict[str, Callable[[], None]] = {}
    costs: dict[str, dict[str, float]] = {}
    for name, recipe in recipes.items():
        ready = prepare(replace(recipe, data=replace(recipe.data, tokens=64)))
        steps[name], memory = stepper(ready)
        totals = describe.totals(ready, len(ready.phases) - 1)
        costs[name] = {"trainable": totals["trainable"], "optimiser_bytes": totals["optimiser_bytes"], **memory}
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            start = time.perf_counter()
            steps[name]()
            times[name].append(time.perf_counter() - start)
    for name in names:
        costs[name]["step_seconds"] = statistics.median(times[name])
        costs[name]["step_ratio"] = statistics.median(
            seconds / full for seconds, full in zip(times[name], times[names[0]], strict=True)
        )
    return costs


def stepper(ready: Prepared) -> tuple[Callable[[], None], dict[str, float]]:
    """Compile one step of the last phase.

    Returns:
        A function that runs the step, and the bytes of the compiled step.
    """
    last = ready.parts(len(ready.phases) - 1)
    generator = np.random.default_rng(0)
    batch: dict[str, Any] = {
        "input_ids": generator.integers(1000, 30522, (32, 64)).astype(np.int32),
        "attention_mask": np.ones((32, 64), np.int32),
        "token_type_ids": np.zeros((32, 64), np.int32),
        "label": generator.integers(0, 2, 32).astype(np.int32),
        "index": np.arange(32, dtype=np.int32),
    }
    compiled = compile_step(last, sharding.make_mesh())
    state = compiled.place(initial_state(last, ready.variables, 100, jax.random.key(0)))
    batches = {"labelled": compiled.put(batch)}
    analysis = compiled.train.lower(state, batches).compile().memory_analysis()  # type: ignore[attr-defined]
    memory = {"step_bytes": analysis.argument_size_in_bytes + analysis.temp_size_in_bytes}

    def step() -> None:
        nonlocal state
        state, metrics = compiled.train(state, batches)
        jax.block_until_ready(metrics)

    step()
    return step, memory


def add_comparisons(rows: list[dict[str, Any]]) -> None:
    """Add to each row its comparison with the first row (`Full`).

    The rows have the same number of labels. The comparison is the paired difference in points, its p value, corrected
    over the rows (Holm), its verdict, and the minimum detectable difference.
    """
    points = [100 * np.array(row["accuracy"]) for row in rows]
    gaps = [significance.paired(tuned, points[0]) for tuned in points[1:]]
    corrected = significance.holm([significance.t_test(gap) for gap in gaps])
    for row, gap, p in zip(rows[1:], gaps, corrected, strict=True):
        verdict = significance.verdict(gap.low, gap.high) if p < 0.05 else significance.verdict(-1, 1)
        row["to_full"] = gap._asdict() | {"p": p, "verdict": verdict}
        # The level that the correction sets if only one of the differences is real.
        level = 1 - (1 - significance.LEVEL) / len(gaps)
        row["detectable"] = significance.detectable(gap.deviation, gap.pairs, level) if gap.pairs > 1 else float("nan")


def table(rows: list[dict[str, Any]], costs: dict[str, dict[str, float]]) -> str:
    """Return the Markdown tables of accuracy and of cost."""
    lines = [
        "| labels | tuning | learning rate | accuracy: mean [range] | difference to Full, paired [95 %] | p, Holm "
        "| verdict | detectable |",
        "| ---: | --- | ---: | --- | --- | ---: | --- | ---: |",
    ]
    for row in rows:
        values = 100 * np.array(row["accuracy"])
        accuracy = f"{values.mean():.1f} [{values.min():.1f}, {values.max():.1f}]"
        rest = "- | - | - | -"
        if "to_full" in row:
            gap = row["to_full"]
            rest = f"{gap['mean']:+.1f} [{gap['low']:+.1f}, {gap['high']:+.1f}] | {significance.p_text(gap['p'])} "
            rest += f"| {gap['verdict']} | {row['detectable']:.1f}"
        lines.append(f"| {row['labels'] or 'all'} | {row['tuning']} | {row['rate']:.1g} | {accuracy} | {rest} |")
    if not costs:
        return "\n".join(lines)
    lines += ["", "| tuning | trainable | optimiser state | step, ms | / Full | step memory, MiB | / Full |"]
    lines += ["| --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for name, cost in costs.items():
        share = cost["step_bytes"] / costs["Full"]["step_bytes"]
        lines.append(
            f"| {name} | {cost['trainable']:,} | {cost['optimiser_bytes'] / 2**20:.2f} MiB "
            f"| {1000 * cost['step_seconds']:.0f} | {cost['step_ratio']:.2f} "
            f"| {cost['step_bytes'] / 2**20:.0f} | {share:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/tunings"))
    parser.add_argument("--labels", type=int, nargs="+", choices=list(TRAIN), default=list(TRAIN))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tunings", nargs="+", choices=list(TUNINGS), default=list(TUNINGS))
    parser.add_argument("--cost", action=argparse.BooleanOptionalAction, default=True, help="measure the steps")
    options = parser.parse_args()
    names = ["Full", *(name for name in options.tunings if name != "Full")]
    rows: list[dict[str, Any]] = []
    for labels in options.labels:
        group = []
        for name in names:
            rate = best_rate(options.out, name, labels or 1000)
            runs = [finished(options.out, name, labels, seed, rate) for seed in range(options.seeds)]
            accuracy = [run.metrics["test/accuracy"] for run in runs]
            group.append({"labels": labels, "tuning": name, "rate": rate, "accuracy": accuracy})
        add_comparisons(group)
        rows += group
    costs = cost(names) if options.cost else {}
    print(table(rows, costs))
    (options.out / "tunings.json").write_text(json.dumps({"rows": rows, "cost": costs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
