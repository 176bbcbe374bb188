"""Measure how far a run's numbers depend on the group in which it trains.

    python benchmarks/grouping.py [--steps 200] [--rates 1e-2] [--only mlp ...]

For small networks on digits the same runs (seeds 0, 1, 2, ...) train alone and in groups of 2, 4 and 8. Of every run
that was in both, the table says how far the group is from the run alone: the largest difference of the training loss
in its first ten steps, of a learned parameter at the end, and of the test accuracy. `again` repeats the group of
4 in another process: it must be 0. The last column is the time of the group over the time of its runs alone, start
and compilation included, from a warm compilation cache.
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
    """Eight runs that differ in their seeds."""
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
    kinds = {"probe": tuning.Probe(), "lora": tuning.Lora(rank=4)}
    target = "mnist5k" if size == 28 else "digits"
    return [
        Recipe(
            data=Data(target=target, subset_seed=0),
            task=tasks.Classification(classes=10),
            model=model,
            tuning=kinds.get(name, tuning.Full()),
            optim=Optim(lr=rate),
            train=Train(steps=steps, batch=32, eval_every=steps),
            seed=seed,
        )
        for seed in range(8)
    ]


def work(name: str, size: int, steps: int, rate: float, out: Path) -> None:
    """Train the eight runs in groups of `size`."""
    from tlx.training import run_many

    run_many.GAIN = 1e9 if size > 1 else 0.0
    given = recipes(name, steps, rate)
    start = time.perf_counter()
    found = run_many.run_many(given, [out / str(n) for n in range(len(given))], most=size)
    for outcome in found:
        if isinstance(outcome, Exception):
            raise outcome
        if outcome.result["pack"]["arms"] != size:
            raise SystemExit(f"{name}: a group of {outcome.result['pack']['arms']}, not of {size}")
    print(json.dumps(time.perf_counter() - start))


def trained(name: str, size: int, steps: int, rate: float, out: Path) -> float:
    """Return the seconds that `work` takes in a new process."""
    words = [name, str(size), str(steps), str(rate), str(out)]
    done = subprocess.run([sys.executable, __file__, "--work", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(done.stdout.splitlines()[-1])


def differences(one: Path, other: Path) -> tuple[float, float, float]:
    """The largest difference over the runs of two folders: early training loss, learned parameter, test accuracy."""
    from tlx.records.log import read_metrics
    from tlx.weights.files import read_file

    losses, leaves, accuracies = [0.0], [0.0], [0.0]
    for n in range(8):
        mine, theirs = (
            {line["step"]: line["value"] for line in read_metrics(folder / str(n)) if line["name"] == "train/loss"}
            for folder in (one, other)
        )
        losses += [abs(mine[step] - theirs[step]) for step in sorted(theirs)[:10]]
        ours, others = (read_file(folder / str(n) / "learned.safetensors") for folder in (one, other))
        leaves += [float(np.abs(np.float64(ours[path]) - np.float64(others[path])).max()) for path in others]
        found = [
            json.loads((folder / str(n) / "result.json").read_text())["metrics"]["test/accuracy"]
            for folder in (one, other)
        ]
        accuracies.append(abs(found[0] - found[1]))
    return max(losses), max(leaves), max(accuracies)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--only", nargs="*", default=["probe", "mlp", "cnn", "vit", "lora"])
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
            trained(name, 1, options.steps, options.rate, Path(folder, "warm"))
            seconds = trained(name, 1, options.steps, options.rate, alone)
            for size in (*SIZES, "again"):
                count = 4 if size == "again" else size
                out = Path(folder, str(size))
                if size != "again":
                    trained(name, count, options.steps, options.rate, Path(folder, f"warm-{size}"))
                took = trained(name, count, options.steps, options.rate, out)
                found = differences(out, Path(folder, "4") if size == "again" else alone)
                told = " | ".join(f"{value:.1e}" if value else "0" for value in found)
                print(f"| {name} | {size} | {told} | {took / seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
