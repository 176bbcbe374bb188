"""The machines of a plan: a chip and a number of them, such as `v5e:4x4` or `h100:8`."""

import json
import math
from collections.abc import Mapping
from typing import NamedTuple

from tlx.plan.chips import Chip, lengths_of
from tlx.trees import near_miss

# The largest machine that a plan compiles for.
MOST = 256


class Target(NamedTuple):
    """Some chips: the `name` of the command line, the chip, and the `form` in which they are joined ("4x4", or the
    number of GPUs)."""

    name: str
    chip: Chip
    form: str

    @property
    def chips(self) -> int:
        """Return the number of chips."""
        return math.prod(lengths_of(self.form))


def parse_target(text: str, chips: Mapping[str, Chip]) -> Target:
    """Return the target that a text names.

    Args:
        text: A chip and its form, such as "v5e:4x4", "v5p:2x2x4" or "h100:8".
        chips: The table of chips.

    Raises:
        ValueError: The chip or the form does not exist; the message names the nearest ones.
    """
    key, sign, form = (part.strip() for part in text.partition(":"))
    if key not in chips:
        raise ValueError(
            f"target {text!r}: there is no chip {key!r}{near_miss(key, chips, listed=True)}; the chips are: "
            f"{', '.join(chips)}"
        )
    chip = chips[key]
    if chip.compiler == "cuda":
        count = form if sign else "1"
        if len(lengths_of(count)) != 1 or int(count) > MOST or (int(count) > chip.group and int(count) % chip.group):
            raise ValueError(
                f"target {text!r}: {form!r} is no number of {chip.name}; expected up to {chip.group}, or a multiple of "
                f"{chip.group} up to {MOST}, such as {key}:{chip.group}"
            )
        return Target(f"{key}:{count}", chip, count)
    if form not in chip.topologies:
        raise ValueError(f"target {text!r}: {chip.name} has no topology {form!r}; {nearest(form, chip)}")
    return Target(f"{key}:{form}", chip, form)


def nearest(form: str, chip: Chip) -> str:
    """Return words for the forms of a chip that are most like a text: with the same lengths in another order, else
    with the nearest number of chips."""
    lengths = lengths_of(form)
    known = {name: lengths_of(name) for name in chip.topologies}
    if not lengths:
        return f"the topologies are {', '.join(known)}"
    same = [name for name, other in known.items() if sorted(other) == sorted(lengths)]
    count = math.prod(lengths)
    by_size = sorted(known, key=lambda name: abs(math.log(math.prod(known[name]) / count)))
    near = same or by_size[:2]
    return f"nearest: {' or '.join(f'{chip.key}:{name}' for name in near)}; all: {', '.join(known)}"


def target_config(chip: Chip) -> str:
    """Return the description of a GPU for XLA's compiler (`GpuTargetConfigProto`, as text)."""
    target = chip.target
    assert target is not None
    major, minor = target["capability"]
    numbers = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 49152,
        "shared_memory_per_core": target["shared_memory_per_core"],
        "threads_per_core_limit": 2048,
        "core_count": target["cores"],
        "fpus_per_core": target["units_per_core"],
        "block_dim_limit_x": 2147483647,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        "memory_bandwidth": int(chip.memory_bandwidth),
        "l2_cache_size": target["cache"],
        "clock_rate_ghz": target["clock_ghz"],
        "device_memory_size": chip.memory,
        "shared_memory_per_block_optin": target["shared_memory_per_block"],
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
        "thread_dim_limit_x": 1024,
        "thread_dim_limit_y": 1024,
        "thread_dim_limit_z": 64,
    }
    name = json.dumps(chip.name, ensure_ascii=False)
    lines = "\n".join(f"  {key}: {value}" for key, value in numbers.items())
    return (
        f"gpu_device_info {{\n{lines}\n  cuda_compute_capability {{ major: {major} minor: {minor} }}\n}}\n"
        f'platform_name: "CUDA"\ndnn_version_info {{ major: 9 minor: 10 }}\ndevice_description_str: {name}\n'
    )
