"""The measurement: the study's runs, the card's document, and the page.

DIR/study.json, cells/, ...   the study of both arms (see `tlx.cells`)
DIR/operations.json           FLOPs of a run of either arm
DIR/benefit.json, benefit.html   the card
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tlx import config
from tlx.benefit.arms import ARM, LABELS, PRETRAINED, SCRATCH, SEED
from tlx.benefit.card import card
from tlx.cost import Operations, operations
from tlx.folder import environment
from tlx.records import write_json
from tlx.study import Study, run_study

OPERATIONS, CARD, PAGE = "operations.json", "benefit.json", "benefit.html"


def measure(
    study: Study,
    out: str | Path,
    *,
    jobs: int = 1,
    quiet: bool = False,
    command: str = "",
    file: str = "",
    worker: Sequence[str] = (),
) -> dict[str, Any]:
    """Runs what is not done of a `benefit_study` in the directory `out`, and writes the card there: `benefit.json`,
    which is also returned, and `benefit.html` where the extra that draws it is installed.

    The rest is as in `tlx.study.run_study`. Raises ValueError where no seed has finished in both arms.
    """
    found = run_study(study, out, jobs=jobs, quiet=quiet, command=command, file=file, worker=worker)
    directory = Path(out)
    counted = {name: counted_once(directory, study, name) for name in (PRETRAINED, SCRATCH)}
    base = study.base
    document = {
        "fingerprint": config.fingerprint(base),
        "recipe": config.dump(base),
        "changes": [[path, told(before), told(after)] for path, before, after in differences(study)],
        "command": command,
        **card(found, counted),
        "environment": environment(),
    }
    write_json(directory / CARD, document)
    from tlx import report

    if report.available():
        from tlx.report import benefit as page

        page.write(directory / PAGE, document)
    return document


def largest(study: Study, arm: str) -> Any:
    """The arm's cell with the most labels, of the first seed."""
    cells = [cell for cell in study.by_fingerprint.values() if cell.names[ARM] == arm]
    return max(cells, key=lambda cell: (cell.names[LABELS], -cell.names[SEED]))


def differences(study: Study) -> list[tuple[str, Any, Any]]:
    """In what the arms differ, as the recipe's records."""
    ours, theirs = (largest(study, arm) for arm in (PRETRAINED, SCRATCH))
    paths = [path for path in theirs.changes if path not in ours.changes]
    return [(path, config.at(ours.recipe, path), config.at(theirs.recipe, path)) for path in paths]


def told(value: Any) -> str:
    return value if isinstance(value, str) else config.source(value)


def counted_once(directory: Path, study: Study, arm: str) -> Operations:
    """The operations of a run of the arm, remembered by the fingerprint of its recipe."""
    path, cell = directory / OPERATIONS, largest(study, arm)
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if cell.fingerprint not in known:
        known[cell.fingerprint] = operations(cell.recipe)._asdict()
        write_json(path, known)
    return Operations(**known[cell.fingerprint])
