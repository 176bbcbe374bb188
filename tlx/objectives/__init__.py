"""Terms of the objective: one file each, one line in the table."""

from tlx.objectives.afn import Afn
from tlx.objectives.base import Pass, Term, check_streams, inserted, looked_at, passes, wanted, without_inserted
from tlx.objectives.bss import Bss
from tlx.objectives.cdan import Cdan
from tlx.objectives.cmd import Cmd
from tlx.objectives.coral import Coral
from tlx.objectives.cotuning import CoTuning
from tlx.objectives.dann import Dann
from tlx.objectives.delta import Delta
from tlx.objectives.distill import Distill
from tlx.objectives.entropy import Entropy
from tlx.objectives.gate import Gate
from tlx.objectives.iwan import Iwan
from tlx.objectives.kliep import Kliep
from tlx.objectives.kmm import Kmm
from tlx.objectives.l2sp import L2SP
from tlx.objectives.lwf import Lwf
from tlx.objectives.mcc import Mcc
from tlx.objectives.mixing import Cutmix, Mixup
from tlx.objectives.mmd import Mmd
from tlx.objectives.pada import Pada
from tlx.objectives.ramp import Ramp
from tlx.objectives.rdrop import RDrop
from tlx.objectives.smoothing import LabelSmoothing
from tlx.objectives.supervised import Supervised

TERMS: dict[str, type] = {
    "Supervised": Supervised,
    "L2SP": L2SP,
    "Delta": Delta,
    "Bss": Bss,
    "CoTuning": CoTuning,
    "Distill": Distill,
    "Lwf": Lwf,
    "LabelSmoothing": LabelSmoothing,
    "Mixup": Mixup,
    "Cutmix": Cutmix,
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
    "Iwan": Iwan,
    "Pada": Pada,
    "Kmm": Kmm,
    "Kliep": Kliep,
}

__all__ = [
    "L2SP",
    "TERMS",
    "Afn",
    "Bss",
    "Cdan",
    "Cmd",
    "CoTuning",
    "Coral",
    "Cutmix",
    "Dann",
    "Delta",
    "Distill",
    "Entropy",
    "Gate",
    "Iwan",
    "Kliep",
    "Kmm",
    "LabelSmoothing",
    "Lwf",
    "Mcc",
    "Mixup",
    "Mmd",
    "Pada",
    "Pass",
    "RDrop",
    "Ramp",
    "Supervised",
    "Term",
    "check_streams",
    "inserted",
    "looked_at",
    "passes",
    "wanted",
    "without_inserted",
]  # fmt: skip
