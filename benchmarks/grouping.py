"""Measure how much the results of a run depend on the group in which it trains.

    python benchmarks/grouping.py [--steps 200] [--rate 1e-2] [--only mlp ...]

Small networks train on digits: eight runs (seeds 0 to 7), each alone, then in groups of 2, 4 and 8 runs. The table
compares each run in a group with the same run alone: the largest difference of the training loss in the first ten
steps, of a learned parameter at the end, and of the test accuracy. The row `again` compares the groups of 4 with the
same groups in another process: its differences must be 0. The last column is the time of the groups divided by the
time of the runs alone. Both times include start and compilation, with a warm compilation cache.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SIZES = (2, 4, 8)


def recipes(name: str, steps: int, rate: float) -> list[Any]:
    """Return eight recipes that differ in their seeds."""
    from tlx import Data, Optim, Recipe, Train, models, tasks, tuning

    size = 28 if name == "cnn28" else 8
    model = {
        "probe": models.Mlp(inputs=(8, 8, 1), widths=(64, 64)),
        "mlp": models.Mlp(inputs=(8, 8, 1), widths=(64, 64)),
        "cnn": models.Cnn(size=8, widths=(16, 32), dense=None),
        "cnn28": models.Cnn(size=28, widths=(16, 32), dense=None),
        "vit": models.Vit(size=8, patch=2, channels=1, width=32, depth=2, heads=2, mlp=64),
        "lora": models.Vit(size=8, patch=2, channels=1, width=64, depth=4, heads=4, mlp=128),
    }[name]
    tunings = {"probe": tuning.Probe(), "lora": tuning.Lora(rank=4)}
    target = "mnist5k" if size == 28 else "digits"
    return [
        Recipe(
            data=Data(target=target, subset_seed=0),
            task=tasks.Classification(classes=10),
            model=model,
            tuning=tunings.get(name, tuning.Full()),
            optim=Optim(lr=rate),
            train=Train(steps=steps, batch=32, eval_every=steps),
            seed=seed,
        )
        for seed in range(8)
    ]


def work(name: str, size: int, steps: int, rate: float, out: Path) -> None:
    """Train the eight runs in groups of `size`."""
    from tlx.training import run_many

    # The planner groups runs if the expected time of the group is below GAIN times that of the single runs.
    run_many.GAIN = 1e9 if size > 1 else 0.0
    runs = recipes(name, steps, rate)
    start = time.perf_counter()
    outcomes = run_many.run_many(runs, [out / str(n) for n in range(len(runs))], most=size)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
        if outcome.result["pack"]["arms"] != size:
            raise SystemExit(f"{name}: expected groups of {size} runs, received {outcome.result['pack']['arms']}")
    print(json.dumps(time.perf_counter() - start))


def train(name: str, size: int, steps: int, rate: float, out: Path) -> float:
    """Run `work` in a new process and return its seconds."""
    arguments = [name, str(size), str(steps), str(rate), str(out)]
    process = subprocess.run(
        [sys.executable, __file__, "--work", *arguments], capture_output=True, text=True, check=False
    )
    if process.returncode:
        raise SystemExit(process.stderr)
    return float(process.stdout.splitlines()[-1])


def differences(first: Path, second: Path) -> tuple[float, float, float]:
    """Compare the runs of two folders.

    Returns:
        The largest difference of the training loss in the first ten steps, of a learned parameter, and of the test
        accuracy.
    """
    from tlx.records.log import read_metrics
    from tlx.weights.files import read_file

    losses, params, accuracies = [0.0], [0.0], [0.0]
    for n in range(8):
        folders = first / str(n), second / str(n)
        loss_a, loss_b = (
            {line["step"]: line["value"] for line in read_metrics(folder) if line["name"] == "train/loss"}
            for folder in folders
        )
        losses += [abs(loss_a[step] - loss_b[step]) for step in sorted(loss_b)[:10]]
        params_a, params_b = (read_file(folder / "learned.safetensors") for folder in folders)
        params += [float(np.abs(np.float64(params_a[path]) - np.float64(params_b[path])).max()) for path in params_b]
        accuracy_a, accuracy_b = (
            json.loads((folder / "result.json").read_text())["metrics"]["test/accuracy"] for folder in folders
        )
        accuracies.append(abs(accuracy_a - accuracy_b))
    return max(losses), max(params), max(accuracies)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="training steps of each run")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--only", nargs="*", default=["probe", "mlp", "cnn", "vit", "lora"], help="models to measure")
    parser.add_argument("--work", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        name, size, steps, rate, out = options.work
        work(name, int(size), int(steps), float(rate), Path(out))
        return
    print("| model | group | loss, first 10 records | learned parameter | test accuracy | time |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            alone = Path(folder, "alone")
            train(name, 1, options.steps, options.rate, Path(folder, "warm"))
            seconds = train(name, 1, options.steps, options.rate, alone)
            for size in (*SIZES, "again"):
                count = 4 if size == "again" else size
                out = Path(folder, str(size))
                if size != "again":
                    train(name, count, options.steps, options.rate, Path(folder, f"warm-{size}"))
                group_seconds = train(name, count, options.steps, options.rate, out)
                largest = differences(out, Path(folder, "4") if size == "again" else alone)
                columns = " | ".join(f"{value:.1e}" if value else "0" for value in largest)
                print(f"| {name} | {size} | {columns} | {group_seconds / seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
