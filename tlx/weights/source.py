"""Find the directory of a source: a directory, a run, a named asset or a hub id."""

import os
from pathlib import Path

from tlx import assets
from tlx.files import run_files
from tlx.trees import near_miss

MODEL_IN_RUN = "model"
MODEL_ASSETS = ("minilm-l6",)


def locate(source: str | os.PathLike[str]) -> Path:
    """Return the Hugging Face directory of `source`. Raises FileNotFoundError if there is none."""
    path = Path(source).expanduser()
    if (path / "config.json").is_file():
        return path
    if (path / MODEL_IN_RUN / "config.json").is_file():
        run_files.check_file(path, MODEL_IN_RUN)
        return path / MODEL_IN_RUN
    name = str(source)
    if name in MODEL_ASSETS:
        return assets.extract(name)
    if (path / "learned.safetensors").is_file():
        raise FileNotFoundError(
            f"{path} is a cell of a study, which stores only its trained parameters; write its model with `tlx rebuild`"
        )
    if path.is_dir():
        raise FileNotFoundError(f"{path} contains neither config.json (a model) nor model/config.json (a finished run)")
    if name.count("/") != 1 or name.startswith((".", "~", "/")):
        raise FileNotFoundError(f"there is no directory, run or asset {name!r}{near_miss(name, MODEL_ASSETS)}")
    return from_hub(name)


def from_hub(name: str) -> Path:
    """Return a snapshot of the hub id `name`, from the local cache or, if allowed, from the network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.txt", "*.model"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns, local_files_only=True))
    except LocalEntryNotFoundError:
        if assets.offline():
            raise FileNotFoundError(
                f"there is no directory or run {name!r}, the cache of the hub does not contain it, and the network is "
                "off (TLX_OFFLINE or HF_HUB_OFFLINE)"
            ) from None
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # the client of the hub raises many types of errors for a failed download
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(
            f"there is no directory or run {name!r}, and the hub returned an error: {reason}"
        ) from None
