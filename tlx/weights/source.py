"""Find the directory of a source: a directory, a run, a named asset or a hub id."""

import os
from pathlib import Path

from tlx.files import run_files
from tlx.files.documents import holds_file
from tlx.files.nearby import near_directories
from tlx.weights import hub, pinned
from tlx.weights.files import pickled

MODEL_IN_RUN = "model"
SAFETENSORS = ".safetensors"
WEIGHTS = f"model{SAFETENSORS}"
MODEL_ASSETS = ("minilm-l6", "efficientnet-lite0")
# The description of an exported program (see `tlx.export.program`).
PROGRAM = "program.json"
# Files of directories whose tensors are no state dict.
OTHERS = (PROGRAM, run_files.LEARNED, run_files.RESULT, run_files.RECIPE)


def locate(source: str | os.PathLike[str]) -> Path:
    """Return the Hugging Face directory of `source`, or the file or directory of a state dict without a config.json.

    A local directory comes first, then a named asset, then a hub id. A name is a hub id only if it has the form of one
    and cannot be a mistyped path: `a/b` is a path where the directory `a` exists, and `runs/b` always is. `hf://a/b` is
    always a hub id.

    Raises:
        FileNotFoundError: There is none. The error has the nearest names.
    """
    name = str(source)
    if name.startswith(hub.SCHEME):
        return explicit(name)
    path = Path(source).expanduser()
    if (path / "config.json").is_file() or (path.suffix == SAFETENSORS and path.is_file()):
        return path
    if (path / MODEL_IN_RUN / "config.json").is_file():
        run_files.check_file(path, MODEL_IN_RUN)
        return path / MODEL_IN_RUN
    if name in MODEL_ASSETS:
        return pinned.directory(name)
    if (path / WEIGHTS).is_file() and not any(holds_file(path / name) for name in OTHERS):
        return path
    if path.is_dir():
        raise FileNotFoundError(without_model(path))
    if path.exists():
        reason = f"{path} is a file; expected the directory of a run or of a model, or a file {SAFETENSORS} of tensors"
        raise FileNotFoundError(pickled(path) or reason)
    near = near_directories(path, MODEL_ASSETS if path.parent == Path() else ())
    parent = name.rpartition("/")[0]
    if not hub.is_hub_id(name) or (parent and Path(parent).is_dir() and hub.cached(name) is None):
        hint = f"; a model of the hub is {hub.SCHEME}{name}" if hub.is_hub_id(name) else ""
        raise FileNotFoundError(f"there is no directory {name!r}{near}{hint}")
    return hub.fetch(name, f"there is no directory, run or asset {name!r}{near}")


def explicit(name: str) -> Path:
    """Return the snapshot of `hf://ID`. Raises ValueError if ID is none, FileNotFoundError if the hub has no model."""
    identity = name.removeprefix(hub.SCHEME)
    if not hub.is_hub_id(identity):
        raise ValueError(f"{name!r} names no model of the hub; expected {hub.SCHEME}OWNER/NAME")
    return hub.fetch(identity, f"{identity!r} is not in the cache of the hub")


def without_model(path: Path) -> str:
    """Return why a directory has no model, and what to do."""
    if holds_file(path / run_files.LEARNED):
        return (
            f"{path} is a cell of a study, which stores only its trained parameters; write its model with `tlx rebuild`"
        )
    if holds_file(path / PROGRAM):
        return (
            f"{path} is an exported program, which only its load.py opens; give the run that it was exported from, or "
            "export that run with --to huggingface"
        )
    if holds_file(path / run_files.RESULT):
        return (
            f"{path} is a run without its model: model/config.json is missing. A cell of a study keeps no model whose "
            "trained parameters are large; train it again with tlx run CONFIG"
        )
    if holds_file(path / run_files.RECIPE):
        return f"{path} is an unfinished run; continue it: {run_files.finishing(path)}"
    if reason := pickled(path):
        return f"{reason}, and write a config.json beside it"
    return f"{path} contains neither config.json (a model) nor model/config.json (a finished run)"
