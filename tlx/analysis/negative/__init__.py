"""Whether a source helps or hurts on a target: A(S,T) against the arms without the source, or without the target.

`arms` is what is compared, as a study; `card` every gap, verdict and the advice, as one document, `words` that on a
terminal; `domains` how far a source is from the target; `gated` which of its examples the gate turned away; `measuring`
runs and writes it all.
"""

from tlx.analysis.negative.arms import negative_study
from tlx.analysis.negative.measuring import measure

__all__ = ["measure", "negative_study"]
