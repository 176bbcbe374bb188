"""A recipe follows from the data: the task from the label, lengths and epochs from the size, rates by the tuning."""

import numpy as np
import pandas as pd
import pytest

from tlx import config, models, tasks, tuning
from tlx.data import Arrays, Crop, Frame, Numbers
from tlx.finetuning import Choices, recipe_for
from tlx.finetuning.defaults import BUDGETS, FEW_LABELS, budget_of
from tlx.processors import NumberProcessor

MLP = models.Mlp(inputs=(4, 4, 1), widths=(8,))
IMAGES = np.random.default_rng(0).integers(0, 256, (60, 4, 4), np.uint8)
LABELS = {
    "class": (["x", "y"] * 30, tasks.Classification()),
    "whole": ([n % 5 for n in range(60)], tasks.Classification()),
    "boolean": ([n % 2 == 0 for n in range(60)], tasks.Classification()),
    "number": (np.linspace(0, 1, 60), tasks.Regression()),
    "numbers": (np.linspace(0, 1, 180).reshape(60, 3), tasks.Regression(outputs=3)),
    "classes": ([["a"] * (n % 2) + ["b"] for n in range(60)], tasks.MultiLabel()),
}


@pytest.mark.parametrize("label", LABELS)
def test_the_task_follows_from_the_label(label):
    values, task = LABELS[label]
    recipe = recipe_for(MLP, Arrays({"image": IMAGES, "label": values}))
    assert recipe.task == task
    config.check(recipe)


def test_texts_are_cut_where_nearly_all_of_them_end(tiny_text, reviews):
    recipe = recipe_for(tiny_text, Frame(reviews, text="body", label="stars"))
    # Nine words and two special tokens; the markup in three of the texts makes them longer, up to the 40 positions.
    assert recipe.data.tokens in (24, 32, 40) and recipe.data.buckets == (recipe.data.tokens,)
    assert recipe_for(tiny_text, Frame(reviews), Choices(tokens=16)).data.tokens == 16


@pytest.mark.parametrize(
    ("choices", "budget"),
    [
        (Choices(tuning=tuning.Full()), "pretrained"),
        (Choices(tuning=tuning.Freeze(through="embeddings")), "pretrained"),
        (Choices(head_only=True), "head"),
        (Choices(tuning=tuning.Lora(rank=2)), "few"),
        (Choices(tuning=tuning.BitFit()), "few"),
    ],
)
def test_the_learning_rate_follows_from_the_tuning(choices, budget, tiny_text, reviews):
    recipe = recipe_for(tiny_text, Frame(reviews), choices)
    assert recipe.optim.lr == BUDGETS[budget].lr
    assert (recipe.model, recipe.weights.source) == (None, str(tiny_text))


def test_few_texts_train_the_biases_and_the_head(tiny_text):
    few, more = (
        recipe_for(tiny_text, Frame(frame([n % 2 for n in range(count)]), text="text", label="label"))
        for count in (FEW_LABELS, 2 * FEW_LABELS)
    )
    assert (few.tuning, more.tuning) == (tuning.BitFit(), tuning.Full())
    assert (few.optim.lr, more.optim.lr) == (BUDGETS["few"].lr, BUDGETS["pretrained"].lr)


def test_a_wider_model_takes_a_smaller_rate():
    rates = [
        budget_of(tuning.Full(), models.Bert(width=width, heads=12, mlp=8), True).lr for width in (48, 384, 768, 1536)
    ]
    assert rates == [2e-4, 2e-4, 1e-4, 5e-5]


def test_small_data_take_more_epochs_in_smaller_batches():
    source = Arrays({"image": IMAGES, "label": ["x", "y"] * 30})
    small = recipe_for(MLP, source).train
    large = np.repeat(IMAGES, 40, 0)
    large[:, 0, 0] = np.arange(len(large)) % 256
    large[:, 0, 1] = np.arange(len(large)) // 256
    big = recipe_for(MLP, Arrays({"image": large, "label": ["x", "y"] * 1200})).train
    assert small.epochs > big.epochs and small.batch < big.batch
    # An epoch has ceil(43 / 16) = 3 updates, so 600 would be 200 epochs, more than the most.
    assert small.epochs == BUDGETS["scratch"].epochs[1]
    chosen = recipe_for(MLP, source, Choices(steps=7, batch=4, lr=0.5, seed=3))
    assert (chosen.train.steps, chosen.train.batch, chosen.optim.lr, chosen.seed) == (7, 4, 0.5, 3)


def test_images_are_shifted_and_numbers_standardised():
    recipe = recipe_for(MLP, Arrays({"image": IMAGES, "label": ["x", "y"] * 30}))
    assert recipe.data.augment == (Crop(padding=1),)
    rows = np.random.default_rng(0).normal(5, 3, (60, 2))
    mlp = models.Mlp(inputs=(2,), widths=(4,), input="numbers")
    recipe = recipe_for(mlp, Numbers((rows, np.arange(60) % 2), classes=("a", "b"), test=(rows[:9], np.arange(9) % 2)))
    assert isinstance(recipe.data.processor, NumberProcessor) and abs(recipe.data.processor.mean[0] - 5) < 1.5


@pytest.mark.parametrize(
    ("choices", "parts"),
    [
        (Choices(epochs=1, steps=5), ("epochs=1", "steps=5")),
        (Choices(head_only=True), ("head_only=True", "new")),
        (Choices(tuning="lora"), ("'lora'", "Lora")),
        (Choices(tuning=tuning.Lora), ("Lora", "tlx.tuning.Lora(rank=8)")),
        (Choices(tokens=8), ("tokens=8", "image")),
    ],
)
def test_settings_that_exclude_each_other_are_refused(choices, parts):
    with pytest.raises((ValueError, TypeError)) as error:
        recipe_for(MLP, Arrays({"image": IMAGES, "label": ["x", "y"] * 30}), choices)
    assert all(part in str(error.value) for part in parts), error.value


def frame(labels, **columns):
    return pd.DataFrame(
        {"text": [f"a text with the number {n}" for n in range(len(labels))], "label": labels} | columns
    )


@pytest.mark.parametrize(
    ("rows", "settings", "parts"),
    [
        (frame([]), {}, ("no rows",)),
        (frame(["x", "y"]), {}, ("2 training examples", "too few")),
        (frame(["x"] * 40), {}, ("'x' in all 40 rows", "two classes")),
        (frame([f"id-{n}" for n in range(200)]), {}, ("200 different labels",)),
        (frame([1.5, float("nan")] * 20), {}, ("row 1", "'label' is empty")),
        (frame([(0.0, 0.5, 1.0)[n % 3] for n in range(60)]), {}, ("0, 0.5, 1", "label_kind='class'")),
        (frame(["x", "y"] * 20, part=["train", "tset"] * 20), {"split": "part"}, ("row 1", "'tset'", "'test'")),
    ],
)
def test_data_that_cannot_be_learned_are_refused(rows, settings, parts, tiny_text):
    with pytest.raises(ValueError) as error:
        recipe_for(tiny_text, Frame(rows, text="text", label="label", **settings))
    message = str(error.value)
    assert all(part in message for part in parts) and "\n" not in message, message


def test_a_label_in_one_split_only_is_named(tiny_text):
    rows = frame(["x", "y"] * 20)
    with pytest.raises(ValueError, match=r"the class 'z'.*test split"):
        recipe_for(tiny_text, Frame(rows, test=frame(["x", "z"] * 5), text="text", label="label"))
