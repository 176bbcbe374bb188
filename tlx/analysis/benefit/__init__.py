"""What transfer buys here: a recipe with what it brings against the same network drawn afresh, measured on the spot.

`arms` is what is compared, as a study; `reach` when an arm gets to an accuracy, and with how many labels; `intervals`
ratios over seeds; `card` the whole as one document, `words` that on a terminal; `measuring` runs and writes it.
"""

from tlx.analysis.benefit.arms import benefit_study
from tlx.analysis.benefit.measuring import measure

__all__ = ["benefit_study", "measure"]
