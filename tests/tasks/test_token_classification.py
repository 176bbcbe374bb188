"""One class per word: alignment with tokens, the loss over all words of a batch, metrics by scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as independent

from tlx import tasks
from tlx.tasks.token_classification import IGNORED
from tlx.types import Column

NAMES = ("O", "B-PER", "B-LOC")
RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 3, (19, 11)).astype(np.int32)
LABELS[RANDOM.random((19, 11)) < 0.4] = IGNORED
LABELS[3] = IGNORED
LOGITS = RANDOM.normal(size=(19, 11, 3)).astype(np.float32)
TASK = tasks.TokenClassification(names=NAMES)


class Pieces:
    """A processor that splits each word into pieces and adds a special token before and after the text."""

    def word_ids(self, example):
        ids = [n for n, word in enumerate(example["words"]) for _ in range(1 + len(word) // 3)]
        return [-1, *ids, -1]


def test_the_first_token_of_a_word_has_its_label():
    task = tasks.TokenClassification().resolve({"label": Column("tags", NAMES)})
    example = {"words": ["a", "London", "b", "b"], "label": [0, 2, 1, 1]}
    assert task.targets(example, Pieces())["label"].tolist() == [IGNORED, 0, 2, IGNORED, IGNORED, 1, 1, IGNORED]
    assert task.label_words(example) == "O B-LOC B-PER B-PER"
    assert task.fields()["label"].pad == IGNORED


def test_metrics_agree_with_scikit_learn():
    arrays = jax.jit(TASK.score)({"logits": LOGITS}, {"label": LABELS})
    results = TASK.summarise({name: np.asarray(array) for name, array in arrays.items()})
    counted = LABELS != IGNORED
    true, guess = LABELS[counted], LOGITS.argmax(-1)[counted]
    assert results["accuracy"] == pytest.approx(independent.accuracy_score(true, guess))
    for average in ("micro", "macro"):
        expected = independent.f1_score(true, guess, average=average, labels=[1, 2])
        # The class "O" does not count, so the macro mean covers the other two classes.
        assert results[f"{average}_f1"] == pytest.approx(expected)
    log_p = LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))
    assert results["loss"] == pytest.approx(-log_p[counted, true].mean(), rel=1e-5)


def test_the_loss_is_a_sum_with_the_number_of_words():
    sums, weights = TASK.loss({"logits": LOGITS}, {"label": LABELS})
    np.testing.assert_array_equal(weights, (LABELS != IGNORED).sum(-1))
    assert float(sums[3]) == 0.0 and float(weights[3]) == 0.0
    slope = jax.grad(lambda x: TASK.loss({"logits": x}, {"label": LABELS})[0].sum())(jnp.asarray(LOGITS))
    assert np.isfinite(slope).all() and not np.asarray(slope)[LABELS == IGNORED].any()


def test_answers_leave_padding_out():
    mask = np.ones((19, 11), np.int32)
    mask[0, 4:] = 0
    answers = TASK.answers({"logits": LOGITS}, {"attention_mask": mask})
    assert len(answers[0]) == 4 and len(answers[1]) == 11 and set(answers[1]) <= set(NAMES)


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: tasks.TokenClassification().head(), ("names=",)),
        (lambda: TASK.resolve({"label": Column("class", NAMES)}), ("class", "tags")),
        (lambda: TASK.resolve({"label": Column("tags", ("O", "X"))}), ("O, X", "B-PER")),
    ],
)
def test_invalid_input_is_named_in_the_error(make, parts):
    with pytest.raises(ValueError) as error:
        make()
    assert all(part in str(error.value) for part in parts)
