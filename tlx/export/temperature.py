"""The temperature of a calibrated classifier in an exported model: in its last layer, or in the code of its card."""

import numpy as np

from tlx import config
from tlx.tasks import Classification, Task
from tlx.trees import flatten, nest
from tlx.weights import Pretrained
from tlx.weights.export import TOLERANCE, answers, sample
from tlx.weights.form import OWN, inserted, written_kind
from tlx.weights.heads import class_axis

HUGGING_FACE = "huggingface"


def temperature_of(task: Task | None) -> float | None:
    """Return the temperature that divides the logits of a task before the softmax; None where nothing divides them."""
    return task.temperature if isinstance(task, Classification) else None


def folded(pretrained: Pretrained, form: str = HUGGING_FACE) -> Pretrained:
    """Return a classifier that has its temperature in the weights of its last layer, for libraries that know none.

    (W x + b) / T is (W / T) x + b / T. The model is returned unchanged where it has no temperature, where only tlx
    opens its files, since they state the temperature, and where its last layer is unknown or is not linear. `form` is
    the form of the export.
    """
    task, temperature = pretrained.task, temperature_of(pretrained.task)
    if task is None or temperature is None or inserted(pretrained) or own(pretrained, form):
        return pretrained
    is_last = class_axis(pretrained.model)
    leaves = {
        path: np.asarray(leaf, np.float32) / np.float32(temperature) if is_last(path) else leaf
        for path, leaf in flatten(pretrained.variables.params).items()
    }
    scaled = pretrained._replace(
        variables=pretrained.variables._replace(params=nest(leaves)), task=config.replace(task, temperature=None)
    )
    inputs = sample(pretrained)
    expected, logits = answers(pretrained, inputs) / temperature, answers(scaled, inputs)
    is_equal = np.allclose(logits, expected, rtol=0, atol=TOLERANCE * max(1.0, float(np.abs(expected).max())))
    return scaled if is_equal else pretrained


def own(pretrained: Pretrained, form: str) -> bool:
    """Return whether only tlx opens the files of a form."""
    return form == HUGGING_FACE and written_kind(pretrained) == OWN


def in_words(pretrained: Pretrained, form: str) -> str | None:
    """Return how the export of a model treats its temperature, as a sentence; None for a model without one.

    Args:
        pretrained: The model before `folded`.
        form: The form of the export, as in `tlx export --to`.
    """
    temperature = temperature_of(pretrained.task)
    if temperature is None:
        return None
    divides = f"The calibrated probabilities divide the logits by the temperature {temperature:.6g}"
    if form == "stablehlo":
        return f"{divides}. The program returns the logits before that; the code of the model card divides them."
    if own(pretrained, form):
        return f"{divides}, which tlx reads from config.json."
    if temperature_of(folded(pretrained, form).task) is None:
        return f"{divides}; the weights of the last layer contain this division."
    return f"{divides}. tlx does so; other libraries do not, so divide the logits by it before the softmax."
