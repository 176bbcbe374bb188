"""Terms of the objective: one file each, one line in the table."""

from tlx.objectives.adda import Adda
from tlx.objectives.afn import Afn
from tlx.objectives.base import (
    Pass,
    Term,
    check_head,
    check_streams,
    check_terms,
    inserted,
    looked_at,
    loss_of,
    passes,
    several,
    wanted,
    without_inserted,
)
from tlx.objectives.bsp import Bsp
from tlx.objectives.bss import Bss
from tlx.objectives.cdan import Cdan
from tlx.objectives.cmd import Cmd
from tlx.objectives.coral import Coral
from tlx.objectives.cotuning import CoTuning
from tlx.objectives.dann import Dann
from tlx.objectives.delta import Delta
from tlx.objectives.distill import Distill
from tlx.objectives.entropy import Entropy
from tlx.objectives.fixmatch import FixMatch
from tlx.objectives.gate import Gate
from tlx.objectives.iwan import Iwan
from tlx.objectives.jmmd import Jmmd
from tlx.objectives.kliep import Kliep
from tlx.objectives.kmm import Kmm
from tlx.objectives.l2sp import L2SP
from tlx.objectives.lwf import Lwf
from tlx.objectives.m3sda import M3sda
from tlx.objectives.mcc import Mcc
from tlx.objectives.mcd import Mcd
from tlx.objectives.mdan import Mdan
from tlx.objectives.mdd import Mdd
from tlx.objectives.mean_teacher import MeanTeacher
from tlx.objectives.mixing import CutMix, Mixup
from tlx.objectives.mmd import Mmd
from tlx.objectives.ot import Ot
from tlx.objectives.pada import Pada
from tlx.objectives.pseudo import PseudoLabel
from tlx.objectives.ramp import Ramp
from tlx.objectives.rdrop import RDrop
from tlx.objectives.shot import Shot
from tlx.objectives.smoothing import LabelSmoothing
from tlx.objectives.supervised import Supervised

TERMS: dict[str, type[Term]] = {
    "Supervised": Supervised,
    "L2SP": L2SP,
    "Delta": Delta,
    "Bss": Bss,
    "CoTuning": CoTuning,
    "Distill": Distill,
    "Lwf": Lwf,
    "LabelSmoothing": LabelSmoothing,
    "Mixup": Mixup,
    "CutMix": CutMix,
    "RDrop": RDrop,
    "Entropy": Entropy,
    "Mmd": Mmd,
    "Coral": Coral,
    "Dann": Dann,
    "Mcc": Mcc,
    "Cmd": Cmd,
    "Afn": Afn,
    "Cdan": Cdan,
    "Gate": Gate,
    "Jmmd": Jmmd,
    "Mdd": Mdd,
    "Bsp": Bsp,
    "Ot": Ot,
    "Mcd": Mcd,
    "Adda": Adda,
    "PseudoLabel": PseudoLabel,
    "FixMatch": FixMatch,
    "MeanTeacher": MeanTeacher,
    "Shot": Shot,
    "M3sda": M3sda,
    "Mdan": Mdan,
    "Iwan": Iwan,
    "Pada": Pada,
    "Kmm": Kmm,
    "Kliep": Kliep,
}

__all__ = [
    "L2SP",
    "TERMS",
    "Adda",
    "Afn",
    "Bsp",
    "Bss",
    "Cdan",
    "Cmd",
    "CoTuning",
    "Coral",
    "CutMix",
    "Dann",
    "Delta",
    "Distill",
    "Entropy",
    "FixMatch",
    "Gate",
    "Iwan",
    "Jmmd",
    "Kliep",
    "Kmm",
    "LabelSmoothing",
    "Lwf",
    "M3sda",
    "Mcc",
    "Mcd",
    "Mdan",
    "Mdd",
    "MeanTeacher",
    "Mixup",
    "Mmd",
    "Ot",
    "Pada",
    "Pass",
    "PseudoLabel",
    "RDrop",
    "Ramp",
    "Shot",
    "Supervised",
    "Term",
    "check_head",
    "check_streams",
    "check_terms",
    "inserted",
    "looked_at",
    "loss_of",
    "passes",
    "several",
    "wanted",
    "without_inserted",
]  # fmt: skip
