"""Estimators of scikit-learn: models of tlx in `Pipeline`, `cross_val_score` and `GridSearchCV`.

    from tlx.sklearn import TransferClassifier

    cross_val_score(TransferClassifier("minilm-l6", head_only=True), texts, labels)

`X` is a list, an array, a series or a frame with one column of texts; an array of images, uint8[N, H, W] or
uint8[N, H, W, C]; or numbers, [N, F].
All rows that `fit` receives are trained on: the user of scikit-learn holds out rows outside of the estimator. A fitted
estimator keeps the files of its model, so that a pickle works on another machine.

Shapes: N examples, C classes, F numbers of an example, K outputs.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted, column_or_1d, validate_data

from tlx import config, models
from tlx.data import Arrays, Numbers, Source
from tlx.finetuning import Choices, chosen
from tlx.functional.scores import softmax
from tlx.predict.forward import Predictor
from tlx.predict.opening import prepared
from tlx.tasks import Classification, Regression, Task
from tlx.training.loop import How, run
from tlx.trees import Example
from tlx.tuning import Tuning
from tlx.types import Column
from tlx.weights import load_pretrained

if TYPE_CHECKING:
    from tlx.recipe import Recipe

Kind = Literal["texts", "images", "numbers"]
# The name of the column of each kind of input.
ROLES: Mapping[str, str] = {"texts": "text", "images": "image", "numbers": "numbers"}
# tlx measures a validation split, for which some of the training rows stand. No setting depends on its numbers.
VALIDATION = 16
# The opened model of each fitted estimator. It is no attribute, so that predicting changes no estimator.
OPENED: weakref.WeakKeyDictionary[Any, Predictor] = weakref.WeakKeyDictionary()


class TransferEstimator(BaseEstimator):
    """The common part of the estimators.

    Args:
        model: As in `tlx.finetune`: the name of an asset, a hub id, a directory or an architecture. None is "minilm-l6"
            for texts, a small `Cnn` for images and a `Mlp` with two hidden layers for numbers, both new.
        tuning: Which parameters are trained, such as `tlx.tuning.Lora()`. None is all.
        head_only: Train only the head on frozen features.
        epochs: The number of passes over the rows. Like the other settings that are None, it follows from the data.
        steps: The number of updates, in the place of `epochs`.
        batch: The number of rows of an update.
        lr: The peak learning rate.
        tokens: The length at which texts are cut.
        seed: The seed of the new parameters and of the order of the rows.

    Attributes:
        recipe_: The recipe that was trained.
        files_: The files of the trained model, by their names.
        kind_: What `X` was: "texts", "images" or "numbers".
        n_features_in_: F, for numbers.
    """

    def __init__(
        self,
        model: Any = None,
        *,
        tuning: Tuning | None = None,
        head_only: bool = False,
        epochs: float | None = None,
        steps: int | None = None,
        batch: int | None = None,
        lr: float | None = None,
        tokens: int | None = None,
        seed: int = 0,
    ):
        self.model = model
        self.tuning = tuning
        self.head_only = head_only
        self.epochs = epochs
        self.steps = steps
        self.batch = batch
        self.lr = lr
        self.tokens = tokens
        self.seed = seed

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.three_d_array = True
        return tags

    def _fit(self, rows: Any, targets: np.ndarray, classes: tuple[str, ...], task: Task) -> None:
        """Train on checked rows; `targets` are int[N] numbers of the classes, or float[N] or float[N, K]."""
        source = source_of(self.kind_, rows, targets, classes)
        model = self.model if self.model is not None else usual_model(self.kind_, rows)
        choices = Choices(
            self.head_only, self.tuning, self.epochs, self.steps, self.batch, self.lr, self.tokens, self.seed
        )
        # Of a few rows all stand for the validation split, which `recipe_for` would refuse.
        recipe = chosen(model, source, choices).recipe
        # One validation, at the end: no setting depends on it.
        recipe = config.replace(recipe, train=config.replace(recipe.train, eval_every=2**31 - 1))
        with tempfile.TemporaryDirectory(prefix="tlx-fit-") as folder:
            outcome = run(recipe, Path(folder) / "run", how=How(quiet=True, test=False))
            directory = outcome.folder / "model"
            files = {
                path.relative_to(directory).as_posix(): path.read_bytes()
                for path in sorted(directory.rglob("*"))
                if path.is_file()
            }
        self.recipe_: Recipe = recipe
        self.files_: dict[str, bytes] = files
        self.task_: Task = task
        OPENED.pop(self, None)

    def _logits(self, X: Any) -> np.ndarray:
        """Return the outputs of the model for new rows, float64[N, C]. Raises ValueError for rows of another kind."""
        check_is_fitted(self, "files_")
        is_empty = self.kind_ == "texts" and isinstance(X, Sequence | np.ndarray) and len(X) == 0
        if not is_empty and (kind := kind_of(X)) != self.kind_:
            raise ValueError(f"X holds {kind}, but this {type(self).__name__} was fitted on {self.kind_}")
        rows = self._rows(X, reset=False)
        examples: list[Example] = [{ROLES[self.kind_]: row} for row in rows]
        return self._opened().logits(examples).astype(np.float64)

    def _opened(self) -> Predictor:
        """Return the trained model, which is opened at most once."""
        if self not in OPENED:
            with tempfile.TemporaryDirectory(prefix="tlx-open-") as folder:
                for name, content in self.files_.items():
                    path = Path(folder) / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
                pretrained = load_pretrained(folder, self.task_, model=self.recipe_.model)
                # All batches have one size, so the number of rows changes no output. Texts are padded to the length of
                # their batch, so longer texts beside a text may change the last bits of its output.
                OPENED[self] = Predictor(prepared(Path(folder), pretrained), sizes=())
        return OPENED[self]

    def _rows(self, X: Any, reset: bool, y: Any = None) -> Any:
        """Return checked rows: a list of texts, uint8 images, or float64[N, F]."""
        if self.kind_ == "texts":
            return texts_of(X)
        if self.kind_ == "images":
            return check_array(X, dtype=np.uint8, allow_nd=True, ensure_2d=False)
        return validate_data(self, X, reset=reset, dtype=np.float64, ensure_min_samples=2 if reset else 1)


class TransferClassifier(ClassifierMixin, TransferEstimator):
    """Classify texts, images or rows of numbers with a pretrained or a new model.

        TransferClassifier("minilm-l6", head_only=True).fit(texts, labels).predict_proba(more_texts)

    The parameters are those of `TransferEstimator`. `classes_` are the labels in sorted order.
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Train on all rows.

        Args:
            X: Texts, images or numbers of N examples.
            y: The N labels, of any type.

        Raises:
            ValueError: The rows and the labels do not fit together, or there is one class only.
        """
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        self.kind_ = kind_of(X)
        rows = self._rows(X, reset=True)
        labels = column_or_1d(y, warn=True)
        check_labels(labels)
        check_consistent_length(rows, labels)
        check_classification_targets(labels)
        self.classes_, numbers = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y has one class, {self.classes_[0]!r}; expected two classes or more")
        names = class_names(self.classes_)
        task = Classification().resolve({"label": Column("class", names)})
        self._fit(rows, numbers.astype(np.int32), names, task)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class, float64[N, C], in the order of `classes_`."""
        return softmax(self._logits(X))

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable label of each example, [N]."""
        places = self._logits(X).argmax(1)
        return self.classes_[places]


class TransferRegressor(RegressorMixin, TransferEstimator):
    """Predict one number or several from texts, images or rows of numbers.

    The parameters are those of `TransferEstimator`. Targets are standardised for training, and predictions have the
    units of `y`.
    """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any) -> Self:
        """Train on all rows.

        Args:
            X: Texts, images or numbers of N examples.
            y: float[N], or float[N, K] for several outputs.

        Raises:
            ValueError: The rows and the targets do not fit together, or a target is not finite.
        """
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        self.kind_ = kind_of(X)
        rows = self._rows(X, reset=True)
        targets = check_array(y, dtype=np.float64, ensure_2d=False, input_name="y")
        check_consistent_length(rows, targets)
        self.single_ = targets.ndim == 1
        if not self.single_ and targets.shape[1] == 1:
            targets = column_or_1d(targets, warn=True)
            self.single_ = True
        self.mean_ = targets.mean(0)
        self.scale_ = np.where(targets.std(0) > 0, targets.std(0), 1.0)
        standardised = (targets - self.mean_) / self.scale_
        outputs = 1 if self.single_ else targets.shape[1]
        self._fit(rows, standardised.astype(np.float32), (), Regression(outputs=outputs))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the predicted numbers, float64[N] or float64[N, K]."""
        outputs = self._logits(X)
        return (outputs[:, 0] if self.single_ else outputs) * self.scale_ + self.mean_


