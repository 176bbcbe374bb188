"""Adapt MiniLM from product reviews to movie reviews without target labels: a bottleneck trained with DANN.

tlx run configs/minilm_dann.py
tlx negative-transfer configs/minilm_dann.py --sources sentiment/amazon,sentiment/tweets,sentiment/nyt --labels 0,10
"""

from tlx import Data, Optim, Recipe, Train, Weights, tasks, terms, tuning


def recipe() -> Recipe:
    return Recipe(
        data=Data(source="sentiment/amazon", target="sentiment/movies", labels=0, tokens=48, buckets=(24, 32, 48)),
        task=tasks.Classification(classes=2),
        weights=Weights("minilm-l6", pooling="mean"),
        tuning=tuning.Bottleneck(width=256),
        objective=(terms.Supervised(on="source"), terms.Dann()),
        optim=Optim(lr=3e-4, weight_decay=0.01, warmup=0.1, schedule="linear", clip=1.0),
        train=Train(steps=300, batch=32),
    )
