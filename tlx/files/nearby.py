"""Name the directories nearest to a path that does not exist, for error messages."""

from collections.abc import Iterable
from pathlib import Path

from tlx.trees import closest, near_miss

# More entries than this are not listed: a directory of data may have millions.
MOST = 10_000


def near_directories(path: str | Path, others: Iterable[str] = ()) -> str:
    """Return the tail of an error message with the nearest directories, as `tlx.trees.near_miss`.

    Args:
        path: The path that does not exist.
        others: Names of other things than directories that the user may have meant.
    """
    missing = Path(path).expanduser()
    # The first part of the path that does not exist is the mistyped one.
    while not missing.parent.is_dir() and missing.parent != missing:
        missing = missing.parent
    names = [*neighbours(missing), *others]
    # What lies in the directory of a run is short and helps; what lies in the working directory does not.
    within = missing.parent != Path() and missing == Path(path).expanduser()
    return near_miss(str(missing), names if within else closest(str(missing), names))


def neighbours(missing: Path) -> list[str]:
    """Return the directories beside a path, without hidden ones; empty where the parent cannot be read."""
    try:
        entries = [entry for _, entry in zip(range(MOST), missing.parent.iterdir(), strict=False)]
    except OSError:
        return []
    return [str(entry) for entry in entries if not entry.name.startswith(".") and entry.is_dir()]


def missing_directory(path: str | Path) -> FileNotFoundError:
    """Return the error for a path of a directory that does not exist."""
    return FileNotFoundError(f"there is no directory {path}{near_directories(path)}")
