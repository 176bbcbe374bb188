"""Does a source of other pictures help on digits, and what does one do that has nothing to do with them?

    python experiments/digits_transfer.py [--out runs/digits_transfer] [--seeds 5]
    tlx report runs/digits_transfer

MNIST (5,000 pictures) to UCI digits and back, and clothes to UCI digits, the classes taken by their order: a source of
the same shape and of no use, the negative case. A small CNN from scratch at 16 pixels a side, without a label of the
target, 400 steps of 32 examples a stream. `source only` is the source's labels alone; all methods share seeds, orders
and budgets, so differences are paired by seed. The terms have the weights of their papers, the rule is `last`; what
four rules that see no label of the target would have chosen among the looks at every 100 steps is measured beside it.

`tlx negative-transfer` on the same data asks the other question, whether the target's own labels are better without the
source: `python experiments/wang2019.py`.
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
# Of two cores without an accelerator, 2026-11-25.
MINUTES = 12


def study(seeds: int = 5) -> Study:
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
        question="Does adaptation help from other digits, and from clothes?",
        baseline={"method": "source only"},
    )


def told(out: Path) -> str:
    """A Markdown row a pair and method."""
    table = studies.compare(studies.read(out))
    lines = ["| pair | method | accuracy [95 %] | to source only [95 %] | p, Holm | shown |"]
    lines.append("| --- | --- | --- | --- | ---: | --- |")
    compared = {id(one.arm): one for one in table.comparisons}
    for one in table.summaries:
        mean, low, high = (100 * end for end in (one.mean, one.low, one.high))
        row = [one.arm.names["pair"], one.arm.names["method"], f"{mean:.1f} [{low:.1f}, {high:.1f}]"]
        if (found := compared.get(id(one.arm))) is not None:
            gap = found.difference
            row.append(f"{100 * gap.mean:+.1f} [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]")
            row += [significance.p_text(found.holm), found.verdict]
        lines.append("| " + " | ".join(row + ["-"] * (6 - len(row))) + " |")
    return "\n".join(lines)


def chosen(out: Path) -> str:
    """A Markdown row a rule: how far what it would have chosen is from the best look at the target's validation split,
    in points, over the runs of each pair."""
    table = studies.read(out)
    pairs = list(PAIRS)
    lines = ["| rule | " + " | ".join(pairs) + " |", "| --- |" + " ---: |" * len(pairs)]
    for rule in ("last", *RULES):
        row = []
        for pair in pairs:
            done = [cell.result for cell in table.cells if cell.names["pair"] == pair and cell.result]
            gaps = [100 * told["rules"][rule]["gap"] for told in done]
            row.append(f"{statistics.mean(gaps):.1f} (at most {max(gaps):.1f})")
        lines.append("| " + " | ".join([rule, *row]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/digits_transfer"))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    asked = study(options.seeds)
    print(f"{len(asked.by_fingerprint)} runs; about {MINUTES * options.seeds / 5:.0f} minutes on two cores", flush=True)
    run_study(asked, options.out, file=__file__)
    print(told(options.out), chosen(options.out), sep="\n\n")


if __name__ == "__main__":
    main()
