"""Fine-tune EfficientNet-Lite0 with its ImageNet weights on pictures of clothes.

tlx fetch efficientnet-lite0 fashion-mnist
tlx run configs/lite0_fashion.py
tlx benefit configs/lite0_fashion.py --shots 10,100
"""

from tlx import Data, Optim, Recipe, Train, Weights, tasks


def recipe() -> Recipe:
    return Recipe(
        data=Data(target="fashion_mnist", shots=1000, size=32, channels=3),
        task=tasks.Classification(classes=10),
        weights=Weights("efficientnet-lite0"),
        optim=Optim(lr=1e-3, weight_decay=0.01, warmup=0.1, schedule="cosine", clip=1.0),
        train=Train(steps=100, batch=32, eval_every=100, eval_batch=256),
    )
