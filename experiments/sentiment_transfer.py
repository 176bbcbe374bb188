"""Measure whether domain adaptation helps or hurts between four kinds of texts, without target labels.

    python experiments/sentiment_transfer.py [--out runs/sentiment_transfer] [--seeds 5]
    tlx report runs/sentiment_transfer

The study has all twelve ordered pairs of the four domains. The features of MiniLM (mean over the tokens) are frozen and
computed once. A residual bottleneck of 256 units and the head are trainable, for 300 steps with 32 examples per stream.
`source only` trains on the source labels alone. The other methods add DANN, CORAL (means and covariances) or MCC, or
use the gate of Wang et al. with normalised weights of at most 10. All methods share seeds, data orders and budgets, so
differences to `source only` are paired by seed. The learning rate was chosen for `source only` on the validation split
of the movie reviews with seed 100. The terms have the weights of their papers. The selection rule is `last`: target
labels are used for measurement only.

Results of the 300 runs, 2026-11-25: the best term is shown to be better than `source only` on 2 of 12 pairs (MCC on
movies to amazon, CORAL on amazon to tweets), and CORAL is shown to be worse on two. The p values are corrected over all
48 comparisons. docs/results/domains.md has the table.
"""

import argparse
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

from tlx import Data, Optim, Recipe, Study, Train, Weights, choice, param, prod, tasks, terms
from tlx.functional import significance
from tlx.records import studies
from tlx.study import run_study
from tlx.tuning import Bottleneck

DOMAINS = ("movies", "amazon", "tweets", "nyt")
SOURCE = terms.Supervised(on="source")
METHODS = {
    "source only": (SOURCE,),
    "DANN": (SOURCE, terms.Dann()),
    "CORAL": (SOURCE, terms.Coral(form="mean")),
    "MCC": (SOURCE, terms.Mcc()),
    "gated": (terms.Gate(most=10.0, normalised=True),),
}
# All runs and the frozen features, measured on two cores without an accelerator, 2026-11-25.
MINUTES = 15


def between(source: str, target: str) -> Data:
    """Return the data of one pair of domains, without target labels."""
    return Data(source=f"sentiment/{source}", target=f"sentiment/{target}", labels=0, tokens=48, buckets=(24, 32, 48))


def study(seeds: int = 5) -> Study:
    """Return the study: all pairs, methods and seeds."""
    base = Recipe(
        data=between("amazon", "movies"),
        task=tasks.Classification(classes=2),
        weights=Weights("minilm-l6", pooling="mean"),
        tuning=Bottleneck(width=256),
        objective=(SOURCE,),
        optim=Optim(lr=3e-4, weight_decay=0.01, warmup=0.1, schedule="linear", clip=1.0),
        train=Train(steps=300, batch=32, eval_every=300),
    )  # fmt: skip
    pairs = {f"{source} to {target}": {"data": between(source, target)} for source, target in permutations(DOMAINS, 2)}
    methods = choice("method", {name: {"objective": objective} for name, objective in METHODS.items()})
    return Study(
        base=base,
        cells=prod(choice("pair", pairs), methods, param("seed", range(seeds))),
        question="Does domain adaptation help between kinds of texts, and does it ever hurt?",
        baseline={"method": "source only"},
    )


def results_table(out: Path, methods: Sequence[str] = tuple(METHODS)) -> str:
    """Return a Markdown table with one row per pair.

    Two sentences below it state on how many pairs the best method is shown to be better, and which methods are shown to
    be worse.
    """
    table = studies.compare(studies.read(out))
    means = {(summary.arm.names["pair"], summary.arm.names["method"]): summary.mean for summary in table.summaries}
    lines = ["| pair | " + " | ".join(methods) + " | best: difference [95 %] | p, Holm | verdict |"]
    lines.append("| --- |" + " ---: |" * len(methods) + " --- | ---: | --- |")
    better, worse = [], []
    for pair in dict.fromkeys(pair for pair, _ in means):
        comparisons = [comparison for comparison in table.comparisons if comparison.arm.names["pair"] == pair]
        best = max(comparisons, key=lambda comparison: comparison.difference.mean)
        gap = best.difference
        accuracies = [f"{100 * means[pair, name]:.1f}" for name in methods]
        interval = f"{100 * gap.mean:+.1f} [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]"
        row = [
            pair,
            *accuracies,
            f"{best.arm.names['method']}: {interval}",
            significance.p_text(best.holm),
            best.verdict,
        ]
        lines.append("| " + " | ".join(row) + " |")
        better += [pair] if best.verdict == "better" else []
        worse += [f"{item.arm.names['method']} on {pair}" for item in comparisons if item.verdict == "worse"]
    lines.append(
        f"\nThe best method is shown to be better than source only on {len(better)} of {len(lines) - 2} pairs."
    )
    lines.append(f"Methods that are shown to be worse than source only: {', '.join(worse) or 'none'}.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/sentiment_transfer"))
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
