"""The folder of one run: which recipe it belongs to, and which files it contains.

`recipe.json` (the recipe, its fingerprint, and the version of the file, see `tlx.records.migrations`), `metrics.jsonl`,
`tensorboard/`, `checkpoints/`, and, once finished, `result.json`, `predictions/`, `mistakes.json`, `parameters.json`,
`weights.json`, `environment.json`, `model/`, `report.html`, and `files.json`, the sha256 of the files that are read
again (see `tlx.files.documents.digests`). `adapter/` exists if the tuning inserted leaves. `moved.json` exists once
`tlx.analysis.changes` has run. A study's cell has `learned.safetensors` (the weights that changed) in place of the
model and of the files that only the page needs (see `reopen.rebuild`).

`.lock` is locked while files are written (see `tlx.files.locks`). `tlx.files.run_files` lists every file name, knows
which files belong to one run, and deletes only those.
"""

from __future__ import annotations

import io
import os
import platform
import sys
from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tlx import config
from tlx.files import class_names, run_files
from tlx.files import user_code as code
from tlx.files.documents import holds_file, read_arrays, read_json, records
from tlx.files.documents.records import OWNED, RERUN
from tlx.files.durable import write_whole
from tlx.files.locks import InUse, vacant, writing
from tlx.files.nearby import missing_directory
from tlx.files.run_files import CONFIG, LEARNED, MOVED, RECIPE, RESULT, WEIGHTS
from tlx.functional.metrics import of_scores
from tlx.functional.scores import scores_of
from tlx.records import migrations
from tlx.records.log import write_json
from tlx.records.origin import commit_of
from tlx.trees import Json

# A study is read without JAX (docs/decisions/reading-without-jax.md).
if TYPE_CHECKING:
    from tlx.recipe import Recipe
    from tlx.tasks import Task

__all__ = [
    "LEARNED", "LENGTH", "MOVED", "RECIPE", "RESULT", "WEIGHTS", "InUse", "Predictions", "claim", "environment",
    "finished", "identity", "read", "read_predictions", "stale", "write_predictions", "writing",
]  # fmt: skip
# The fields of `train` that set the length of a run.
LENGTH = ("steps", "epochs")
PACKAGES = (
    "tlx",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "tensorflow-datasets",
    "transformers",
    "numpy",
)


def finished(folder: Path, recipe: Recipe, *, resume: bool, overwrite: bool) -> bool:
    """Return whether `folder` contains the finished run of this recipe, to be kept. Changes nothing.

    Raises:
        FileExistsError: The folder cannot be used for this recipe: it contains another recipe's run, or this recipe's
            run without `resume` or `overwrite`, or files that belong to no run.
    """
    fingerprint = config.fingerprint(recipe)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; choose another folder with --out")
    if holds_file(folder / RECIPE):
        document = read_json(folder / RECIPE, OWNED, remedy=RERUN)
        if not overwrite:
            document = migrations.migrated(document, folder / RECIPE)
        if document["fingerprint"] != fingerprint and not overwrite:
            raise FileExistsError(f"{folder} {_other(folder, document, recipe, fingerprint)}")
        if not overwrite:
            run_files.check_same_run(folder)
        if not overwrite and not resume:
            state = "finished" if holds_file(folder / RESULT) else "unfinished"
            raise FileExistsError(
                f"{folder} contains the run of this recipe, {state}; pass --resume to continue it, or --overwrite to "
                "start again"
            )
        return not overwrite and holds_file(folder / RESULT)
    if not vacant(folder):
        raise FileExistsError(f"{folder} is not empty and contains no run; choose another folder with --out")
    return False


