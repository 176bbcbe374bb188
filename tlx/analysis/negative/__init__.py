"""Measure whether a source helps or hurts on a target: A(S,T) against the arms without the source, or without the
target.

`arms` builds the study; `card` collects gaps, verdicts and the advice in one document, `words` prints it on a terminal;
`domains` measures the distance of a source from the target; `gated` lists the source examples that the gate rejected;
`measuring` runs the study and writes the document.
"""

from tlx.analysis.negative.arms import negative_study
from tlx.analysis.negative.measuring import measure

__all__ = ["measure", "negative_study"]
