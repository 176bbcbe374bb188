"""Read which devices take part in a collective together, from its line in the text of a program (XLA's HLO)."""

import math
import re
from functools import cache

import numpy as np

# Devices by their positions in the mesh; devices of one group exchange numbers.
Groups = tuple[tuple[int, ...], ...]

# The forms in which XLA writes the groups: a list, a grid, axes of a mesh, and pairs of a sender and a receiver.
LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{((?:\{[\d,]*\},?)+)\}")
LIST = re.compile(r"\{([\d,]+)\}")
ORDER = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"
GRID = re.compile(rf"replica_groups=\[(\d+),(\d+)\]<={ORDER}")
AXES = re.compile(rf"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\({ORDER}\))? ?\{{([^}}]*)\}}")
AXIS = re.compile(r"'([^']+)'(?:=(\d+)|:\((\d+)\)(\d+))?")


def groups_of(line: str) -> Groups:
    """Return the groups of devices of a collective; nothing where its line does not state them.

    >>> groups_of("replica_groups={{0,1,2},{3,4,5}}"), groups_of("source_target_pairs={{0,1},{1,0}}")
    (((0, 1, 2), (3, 4, 5)), ((0, 1), (1, 0)))
    >>> groups_of("replica_groups=[2,2]<=[4]"), groups_of("replica_groups=[2,2]<=[2,2]T(1,0)")
    (((0, 1), (2, 3)), ((0, 2), (1, 3)))
    >>> groups_of("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}, to_apply=%add")
    ((0, 1), (2, 3))
    >>> groups_of("replica_groups=mesh['a'=4] {'a':(2)2}"), groups_of("replica_groups={}")
    (((0, 1), (2, 3)), ())
    """
    if match := LISTED.search(line):
        return tuple(tuple(map(int, devices.split(","))) for devices in LIST.findall(match[1]))
    if match := GRID.search(line):
        count, size, lengths, order = match.groups()
        return grid(int(count), int(size), lengths, order)
    if match := AXES.search(line):
        return along(*match.groups())
    return ()


def ordered(lengths: str, order: str | None) -> np.ndarray:
    """Return the devices 0, 1, ... as an array of some lengths with its axes in another order."""
    shape = [int(length) for length in lengths.split(",")]
    devices = np.arange(math.prod(shape)).reshape(shape)
    return devices if order is None else devices.transpose([int(axis) for axis in order.split(",")])


@cache
def grid(count: int, size: int, lengths: str, order: str | None) -> Groups:
    """Return the rows of a grid of devices."""
    return tuple(map(tuple, ordered(lengths, order).reshape(count, size).tolist()))


@cache
def along(axes: str, lengths: str | None, order: str | None, names: str) -> Groups:
    """Return the groups along some axes of a mesh of devices, or along parts of axes: `'a':(2)4` is the part of length
    4 of axis `a` inside of one of length 2."""
    sizes = {name: int(size) for name, size, _, _ in AXIS.findall(axes)}
    whole = math.prod(sizes.values())
    devices = ordered(str(whole) if lengths is None else lengths, order).reshape(-1)
    places = dict(zip(sizes, np.unravel_index(np.arange(whole), tuple(sizes.values())), strict=True))
    for name, _, before, part in AXIS.findall(names):
        length = int(part or sizes[name])
        step = sizes[name] // (int(before or 1) * length)
        # Devices of one group have the same place after the axis of the group is taken out of it.
        places[name] = places[name] - (places[name] // step) % length * step
    members: dict[tuple[int, ...], list[int]] = {}
    for device, *place in zip(devices.tolist(), *(axis.tolist() for axis in places.values()), strict=True):
        members.setdefault(tuple(place), []).append(device)
    return tuple(map(tuple, members.values()))
