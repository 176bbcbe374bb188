"""Fine-tune MiniLM on the sentiment of movie reviews with everything up to block 3 frozen.

The learning rate is multiplied by 0.75 for each stage below the head.

tlx run configs/minilm_movies_frozen.py

Test accuracy 0.840 (2,070 sentences, seed 0, selection: last; 2026-11-29).
"""

from tlx import Data, Optim, Recipe, Train, Weights, tasks, tuning


def recipe() -> Recipe:
    return Recipe(
        data=Data(target="sentiment/movies", tokens=48, buckets=(24, 32, 48), group=16),
        task=tasks.Classification(classes=2),
        weights=Weights("minilm-l6"),
        tuning=tuning.Freeze(through="blocks/03", decay=0.75),
        optim=Optim(lr=5e-4, weight_decay=0.01, warmup=0.1, schedule="linear", clip=1.0),
        train=Train(epochs=1, batch=32),
    )
