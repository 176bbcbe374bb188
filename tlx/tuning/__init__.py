"""Ways of moving a model's numbers: one file each, one line in the table."""

from tlx.tuning.base import Tuning
from tlx.tuning.freeze import Freeze
from tlx.tuning.full import Full
from tlx.tuning.probe import Probe
from tlx.tuning.rules import Rules
from tlx.types import Learn

TUNINGS: dict[str, type] = {"Full": Full, "Probe": Probe, "Freeze": Freeze, "Rules": Rules}

__all__ = ["TUNINGS", "Freeze", "Full", "Learn", "Probe", "Rules", "Tuning"]
