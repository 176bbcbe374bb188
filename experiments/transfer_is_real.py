"""Compare pretrained initial weights with training from scratch, over five paired seeds.

    tlx run configs/cnn_mnist.py
    python experiments/transfer_is_real.py [--out runs/transfer_is_real] [--seeds 5] [--pairs movies digits20 digits60]

`movies`: MiniLM, fine-tuned on 64 labelled sentences (32 per class), against the same network trained from scratch.
`digits20`, `digits60`: the network of configs/cnn_mnist.py with its head, fine-tuned on UCI digits with 2 and 6 labels
per class, against the same network trained from scratch.

Both sides of a pair share the seed, the labelled subset, the order of the batches, the budget and the learning rate.
The learning rates were chosen on validation splits with seeds 100 to 102, which are not in the table. Finished runs are
kept and are not repeated. The table is computed from the records of the runs.
"""

import argparse
from pathlib import Path

import numpy as np
from scipy import stats

from tlx import Data, Optim, Recipe, Train, Weights, models, run, tasks
from tlx.training.loop import Run

PAIRS = ("movies", "digits20", "digits60")
CNN = models.Cnn(size=28, channels=1, widths=(16, 32, 64))


def movies(seed: int, pretrained: bool) -> Recipe:
    """Return the recipe of MiniLM on 64 labels."""
    return Recipe(
        data=Data(target="sentiment/movies", shots=32, tokens=64, buckets=(32, 48, 64)),
        task=tasks.Classification(classes=2),
        weights=Weights("minilm-l6", pooling="mean", reset=() if pretrained else (r".*",)),
        optim=Optim(lr=2e-4, weight_decay=0.01, warmup=0.1, schedule="linear", clip=1.0),
        train=Train(epochs=15, batch=16, eval_every=60),
        seed=seed,
    )


def digits(seed: int, pretrained: bool, shots: int, source: str) -> Recipe:
    """Return the recipe of the MNIST network on `shots` labels per class of UCI digits."""
    return Recipe(
        data=Data(target="digits", shots=shots),
        task=tasks.Classification(classes=10),
        model=CNN,
        weights=Weights(source, reset=() if pretrained else (r".*",)),
        optim=Optim(lr=1e-3, weight_decay=1e-2, warmup=0.1),
        train=Train(steps=100, batch=16, eval_every=100),
        seed=seed,
    )


def recipe_of(name: str, seed: int, pretrained: bool, source: str) -> Recipe:
    """Return the recipe of one run of the comparison `name`."""
    if name == "movies":
        return movies(seed, pretrained)
    return digits(seed, pretrained, {"digits20": 2, "digits60": 6}[name], source)


def finished(recipe: Recipe, folder: Path) -> Run:
    """Return the run of `recipe` in `folder`; train only if it is not finished."""
    return run(recipe, folder, resume=folder.exists(), quiet=True)


def compare(name: str, out: Path, seeds: int, source: str) -> str:
    """Return a Markdown row: both accuracies with their ranges, and the paired difference with its 95 % t-interval."""
    accuracies: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(seeds):
        for pretrained in (True, False):
            recipe = recipe_of(name, seed, pretrained, source)
            folder = out / f"{name}-{'pretrained' if pretrained else 'scratch'}-{seed}"
            accuracies[pretrained].append(finished(recipe, folder).metrics["test/accuracy"])
            print(f"{folder}: test accuracy {accuracies[pretrained][-1]:.4f}", flush=True)
    transfer, scratch = (100 * np.array(accuracies[key]) for key in (True, False))
    gain = transfer - scratch
    low, high = stats.t.interval(0.95, len(gain) - 1, gain.mean(), stats.sem(gain))
    wins = f"{(gain > 0).sum()} of {seeds}"
    cells = [f"{side.mean():.1f} [{side.min():.1f}, {side.max():.1f}]" for side in (transfer, scratch)]
    return f"| {name} | {cells[0]} | {cells[1]} | {gain.mean():+.1f} [{low:+.1f}, {high:+.1f}] | {wins} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/transfer_is_real"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=PAIRS)
    parser.add_argument("--source", type=Path, default=Path("runs/cnn_mnist"), help="the run of configs/cnn_mnist.py")
    options = parser.parse_args()
    rows = [compare(name, options.out, options.seeds, str(options.source)) for name in options.pairs]
    print(
        "| data | pretrained: mean [range] | from scratch: mean [range] | paired difference [95 %] | seeds in favour |"
    )
    print("| --- | --- | --- | --- | --- |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
