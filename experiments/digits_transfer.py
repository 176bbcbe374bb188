"""Compare domain adaptation between digit data sets, and from a source that has nothing to do with digits.

    python experiments/digits_transfer.py [--out runs/digits_transfer] [--seeds 5]
    tlx report runs/digits_transfer

There are three pairs: MNIST (5,000 images) to UCI digits, UCI digits to MNIST, and Fashion-MNIST to UCI digits. The
third pair is the negative case: the images have the same shape, but the classes do not correspond (they are matched by
position). The model is a small CNN, trained from scratch at 16 pixels a side, without target labels, for 400 steps with
32 examples per stream. `source only` trains on the source labels alone. All methods share seeds, data orders and
budgets, so differences are paired by seed. The terms have the weights of their papers. The selection rule is `last`.
Four other rules that use no target labels choose among the checkpoints at every 100 steps; the second table has their
cost.

A related question is whether target labels are better without the source. `python experiments/wang2019.py` answers it
on the same data with `tlx negative-transfer`.
"""

import argparse
import statistics
from pathlib import Path

from tlx import Data, Optim, Recipe, Study, Train, choice, models, param, prod, tasks, terms
from tlx.functional import significance
from tlx.records import studies
from tlx.study import run_study

SOURCE = terms.Supervised(on="source")
METHODS = {
    "source only": (SOURCE,),
    "DANN": (SOURCE, terms.Dann()),
    "CORAL": (SOURCE, terms.Coral(form="mean")),
    "MMD": (SOURCE, terms.Mmd()),
    "MCC": (SOURCE, terms.Mcc()),
    "gated": (terms.Gate(most=10.0, normalised=True),),
}
PAIRS = {
    "mnist5k to digits": Data(source="mnist5k", target="digits", labels=0, size=16),
    "digits to mnist5k": Data(source="digits", target="mnist5k", labels=0, size=16),
    "fashion_mnist to digits": Data(source="fashion_mnist", target="digits", labels=0, size=16, match="position"),
}
RULES = ("source-validation", "entropy", "im", "snd")
# Measured on two cores without an accelerator, 2026-11-25.
MINUTES = 12


def study(seeds: int = 5) -> Study:
    """Return the study: all pairs, methods and seeds."""
    base = Recipe(
        data=PAIRS["mnist5k to digits"],
        task=tasks.Classification(classes=10),
        model=models.Cnn(size=16, channels=1, widths=(16, 32), dense=64),
        objective=(SOURCE,),
        optim=Optim(lr=2e-3, weight_decay=0.01, warmup=0.1),
        train=Train(steps=400, batch=32, eval_every=100, eval_batch=256, criteria=RULES),
    )
    methods = choice("method", {name: {"objective": objective} for name, objective in METHODS.items()})
    return Study(
        base=base,
        cells=prod(
            choice("pair", {name: {"data": data} for name, data in PAIRS.items()}), methods, param("seed", range(seeds))
        ),
        question="Does domain adaptation help between digit data sets, and from clothes to digits?",
        baseline={"method": "source only"},
    )


def results_table(out: Path) -> str:
    """Return a Markdown table with one row per pair and method."""
    table = studies.compare(studies.read(out))
    lines = ["| pair | method | accuracy [95 %] | difference to source only [95 %] | p, Holm | verdict |"]
    lines.append("| --- | --- | --- | --- | ---: | --- |")
    comparisons = {id(comparison.arm): comparison for comparison in table.comparisons}
    for summary in table.summaries:
        names = summary.arm.names
        mean, low, high = (100 * value for value in (summary.mean, summary.low, summary.high))
        row = [names["pair"], names["method"], f"{mean:.1f} [{low:.1f}, {high:.1f}]"]
        if (comparison := comparisons.get(id(summary.arm))) is not None:
            gap = comparison.difference
            row.append(f"{100 * gap.mean:+.1f} [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]")
            row += [significance.p_text(comparison.holm), comparison.verdict]
        lines.append("| " + " | ".join(row + ["-"] * (6 - len(row))) + " |")
    return "\n".join(lines)


def rules_table(out: Path) -> str:
    """Return a Markdown table of the cost of selection rules, with one row per rule.

    The cost of a run is the difference in points between the checkpoint that the rule chooses and the best checkpoint,
    on the validation split of the target. A cell has the mean and the largest cost over the runs of a pair.
    """
    table = studies.read(out)
    pairs = list(PAIRS)
    lines = ["| rule | " + " | ".join(pairs) + " |", "| --- |" + " ---: |" * len(pairs)]
    for rule in ("last", *RULES):
        row = []
        for pair in pairs:
            results = [cell.result for cell in table.cells if cell.names["pair"] == pair and cell.result]
            gaps = [100 * result["rules"][rule]["gap"] for result in results]
            row.append(f"{statistics.mean(gaps):.1f} (at most {max(gaps):.1f})")
        lines.append("| " + " | ".join([rule, *row]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/digits_transfer"))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    experiment = study(options.seeds)
    print(
        f"{len(experiment.by_fingerprint)} runs; about {MINUTES * options.seeds / 5:.0f} minutes on two cores",
        flush=True,
    )
    run_study(experiment, options.out, file=__file__)
    print(results_table(options.out), rules_table(options.out), sep="\n\n")


if __name__ == "__main__":
    main()