def _other(folder: Path, document: Json, recipe: Recipe, fingerprint: str) -> str:
    """Return why the run of `recipe.json` is not the recipe's run: another recipe, or the same recipe with other
    code."""
    recorded, end = document["fingerprint"], "choose another folder with --out, or pass --overwrite"
    schema = migrations.rule_of(document)
    bare = config.fingerprint(recipe, with_sources=False, schema=schema)
    if fingerprint in [entry["fingerprint"] for entry in document.get("lengthened", [])]:
        if not holds_file(folder / RESULT):
            return (
                "contains the run of this recipe, but it is being lengthened; finish it with: "
                f"{run_files.finishing(folder)}; or {end}"
            )
        return f"contains the run of this recipe, but it was lengthened since (tlx lengthen); {end}"
    recorded_recipe, requested = document.get("recipe"), config.dump(recipe)
    if recorded_recipe != requested and without_length(recorded_recipe) == without_length(requested):
        words = f"--steps {recipe.train.steps}" if recipe.train.steps else f"--epochs {recipe.train.epochs:g}"
        return (
            "contains the run of a recipe that differs in its length only; train it further with: tlx lengthen "
            f"{folder} {words}; or {end}"
        )
    if schema < config.SCHEMA and config.fingerprint(recipe, schema=schema) == recorded:
        return (
            f"contains the run of this recipe with a fingerprint of schema {schema}, but this tlx computes "
            f"fingerprints of schema {config.SCHEMA}; {end}"
        )
    if config.sources(recipe) and bare in (recorded, document.get("without_sources")):
        if "sources" not in document:
            return (
                "contains the run of this recipe by an earlier version of tlx, which did not record its source code; "
                f"{end}"
            )
        changed = stale(folder) or sorted(Path(path.partition(code.MARK)[0]).name for path in config.sources(recipe))
        return (
            f"contains the run of this recipe, but the run is stale, because {', '.join(dict.fromkeys(changed))} "
            f"changed since; {end}"
        )
    return f"contains the run of another recipe (fingerprint {recorded}; this recipe has {fingerprint}); {end}"


def stale(folder: Path) -> list[str]:
    """Return the source files that changed since the run in `folder` began: its numbers belong to the earlier code.

    Files that no longer exist are left out, so that a run can be read without its source code.
    """
    try:
        document = read_json(folder / RECIPE, remedy=RERUN)
    except (FileNotFoundError, NotADirectoryError):
        return []
    sources = document.get("sources") if isinstance(document, dict) else None
    return code.changed(sources, folder) if isinstance(sources, dict) else []


def claim(
    folder: Path,
    recipe: Recipe,
    *,
    overwrite: bool,
    base: Any = None,
    command: str = "",
    file: Path | None = None,
    with_commit: bool = False,
) -> None:
    """Assign `folder` to the recipe, after `finished` accepted it.

    Args:
        folder: The folder.
        recipe: The recipe.
        overwrite: Whether to delete an earlier run there, and nothing else.
        base: The recipe before overrides.
        command: The command that runs.
        file: The config file of the recipe, of which the folder gets a copy.
        with_commit: Whether to record the git commit of the directory of `file`, else of the working directory.
    """
    # It may lie in the folder.
    copied = None if file is None else file.read_bytes()
    if holds_file(folder / RECIPE):
        if not overwrite:
            keep_config(folder, copied)
            return
        # The recipe is replaced last: a process killed in between leaves an unfinished run, not an unknown folder.
        run_files.delete(folder, keep=(RECIPE,))
    folder.mkdir(parents=True, exist_ok=True)
    changes = [] if base is None else [[path, repr(old), repr(new)] for path, old, new in config.diff(base, recipe)]
    written = identity(folder, recipe) | {"changes": changes, "command": command}
    if with_commit and (commit := commit_of(Path.cwd() if file is None else file.resolve().parent)):
        written["git"] = commit
    # The recipe is first: a folder that has a config alone would be the user's.
    write_json(folder / RECIPE, written)
    keep_config(folder, copied)


def keep_config(folder: Path, copied: bytes | None) -> None:
    """Write the copy of the config file, unless there is one already."""
    if copied is not None and not (folder / CONFIG).exists():
        write_whole(folder / CONFIG, [copied])


def identity(folder: Path, recipe: Recipe) -> Json:
    """Return the part of `recipe.json` that follows from the recipe."""
    written: Json = {
        "schema": config.SCHEMA, "fingerprint": config.fingerprint(recipe), "recipe": config.dump(recipe)
    }  # fmt: skip
    if files := class_names.files_of(recipe):
        written["classes"] = {place: _from(path, folder) for place, path in files.items()}
    if sources := config.sources(recipe):
        written["without_sources"] = config.fingerprint(recipe, with_sources=False)
        written["sources"] = {_from(path, folder): digest for path, digest in sources.items()}
    return written


def without_length(document: Any) -> Any:
    """Return a recipe, as `config.dump` writes it, without the fields that set its length."""
    if not isinstance(document, dict) or not isinstance(document.get("train"), dict):
        return None
    return document | {"train": {name: value for name, value in document["train"].items() if name not in LENGTH}}


