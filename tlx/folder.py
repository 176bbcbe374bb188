"""The folder of one run: whose it is, and what lies where in it.

`recipe.json` (the recipe and its fingerprint), `metrics.jsonl`, `tensorboard/`, `checkpoints/`, and, once finished,
`result.json`, `predictions/`, `mistakes.json`, `parameters.json`, `weights.json`, `environment.json`, `model/`,
`report.html`; where the tuning inserted leaves, `adapter/`; `moved.json` once that was measured. A study's cell has
`learned.safetensors`, what moved in it, in the place of the model and of what its page shows (see `reopen.rebuild`).
"""

import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tlx import config
from tlx.documents import digests, read_arrays, read_json, records
from tlx.documents.records import OWNED, RERUN
from tlx.durable import check_recorded
from tlx.records import write_json

RECIPE, RESULT, WEIGHTS, MOVED = "recipe.json", "result.json", "weights.json", "moved.json"
LEARNED = "learned.safetensors"
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


def finished(folder: Path, recipe: Any, *, resume: bool, overwrite: bool) -> bool:
    """Whether the recipe's run in `folder` has finished already and is to be kept. Changes nothing.

    Raises FileExistsError where the folder cannot be the recipe's own: it holds another recipe's run, or this one's
    and neither `resume` nor `overwrite` was asked for, or files that are no run's.
    """
    fingerprint = config.fingerprint(recipe)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; choose another folder with --out")
    if (folder / RECIPE).is_file():
        held = read_json(folder / RECIPE, OWNED, remedy=RERUN)
        if held["fingerprint"] != fingerprint and not overwrite:
            raise FileExistsError(
                f"{folder} holds another recipe's run (fingerprint {held['fingerprint']}, this one's is "
                f"{fingerprint}); choose another folder with --out, or --overwrite it"
            )
        if not overwrite and not resume:
            state = "finished" if (folder / RESULT).is_file() else "unfinished"
            raise FileExistsError(f"{folder} holds this recipe's run, {state}; go on with --resume, or --overwrite it")
        return not overwrite and (folder / RESULT).is_file()
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty and holds no run; choose another folder with --out")
    return False


def claim(folder: Path, recipe: Any, *, overwrite: bool, base: Any = None, command: str = "") -> None:
    """Makes `folder` the recipe's own, where `finished` has let it pass; `overwrite` deletes an earlier run there,
    never anything else."""
    if (folder / RECIPE).is_file():
        if not overwrite:
            return
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    changes = [] if base is None else [[path, repr(old), repr(new)] for path, old, new in config.diff(base, recipe)]
    written = {"fingerprint": config.fingerprint(recipe), "recipe": config.dump(recipe)}
    write_json(folder / RECIPE, written | {"changes": changes, "command": command})


def read(folder: Path, name: str = RESULT) -> Any:
    """A JSON file of a run; FileNotFoundError where the folder holds no such thing."""
    path = Path(folder) / name
    if not path.is_file():
        held = "an unfinished run" if (Path(folder) / RECIPE).is_file() else "no run"
        raise FileNotFoundError(f"{folder} holds {held}: there is no {name}")
    digests.verify(Path(folder), name)
    return read_json(path, records.FORMS.get(name), remedy=RERUN, finite=False)


class Predictions(NamedTuple):
    """One split: `logits` [N, C], `labels` [N], `indices` [N]."""

    logits: np.ndarray
    labels: np.ndarray
    indices: np.ndarray


def read_predictions(folder: Path, split: str) -> Predictions | None:
    """What a run answered on every example of a split; None where nothing was kept."""
    path = Path(folder) / "predictions" / f"{split}.npz"
    if not path.is_file():
        return None
    digests.verify(Path(folder), f"predictions/{split}.npz")
    check_recorded(Path(folder), f"predictions/{split}.npz")
    return Predictions(**read_arrays(path, {"logits": 2, "labels": 1, "indices": 1}, remedy=RERUN))


def environment() -> dict[str, Any]:
    """Versions, devices and machine, for the page and for whoever repeats the run."""
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
