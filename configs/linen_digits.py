"""Train a Linen module of your own on UCI digits; a rule freezes its first layer.

tlx run configs/linen_digits.py

Test accuracy 0.983 (359 images, seed 0, selection: last; 2026-11-23).
"""

import flax.linen as nn
import jax

from tlx import Data, Learn, Optim, Recipe, Train, models, tasks, tuning


class Digits(nn.Module):
    """Two convolutions and a hidden layer over 8x8 images: [B, 8, 8, 1] -> [B, 10]."""

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        x = nn.relu(nn.Conv(16, (3, 3))(image))
        x = nn.max_pool(nn.relu(nn.Conv(32, (3, 3))(x)), (2, 2), (2, 2))
        x = nn.relu(nn.Dense(64)(x.reshape(len(x), -1)))
        return nn.Dense(10)(nn.Dropout(0.2, deterministic=not train)(x))


def recipe() -> Recipe:
    return Recipe(
        data=Data(target="digits"),
        task=tasks.Classification(classes=10),
        model=models.Linen(module=Digits(), shape=(8, 8, 1)),
        tuning=tuning.Rules((r"module/Conv_0/.*", None), (r"module/.*/bias", Learn(weight_decay=0)), (r".*", Learn())),
        optim=Optim(lr=2e-3, weight_decay=1e-3, warmup=0.05),
        train=Train(epochs=15, batch=32),
    )
