"""The demo's twin from scratch: the same network, data and budget, every number drawn afresh.

tlx run configs/minilm_movies_scratch.py

Test accuracy 0.512 (2,070 sentences, seed 0, selection: last; 2026-11-23), the demo's 0.850: in this budget a network
from scratch hardly learns.

At 64 labels, five paired seeds (experiments/transfer_is_real.py): 55.5 % [53.7, 57.4], pretrained 69.7 % [67.7, 72.9].
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
