"""Train MiniLM on the sentiment of movie reviews from scratch, with the data and budget of configs/minilm_movies.py.

tlx run configs/minilm_movies_scratch.py

Test accuracy 0.512 (2,070 sentences, seed 0, selection: last; 2026-11-23); the pretrained network has 0.844. With this
budget a network from scratch hardly learns.

With 64 labels and five paired seeds: 55.5 % [53.7, 57.4], pretrained 69.7 % [67.7, 72.9]
(experiments/transfer_is_real.py).
"""

from tlx import Data, Optim, Recipe, Train, Weights, tasks


def recipe() -> Recipe:
    return Recipe(
        data=Data(target="sentiment/movies", tokens=48, buckets=(24, 32, 48), group=16),
        task=tasks.Classification(classes=2),
        weights=Weights("minilm-l6", reset=(r".*",)),
        optim=Optim(lr=1e-4, weight_decay=0.01, warmup=0.1, schedule="linear", clip=1.0),
        train=Train(epochs=0.75, batch=32, eval_every=55),
    )
