"""Fine-tune the network of configs/cnn_mnist.py on UCI digits (8x8 images, scaled up to 28x28).

tlx run configs/cnn_mnist.py
tlx run configs/cnn_digits_from_mnist.py

Test accuracy 0.986 with all 1,258 labels (359 images, seed 0, selection: last; 2026-11-23). With all labels
pretraining makes little difference. With few labels it helps (experiments/transfer_is_real.py, five paired seeds;
ranges over seeds): with 20 labels 88.0 % [84.1, 90.5] against 80.1 % [75.5, 85.0] from scratch, with 60 labels 92.6 %
[91.1, 95.3] against 89.3 % [85.5, 91.4].
"""

from tlx import Data, Optim, Recipe, Train, Weights, models, tasks, tuning


def recipe() -> Recipe:
    return Recipe(
        data=Data(target="digits"),
        task=tasks.Classification(classes=10),
        model=models.Cnn(size=28, channels=1, widths=(16, 32, 64)),
        weights=Weights("runs/cnn_mnist", reset=(r"head/.*",)),
        tuning=tuning.Full(decay=0.7),
        optim=Optim(lr=1e-3, weight_decay=1e-2, warmup=0.1),
        train=Train(epochs=10, batch=32),
    )
