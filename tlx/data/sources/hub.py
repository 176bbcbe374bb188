"""Fetch data sets from the hub of Hugging Face, as Parquet files."""

from __future__ import annotations

from pathlib import Path

from tlx.assets import offline


def fetched_dataset(name: str, revision: str, *, local_only: bool = False) -> Path:
    """Return the folder of a data set of the hub; download it where it is not in the cache of the hub.

    Args:
        name: The name on the hub, "user/name".
        revision: The branch or the commit.
        local_only: True never uses the network.

    Raises:
        FileNotFoundError: There is no such data set, or it cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.parquet"]
    try:
        return Path(
            snapshot_download(
                name, repo_type="dataset", revision=revision, allow_patterns=patterns, local_files_only=True
            )
        )
    except LocalEntryNotFoundError:
        if local_only:
            raise FileNotFoundError(
                f"data set {name!r} is not in the local cache of the hub, and {offline()} forbids the network"
            ) from None
    try:
        return Path(snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FileNotFoundError(
            f"there is no folder {name!r}, and the hub cannot provide a data set of this name ({reason:.120})"
        ) from None
