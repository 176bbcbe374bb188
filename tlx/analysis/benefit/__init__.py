"""Measure the benefit of transfer: a recipe with pretrained weights against the same network trained from scratch.

`arms` builds the study; `reach` finds the step, and the number of labels, at which an arm reaches an accuracy;
`intervals` computes ratios over seeds; `card` collects the results in one document, `words` prints it on a terminal;
`measuring` runs the study and writes the document.
"""

from tlx.analysis.benefit.arms import benefit_study
from tlx.analysis.benefit.measuring import measure

__all__ = ["benefit_study", "measure"]
