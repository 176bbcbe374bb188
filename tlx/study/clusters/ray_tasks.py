"""Execute orders as tasks of Ray."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Self

from tlx.study.clusters.base import Cluster, Ending, TaskOrder, forwarded, last_line
from tlx.study.clusters.entry import enter

# Seconds until an address that does not answer counts as unreachable: of a connection, and of Ray.
ANSWER, MEETING = 5.0, 20.0
# The code of `MEET` where a Ray cluster refuses a client without its token.
REFUSED = 3
MEET = f"""
import sys
from ray import exceptions
from ray._raylet import GcsClient
try:
    GcsClient(address=sys.argv[1])
except getattr(exceptions, "AuthenticationError", ()):
    sys.exit({REFUSED})
"""
START = "start one with: ray start --head"
# A gigabyte in bytes.
GIGABYTE = 10**9
# Ray counts resources in parts of this size.
SMALLEST = 0.0001
# The chips of one machine that a task may have, as Ray defines them.
TPUS = (0, 1, 2, 4, 8)


class RayCluster(Cluster):
    """The Ray cluster at the address HOST:PORT, by default that of RAY_ADDRESS or the one of this machine.

    Ray restarts nothing: a task whose worker or machine dies is lost, and `drive` submits it again.
    """

    package, extra = "ray", "ray"

    def __init__(self, address: str = "", resources: Mapping[str, str] | None = None, limit: int | None = None):
        super().__init__(resources, limit)
        self.address = address or os.environ.get("RAY_ADDRESS") or "auto"
        if "time" in self.sizes:
            raise ValueError("--resources time=MINUTES is for --on slurm; a task of Ray has no time limit")
        others = {name: number(name, value) for name, value in self.others.items()}
        for name, size in {**self.sizes, **others}.items():
            check_size(name, size)
        accelerators = {"TPU": self.sizes["tpu"]} if "tpu" in self.sizes else {}
        # What Ray calls them.
        self.request = {
            "CPU": self.sizes.get("cpu", 1.0), "GPU": self.sizes.get("gpu", 0.0),
            "memory": self.sizes.get("memory", 0.0) * GIGABYTE, **accelerators, **others,
        }  # fmt: skip

    def __enter__(self) -> Self:
        import ray

        address = reachable(self.address)
        try:
            # Ray finds the token of a cluster of this machine only where it finds the cluster, too.
            ray.init(
                address=self.address, log_to_driver=False, logging_level="CRITICAL",
                runtime_env={"env_vars": forwarded()},
            )  # fmt: skip
        except (RuntimeError, ConnectionError, ValueError, ray.exceptions.RayError) as error:
            raise ValueError(
                f"--on ray={address}: Ray does not connect ({last_line(str(error))}); run the command on a machine of "
                "the cluster, with its versions of Ray and Python"
            ) from None
        with suppress(AttributeError):
            # Ray prints the log of a machine that dies.
            ray._private.worker._worker_logs_enabled = False
        whole = {name: size for name, size in self.request.items() if name not in ("CPU", "GPU", "memory") and size}
        accelerated = bool(self.request["GPU"] or whole)
        # A worker that stays would keep the memory of its accelerator.
        remote = ray.remote(max_calls=1)(enter) if accelerated else ray.remote(enter)
        self.remote = remote.options(
            num_cpus=self.request["CPU"], num_gpus=self.request["GPU"], memory=int(self.request["memory"]) or None,
            resources=whole, max_retries=0, scheduling_strategy="SPREAD",
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        """Disconnect."""
        import ray

        ray.shutdown()

    def submit(self, orders: Sequence[TaskOrder], directory: str) -> list[Any]:
        """Submit a task for each order."""
        return [self.remote.remote(order) for order in orders]

    def ended(self, tasks: Sequence[Any]) -> dict[Any, Ending]:
        """Return how those of the tasks that have ended did so."""
        import ray

        if not tasks:
            return {}
        done, _ = ray.wait(list(tasks), num_returns=len(tasks), timeout=0)
        return {task: ending_of(task) for task in done}

    def cancel(self, task: Any) -> None:
        """Interrupt the command of a task, as Ctrl-C does."""
        import ray

        ray.cancel(task)

    def machines(self) -> list[dict[str, float]]:
        """Return the resources of each machine that is alive."""
        import ray

        return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]

    def room(self) -> int | None:
        """Return how many tasks the machines can run at once."""
        request = {name: size for name, size in self.request.items() if size}
        return sum(
            int(min((machine.get(name, 0.0) / size for name, size in request.items()), default=1))
            for machine in self.machines()
        )

    def lack(self) -> str:
        """Return why no machine can ever run a task."""
        machines = self.machines()
        if any(all(machine.get(name, 0.0) >= size for name, size in self.request.items()) for machine in machines):
            return ""
        wanted = " and ".join(amount(name, size) for name, size in self.request.items() if size)
        names = [name for name, size in self.request.items() if size]
        present = "; ".join(
            " and ".join(amount(name, machine.get(name, 0.0)) for name in names) for machine in machines[:4]
        )
        return (
            f"no machine of the Ray cluster can run a cell, which needs {wanted}: the machines have "
            f"{present or 'ended'}{', ...' if len(machines) > 4 else ''}; ask for less with --resources, or add such a "
            "machine first"
        )

    def notes(self) -> list[str]:
        """Return a note if the machines have accelerators that the tasks do not ask for."""
        machines = self.machines()
        for name in ("GPU", "TPU"):
            if any(machine.get(name) for machine in machines) and not self.request.get(name):
                return [f"the cluster has {name}s, and the cells do not use them; add --resources {name.lower()}=1"]
        return []


def number(name: str, text: str) -> float:
    """Return the size of a resource that a Ray cluster defines."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(
            f"--resources {name}={text} is not a number, and {name!r} is no resource that tlx knows; expected cpu, "
            "gpu, tpu, memory, or a resource of the Ray cluster with its size"
        ) from None


