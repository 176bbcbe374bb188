"""Run the study, and write the card's document and the page.

DIR/study.json, cells/, ...   the study of both arms (see `tlx.records.studies`)
DIR/operations.json           FLOPs of a run of either arm
DIR/benefit.json, benefit.html   the card
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tlx import config, processes
from tlx.analysis.benefit.arms import ARM, LABELS, PRETRAINED, SCRATCH, SEED
from tlx.analysis.benefit.card import card
from tlx.files.documents import read_json, read_lines, records
from tlx.records.log import write_json
from tlx.records.run_directory import environment
from tlx.records.studies import StudyRecords
from tlx.sharding import Mesh
from tlx.study import Study, run_study
from tlx.study.clusters.base import Cluster
from tlx.study.work import EXECUTIONS
from tlx.training.energy import POUNDS_2018, PUE_2018, checked
from tlx.training.flops import Operations, operations
from tlx.trees import Json

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
    mesh: Mesh = Mesh(),
    on: Cluster | None = None,
    pue: float = PUE_2018,
    pounds_per_kwh: float = POUNDS_2018,
) -> Json:
    """Run the unfinished cells of a `benefit_study` in the directory `out`, and write the card there.

    Args:
        study: the study.
        out: its directory.
        pue: power usage effectiveness (watts of the building per watt of the machine), by default that of 2018; used
            only in the formula of Strubell et al. (2019).
        pounds_per_kwh: pounds of CO2e per kWh, by default those of 2018; used only in the same formula.

    The other arguments are those of `tlx.study.run_study`.

    Returns:
        The content of `benefit.json`. `benefit.html` is also written if its extra is installed.

    Raises:
        ValueError: One of the two numbers is negative, or no seed has finished in both arms.
    """
    for name, value in {"pue": pue, "pounds_per_kwh": pounds_per_kwh}.items():
        checked(value, name)
    study_records = run_study(
        study, out, jobs=jobs, quiet=quiet, command=command, file=file, worker=worker, mesh=mesh, on=on
    )
    return processes.decided(lambda: written(study, study_records, Path(out), command, pue, pounds_per_kwh))


def written(
    study: Study, study_records: StudyRecords, directory: Path, command: str, pue: float, pounds_per_kwh: float
) -> Json:
    """Write the card from the records in the directory, and return its document. The arguments are as in `measure`."""
    counted = {name: counted_once(directory, study, name) for name in (PRETRAINED, SCRATCH)}
    base = study.base
    document = {
        "fingerprint": config.fingerprint(base),
        "recipe": config.dump(base),
        "changes": [[path, value_text(before), value_text(after)] for path, before, after in differences(study)],
        "command": command,
        **card(
            study_records, counted, at_once=at_once(directory, study_records), pue=pue, pounds_per_kwh=pounds_per_kwh
        ),
        "environment": environment(),
    }
    write_json(directory / CARD, document)
    from tlx import report

    if report.available():
        from tlx.report import benefit as page

        page.write(directory / PAGE, document)
    return document


def at_once(directory: Path, study_records: StudyRecords) -> int:
    """Return the largest number of processes that ran cells of the study at once on one machine.

    A process counts from the start of its first run to the end of its last run.
    """
    durations = {cell.fingerprint: sum(cell.result["seconds"].values()) for cell in study_records.cells if cell.result}
    spans: dict[tuple[str, int], list[float]] = {}
    # A killed worker may have left half a line.
    for line in read_lines(directory / EXECUTIONS, records.EXECUTION, skip_damaged=True):
        if line["cell"] in durations:
            begin, end = line["time"] - durations[line["cell"]], line["time"]
            span = spans.setdefault((line["host"], line["process"]), [begin, end])
            span[:] = min(span[0], begin), max(span[1], end)
    return max(
        (
            sum(host == machine and first <= begin < last for (machine, _), (first, last) in spans.items())
            for (host, _), (begin, _) in spans.items()
        ),
        default=1,
    )


def largest(study: Study, arm: str) -> Any:
    """Return the arm's cell with the most labels, of the first seed."""
    cells = [cell for cell in study.by_fingerprint.values() if cell.names[ARM] == arm]
    return max(cells, key=lambda cell: (cell.names[LABELS], -cell.names[SEED]))


def differences(study: Study) -> list[tuple[str, Any, Any]]:
    """Return the differences between the arms' recipes, as (path, pretrained, scratch)."""
    ours, theirs = (largest(study, arm) for arm in (PRETRAINED, SCRATCH))
    paths = [path for path in theirs.changes if path not in ours.changes]
    return [(path, config.at(ours.recipe, path), config.at(theirs.recipe, path)) for path in paths]


def value_text(value: Any) -> str:
    """Return a value as text."""
    return value if isinstance(value, str) else config.source(value)


def counted_once(directory: Path, study: Study, arm: str) -> Operations:
    """Return the operations of a run of the arm, cached by the fingerprint of its recipe."""
    path, cell = directory / OPERATIONS, largest(study, arm)
    counts = (
        read_json(path, records.OPERATIONS, remedy=f"delete {path} to count the operations again")
        if path.is_file()
        else {}
    )
    if cell.fingerprint not in counts:
        counts[cell.fingerprint] = operations(cell.recipe)._asdict()
        write_json(path, counts)
    return Operations(**counts[cell.fingerprint])