def kind_of(X: Any) -> Kind:
    """Return what some rows are: texts, images or numbers."""
    if isinstance(X, str):
        raise ValueError(f"X is one text, {X!r:.40}; expected a list of texts")
    dtype, axes = getattr(X, "dtype", None), getattr(X, "ndim", None)
    if axes in (3, 4) and dtype == np.uint8:
        return "images"
    return "texts" if any(isinstance(cell, str) for cell in text_cells(X) or ()) else "numbers"


def text_cells(X: Any) -> list[Any] | None:
    """Return the cells of rows that may be texts: a list, or one column of an array, a series or a frame; else None."""
    shape = getattr(X, "shape", None)
    if shape is None:
        return list(X) if isinstance(X, Sequence) else None
    if getattr(getattr(X, "dtype", None), "kind", "O") not in "OUT" or hasattr(X, "toarray"):
        return None
    if len(shape) == 1:
        return list(X)
    return np.asarray(X, object)[:, 0].tolist() if len(shape) == 2 and shape[1] == 1 else None


def check_labels(labels: np.ndarray) -> None:
    """Raise ValueError, with the position, for a missing label among texts."""
    for place, label in enumerate(labels.tolist() if labels.dtype == object else ()):
        if label is None or label != label:  # noqa: PLR0124
            raise ValueError(f"y[{place}] is {label}; expected a label for every row: leave such rows out")


