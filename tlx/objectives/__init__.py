"""Terms of the objective: one file each, one line in the table."""

from tlx.objectives.adda import Adda
from tlx.objectives.afn import Afn
from tlx.objectives.base import Needs, Preview, Term
from tlx.objectives.bsp import Bsp
from tlx.objectives.bss import Bss
from tlx.objectives.cdan import Cdan
from tlx.objectives.checks import check_frozen_head, check_needs, check_terms
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
from tlx.objectives.leaves import inserted, without_inserted
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
from tlx.objectives.reference import load_references, structures
from tlx.objectives.shot import Shot
from tlx.objectives.smoothing import LabelSmoothing
from tlx.objectives.streams import (
    Pass,
    batch_streams,
    loss_of,
    missing_average,
    passes,
    read_once,
    several,
    with_created,
)
from tlx.objectives.supervised import Supervised

__all__ = [
    "L2SP",
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
    "Needs",
    "Ot",
    "Pada",
    "Pass",
    "Preview",
    "PseudoLabel",
    "RDrop",
    "Ramp",
    "Shot",
    "Supervised",
    "Term",
    "batch_streams",
    "check_frozen_head",
    "check_needs",
    "check_terms",
    "inserted",
    "load_references",
    "loss_of",
    "missing_average",
    "passes",
    "read_once",
    "several",
    "structures",
    "with_created",
    "without_inserted",
]  # fmt: skip
