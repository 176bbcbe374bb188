"""Execute orders as jobs of Slurm, in arrays, through submitit."""

import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tlx.study.clusters.base import Cluster, Ending, TaskOrder, last_line
from tlx.study.clusters.entry import enter

# The folder of the scripts and logs of the jobs, in the directory of the study.
FOLDER = "slurm"
# The largest array of jobs; Slurm's limit is 1001 unless its administrator has changed it.
LARGEST = 1000
# Minutes that a job may take where the user names no time. A job that reaches its limit continues in another one.
MINUTES = 240


class SlurmCluster(Cluster):
    """The Slurm cluster of this machine; if `local`, its jobs are processes of this machine."""

    package, extra = "submitit", "slurm"

    def __init__(self, local: bool, resources: Mapping[str, str] | None = None, limit: int | None = None):
        super().__init__(resources, limit)
        self.kind = "local" if local else "slurm"
        if "tpu" in self.sizes:
            raise ValueError("--resources tpu=N is for --on ray; Slurm has no such resource")
        for name, size in self.sizes.items():
            check_size(name, size)
        if not local and shutil.which("sbatch") is None:
            raise FileNotFoundError(
                "--on slurm: there is no sbatch on this machine; run the command where Slurm is installed, or use "
                "--on slurm=local to run the jobs as processes of this machine"
            )

    def settings(self) -> dict[str, Any]:
        """Return the settings of submitit."""
        sizes, others = self.sizes, dict(self.others)
        settings: dict[str, Any] = {
            "name": "tlx", "nodes": 1, "tasks_per_node": 1, "cpus_per_task": int(sizes.get("cpu", 1)),
            "timeout_min": int(sizes.get("time", MINUTES)),
        }  # fmt: skip
        if sizes.get("gpu"):
            settings["gpus_per_node"] = int(sizes["gpu"])
        if "memory" in sizes:
            settings["mem_gb"] = sizes["memory"]
        if partition := others.pop("partition", None):
            settings["slurm_partition"] = partition
        if others:
            settings["slurm_additional_parameters"] = others
        return settings

    def submit(self, orders: Sequence[TaskOrder], directory: str) -> list[Any]:
        """Submit the orders as arrays of jobs."""
        import submitit

        executor = submitit.AutoExecutor(folder=Path(directory) / FOLDER, cluster=self.kind)
        if self.kind == "slurm":
            executor.update_parameters(slurm_array_parallelism=min(len(orders), LARGEST))
        executor.update_parameters(**self.settings())
        jobs: list[Any] = []
        for first in range(0, len(orders), LARGEST):
            try:
                jobs += executor.map_array(enter, list(orders[first : first + LARGEST]))
            except submitit.core.utils.FailedJobError as error:
                raise ValueError(f"Slurm refuses the jobs: {last_line(str(error))}; see --resources") from None
        return jobs

    def ended(self, tasks: Sequence[Any]) -> dict[Any, Ending]:
        """Return how those of the jobs that have ended did so."""
        return {job: ending_of(job) for job in tasks if job.done()}

    def cancel(self, task: Any) -> None:
        """Interrupt the command of a job."""
        if self.kind == "local":
            # The process of the job passes SIGTERM to the command; SIGINT would end it at once.
            os.kill(int(task.job_id), signal.SIGTERM)
        else:
            task.cancel(check=False)


def check_size(name: str, size: float) -> None:
    """Raise ValueError where a size is none that Slurm has: it would round it down, and 0 is no limit.

    Args:
        name: `cpu`, `gpu`, `memory` or `time`.
        size: The size of it, in GB for `memory`, and in minutes for `time`.
    """
    if name == "memory":
        if size < 1 / 1024:
            raise ValueError(f"--resources memory={size:g} is less than 1 MB; expected GB, for example memory=16")
    elif size != int(size):
        least = 0 if name == "gpu" else 1
        raise ValueError(
            f"--resources {name}={size:g} is not whole; expected a whole number of at least {least}"
            f"{' (minutes)' if name == 'time' else ''}, such as {name}={int(size) + 1}"
        )


def ending_of(job: Any) -> Ending:
    """Return how a job ended."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    try:
        return Ending(*job.result())
    except FailedJobError as error:
        reason = last_line(str(error))
        return Ending(1, f"a job of Slurm cannot run tlx ({reason}); its log is in {job.paths.stderr}")
    except UncompletedJobError:
        return Ending(None, f"job {job.job_id} ended as {job.state}; its log is {job.paths.stderr}")