def texts_of(X: Any) -> list[str]:
    """Return texts. Raises ValueError, with the position, for anything else among them."""
    texts = text_cells(X) or []
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"X[{place}] is {text!r:.40} ({type(text).__name__}); expected a text, as in X[0]")
    return [str(text) for text in texts]


def class_names(labels: np.ndarray) -> tuple[str, ...]:
    """Return a name for each class: its text, or its number where two classes have one text."""
    names = tuple(str(label).strip() for label in labels.tolist())
    return names if len(set(names)) == len(names) and all(names) else tuple(map(str, range(len(names))))


def source_of(kind: Kind, rows: Any, targets: np.ndarray, classes: tuple[str, ...]) -> Source:
    """Return the source of all rows, some of which stand for the validation split."""
    few = slice(0, VALIDATION)
    if kind == "numbers":
        return Numbers((rows, targets), validation=(rows[few], targets[few]), classes=classes)
    label_kind = "class" if classes else "number" if targets.ndim == 1 else "numbers"
    label: Any = np.array(classes, object)[targets].tolist() if classes else targets
    role = ROLES[kind]
    settings: dict[str, Any] = {role: role, "label_kind": label_kind}
    return Arrays(
        {role: rows, "label": label},
        validation={role: rows[few], "label": label[few]},
        test_share=0.0,
        label="label",
        classes=classes,
        **settings,
    )


def usual_model(kind: Kind, rows: Any) -> str | models.Architecture:
    """Return the model for rows of a kind where the user names none."""
    if kind == "texts":
        return "minilm-l6"
    if kind == "numbers":
        return models.Mlp(inputs=(rows.shape[1],), widths=(64, 64), input="numbers")
    height, width, *channels = rows.shape[1:]
    shape = (height, width, channels[0] if channels else 1)
    if height == width and height >= 8 and shape[2] in (1, 3):
        return models.Cnn(size=height, channels=shape[2], widths=(16, 32, 64))
    return models.Mlp(inputs=shape)
