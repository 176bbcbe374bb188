"""Find defective solar cells of another kind of silicon: from one crystal to many, without a label of the target.

tlx fetch efficientnet-lite0 solar-cells
tlx run configs/solar_cells.py
tlx negative-transfer configs/solar_cells.py --labels 0,5,20

EfficientNet-Lite0 with its ImageNet weights is frozen; a neck and the classifier learn. The photos must not be used
commercially (CC-BY-NC-SA-4.0).

Test accuracy 0.653 (274 photos; mean of five seeds, as the report of negative transfer trains them; selection: last;
2026-11-30), not shown to be above the majority class, 0.672; the source without adaptation 0.324. See
docs/results/images.md.
"""

from tlx import Data, Optim, Recipe, Train, Weights, models, tasks, terms, tuning


def recipe() -> Recipe:
    return Recipe(
        data=Data(source="solar_cells/mono", target="solar_cells/poly", labels=0, size=96, channels=3),
        task=tasks.Classification(classes=2, neck=models.Neck(width=256)),
        weights=Weights("efficientnet-lite0"),
        tuning=tuning.Probe(),
        objective=(terms.Supervised(on="source"), terms.Coral(form="mean")),
        optim=Optim(lr=1e-3, weight_decay=0.01, warmup=0.1),
        train=Train(steps=150, batch=32, eval_every=150),
    )
