"""The bytes that the devices of a compiled program send each other, read from its text (XLA's HLO)."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tlx.plan.device_groups import Groups, groups_of
from tlx.plan.program_text import NAME, ROUNDS, bytes_of, computations, shapes_in

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
OPERATION = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
CALLED = re.compile(r"(?:to_apply|calls|body|branch_computations|called_computations)=\{?%?([\w.-]+)")


class Collective(NamedTuple):
    """A kind of collective among groups of devices; no groups where the text does not state them."""

    kind: str
    groups: Groups = ()


class Sent(NamedTuple):
    """The bytes that a device sends at least: `near` to devices of its node, and `far` to devices of other nodes."""

    near: float
    far: float


def collective_bytes(text: str) -> dict[str, int]:
    """Return the bytes of the arrays that each kind of collective produces on one device in one run of a program.

    A loop counts as often as the compiler knows that it runs, and once where it does not know. Of an operation that is
    started and finished separately the start counts.

    Args:
        text: `compiled.as_text()`.
    """
    return by_kind(collectives(text))


def by_kind(sizes: Mapping[Collective, int]) -> dict[str, int]:
    """Return the bytes of each kind of collective, over all groups of devices."""
    kinds: Counter[str] = Counter()
    for collective, size in sizes.items():
        kinds[collective.kind] += size
    return dict(kinds)


def collectives(text: str) -> Counter[Collective]:
    """Return the bytes of `collective_bytes` by kind and groups of devices."""
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
    """Return the bytes that a collective produces; nothing for another operation.

    >>> of_line("  %a = f32[4,3]{1,0} all-reduce(%b), channel_id=1, replica_groups=[2,2]<=[4]")
    {Collective(kind='all-reduce', groups=((0, 1), (2, 3))): 48}
    >>> of_line("  %a = (f32[4], f32[8]) all-gather-start(%b), channel_id=1")
    {Collective(kind='all-gather', groups=()): 32}
    """
    operation = OPERATION.search(line)
    if operation is None:
        return {}
    sizes = [bytes_of(kind, lengths) for kind, lengths in shapes_in(operation[1])]
    kind, starts = operation[2], operation[3] is not None
    if starts and kind != "all-reduce":
        # The result has the operands, then as many outputs, and then numbers for the hardware.
        operands = len(NAME.findall(line[operation.end() :].partition(")")[0]))
        sizes = sizes[operands : 2 * operands]
    return {Collective(kind, groups_of(line)): sum(sizes)}


def sent_bytes(kind: str, produced: int, nodes: Sequence[int]) -> Sent:
    """Return the bytes that a device of a group sends at least, on the mean over the group, in a collective.

    Within n devices on h nodes, a node takes part like one device: in half an all-reduce (an all-gather, or a
    reduce-scatter) of S bytes its links to other nodes carry (h - 1) / h * S, which its m devices share, and each of
    the devices sends (m - 1) / m * S within the node. No algorithm sends fewer bytes (Patarasuk and Yuan, 2009,
    "Bandwidth optimal all-reduce algorithms for clusters of workstations"). In an all-to-all every device sends
    another part to each other one.

    Args:
        kind: One of `KINDS`.
        produced: The bytes that the collective produces on a device.
        nodes: The number of devices of the group on each node.

    >>> sent_bytes("all-reduce", 800, [4]), sent_bytes("all-reduce", 800, [4, 4]), sent_bytes("all-gather", 800, [1, 1])
    (Sent(near=1200.0, far=0.0), Sent(near=1200.0, far=200.0), Sent(near=0.0, far=400.0))
    """
    n, h = sum(nodes), len(nodes)
    if kind == "collective-permute":
        return Sent(0.0, float(produced)) if h > 1 else Sent(float(produced), 0.0)
    if kind in ("all-to-all", "ragged-all-to-all"):
        near = sum(m * (m - 1) for m in nodes)
        return Sent(produced * near / n**2, produced * (n * (n - 1) - near) / n**2)
    whole = produced * (2 if kind == "all-reduce" else n if kind == "reduce-scatter" else 1)
    return Sent(whole * (n - h) / n, whole * (h - 1) / n)