def check_size(name: str, size: float) -> None:
    """Raise ValueError where Ray has no such size of a resource; `memory` is in GB."""
    expected = ""
    if not 0 <= size < float("inf"):
        expected = "a number of at least 0"
    elif name == "memory":
        expected = "" if size * GIGABYTE >= 1 else "at least 1 byte, in GB"
    elif name == "tpu" and size not in TPUS:
        expected = "0, 1, 2, 4 or 8 chips of a machine"
    elif size > 1 and size != int(size):
        expected = f"a whole number above 1, such as {int(size) + 1}, or a part of 1, such as 0.5"
    elif 0 < size < SMALLEST:
        expected = f"0, or at least {SMALLEST}"
    if expected:
        raise ValueError(f"--resources {name}={size:g} is no size of a resource of Ray; expected {expected}")


def amount(name: str, size: float) -> str:
    """Return a resource and its size in words.

    >>> amount("CPU", 2.0), amount("memory", 5e8)
    ('2 CPU', '0.5 GB of memory')
    """
    return f"{size / GIGABYTE:.3g} GB of memory" if name == "memory" else f"{size:.6g} {name}"


def reachable(address: str) -> str:
    """Return the address of a Ray cluster that answers.

    Raises:
        ValueError: None does. Ray itself would wait for two minutes.
    """
    automatic = address == "auto"
    if automatic:
        from ray._private.services import canonicalize_bootstrap_address

        with suppress(ConnectionError):
            address = canonicalize_bootstrap_address(address) or address
        if address == "auto":
            raise ValueError(
                f"--on ray: no Ray cluster runs on this machine; {START}, or name its address: --on ray=HOST:PORT"
            )
    host, sign, port = address.rpartition(":")
    if "://" in address or not (sign and host and port.isdigit()):
        raise ValueError(
            f"--on ray={address} is no address; expected HOST:PORT, for example 10.0.0.2:6379, and a command that runs "
            "on a machine of the cluster"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER).close()
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"--on ray={address} does not answer ({error}); expected the address that `ray start --head` printed, "
            f"or {START}"
        ) from None
    try:
        subprocess.run([sys.executable, "-Pc", MEET, address], capture_output=True, timeout=MEETING, check=True)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        refused = getattr(error, "returncode", None) == REFUSED
        if refused and automatic:
            return address
        if refused:
            raise ValueError(
                f"--on ray={address} expects a token: set RAY_AUTH_MODE=token, with the token of the cluster in "
                "~/.ray/auth_token or in RAY_AUTH_TOKEN"
            ) from None
        raise ValueError(
            f"--on ray={address} answers, but not as a Ray cluster; expected the address that `ray start --head` "
            "printed"
        ) from None
    return address


def ending_of(task: Any) -> Ending:
    """Return how a task of Ray ended."""
    import ray
    from ray import exceptions

    try:
        return Ending(*ray.get(task))
    except exceptions.RuntimeEnvSetupError as error:
        return Ending(1, f"Ray cannot start a worker: {last_line(str(error))}")
    except exceptions.TaskCancelledError:
        return Ending(None, "it was cancelled")
    except exceptions.RayTaskError as error:
        reason = last_line(str(error))
        return Ending(1, f"a worker of Ray cannot run tlx ({reason}); install the same tlx on all machines")
    except exceptions.OutOfMemoryError:
        return Ending(None, "its machine ran out of memory")
    except exceptions.NodeDiedError:
        return Ending(None, "its machine died")
    except exceptions.RayError as error:
        return Ending(None, f"its worker died, {type(error).__name__}")
