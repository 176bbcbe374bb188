"""Bounds on the time, the energy and the cost of a run, from the compiler's counts and the figures of a chip."""

from typing import NamedTuple

from tlx.plan.chips import Range
from tlx.plan.compiling import Compilation
from tlx.plan.targets import Target

# A well-tuned step reaches this share of a chip's peak; the slower end of a range adds everything at this share.
SHARE = 0.35


class Estimate(NamedTuple):
    """Bounds for one target: whether the step `fits` in `memory` bytes, the least seconds of a step by each resource,
    and ranges [from, to] for the step and the whole run.

    The fast end of a range is the roofline (Williams et al., 2009): the slowest of the three resources at its peak,
    while the others are hidden behind it. The slow end adds all three, the operations at 35 % of the peak.
    """

    fits: bool
    memory: float
    compute: float
    traffic: float
    network: float
    step: Range
    hours: Range
    kilowatt_hours: Range
    dollars: Range

    @property
    def bound(self) -> str:
        """Return the resource that bounds the step: "compute", "traffic" or "network"."""
        times = {"compute": self.compute, "traffic": self.traffic, "network": self.network}
        return max(times, key=lambda name: times[name])


def estimate(target: Target, compiled: Compilation, steps: int) -> Estimate:
    """Return the bounds of a run of so many steps on a target."""
    chip = target.chip
    compute = compiled.flops / chip.peak(compiled.dtype)
    traffic = compiled.moved / chip.bandwidth
    network = sum(compiled.sent.values()) / chip.link
    fast, slow = max(compute, traffic, network), compute / SHARE + traffic + network
    hours = fast * steps / 3600, slow * steps / 3600
    chips = target.count
    return Estimate(
        fits=compiled.needed <= chip.memory,
        memory=chip.memory,
        compute=compute,
        traffic=traffic,
        network=network,
        step=(fast, slow),
        hours=hours,
        kilowatt_hours=(hours[0] * chips * chip.watts[0] / 1000, hours[1] * chips * chip.watts[1] / 1000),
        dollars=(hours[0] * chips * chip.dollars[0], hours[1] * chips * chip.dollars[1]),
    )
