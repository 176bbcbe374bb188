"""Choose the settings of a run that the user leaves open, by the size and the kind of the data.

The accuracies that these settings reach, beside those of the configs, are in docs/results/finetune.md.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tlx import tasks
from tlx.data import Crop, Dataset, Examples
from tlx.models import Architecture
from tlx.optim import Optim
from tlx.processors import NumberProcessor, TextProcessor
from tlx.processors.columns import LABEL, inputs
from tlx.processors.columns import kind_of as input_kind
from tlx.recipe import Train
from tlx.tasks import Task
from tlx.trees import near_miss
from tlx.tuning import BitFit, Full, NormTuning, Probe, Tuning

# Below this number of training examples a batch has 16 examples, so that an epoch has enough updates.
SMALL = 500
# Up to this number of labelled texts the biases and the head of a pretrained model are trained. With 64 labels that was
# better than training all (docs/results/tunings.md), with 216 it was not (docs/results/finetune.md).
FEW_LABELS = 120
# Below this number, texts of one length are not sorted out: each further length of a batch is a program to compile.
FEW_TEXTS = 1000
# Texts are cut at the length of this percentile, and at no more than this number of tokens.
PERCENTILE, MOST_TOKENS = 98, 256
# Texts and sounds that are measured.
MEASURED, MEASURED_SOUNDS = 2000, 500
# Validations of a run, which are the points of its curves.
VALIDATIONS = 5


class Budget(NamedTuple):
    """The settings of one kind of training.

    `updates` is the number of updates that the epochs aim at, between `epochs` at least and at most.
    """

    lr: float
    batch: int
    updates: int
    epochs: tuple[int, int]
    warmup: float
    schedule: Any
    reason: str


# The width of the model for which the rates of pretrained models were measured (docs/results/tunings.md).
WIDTH = 384

BUDGETS: Mapping[str, Budget] = {
    # Warm-up and up to 20 epochs on small data: Mosbach, Andriushchenko and Klakow, 2021. With 216 labels 60 updates
    # were no worse than 200 (docs/results/finetune.md).
    "pretrained": Budget(2e-4, 32, 70, (1, 20), 0.1, "linear", "all pretrained parameters"),
    # Features of the frozen layers are computed once, so epochs cost little.
    "head": Budget(1e-2, 32, 1000, (5, 100), 0.1, "cosine", "the head alone"),
    # Few parameters, most of them new, take larger rates: Hu et al., 2022.
    "few": Budget(3e-3, 32, 70, (1, 20), 0.1, "linear", "few parameters"),
    "scratch": Budget(2e-3, 64, 600, (3, 60), 0.05, "cosine", "a new model"),
}


def budget_of(tuning: Tuning, architecture: Architecture, pretrained: bool) -> Budget:
    """Return the budget for a way of tuning a pretrained or a new model.

    The rate of the pretrained parameters falls with the width of the model beyond `WIDTH`, as the best rate of Adam
    does (Yang et al., 2021, table 3).
    """
    if not pretrained:
        return BUDGETS["scratch"]
    if isinstance(tuning, Probe):
        return BUDGETS["head"]
    if type(tuning).insert is not Tuning.insert or isinstance(tuning, BitFit | NormTuning):
        return BUDGETS["few"]
    budget = BUDGETS["pretrained"]
    width = getattr(architecture, "width", WIDTH)
    return budget._replace(lr=float(f"{budget.lr * min(1.0, WIDTH / width):.2g}"))


def usual_tuning(count: int, dataset: Dataset, pretrained: bool) -> Tuning:
    """Return the tuning of a model for `count` training examples: the biases and the head for few texts, else all."""
    texts = input_kind(dataset.columns) in ("text", "words")
    return BitFit() if pretrained and texts and count <= FEW_LABELS else Full()


def optim_of(budget: Budget, lr: float | None) -> Optim:
    """Return the optimiser of a budget, with a learning rate of the user if it is not None."""
    return Optim(
        lr=budget.lr if lr is None else lr,
        weight_decay=0.01,
        warmup=budget.warmup,
        schedule=budget.schedule,
        clip=1.0,
    )


def train_of(budget: Budget, count: int, epochs: float | None, steps: int | None, batch: int | None) -> Train:
    """Return how long to train on `count` examples. Settings of the user are None where they are open.

    Raises ValueError where both `epochs` and `steps` are set.
    """
    if epochs is not None and steps is not None:
        raise ValueError(f"epochs={epochs} and steps={steps} are both set; set only one of them")
    if batch is None:
        batch = 16 if count < SMALL else budget.batch
    by_epoch = math.ceil(count / batch)
    if epochs is None and steps is None:
        least, most = budget.epochs
        epochs = min(most, max(least, math.ceil(budget.updates / by_epoch)))
    total = steps if steps is not None else math.ceil((epochs or 0) * by_epoch)
    eval_every = max(1, math.ceil(total / VALIDATIONS))
    if steps is not None:
        return Train(steps=steps, batch=batch, eval_every=eval_every)
    return Train(epochs=float(epochs or 0), batch=batch, eval_every=eval_every)


def task_of(dataset: Dataset) -> Task:
    """Return the task that follows from the label. Raises ValueError where there is no label."""
    if LABEL not in dataset.columns:
        raise ValueError(
            f"data set {dataset.name!r} has the columns {', '.join(dataset.columns)} and no label; name it: label='...'"
        )
    kind = dataset.columns[LABEL].kind
    if kind == "number":
        return tasks.Regression()
    if kind == "numbers":
        return tasks.Regression(outputs=len(dataset.splits["train"][0][LABEL]))
    if kind == "answers":
        return tasks.QuestionAnswering()
    return {"class": tasks.Classification, "classes": tasks.MultiLabel, "tags": tasks.TokenClassification}[kind]()


def data_settings(
    dataset: Dataset, processor: Any, room: int | None, tokens: int | None, shape: tuple[int, ...] | None, cached: bool
) -> dict[str, Any]:
    """Return the fields of `Data` that fit the inputs: lengths of texts, augmentation of images.

    Args:
        dataset: The data.
        processor: The processor of the weights, or None.
        room: The number of tokens that the model has positions for, or None.
        tokens: The user's length of texts, or None.
        shape: The height, width and channels of the images that the model reads, or None.
        cached: Whether the features of frozen layers are computed once, so that no augmentation may change the images.
    """
    train = dataset.splits["train"]
    if isinstance(processor, TextProcessor):
        return text_settings(train, processor, room, tokens)
    if tokens is not None:
        raise ValueError(f"tokens={tokens} is for texts, but {dataset.name!r} has {input_kind(dataset.columns)} inputs")
    if input_kind(dataset.columns) == "numbers" and processor is None:
        return {"processor": NumberProcessor.of(np.stack([example["numbers"] for example in train]))}
    if input_kind(dataset.columns) == "audio" and processor is None:
        return {"seconds": longest_sound(train)}
    if input_kind(dataset.columns) == "image" and shape is not None and not cached:
        # A small shift changes no class; a flip may, such as that of a letter.
        return {"augment": (Crop(padding=max(1, shape[0] // 14)),)}
    return {}


def text_settings(train: Examples, processor: TextProcessor, room: int | None, tokens: int | None) -> dict[str, Any]:
    """Return the length of texts and of batches: a multiple of 8 that holds 98 % of the texts."""
    if tokens is None:
        positions = np.linspace(0, len(train) - 1, min(MEASURED, len(train))).astype(int)
        lengths = processor.measure([train.light(int(n)) for n in positions])
        longest = int(np.percentile(lengths, PERCENTILE, method="higher"))
        tokens = min(8 * math.ceil(max(16, longest) / 8), MOST_TOKENS)
        tokens = tokens if room is None else min(tokens, room)
    if len(train) < FEW_TEXTS:
        return {"tokens": tokens, "buckets": (tokens,)}
    return {"tokens": tokens, "buckets": tuple(sorted({max(1, tokens * n // 4) for n in (2, 3, 4)})), "group": 16}


def longest_sound(train: Examples) -> float:
    """Return the seconds that hold 98 % of the sounds, rounded up to tenths."""
    rate = inputs(train.columns)["audio"].rate or 1
    positions = np.linspace(0, len(train) - 1, min(MEASURED_SOUNDS, len(train))).astype(int)
    lengths = [len(train[int(position)]["audio"]) / rate for position in positions]
    return max(0.1, math.ceil(10 * float(np.percentile(lengths, PERCENTILE, method="higher"))) / 10)


def check_tuning(tuning: Tuning | None, head_only: bool, pretrained: bool) -> None:
    """Raise an error for a tuning that is none, and where the settings exclude each other."""
    if tuning is not None and not isinstance(tuning, Tuning):
        from tlx import tuning as package

        names = [name for name in package.__all__ if name[:1].isupper()]
        word = tuning if isinstance(tuning, str) else getattr(tuning, "__name__", type(tuning).__name__)
        raise TypeError(
            f"tuning is {tuning!r:.60}; expected a value such as tlx.tuning.Lora(rank=8)"
            f"{near_miss(str(word).capitalize(), names)}"
        )
    if head_only and tuning is not None:
        raise ValueError(f"head_only=True and tuning={tuning!r} are both set; set only one of them")
    if head_only and not pretrained:
        raise ValueError("head_only=True trains the head on pretrained features, but the model is new; remove it")
