"""Ways of tuning a model: one file each, exported here. A user's is a subclass of `Tuning` in the user's own file."""

from tlx.tuning.adapter import Adapter
from tlx.tuning.base import Tuning, merge_layers, merging, with_head
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

__all__ = [
    "AdaBN", "Adapter", "BitFit", "Bottleneck", "Dora", "Episodes", "FineTune", "Freeze", "Full", "Gradual",
    "Ia3", "InTurn", "Learn", "LinearThenFull", "Lora", "NormTuning", "Prefix", "Probe", "Prompt", "Rules", "SideHead",
    "Tuning", "Vera", "merge_layers", "merging", "with_head",
]  # fmt: skip
