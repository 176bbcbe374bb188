"""Check at the start that several processes run the same study, or the same search, on the same data."""

import hashlib
from collections.abc import Iterable
from importlib.metadata import version

import jax

from tlx import config, processes
from tlx.data import Data, Source, open_dataset
from tlx.sharding import Mesh
from tlx.study.base import Study

VERSIONS = ("tlx", "jax", "jaxlib")


def check(study: Study, jobs: int, most: int, mesh: Mesh) -> None:
    """Raise ValueError, in every process, where the processes have other studies, data, versions or options."""
    cells = hashlib.sha256(" ".join(study.by_fingerprint).encode()).hexdigest()[:16]
    data = [cell.recipe.data for cell in study.by_fingerprint.values()] if jax.process_count() > 1 else []
    check_start({"the study (by the fingerprints of its cells)": cells}, data, jobs, most, mesh)


def check_start(values: dict[str, str], data: Iterable[Data], jobs: int, most: int, mesh: Mesh) -> None:
    """Raise ValueError, in every process, where a value differs, or a version, an option, or a data set.

    Args:
        values: The values by name.
        data: The data of the recipes.
        jobs: The number of workers, which must be 1 where several processes train together.
        most: The largest size of a group of runs.
        mesh: The devices.
    """
    if (count := jax.process_count()) == 1:
        return
    if jobs > 1:
        raise ValueError(
            f"jobs is {jobs}, but {count} processes train each run together; leave --jobs out, or start separate "
            "processes without --coordinator"
        )
    options = {"--together": str(most), "--mesh": str(mesh)}
    versions = {f"the version of {name}": version(name) for name in VERSIONS}
    processes.check_equal(values | options | versions)
    processes.check_equal(fingerprints(data))


def fingerprints(data: Iterable[Data]) -> dict[str, str]:
    """Return the fingerprint of each data set that these data name; the error where one cannot be opened, which is left
    to the runs where it is the same everywhere."""
    sources = dict.fromkeys(source for item in data for source in sources_of(item))
    return {f"the data set {config.source(source)}": fingerprint(source) for source in sources}


def sources_of(data: Data) -> list[str | Source]:
    """Return all data sets that the data of a recipe name."""
    further = [*(stream.source for stream in data.streams), *(test.source for test in data.tests)]
    return [source for source in (data.target, *data.sources.values(), *further) if source is not None]


def fingerprint(source: str | Source) -> str:
    """Return the fingerprint of a data set, or the error by which it cannot be opened."""
    try:
        return str(open_dataset(source).fingerprint)
    except Exception as error:
        return processes.said(error)
