"""Measure which tasks of a mixture help or hurt which others (after Raffel et al., 2020, section 3.5).

`arms` builds the study: all tasks, each alone, all but one, and pairs; `card` collects the effects with intervals and
verdicts in one document, `words` prints it on a terminal; `measuring` runs the study and writes the document.
"""

from tlx.analysis.interference import words
from tlx.analysis.interference.arms import Interference
from tlx.analysis.interference.measuring import measure

__all__ = ["Interference", "measure", "words"]
