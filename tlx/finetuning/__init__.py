"""Fine-tune a model on the user's data in one call, with settings that fit the size and the kind of the data.

`sources` makes a source from the data, `defaults` chooses the settings that the user leaves open.
"""

import hashlib
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tlx import config, models
from tlx.data import Data, Dataset, Source, open_dataset
from tlx.data.held_out import divided, held_out_splits
from tlx.files.run_files import RECIPE, RESULT
from tlx.finetuning import defaults
from tlx.finetuning.sources import source_of
from tlx.processors.columns import LABEL
from tlx.recipe import Recipe
from tlx.records import run_directory
from tlx.report.words import headline
from tlx.report.words import source as code_of
from tlx.training.loop import Run, run
from tlx.training.prepare import open_data
from tlx.tuning import Probe, Tuning
from tlx.weights import Weights
from tlx.weights.fitting import processor_at
from tlx.weights.pretrained import open_checkpoint

__all__ = ["finetune", "recipe_for"]

# The file by which sentence encoders say which tokens their embedding reads.
POOLING = "1_Pooling/config.json"


def finetune(
    model: str | Path | Run | models.Architecture, *, train: Any, validation: Any = None, test: Any = None,
    text: str | tuple[str, ...] | None = None, text_pair: str | None = None, words: str | None = None,
    image: str | None = None, audio: str | None = None, label: str | tuple[str, ...] | None = None,
    label_kind: Literal["class", "number", "classes", "numbers", "tags", "text", "answers"] | None = None,
    separator: str | None = None, classes: tuple[str, ...] | None = None,
    missing: Literal["error", "drop"] | None = None, split: str | None = None, group: str | None = None,
    time: str | None = None, test_share: float | None = None, head_only: bool = False, tuning: Tuning | None = None,
    epochs: float | None = None, steps: int | None = None, batch: int | None = None, lr: float | None = None,
    tokens: int | None = None, seed: int = 0, out: str | Path | None = None, overwrite: bool = False,
    quiet: bool = False,
) -> Run:  # fmt: skip
    """Fine-tune a model on some data, measure it on held-out examples, and return the run.

        run = tlx.finetune("minilm-l6", train=frame, text="body", label="stars")
        run.predict(["a film to see twice"])

    The task follows from the label: classes, a number, several classes, or several numbers. Settings that are None
    follow from the data; one line of the output and `run.recipe` say which. A second call with the same data and
    settings returns the finished run, and an interrupted run continues. Where a file has changed, the model is trained
    again in another folder.

    Args:
        model: The name of an asset ("minilm-l6"), a hub id, a directory, or a run, whose weights are fine-tuned; or an
            architecture, such as `tlx.models.Cnn()`, which is trained from random weights.
        train: A data frame (pandas, polars, Arrow), a mapping from column to values, a list of (text, label) pairs,
            the path of a CSV, JSON Lines or Parquet file or of a folder, a `tlx.data.Source`, or the name of a data
            set.
        validation: The validation data in the same form. Without it a tenth of `train` is held out.
        test: The test data in the same form. Without it the share `test_share` of `train` is held out, a fifth by
            default.
        text, text_pair, words, image, audio, label: The columns. Without a name a column is chosen where only one is
            possible, and the output names it.
        label_kind, separator, classes, missing, split, group, time, test_share: As in
            `tlx.data.sources.tabular.Tabular`.
        head_only: Train only the head on frozen features: a first answer in seconds.
        tuning: Which parameters are trained, such as `tlx.tuning.Lora()`. By default all; of a pretrained model
            for few texts the biases and the head.
        epochs: The number of passes over the training data.
        steps: The number of updates, in the place of `epochs`.
        batch: The number of examples of an update.
        lr: The peak learning rate.
        tokens: The length at which texts are cut.
        seed: The seed of the new head and of the order of the examples.
        out: The folder of the run. By default it is in runs/, with a name from the model, the data and the settings.
        overwrite: Train again where the folder has a run.
        quiet: Print nothing.

    Raises:
        TypeError, ValueError: The data or the settings do not fit together; the message names the row or the column.
        FileNotFoundError: There is no such model, file or data set.
        FileExistsError: `out` has the run of other data or settings.
    """
    columns = {
        "text": text, "text_pair": text_pair, "words": words, "image": image, "audio": audio, "label": label,
        "label_kind": label_kind, "separator": separator, "classes": classes, "missing": missing, "split": split,
        "group": group, "time": time, "test_share": test_share,
    }  # fmt: skip
    choices = Choices(head_only, tuning, epochs, steps, batch, lr, tokens, seed)
    with warnings.catch_warnings():
        # In a notebook a library asks for a package of progress bars, which tlx does not use.
        warnings.filterwarnings("ignore", "IProgress not found")
        source, notes = source_of(train, validation, test, columns)
        return tuned(chosen(model, source, choices), notes, out, overwrite, quiet)


