"""The options that say where the runs of a command take place: on this machine, or on a cluster."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

if TYPE_CHECKING:
    from tlx.sharding import Mesh
    from tlx.study import Study
    from tlx.study.clusters.base import Cluster
    from tlx.training.loop import How


class RunPlace(NamedTuple):
    """Where runs take place: the texts of `--on` and `--resources`, and the value of `--jobs` if the user names one.

    `part` is what a worker of a cluster runs: fingerprints of a study's cells, or the word `next` for the next trials
    of a search.
    """

    on: str = "local"
    resources: str = ""
    limit: int | None = None
    part: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        """The words of a command that repeat the options."""
        words = ["--on", self.on] if self.on != "local" else []
        return [*words, *(["--resources", self.resources] if self.resources else [])]

    def cluster(self) -> Cluster | None:
        """Return the cluster; None for this machine."""
        if self.on == "local" and not self.resources:
            return None
        import jax

        from tlx.study.clusters.base import cluster_named

        cluster = cluster_named(self.on, self.resources, self.limit)
        if cluster is not None and (count := jax.process_count()) > 1:
            raise ValueError(
                f"--on {self.on} starts a task for each run, but {count} processes train each run together; leave out "
                "--on, or --coordinator"
            )
        return cluster

    def work(
        self, study: Study, out: str, since: float, *, jobs: int, most: int | None = None, mesh: Mesh,
        how: How | None = None,
    ) -> None:  # fmt: skip
        """Run cells of a study as a worker that another process has started: of the whole study, or one part."""
        from tlx.training.run_many import CELLS, MOST_ARMS

        how = how or CELLS

        if self.part:
            from tlx.study.clusters.cells import run_part

            run_part(study, Path(out), since, self.part, most=most or MOST_ARMS, mesh=mesh, how=how)
            return
        from tlx.study.work import work

        work(study, Path(out), since, share=jobs, most=most or MOST_ARMS, employed=True, mesh=mesh, how=how)


def place_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options `--on` and `--resources`; the command gets them as `place`."""

    @wraps(command)
    def placed(*arguments: Any, on: str, resources: str, part: str, **settings: Any) -> Any:
        source = click.get_current_context().get_parameter_source("jobs")
        named = source is click.core.ParameterSource.COMMANDLINE
        place = RunPlace(on, resources, settings["jobs"] if named else None, tuple(filter(None, part.split(","))))
        return command(*arguments, place=place, **settings)

    for option in reversed(
        [
            click.option(
                "--on", metavar="PLACE", default="local", show_default=True,
                help="Where the runs take place: local, ray, ray=HOST:PORT, or slurm.",
            ),
            click.option(
                "--resources", metavar="NAME=N,...", default="",
                help="Resources of a run on a cluster: cpu, gpu, tpu, memory (GB), time (minutes), or a name of the "
                "cluster [default: cpu=1].",
            ),
            click.option("--part", hidden=True, default=""),
        ]
    ):  # fmt: skip
        placed = option(placed)
    return placed
