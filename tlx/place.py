"""The place of a process among those that train together: what the user gives, or what a cluster tells it."""

import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec

# What tells a process of a cluster how many there are, and the lists of hosts of a slice of TPUs.
COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
HOSTS = ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")
# What Kubernetes tells each pod of a job.
JOB = ("KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX")
# The devices of a virtual machine with TPUs.
TPUS = ("/dev/accel0", "/dev/vfio/0")


def sign_of_cluster(environment: Mapping[str, str]) -> str:
    """Return the environment variable that says that this is one of several processes; an empty text for none.

    >>> sign_of_cluster({"SLURM_STEP_NUM_TASKS": "4"})
    'SLURM_STEP_NUM_TASKS=4'
    """
    for name in (*COUNTS, *HOSTS, JOB[1]):
        # Without what a virtual machine with TPUs asks its cloud.
        alone = {key: environment[key] for key in (name, JOB[0]) if key in environment} | {"TPU_SKIP_MDS_QUERY": ""}
        if in_cluster(alone):
            return f"{name}={environment[name]}"
    return ""


def check_place(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Raise ValueError where the place of a process is not given completely, or is impossible."""
    given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    if missing := [name for name, value in given.items() if value is None]:
        if len(missing) < len(given):
            present = next(name for name in given if name not in missing)
            raise ValueError(
                f"{present} is given without {' and '.join(missing)}; give all three, or none where a cluster tells "
                "each process its place"
            )
        return
    address, count, number = str(coordinator), int(processes or 0), int(process or 0)
    host, sign, port = address.rpartition(":")
    if not (sign and host and port.isdigit() and 0 < int(port) < 2**16):
        raise ValueError(f"--coordinator is {address!r}; expected HOST:PORT, for example 10.0.0.2:8476")
    if count < 1:
        raise ValueError(f"--processes is {count}; expected 1 or more")
    if not 0 <= number < count:
        raise ValueError(f"--process is {number}; expected 0 to {count - 1}, because there are {count}")


def in_cluster(environment: Mapping[str, str]) -> bool:
    """Return whether a cluster that JAX knows has started this process as one of several, or may have.

    >>> in_cluster({"SLURM_STEP_NUM_TASKS": "4"}), in_cluster({"SLURM_STEP_NUM_TASKS": "1"})
    (True, False)
    """
    counts = [environment.get(name, "") for name in COUNTS]
    if any(count.isdigit() and int(count) > 1 for count in counts):
        return True
    if any("," in environment.get(name, "") for name in HOSTS):
        return True
    in_job = {*JOB} <= environment.keys()
    # A virtual machine with TPUs asks its cloud whether it is one of several.
    on_tpu = find_spec("libtpu") is not None and any(map(os.path.exists, TPUS))
    return (in_job and find_spec("kubernetes") is not None) or (on_tpu and "TPU_SKIP_MDS_QUERY" not in environment)


def warn_without_kubernetes(environment: Mapping[str, str]) -> None:
    """Print a warning where this is a pod of a job on Kubernetes, and the package that finds the others is missing."""
    if {*JOB} <= environment.keys() and find_spec("kubernetes") is None and not in_cluster(environment):
        print(
            f"tlx: warning: this is pod {environment[JOB[1]]} of a Kubernetes job, and it trains alone; to train "
            "together, pip install kubernetes, or give --coordinator, --processes and --process",
            file=sys.stderr,
        )  # fmt: skip
