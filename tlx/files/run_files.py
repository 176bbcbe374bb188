"""List the files of a run's directory: their names, those of one run, and how to delete only those."""

import json
import re
import shutil
from collections.abc import Container, Iterator
from pathlib import Path

from tlx.files.documents import digests
from tlx.trees import Json

RECIPE, RESULT, WEIGHTS, MOVED = "recipe.json", "result.json", "weights.json", "moved.json"
LEARNED, FAILED, METRICS, PAGE = "learned.safetensors", "failed.json", "metrics.jsonl", "report.html"
# The identities of the run in its trackers, and the copy of its config file.
TRACKERS, CONFIG = "trackers.json", "config.py"
PROFILE = "profile"
TABLES = ("mistakes.json", "parameters.json", "environment.json", WEIGHTS)

_MODEL = (
    r"config\.json|generation_config\.json|(adapter_)?model(-\d+-of-\d+)?\.safetensors|(adapter_)?model\.safetensors\."
    r"index\.json|adapter_config\.json|(preprocessor|processor|tokenizer|sentence_bert)_config\.json|tokenizer\.json|"
    r"special_tokens_map\.json|added_tokens\.json|vocab\.(txt|json)|merges\.txt|processor\.json|[\w-]+\.model"
)
# Every file that tlx writes into a run's directory: names at the top, and names inside its directories.
FILES = frozenset({RECIPE, RESULT, digests.FILES, MOVED, LEARNED, FAILED, METRICS, PAGE, TRACKERS, CONFIG, *TABLES})
DIRECTORIES = {
    "tensorboard": r"events\.out\.tfevents\..*",
    "predictions": r"(validation|test(-[A-Za-z0-9][\w.-]*)?)\.npz",
    "model": _MODEL,
    "model/adapter": _MODEL,
    "adapter": _MODEL,
    # A trace of JAX's profiler, where TensorBoard looks for it.
    PROFILE: "",
    f"{PROFILE}/plugins": "",
    f"{PROFILE}/plugins/profile": "",
    f"{PROFILE}/plugins/profile/steps": r".*\.xplane\.pb|.*\.trace\.json\.gz|perfetto_trace\.json\.gz",
}
# Checkpoints are named by their step, whole or half written; those of a group lie in a directory of the group.
CHECKPOINTS, STEP = "checkpoints", r"\.?\d+([._-].*)?|group-\d+-[0-9a-f]{16}"
_PARTIAL = r"\.(.+)\.partial"


def is_written(name: str) -> bool:
    """Return whether tlx writes a file with this path into a run's directory, apart from checkpoints.

    >>> is_written("predictions/test.npz"), is_written("notes.txt")
    (True, False)
    """
    place, _, last = name.rpartition("/")
    return name in FILES if not place else place in DIRECTORIES and bool(re.fullmatch(DIRECTORIES[place], last))


def written(folder: Path) -> Iterator[Path]:
    """Yield the path, from `folder`, of each file of a run in its directory, without checkpoints."""
    for place, names in {"": "|".join(map(re.escape, FILES)), **DIRECTORIES}.items():
        directory = folder / place
        if not directory.is_dir() or any((folder / part).is_symlink() for part in _chain(place)):
            continue
        for path in sorted(directory.iterdir()):
            name = partial[1] if (partial := re.fullmatch(_PARTIAL, path.name)) else path.name
            if re.fullmatch(names, name) and (path.is_symlink() or path.is_file()):
                yield path.relative_to(folder)


def delete(folder: Path, *, keep: Container[str] = (), checkpoints_only: bool = False) -> None:
    """Delete the files that runs wrote into `folder`, and nothing else. Other files stay, and so do the targets of
    links.

    A link in the place of a file or a directory of a run is removed, never followed. Files with a path in `keep` stay
    too.
    """
    for path in () if checkpoints_only else list(written(folder)):
        if path.as_posix() not in keep:
            (folder / path).unlink(missing_ok=True)
    places = [CHECKPOINTS] if checkpoints_only else [CHECKPOINTS, *reversed(DIRECTORIES)]
    for place in places:
        directory = folder / place
        if any((folder / part).is_symlink() for part in _chain(place)[:-1]):
            continue
        if directory.is_symlink():
            directory.unlink()
        elif directory.is_dir():
            if place == CHECKPOINTS:
                _delete_steps(directory)
            if not any(directory.iterdir()):
                directory.rmdir()


def _delete_steps(directory: Path) -> None:
    for path in directory.iterdir():
        if not re.fullmatch(STEP, path.name):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _chain(place: str) -> list[str]:
    """Return a path and its parents: `a` and `a/b` for `a/b`."""
    parts = place.split("/") if place else []
    return ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]


def check_same_run(folder: Path) -> None:
    """Raise ValueError where `recipe.json` or `result.json` was changed, or both belong to different recipes."""
    for name in (RECIPE, RESULT):
        digests.verify(folder, name)
    recipe, result = (_fingerprint(folder / name) for name in (RECIPE, RESULT))
    if recipe and result and recipe != result:
        raise ValueError(
            f"{folder} contains the files of two runs: {RECIPE} has the fingerprint {recipe}, but {RESULT} has "
            f"{result}; run the recipe again with --overwrite"
        )


def check_file(folder: Path, name: str) -> None:
    """Raise ValueError where a file is not the one that the finished run in `folder` wrote.

    Args:
        folder: The run's directory. Runs of earlier versions list no digests, and pass.
        name: The path of the file in the directory, `model` for all files below that directory.
    """
    check_same_run(folder)
    if (folder / name).is_dir():
        digests.verify_below(folder / name)
    else:
        digests.verify(folder, name)


def check_fingerprint(folder: Path, document: object, what: str) -> None:
    """Raise ValueError where a document has the fingerprint of another recipe than the run in `folder`, or than the run
    was before it was lengthened."""
    received = document.get("fingerprint") if isinstance(document, dict) else None
    expected = _fingerprint(folder / RECIPE)
    if received and expected and received not in (expected, *_shorter(folder / RECIPE)):
        raise ValueError(
            f"{folder / what} belongs to another run: its fingerprint is {received}, but {RECIPE} has {expected}; run "
            "the recipe again with --overwrite"
        )


def finishing(folder: Path) -> str:
    """Return the command that finishes an unfinished run."""
    document = _document(folder / RECIPE)
    if not document.get("lengthened"):
        return f"tlx run CONFIG --out {folder} --resume"
    try:
        length = document["recipe"]["train"]
        words = f"--steps {length['steps']}" if length["steps"] else f"--epochs {length['epochs']:g}"
    except (KeyError, TypeError, ValueError):
        # The reader of the file itself reports the fault.
        words = "--steps STEPS"
    return f"tlx lengthen {folder} {words}"


def _fingerprint(path: Path) -> str:
    fingerprint = _document(path).get("fingerprint")
    return fingerprint if isinstance(fingerprint, str) else ""


def _shorter(path: Path) -> list[str]:
    """Return the fingerprints that a run had before it was lengthened."""
    entries = _document(path).get("lengthened")
    if not isinstance(entries, list):
        return []
    return [entry["fingerprint"] for entry in entries if isinstance(entry, dict) and "fingerprint" in entry]


def _document(path: Path) -> Json:
    """Return a JSON object; an empty one where it cannot be read. The reader of the file itself reports the fault."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