def tuned(choice: "Chosen", notes: Sequence[str], out: str | Path | None, overwrite: bool, quiet: bool) -> Run:
    """Run a chosen recipe in a folder, or return the finished run there, and print the line of its settings."""
    recipe = choice.recipe
    path = Path(out) if out is not None else Path("runs") / name_of(choice)
    # The default name has the fingerprint of the data.
    if out is not None and not overwrite:
        check_data(path, recipe)
    if not quiet:
        lines = [*notes, line(choice)]
        if not overwrite and all((path / name).is_file() for name in (RECIPE, RESULT)):
            lines.append(f"{path} has this run already; overwrite=True trains it again")
        print("\n".join(lines), file=sys.stderr, flush=True)
    return run(recipe, path, resume=not overwrite, overwrite=overwrite, quiet=quiet)


class Choices(NamedTuple):
    """The settings of `finetune` that the user may leave open."""

    head_only: bool = False
    tuning: Tuning | None = None
    epochs: float | None = None
    steps: int | None = None
    batch: int | None = None
    lr: float | None = None
    tokens: int | None = None
    seed: int = 0


class Chosen(NamedTuple):
    """A recipe, its opened data, and the budget that it follows."""

    recipe: Recipe
    dataset: Dataset
    budget: defaults.Budget


def recipe_for(
    model: str | Path | Run | models.Architecture, data: str | Source, choices: Choices = Choices()
) -> Recipe:
    """Return the recipe that `finetune` runs, without running it: for a config file or a study.

    Args:
        model: As in `finetune`.
        data: A source, or the name of a data set.
        choices: The settings that the user has chosen.

    Raises:
        ValueError, FileNotFoundError: The model, the data and the settings do not fit together.
    """
    source, _ = source_of(data, None, None, {})
    return chosen(model, source, choices).recipe


def chosen(model: str | Path | Run | models.Architecture, source: Source, choices: Choices) -> Chosen:
    """Return the recipe for a model, a source and the settings that the user has chosen."""
    # A run may have a module of the user, which its files cannot name.
    architecture = model.recipe.model if isinstance(model, Run) else None
    pretrained = not isinstance(model, models.Architecture)
    defaults.check_tuning(choices.tuning, choices.head_only, pretrained)
    dataset = open_dataset(source)
    count = check_counts(Data(target=source), dataset)
    usual = Probe() if choices.head_only else defaults.usual_tuning(count, dataset, pretrained)
    tuning = choices.tuning or usual
    processor, room, pooling, name = None, None, None, ""
    if isinstance(model, models.Architecture):
        architecture = settings = model
    else:
        name = str(model.folder if isinstance(model, Run) else model)
        checkpoint = open_checkpoint(name, None, architecture)
        settings = checkpoint.settings
        room = settings.longest_text()
        processor = processor_at(checkpoint.directory, checkpoint.document, settings, room)
        pooling = pooling_of(checkpoint.directory)
    budget = defaults.budget_of(tuning, settings, pretrained)
    shape, cached = models.image_shape(settings), isinstance(tuning, Probe)
    fields = defaults.data_settings(dataset, processor, room, choices.tokens, shape, cached)
    recipe = Recipe(
        data=Data(target=source, **fields),
        task=defaults.task_of(dataset),
        model=architecture,
        weights=Weights(name, pooling=pooling) if pretrained else None,
        tuning=tuning,
        optim=defaults.optim_of(budget, choices.lr),
        train=defaults.train_of(budget, count, choices.epochs, choices.steps, choices.batch),
        seed=choices.seed,
    )
    return Chosen(recipe, dataset, budget)


