"""Define a cluster, the orders that it executes, and what it reports about them."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, ClassVar, NamedTuple, Self

from tlx.trees import near_miss

# Exit code of a command that was interrupted and has saved its state.
INTERRUPTED = 130
SIZES = ("cpu", "gpu", "tpu", "memory", "time")
# Environment variables that decide how the local runner's workers compute; those of a cluster get them too.
PREFIXES = ("TLX_", "JAX_", "XLA_")


class TaskOrder(NamedTuple):
    """A command that a worker executes in its process.

    Attributes:
        command: `PYTHON -Pm MODULE WORD ...`.
        folder: the working directory.
        directory: the directory of the study or search, on a disk that all machines share.
        identity: the fingerprint of its `study.json`, see `tlx.study.clusters.entry.identity`; empty for no check.
        version: the version of tlx.
    """

    command: tuple[str, ...]
    folder: str
    directory: str
    identity: str
    version: str


class Ending(NamedTuple):
    """How a task ended: the exit code of its command and the last line of its errors; no code if its worker died."""

    code: int | None
    line: str = ""


class Cluster(ABC):
    """Machines that execute orders. It connects where a `with` block begins, and disconnects at the end.

    Args:
        resources: what a task needs: `cpu`, `gpu` and `tpu` are numbers, `memory` is in GB and `time` in minutes; any
            other name is one of the cluster.
        limit: the largest number of tasks at once; None: as many as the cluster has room for.
    """

    # The package that the cluster needs, and the extra of tlx that installs it.
    package: ClassVar[str] = ""
    extra: ClassVar[str] = ""

    def __init__(self, resources: Mapping[str, str] | None = None, limit: int | None = None):
        if self.package and find_spec(self.package) is None:
            raise ImportError(
                f"--on {self.extra} needs the package {self.package}: pip install 'tlx[{self.extra}]', here and on the "
                "machines of the cluster"
            )
        resources = dict(resources or {})
        self.sizes = {name: number_of(name, resources.pop(name)) for name in SIZES if name in resources}
        for name, text in resources.items():
            if name.lower() in SIZES:
                raise ValueError(
                    f"--resources {name}={text} is not written in small letters; write {name.lower()}={text}, and name "
                    "it once"
                )
        self.others, self.limit = resources, limit

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Disconnect."""
        return

    @abstractmethod
    def submit(self, orders: Sequence[TaskOrder], directory: str) -> list[Any]:
        """Submit orders that use a directory; return a hashable task for each."""

    @abstractmethod
    def ended(self, tasks: Sequence[Any]) -> dict[Any, Ending]:
        """Return how those of the tasks that have ended did so."""

    @abstractmethod
    def cancel(self, task: Any) -> None:
        """Ask a task to save its state and end."""

    def room(self) -> int | None:
        """Return how many tasks the cluster can run at once now; None if it does not know."""
        return None

    def lack(self) -> str:
        """Return why no machine of the cluster can ever run a task; an empty text if one can."""
        return ""

    def notes(self) -> list[str]:
        """Return notes for the user about the resources of the cluster."""
        return []


def number_of(name: str, text: str) -> float:
    """Return the size of a resource. Raise ValueError where the text is no such number."""
    try:
        size = float(text)
    except ValueError:
        size = -1.0
    if not 0 <= size < float("inf") or (name != "gpu" and not size):
        raise ValueError(f"--resources {name}={text} is not a size; expected a number such as {name}=1")
    return size


def resources_of(text: str) -> dict[str, str]:
    """Return the resources of `cpu=4,gpu=1`.

    >>> resources_of("cpu=4,gpu=1")
    {'cpu': '4', 'gpu': '1'}
    """
    resources: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        name, sign, value = (word.strip() for word in part.partition("="))
        if not (sign and name and value):
            raise ValueError(f"--resources {text!r} is not of the form cpu=N,gpu=N, for example cpu=4,gpu=1")
        if name in resources:
            raise ValueError(f"--resources {text!r} names {name!r} twice; name it once")
        resources[name] = value
    return resources


def cluster_named(on: str, resources: str = "", limit: int | None = None) -> Cluster | None:
    """Return the cluster of `--on`; None for this machine.

    Args:
        on: "local", "ray", "ray=HOST:PORT", "slurm", or "slurm=local", which runs the jobs of Slurm on this machine.
        resources: what a task needs, such as "cpu=4,gpu=1".
        limit: the largest number of tasks at once.

    Raises:
        ValueError: There is no such cluster, or it has no such resources.
        ImportError: Its extra is not installed.
    """
    kind, sign, place = on.partition("=")
    needs = resources_of(resources)
    if kind == "local" and not sign:
        if needs:
            raise ValueError(f"--resources {resources!r} has no effect on this machine; add --on ray or --on slurm")
        return None
    if kind == "ray":
        from tlx.study.clusters.ray_tasks import RayCluster

        return RayCluster(place, needs, limit)
    if kind == "slurm" and place in ("", "local"):
        from tlx.study.clusters.slurm_jobs import SlurmCluster

        return SlurmCluster(place == "local", needs, limit)
    names = ("local", "ray", "ray=HOST:PORT", "slurm", "slurm=local")
    near = near_miss(on, names, listed=True)
    raise ValueError(f"--on {on!r} is no place to run cells; expected {', '.join(names[:-1])} or {names[-1]}{near}")


def forwarded(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment variables that every worker gets.

    >>> forwarded({"HOME": "/root", "JAX_PLATFORMS": "cpu"})
    {'JAX_PLATFORMS': 'cpu'}
    """
    return {name: value for name, value in environment.items() if name.startswith(PREFIXES)}


def last_line(text: str) -> str:
    """Return the last line of a text that is not empty."""
    lines: Iterable[str] = reversed(text.splitlines())
    return next((line.strip() for line in lines if line.strip()), "")
