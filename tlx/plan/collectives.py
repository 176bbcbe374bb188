"""The bytes that the devices of a compiled program send each other, read from its text (XLA's HLO)."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from tlx.plan.program_text import ROUNDS, bytes_of, computations, shapes_in

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
OPERATION = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
CALLED = re.compile(r"(?:to_apply|calls|body|branch_computations|called_computations)=\{?%?([\w.-]+)")
# The three forms in which XLA writes the devices that take part together: a list, a grid, and axes of a mesh.
LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
GRID = re.compile(r"replica_groups=\[\d+,(\d+)\]<=")
AXES = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(.*?\)\))? ?\{([^}]*)\}")
AXIS = re.compile(r"'([^']+)'(?:=(\d+)|:\(\d+\)(\d+))?")


class Collective(NamedTuple):
    """A kind of collective among a number of devices; `group` is 0 where the text does not state the number."""

    kind: str
    group: int


def collective_bytes(text: str) -> dict[str, int]:
    """Return the bytes of the arrays that each kind of collective produces on one device in one run of a program.

    A loop counts as often as the compiler knows that it runs, and once where it does not know. Of an operation that is
    started and finished separately the start counts.

    Args:
        text: `compiled.as_text()`.
    """
    return by_kind(collectives(text))


def by_kind(sizes: Mapping[Collective, int]) -> dict[str, int]:
    """Return the bytes of each kind of collective, over all numbers of devices."""
    kinds: Counter[str] = Counter()
    for collective, size in sizes.items():
        kinds[collective.kind] += size
    return dict(kinds)


def collectives(text: str) -> Counter[Collective]:
    """Return the bytes of `collective_bytes` by kind and number of devices that take part together."""
    blocks = computations(text)
    counted: dict[str, Counter[Collective]] = {}

    def count(name: str) -> Counter[Collective]:
        if name not in counted:
            counted[name] = Counter()
            for line in blocks.get(name, ()):
                counted[name].update(of_line(line))
                rounds = int(match[1]) if (match := ROUNDS.search(line)) else 1
                for inner in CALLED.findall(line):
                    counted[name].update({collective: rounds * size for collective, size in count(inner).items()})
        return counted[name]

    return count("ENTRY")


def of_line(line: str) -> dict[Collective, int]:
    """Return the bytes of a collective; nothing for another operation.

    >>> of_line("  %a = f32[4,3]{1,0} all-reduce(%b), channel_id=1, replica_groups=[4,2]<=[8]")
    {Collective(kind='all-reduce', group=2): 48}
    >>> of_line("  %a = (f32[4], f32[8]) all-gather-start(%b), channel_id=1")
    {Collective(kind='all-gather', group=0): 32}
    """
    operation = OPERATION.search(line)
    if operation is None:
        return {}
    sizes = [bytes_of(kind, lengths) for kind, lengths in shapes_in(operation[1])]
    kind, starts = operation[2], operation[3] is not None
    collective = Collective(kind, group_of(line))
    if starts and kind == "all-gather":
        # The result has the inputs and then the outputs.
        return {collective: sum(sizes[len(sizes) // 2 :])}
    return {collective: max(sizes) if starts and kind != "all-reduce" else sum(sizes)}


def group_of(line: str) -> int:
    """Return the number of devices that take part in a collective together; 0 where its line does not state it.

    >>> group_of("replica_groups={{0,1,2},{3,4,5}}"), group_of("replica_groups=[8,2]<=[4,2,2]T(1,0,2)")
    (3, 2)
    >>> group_of("replica_groups=mesh['a'=8,'b'=1,'c'=2], device_ids=([4,2,2]T(1,0,2)) {'a','b'}, to_apply=%add")
    8
    """
    if match := LISTED.search(line):
        return match[1].count(",") + 1
    if match := GRID.search(line):
        return int(match[1])
    if match := AXES.search(line):
        sizes = {name: int(size) for name, size, _ in AXIS.findall(match[1])}
        return math.prod(int(part) if part else sizes[name] for name, _, part in AXIS.findall(match[2]))
    return 0


def sent_bytes(collective: Collective, produced: int, devices: int) -> float:
    """Return the bytes that each device must send for a collective that produces `produced` bytes on it.

    A ring over n devices is optimal in bytes: (n - 1) / n of the array for each half of an all-reduce (Patarasuk and
    Yuan, 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations").

    >>> sent_bytes(Collective("all-reduce", 4), 100, 8), sent_bytes(Collective("all-gather", 0), 100, 2)
    (150.0, 50.0)
    """
    n = collective.group or devices
    shares = {"all-reduce": 2 * (n - 1) / n, "reduce-scatter": float(n - 1), "collective-permute": 1.0}
    return produced * shares.get(collective.kind, (n - 1) / n)