def pooling_of(directory: Path) -> Literal["mean"] | None:
    """Return "mean" for a sentence encoder whose embedding is the mean over the tokens, else None.

    A new head on the first token of such a checkpoint would read an output that was never trained.
    """
    from tlx.processors.opening import read_json

    return "mean" if read_json(directory / POOLING).get("pooling_mode_mean_tokens") is True else None


def check_counts(data: Data, dataset: Dataset) -> int:
    """Return the number of training examples. Raises ValueError where a split has no example."""
    train, validation, test, untested = held_out_splits(dataset, data.test_on)
    if validation is None:
        train, validation = divided(train, data.validation)
    if not len(train) or not len(validation) or not (untested or len(test)):
        total = sum(map(len, dataset.splits.values()))
        raise ValueError(
            f"{dataset.name} has {total:,} rows, too few to hold out some of each class for the test and the "
            "validation split; give more rows, or the held-out rows themselves: validation=..., test=..."
        )
    return len(train)


def line(choice: Chosen) -> str:
    """Return the line that states the settings of a run."""
    recipe, dataset, budget = choice
    column, train, data = dataset.columns[LABEL], recipe.train, recipe.data
    label = f"{len(column.classes)} classes" if column.classes else column.kind
    length = f"{train.steps} steps" if train.steps is not None else f"{train.epochs:g} epochs"
    parts = [
        f"{type(recipe.task).__name__} ({label})",
        f"{type(recipe.tuning).__name__}: {budget.reason}",
        f"lr {recipe.optim.lr:g}",
        f"{length} in batches of {train.batch}",
    ]
    if data.group > 1 or "text" in dataset.columns or "words" in dataset.columns:
        parts.append(f"texts cut at {data.tokens} tokens")
    parts += [f"augmented by {code_of(config.dump(change))}" for change in data.augment]
    return f"settings: {'; '.join(parts)}; all of them: run.recipe"


def check_data(path: Path, recipe: Recipe) -> None:
    """Raise FileExistsError where a folder has the finished run of this recipe, but its data have changed since.

    A recipe names a file and does not hold its content, so the same recipe may have other data.
    """
    if not all((path / name).is_file() for name in (RECIPE, RESULT)):
        return
    result = run_directory.read(path)
    if result["fingerprint"] != config.fingerprint(recipe):
        return
    current = open_data(recipe).fingerprint
    if current != result["data"]:
        raise FileExistsError(
            f"{path} has a run on data with the fingerprint {result['data']}, but {recipe.data.target} has changed "
            f"since and now has {current}; choose another folder with out=..., or train again with overwrite=True"
        )


def name_of(choice: Chosen) -> str:
    """Return the name of the folder of a run: its model, its data, and a hash of its recipe and of its data."""
    document = config.dump(choice.recipe)
    title = headline(document).replace(" from scratch", "").replace(" on ", "-")
    slug = re.sub(r"[^A-Za-z0-9]+", "-", title).strip("-").lower()[:60]
    # A recipe names a file and does not hold its content: a changed file is another run.
    identity = config.fingerprint(choice.recipe) + choice.dataset.fingerprint
    return f"{slug}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"
