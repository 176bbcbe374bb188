"""Recognise things in another drawing style: MCC from Twemoji to OpenMoji, without a label of the target.

tlx fetch efficientnet-lite0 emoji-data twemoji openmoji
tlx run configs/emoji_styles.py
tlx negative-transfer configs/emoji_styles.py --labels 0,1,5

EfficientNet-Lite0 with its ImageNet weights is frozen; a neck and the classifier learn.

Test accuracy 0.435 (211 pictures; mean of five seeds, as the report of negative transfer trains them; selection: last;
2026-11-30); the source without adaptation 0.443, chance 0.275. See docs/results/images.md.
"""

from tlx import Data, Optim, Recipe, Train, Weights, models, tasks, terms, tuning


def recipe() -> Recipe:
    return Recipe(
        data=Data(source="emoji/twemoji", target="emoji/openmoji", labels=0, size=64),
        task=tasks.Classification(classes=6, neck=models.Neck(width=256)),
        weights=Weights("efficientnet-lite0"),
        tuning=tuning.Probe(),
        objective=(terms.Supervised(on="source"), terms.Mcc()),
        optim=Optim(lr=1e-3, weight_decay=0.01, warmup=0.1),
        train=Train(steps=150, batch=32, eval_every=150),
    )
