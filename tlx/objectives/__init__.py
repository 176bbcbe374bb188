"""Terms of the objective: one file each, one line in the table."""

from tlx.objectives.base import Term
from tlx.objectives.supervised import Supervised

TERMS: dict[str, type] = {"Supervised": Supervised}

__all__ = ["TERMS", "Supervised", "Term"]