def _from(source: str, folder: Path) -> str:
    """Return the path of a source file relative to the run's folder, so that both can move together."""
    path, mark, name = source.partition(code.MARK)
    if not os.path.isabs(path):
        return source
    try:
        return Path(os.path.relpath(path, folder.resolve())).as_posix() + mark + name
    except ValueError:  # another drive
        return source


def read(folder: Path, name: str = RESULT) -> Any:
    """Return a JSON file of a run.

    Raises:
        FileNotFoundError: The folder does not exist, or contains no such file.
        ValueError: The file belongs to another run than the folder's other files, or to a newer version of tlx.
    """
    path = Path(folder) / name
    if not Path(folder).exists():
        raise missing_directory(folder)
    if not holds_file(path):
        if holds_file(Path(folder) / RECIPE) and not holds_file(Path(folder) / RESULT):
            advice = f"; finish it: {run_files.finishing(Path(folder))}"
            raise FileNotFoundError(f"{folder} contains an unfinished run: there is no {name}{advice}")
        contents = "a run" if holds_file(Path(folder) / RESULT) else "no run"
        raise FileNotFoundError(f"{folder} contains {contents}: there is no {name}")
    run_files.check_file(Path(folder), name)
    document = read_json(path, records.FORMS.get(name), remedy=RERUN, finite=False)
    if name == RECIPE:
        document = migrations.migrated(document, path)
    if name == MOVED:
        run_files.check_fingerprint(Path(folder), document, name)
    return document


class Predictions(NamedTuple):
    """Scores of every example of one split.

    `scores` are arrays [N, ...] by name, as the task's `score` names them. `indices` [N] are the positions of the
    examples in the split. `finite` says whether all logits were finite numbers.
    """

    scores: dict[str, np.ndarray]
    indices: np.ndarray
    finite: bool = True

    def __len__(self) -> int:
        return len(self.indices)

    def metrics(self, task: Task, names: Collection[str] | None = None) -> dict[str, float]:
        """Compute the metrics of a task from the scores.

        Args:
            task: The task.
            names: The metrics; None for all.

        Raises:
            ValueError: The task's `summarise` does not return the metrics that the task declares.
        """
        measures = task.measures
        if names is not None and all(measures[name].mean_of or measures[name].value for name in names):
            return {name: of_scores(measures[name], self.scores) for name in names}
        values = task.summarise(self.scores)
        if values.keys() != measures.keys():
            raise ValueError(
                f"{type(task).__name__}.summarise returns {', '.join(values) or 'nothing'}, but its metrics are "
                f"{', '.join(measures)}; declare each metric that it returns, and return each metric that it declares"
            )
        return {name: float(values[name]) for name in (measures if names is None else names)}

    def rows(self, places: np.ndarray) -> Predictions:
        """Return the examples at these positions."""
        return Predictions(
            {name: array[places] for name, array in self.scores.items()}, self.indices[places], self.finite
        )


def write_predictions(folder: Path, split: str, predictions: Predictions) -> None:
    """Write the scores of a split as an npz file. It is built in memory, because numpy leaves an open archive on a
    full disk."""
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, indices=predictions.indices, **predictions.scores)
    (folder / "predictions").mkdir(exist_ok=True)
    write_whole(folder / predictions_file(split), [stream.getbuffer()])


def predictions_file(split: str) -> str:
    """Return the file name of the scores of a split: `validation`, `test`, or the name of another test set."""
    return f"predictions/{split if split in ('validation', 'test') else f'test-{split}'}.npz"


def read_predictions(folder: Path, split: str) -> Predictions | None:
    """Return the scores of every example of a split; None if the run kept none."""
    path = Path(folder) / predictions_file(split)
    if not holds_file(path, RERUN):
        return None
    run_files.check_file(Path(folder), predictions_file(split))
    arrays = read_arrays(path, {"indices": 1}, others=True, remedy=RERUN)
    indices = arrays.pop("indices")
    if arrays.keys() == {"logits", "labels"}:
        arrays = scores_of(**read_arrays(path, {"logits": 2, "labels": 1}, remedy=RERUN))
    return Predictions(arrays, indices)


def environment() -> Json:
    """Return versions, devices and machine, for the page and for repeating the run."""
    import jax

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed as a package"
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "devices": [str(device) for device in jax.devices()],
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "packages": versions,
    }
