"""The measurement: the study's runs, the report's document, and the page.

DIR/study.json, cells/, ...   the study of all arms (see `tlx.records.studies`)
DIR/domains.json              how far each source is from the target
DIR/negative.json, negative.html   the report
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tlx import config
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
) -> dict[str, Any]:
    """Runs what is not done of a `negative_study` in the directory `out`, and writes the report there: `negative.json`,
    which is also returned, and `negative.html` where the extra that draws it is installed.

    The rest is as in `tlx.study.run_study`. Raises ValueError where no run with a source has finished.
    """
    run_study(study, out, jobs=jobs, quiet=quiet, command=command, file=file, worker=worker, mesh=mesh)
    return written(study, Path(out), command)


def written(study: Study, directory: Path, command: str = "") -> dict[str, Any]:
    """Writes the report anew from what the directory holds, and gives the document."""
    found, base = studies.read(directory), study.base
    document = {
        "fingerprint": config.fingerprint(base),
        "recipe": config.dump(base),
        "command": command,
        **card(found, open_dataset(base.data.target).classes, str(base.data.target)),
        "domains": known_domains(study, directory),
        "gated": gated(found, base),
        "environment": environment(),
    }
    document["related"] = related(document)
    write_json(directory / CARD, document)
    from tlx import report

    if report.available():
        from tlx.report import negative as page

        page.write(directory / PAGE, document)
    return document


def known_domains(study: Study, directory: Path) -> list[dict[str, Any]]:
    """The divergences of the study's sources and noises, remembered by what they are of."""
    cells_of = [cell for cell in study.by_fingerprint.values() if cell.names["arm"] == TRANSFER]
    sources = list(dict.fromkeys(cell.names[SOURCE] for cell in cells_of))
    eps = list(dict.fromkeys(cell.names[EPS] for cell in cells_of))
    base, path = study.base, directory / DOMAINS
    asked = {"of": config.fingerprint(base), "sources": sources, "eps": eps}
    known = read_json(path, records.DOMAINS, remedy=f"delete {path}: it is measured again") if path.is_file() else {}
    if {name: known.get(name) for name in asked} != asked:
        known = {**asked, "rows": divergences(base, sources, eps)}
        write_json(path, known)
    return known["rows"]


def related(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Whether sources that are further away hurt more: Spearman's correlation of each divergence with the gap over the
    settings of equal labels, None of fewer than three, or of a divergence that is the same for all."""
    from tlx.functional import significance

    found = []
    apart = {(row["source"], row["eps"]): row for row in document["domains"]}
    for baseline in dict.fromkeys(gap["baseline"] for gap in document["gaps"]):
        for labels in dict.fromkeys(gap["labels"] for gap in document["gaps"]):
            gaps = [gap for gap in document["gaps"] if (gap["baseline"], gap["labels"]) == (baseline, labels)]
            for name in ("a", "mmd"):
                x = [apart[gap["source"], gap["eps"]][name] for gap in gaps]
                told = (
                    significance.spearman(x, [gap["gap"] for gap in gaps]) if len(gaps) > 2 and None not in x else None
                )
                row = {"baseline": baseline, "labels": labels, "of": name, "settings": len(gaps)}
                found.append({**row, "rho": finite(told[0]) if told else None, "p": finite(told[1]) if told else None})
    return found
