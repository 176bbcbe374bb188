"""Ways of moving a model's numbers: one file each, one line in the table."""

from tlx.tuning.adapter import Adapter
from tlx.tuning.base import Tuning
from tlx.tuning.freeze import Freeze
from tlx.tuning.full import Full
from tlx.tuning.ia3 import Ia3
from tlx.tuning.lora import Dora, Lora
from tlx.tuning.probe import Probe
from tlx.tuning.prompt import Prefix, Prompt
from tlx.tuning.rules import Rules
from tlx.tuning.selective import BitFit, NormTuning
from tlx.tuning.side import SideHead
from tlx.tuning.vera import Vera
from tlx.types import Learn

KINDS = (Full, Probe, Freeze, Rules, Lora, Dora, Vera, Ia3, BitFit, NormTuning, Adapter, Prefix, Prompt, SideHead)
TUNINGS: dict[str, type] = {kind.__name__: kind for kind in KINDS}

__all__ = [
    "TUNINGS", "Adapter", "BitFit", "Dora", "Freeze", "Full", "Ia3", "Learn", "Lora", "NormTuning", "Prefix", "Probe",
    "Prompt", "Rules", "SideHead", "Tuning", "Vera",
]  # fmt: skip
