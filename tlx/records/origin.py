"""Where a run comes from: the git commit of its config's directory."""

import os
import subprocess
from pathlib import Path

from tlx.trees import Json

# Seconds that git may take; a very large repository on a slow disk then has no entry.
PATIENCE = 10.0


def commit_of(directory: Path) -> Json | None:
    """Return the commit of the git repository that contains a directory.

    Returns:
        `commit`, the hash, and `dirty`, whether files that git tracks differ from it (None where git does not say).
        None without git, outside of a repository, and before its first commit.
    """
    commit = git(directory, "rev-parse", "--verify", "HEAD")
    if not commit:
        return None
    changes = git(directory, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def git(directory: Path, *words: str) -> str | None:
    """Return the output of a git command that reads; None where it fails. It starts no program that the repository's
    settings name for speed, and takes no lock."""
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    command = ["git", "-C", str(directory), "-c", "core.fsmonitor=false", *words]
    try:
        process = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=PATIENCE, env=environment, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return process.stdout.strip() if process.returncode == 0 else None
