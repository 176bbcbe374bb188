"""Ways of moving a model's numbers: one file each, one line in the table."""

from tlx.tuning.adapter import Adapter
from tlx.tuning.base import Tuning
from tlx.tuning.bottleneck import Bottleneck
from tlx.tuning.freeze import Freeze
from tlx.tuning.full import Full
from tlx.tuning.gradual import Episodes, Gradual
from tlx.tuning.ia3 import Ia3
from tlx.tuning.in_turn import InTurn
from tlx.tuning.lora import Dora, Lora
from tlx.tuning.probe import Probe
from tlx.tuning.prompt import Prefix, Prompt
from tlx.tuning.rules import Rules
from tlx.tuning.selective import AdaBN, BitFit, NormTuning
from tlx.tuning.side import SideHead
from tlx.tuning.two_step import FineTune, LinearThenFull
from tlx.tuning.vera import Vera
from tlx.types import Learn

KINDS = (
    Full, Probe, Freeze, Rules, Lora, Dora, Vera, Ia3, BitFit, NormTuning, AdaBN, Adapter, Bottleneck, Prefix, Prompt,
    SideHead, Gradual, LinearThenFull, FineTune, Episodes, InTurn,
)  # fmt: skip
TUNINGS: dict[str, type] = {kind.__name__: kind for kind in KINDS}

__all__ = [
    "TUNINGS", "AdaBN", "Adapter", "BitFit", "Bottleneck", "Dora", "Episodes", "FineTune", "Freeze", "Full", "Gradual",
    "Ia3",
    "InTurn", "Learn", "LinearThenFull", "Lora", "NormTuning", "Prefix", "Probe", "Prompt", "Rules", "SideHead",
    "Tuning", "Vera",
]  # fmt: skip
