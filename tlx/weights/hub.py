"""Models of the Hugging Face hub: which names are ids, and the local copy of a model."""

import re
from pathlib import Path

from tlx import assets

# Before an id, it says that no local path is meant.
SCHEME = "hf://"
# One or two parts, as `huggingface_hub.utils.validate_repo_id` accepts them.
PART = r"[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_])?"
ID = re.compile(rf"{PART}(?:/{PART})?", re.ASCII)
PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model"]
# Directories that tlx writes by default; a path below one of them is never an id.
RUNS = ("runs",)


def is_hub_id(name: str) -> bool:
    """Return whether a name has the form of a hub id: `owner/name`, or an older `name` without an owner.

    >>> [is_hub_id(name) for name in ("google/vit", "bert-base-uncased", "runs/demo", "./demo", "a/b/c", "a--b")]
    [True, True, False, False, False, False]
    """
    if not ID.fullmatch(name) or len(name) > 96 or "--" in name or ".." in name or name.endswith(".git"):
        return False
    return name.partition("/")[0] not in RUNS


def cached_hub_id(source: str) -> str | None:
    """Return the hub id of `source` if the cache of the hub has it and no local directory has this name; else None."""
    name = source.removeprefix(SCHEME)
    if not is_hub_id(name) or (source == name and Path(name).exists()):
        return None
    return None if cached(name) is None else name


def cached(name: str) -> Path | None:
    """Return the snapshot of a hub id in the cache of the hub; None if it is not there, or not whole."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot = Path(snapshot_download(name, allow_patterns=PATTERNS, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return snapshot if (snapshot / "config.json").is_file() else None


def fetch(name: str, missing: str) -> Path:
    """Return a snapshot of a hub id, from the cache or, if the network is allowed, from the hub.

    Args:
        name: The hub id.
        missing: The beginning of an error: the places where the name was looked for.

    Raises:
        FileNotFoundError: The hub has no such model, or cannot be reached.
    """
    if (snapshot := cached(name)) is not None:
        return snapshot
    if variable := assets.offline():
        raise FileNotFoundError(
            f"{missing}; the cache of the hub does not contain it, and {variable} forbids the network"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=PATTERNS))
    except GatedRepoError:
        reason = f"the hub gives {name!r} only to users whose request was accepted: log in with `hf auth login`"
    except RepositoryNotFoundError:
        reason = f"the hub has no public model {name!r}; if it is private, log in with `hf auth login`"
    except LocalEntryNotFoundError:
        reason = "the hub cannot be reached: check the network, or give the path of a directory"
    except Exception as error:  # the client of the hub raises many types of errors for a failed download
        reason = f"the hub returned an error: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    raise FileNotFoundError(f"{missing}; {reason}") from None
