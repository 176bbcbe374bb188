"""A source under which, weighed, the target is most likely."""

from dataclasses import dataclass

import numpy as np

from tlx.functional.reweight import CENTRES, SCALES, check_mixture, likelihood_ratio
from tlx.objectives.reweighted import Reweighted


@dataclass(frozen=True, kw_only=True)
class Kliep(Reweighted):
    """The Kullback-Leibler importance estimation procedure (Sugiyama et al., 2008): w is a sum of Gaussians about
    `centres` examples of the target, drawn once, whose mean over the source is 1 and whose mean logarithm over the
    target is greatest.

    The squared width is one of `scales` times the mean squared distance among all examples: of several, the one under
    which fifths of the target that were held out are most likely, as there.
    """

    scales: tuple[float, ...] = SCALES
    centres: int = CENTRES

    def __post_init__(self) -> None:
        super().__post_init__()
        check_mixture(self.scales, self.centres, "Kliep")

    def counts(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        return likelihood_ratio(source, target, scales=self.scales, centres=self.centres)
