"""Run the study, and write the report's document and the page.

DIR/study.json, cells/, ...   the study of all arms (see `tlx.records.studies`)
DIR/interference.json, interference.html   the report
"""

from collections.abc import Sequence
from pathlib import Path

from tlx import config, processes
from tlx.analysis.interference.arms import Interference
from tlx.analysis.interference.card import card
from tlx.records import studies
from tlx.records.log import write_json
from tlx.records.run_directory import environment
from tlx.sharding import Mesh
from tlx.study import run_study
from tlx.study.clusters.base import Cluster
from tlx.trees import Json

CARD, PAGE = "interference.json", "interference.html"


def measure(
    plan: Interference,
    out: str | Path,
    *,
    jobs: int = 1,
    quiet: bool = False,
    command: str = "",
    file: str = "",
    worker: Sequence[str] = (),
    mesh: Mesh = Mesh(),
    on: Cluster | None = None,
) -> Json:
    """Run the unfinished cells of the study in the directory `out`, and write the report there.

    The other arguments are those of `tlx.study.run_study`.

    Returns:
        The content of `interference.json`. `interference.html` is also written if its extra is installed.

    Raises:
        ValueError: No run of the whole mixture has finished.
    """
    run_study(plan.study, out, jobs=jobs, quiet=quiet, command=command, file=file, worker=worker, mesh=mesh, on=on)
    return processes.decided(lambda: written(plan, Path(out), command))


def written(plan: Interference, directory: Path, command: str = "") -> Json:
    """Write the report again from the records in the directory, and return the document."""
    document = {
        "fingerprint": config.fingerprint(plan.recipe),
        "recipe": config.dump(plan.recipe),
        "command": command,
        **card(plan, studies.read(directory)),
        "environment": environment(),
    }
    write_json(directory / CARD, document)
    from tlx import report

    if report.available():
        from tlx.report import interference as page

        page.write(directory / PAGE, document)
    return document
