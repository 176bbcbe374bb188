"""Estimate the time, the energy and the cost of a run from its compiled step: bounds of a roofline, and ranges."""

from collections import Counter
from typing import NamedTuple

from tlx.plan.chips import Chip
from tlx.plan.collectives import sent_bytes
from tlx.plan.compiling import CompiledProgram
from tlx.plan.shapes import StepShapes
from tlx.plan.targets import Target

# The share of the bound that a step reaches. Large training runs report 21 % to 46 % of the peak rate (Chowdhery et
# al., 2022, "PaLM", table 3), and a run whose bound is memory or interconnect reaches more of it than of the peak.
UTILISATION = (0.2, 0.7)


class Bound(NamedTuple):
    """The seconds that a step takes at least: those of its operations, its memory and its collectives, each alone."""

    compute: float
    memory: float
    interconnect: float

    @property
    def seconds(self) -> float:
        """Return the largest: the others may happen at the same time (Williams et al., 2009, "Roofline")."""
        return max(self)

    @property
    def limit(self) -> str:
        """Return which of them is the largest."""
        return max(self._fields, key=lambda name: getattr(self, name))


class Bounds(NamedTuple):
    """A lower and an upper estimate."""

    low: float
    high: float

    def times(self, factor: float) -> "Bounds":
        """Return the range of a multiple."""
        return Bounds(self.low * factor, self.high * factor)


class RunEstimate(NamedTuple):
    """Estimates of a whole run without its evaluations: `hours`, and `kilowatt_hours` and `dollars` of all chips, None
    where the table of chips has no power or price."""

    hours: Bounds
    kilowatt_hours: Bounds | None
    dollars: Bounds | None


def device_flops(program: CompiledProgram, devices: int) -> float:
    """Return the operations of one device in a step.

    The trace counts every round of a loop, and shares all operations evenly. The compiler counts one round of a loop,
    and what several devices compute alike. The larger count is nearer to the truth.
    """
    return max(program.operations.total / devices, program.flops or 0.0)


def bound_of(program: CompiledProgram, target: Target, dtype: str, devices: int) -> Bound:
    """Return the roofline bound of a step.

    Args:
        program: The compiled step.
        target: The chips.
        dtype: The type of the activations.
        devices: The number of devices of the mesh.
    """
    chip = target.chip
    flops = device_flops(program, devices)
    return Bound(
        flops / chip.flops[dtype], program.moved / chip.memory_bandwidth, interconnect_seconds(program, chip, devices)
    )


def interconnect_seconds(program: CompiledProgram, chip: Chip, devices: int) -> float:
    """Return the seconds that the collectives of a step take at least.

    With m devices of a group on each of h nodes, an all-reduce of S bytes sends 2 (h - 1) / h * S / m over the network
    port of each device and 2 (m - 1) / m * S over the interconnect of the node; an all-gather and a reduce-scatter
    send half of it (see `sent_bytes`). This is a lower bound, because the slowest device sends at least the mean of its
    group, all groups work at the same time and leave no port to others, and the two kinds of links may work at the
    same time, so that only the larger time counts. It assumes that devices of a node send to each other over the
    interconnect, and not over the network.
    """
    near, far = 0.0, 0.0
    for collective, size in program.sent.items():
        node = chip.group if chip.network is not None else devices
        groups = collective.groups or (tuple(range(devices)),)
        shapes = {tuple(sorted(Counter(device // node for device in set(group)).values())) for group in groups}
        # A device that sends to itself needs no link.
        sent = [sent_bytes(collective.kind, size, nodes) for nodes in shapes if nodes != (1,)]
        near += max((part.near for part in sent), default=0.0)
        far += max((part.far for part in sent), default=0.0)
    return max(near / chip.interconnect, far / chip.network if chip.network is not None else 0.0)


def run_estimate(bound: Bound, shapes: StepShapes, target: Target) -> RunEstimate:
    """Return the estimates of a run.

    A range has the bound divided by the largest utilisation as its low end, by the smallest as its high end. In a step
    with shorter texts, operations and memory traffic count less, by the share of the length. Collectives count in
    full: they send gradients and parameters, which have the same size in every step.
    """
    low, high = UTILISATION
    mean = Bound(bound.compute * shapes.share, bound.memory * shapes.share, bound.interconnect)
    least = mean.seconds * shapes.steps / 3600
    hours = Bounds(least / high, least / low)
    chip, chips = target.chip, target.chips
    energy = None if chip.watts is None else hours.times(chips * chip.watts / 1000)
    dollars = None if chip.dollars_per_hour is None else hours.times(chips * chip.dollars_per_hour)
    return RunEstimate(hours, energy, dollars)
