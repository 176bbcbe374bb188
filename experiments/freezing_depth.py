"""How many layers should stay frozen, and how does the answer depend on the number of labels?

    tlx fetch efficientnet-lite0 fashion-mnist
    python experiments/freezing_depth.py [--out runs/freezing_depth] [--seeds 5]
    tlx report runs/freezing_depth

EfficientNet-Lite0 with its ImageNet weights learns pictures of clothes at 32 pixels, with 10, 100 or 1,000 labels for
each class: everything learns, the stem and the first five or eleven of sixteen blocks stay frozen, or everything below
the classifier. 100 steps with 32 examples, one learning rate for all, the selection rule `last`. All depths share
seeds, orders and budgets, so differences are paired by seed. The features below the frozen blocks are computed once.
"""

import argparse
from pathlib import Path

from tlx import Data, Optim, Recipe, Study, Train, Weights, choice, param, prod, tasks, tuning
from tlx.records import studies
from tlx.study import run_study

DEPTHS: dict[str, tuning.Tuning] = {
    "nothing": tuning.Full(),
    "5 blocks": tuning.Freeze(through="blocks/04"),
    "11 blocks": tuning.Freeze(through="blocks/10"),
    "all but the head": tuning.Probe(),
}
SHOTS = (10, 100, 1000)
# Measured on two cores without an accelerator beside other work, 2026-11-30.
MINUTES = 60


def study(seeds: int = 5) -> Study:
    """Return the study: all depths, numbers of labels and seeds."""
    base = Recipe(
        data=Data(target="fashion_mnist", size=32, channels=3, shots=SHOTS[0]),
        task=tasks.Classification(classes=10),
        weights=Weights("efficientnet-lite0"),
        optim=Optim(lr=1e-3, weight_decay=0.01, warmup=0.1, schedule="cosine", clip=1.0),
        train=Train(steps=100, batch=32, eval_every=100, eval_batch=256),
    )
    depths = choice("frozen", {name: {"tuning": value} for name, value in DEPTHS.items()})
    return Study(
        base=base,
        cells=prod(param("data.shots", list(SHOTS)), depths, param("seed", range(seeds))),
        question="How many layers should stay frozen, and how does the answer depend on the number of labels?",
        baseline={"frozen": "nothing"},
    )


def results_table(out: Path) -> str:
    """Return a Markdown table with one row per number of labels: the accuracy of each depth, and its difference."""
    table = studies.compare(studies.read(out))
    lines = ["| labels per class | " + " | ".join(DEPTHS) + " |", "| ---: |" + " ---: |" * len(DEPTHS)]
    differences = {id(comparison.arm): comparison for comparison in table.comparisons}
    for shots in SHOTS:
        row = [f"{shots:,}"]
        for summary in table.summaries:
            if summary.arm.names["data.shots"] != str(shots):
                continue
            cell = f"{100 * summary.mean:.1f} [{100 * summary.low:.1f}, {100 * summary.high:.1f}]"
            if comparison := differences.get(id(summary.arm)):
                cell += f" ({100 * comparison.difference.mean:+.1f}, {comparison.verdict})"
            row.append(cell)
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/freezing_depth"))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    experiment = study(options.seeds)
    print(
        f"{len(experiment.by_fingerprint)} runs; about {MINUTES * options.seeds / 5:.0f} minutes on two cores",
        flush=True,
    )
    run_study(experiment, options.out, file=__file__)
    print(results_table(options.out))


if __name__ == "__main__":
    main()
