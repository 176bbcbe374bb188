"""Run the study, and write the report's document and the page.

DIR/study.json, cells/, ...   the study of all arms (see `tlx.records.studies`)
DIR/domains.json              the distance of each source from the target
DIR/negative.json, negative.html   the report
"""

from collections.abc import Sequence
from pathlib import Path

from tlx import config, processes
from tlx.analysis.negative.arms import EPS, SOURCE, TRANSFER
from tlx.analysis.negative.card import card, finite
from tlx.analysis.negative.domains import divergences
from tlx.analysis.negative.gated import gated
from tlx.data import open_dataset
from tlx.files.documents import read_json, records
from tlx.records import studies
from tlx.records.log import write_json
from tlx.records.run_directory import environment
from tlx.sharding import Mesh
from tlx.study import Study, run_study
from tlx.study.clusters.base import Cluster
from tlx.trees import Json

DOMAINS, CARD, PAGE = "domains.json", "negative.json", "negative.html"


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
) -> Json:
    """Run the unfinished cells of a `negative_study` in the directory `out`, and write the report there.

    The arguments are those of `tlx.study.run_study`.

    Returns:
        The content of `negative.json`. `negative.html` is also written if its extra is installed.

    Raises:
        ValueError: No run with a source has finished.
    """
    run_study(study, out, jobs=jobs, quiet=quiet, command=command, file=file, worker=worker, mesh=mesh, on=on)
    return processes.decided(lambda: written(study, Path(out), command))


def written(study: Study, directory: Path, command: str = "") -> Json:
    """Write the report again from the records in the directory, and return the document."""
    study_records, base = studies.read(directory), study.base
    document = {
        "fingerprint": config.fingerprint(base),
        "recipe": config.dump(base),
        "command": command,
        **card(study_records, open_dataset(base.data.target).classes, str(base.data.target)),
        "domains": load_domains(study, directory),
        "gated": gated(study_records, base),
        "environment": environment(),
    }
    document["related"] = related(document)
    write_json(directory / CARD, document)
    from tlx import report

    if report.available():
        from tlx.report import negative as page

        page.write(directory / PAGE, document)
    return document


def load_domains(study: Study, directory: Path) -> list[Json]:
    """Return the divergences of the study's sources and noise levels, cached by recipe, sources and noise."""
    cells_of = [cell for cell in study.by_fingerprint.values() if cell.names["arm"] == TRANSFER]
    sources = list(dict.fromkeys(cell.names[SOURCE] for cell in cells_of))
    eps = list(dict.fromkeys(cell.names[EPS] for cell in cells_of))
    base, path = study.base, directory / DOMAINS
    key = {"of": config.fingerprint(base), "sources": sources, "eps": eps}
    cached = (
        read_json(path, records.DOMAINS, remedy=f"delete {path} to measure the domains again") if path.is_file() else {}
    )
    if {name: cached.get(name) for name in key} != key:
        cached = {**key, "rows": divergences(base, sources, eps)}
        write_json(path, cached)
    return cached["rows"]


def related(document: Json) -> list[Json]:
    """Compute Spearman's correlation of each divergence with the gap: do more distant sources hurt more?

    It runs over the settings of equal labels. It is None for fewer than three settings, or for a divergence that is the
    same for all.
    """
    from tlx.functional import significance

    rows = []
    distances = {(row["source"], row["eps"]): row for row in document["domains"]}
    for baseline in dict.fromkeys(gap["baseline"] for gap in document["gaps"]):
        for labels in dict.fromkeys(gap["labels"] for gap in document["gaps"]):
            gaps = [gap for gap in document["gaps"] if (gap["baseline"], gap["labels"]) == (baseline, labels)]
            for name in ("a", "mmd"):
                x = [distances[gap["source"], gap["eps"]][name] for gap in gaps]
                correlation = (
                    significance.spearman(x, [gap["gap"] for gap in gaps]) if len(gaps) > 2 and None not in x else None
                )
                row = {"baseline": baseline, "labels": labels, "of": name, "settings": len(gaps)}
                rows.append(
                    {
                        **row,
                        "rho": finite(correlation[0]) if correlation else None,
                        "p": finite(correlation[1]) if correlation else None,
                    }
                )
    return rows
