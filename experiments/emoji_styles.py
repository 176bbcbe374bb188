"""Transfer image recognition between drawing styles: does adaptation help between Twemoji, OpenMoji and Noto?

    tlx fetch efficientnet-lite0 emoji-data twemoji openmoji noto-emoji
    python experiments/emoji_styles.py [--out runs/emoji_styles] [--seeds 5]
    tlx report runs/emoji_styles

The same thousand things in three styles, six classes; the things of the test are in no training split of any style. An
EfficientNet-Lite0 with its ImageNet weights reads pictures of 96 pixels and stays frozen; a neck of 256 units and the
classifier learn for 300 steps with 32 examples per stream, without a label of the target. Six directions, four methods
(`source only`, CORAL, MCC and DANN with its ramp) with the weights of their papers. All methods share seeds, orders and
budgets, so differences are paired by seed. The selection rule is `last`.

Whether a source is better than a few labels of the target alone, and how far a style is from its own labels, is the
question of `tlx negative-transfer configs/emoji_styles.py`.
"""

import argparse
from itertools import permutations
from pathlib import Path

from sentiment_transfer import results_table

from tlx import Data, Optim, Recipe, Study, Train, Weights, choice, models, param, prod, tasks, terms, tuning
from tlx.study import run_study

STYLES = ("twemoji", "openmoji", "noto")
SOURCE = terms.Supervised(on="source")
METHODS = {
    "source only": (SOURCE,),
    "DANN": (SOURCE, terms.Dann()),
    "CORAL": (SOURCE, terms.Coral(form="mean")),
    "MCC": (SOURCE, terms.Mcc()),
}
# All runs and the frozen features, measured on two cores without an accelerator beside other work, 2026-11-30.
MINUTES = 13


def between(source: str, target: str) -> Data:
    """Return the data of one direction, without labels of the target."""
    return Data(source=f"emoji/{source}", target=f"emoji/{target}", labels=0, size=96)


def study(seeds: int = 5) -> Study:
    """Return the study: all directions, methods and seeds."""
    base = Recipe(
        data=between("twemoji", "openmoji"),
        task=tasks.Classification(classes=6, neck=models.Neck(width=256)),
        weights=Weights("efficientnet-lite0"),
        tuning=tuning.Probe(),
        objective=(SOURCE,),
        optim=Optim(lr=1e-3, weight_decay=0.01, warmup=0.1),
        train=Train(steps=300, batch=32, eval_every=300),
    )
    pairs = {f"{source} to {target}": {"data": between(source, target)} for source, target in permutations(STYLES, 2)}
    methods = choice("method", {name: {"objective": objective} for name, objective in METHODS.items()})
    return Study(
        base=base,
        cells=prod(choice("pair", pairs), methods, param("seed", range(seeds))),
        question="Does domain adaptation help between drawing styles, and does it ever hurt?",
        baseline={"method": "source only"},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/emoji_styles"))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    experiment = study(options.seeds)
    print(
        f"{len(experiment.by_fingerprint)} runs; about {MINUTES * options.seeds / 5:.0f} minutes on two cores",
        flush=True,
    )
    run_study(experiment, options.out, file=__file__)
    print(results_table(options.out, tuple(METHODS)))


if __name__ == "__main__":
    main()
