"""Machines that are not there: the devices that their compilers see.

The compilers of TPUs and NVIDIA GPUs need no chip: libtpu describes a slice by its name, and XLA's GPU compiler a GPU
by its properties. Both come with extras.
"""

import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, NamedTuple

from tlx.plan.chips import Chip
from tlx.trees import near_miss

# The chips that libtpu describes, with an example of a slice.
SLICES = {"v4": "v4:2x2x4", "v5e": "v5e:4x4", "v5p": "v5p:2x2x4", "v6e": "v6e:4x4"}
PACKAGES = {"tpu": ("libtpu", "plan-tpu"), "gpu": ("jax_cuda13_plugin", "plan-gpu")}
# What XLA's GPU compiler asks about a GPU: cores, bytes of L2 cache and memory, GHz, and the compute capability. From
# the data sheets of NVIDIA; the limits of blocks and threads are equal on all of them.
GPUS: Mapping[str, Mapping[str, Any]] = {
    "a100": {"cores": 108, "l2": 41943040, "memory": 85899345920, "clock": 1.41, "shared": 167936, "major": 8,
             "fpus": 64, "bandwidth": 2039000000000},
    "h100": {"cores": 132, "l2": 52428800, "memory": 85899345920, "clock": 1.98, "shared": 233472, "major": 9,
             "fpus": 128, "bandwidth": 3352320000000},
    "h200": {"cores": 132, "l2": 52428800, "memory": 151397597184, "clock": 1.98, "shared": 233472, "major": 9,
             "fpus": 128, "bandwidth": 4800000000000},
}  # fmt: skip
DESCRIPTION = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared}
  threads_per_core_limit: 2048
  core_count: {cores}
  fpus_per_core: {fpus}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth}
  l2_cache_size: {l2}
  clock_rate_ghz: {clock}
  device_memory_size: {memory}
  shared_memory_per_block_optin: {optin}
  cuda_compute_capability {{ major: {major} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
device_description_str: "{name}"
"""


class Target(NamedTuple):
    """A machine: its name, such as `v5e:4x4`, the kind of its chips, and how they are arranged."""

    name: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Return the number of chips."""
        return math.prod(self.shape)

    def devices(self) -> list[Any]:
        """Return the devices as JAX's compiler sees them.

        Raises:
            ImportError: The compiler is not installed; the message names the extra.
            ValueError: There is no such slice.
        """
        package, extra = PACKAGES[self.chip.platform]
        if find_spec(package) is None:
            raise ImportError(f"to compile for {self.name} install its compiler: pip install 'tlx[{extra}]'")
        from jax.experimental.topologies import get_topology_desc

        if self.chip.platform == "gpu":
            words = "x".join(["1", *["1"] * (2 - len(self.shape)), *map(str, self.shape)])
            topology = get_topology_desc(
                self.chip.name, "cuda", target_config=description(self.chip.name), topology=words
            )
            return list(topology.devices)
        with silent():
            try:
                return list(get_topology_desc(self.name, "tpu").devices)
            except Exception as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise ValueError(
                    f"there is no slice {self.name!r}; for example {SLICES[self.chip.name]}: {reason}"
                ) from None


def target_of(text: str, chips: Mapping[str, Chip]) -> Target:
    """Return the machine of a name such as `v5e:4x4`, `v5p:2x2x4` or `h100:8`.

    Raises:
        ValueError: The name is not of this form, or names an unknown chip.
    """
    name, _, arrangement = text.strip().lower().partition(":")
    if name not in chips:
        raise ValueError(
            f"{text!r} names the chip {name!r}{near_miss(name, chips)}; a name is such as v5e:4x4 or h100:8"
        )
    chip = chips[name]
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", arrangement):
        example = SLICES.get(name, "v5e:4x4") if chip.platform == "tpu" else f"{name}:8"
        raise ValueError(f"{text!r} does not say how many chips there are; for example {example}")
    if chip.platform == "tpu" and name not in SLICES:
        raise ValueError(f"the TPU compiler does not know {name!r}; it knows {', '.join(SLICES)}")
    if chip.platform == "gpu" and name not in GPUS:
        raise ValueError(f"the GPU compiler has no description of {name!r}; there is one of {', '.join(GPUS)}")
    return Target(f"{name}:{arrangement}", chip, tuple(map(int, arrangement.split("x"))))


def description(name: str) -> str:
    """Return the description of a GPU that XLA's compiler reads (a GpuTargetConfigProto in text form)."""
    gpu = GPUS[name]
    # One KiB of the shared memory of a core is reserved.
    return DESCRIPTION.format(name=name, optin=gpu["shared"] - 1024, **gpu)


@contextmanager
def silent() -> Iterator[None]:
    """Discard what libtpu prints about the chips that are not there; it writes to the file descriptor itself."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    kept, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)
