"""KLIEP: weight the source so that the target has the greatest likelihood."""

from dataclasses import dataclass

import numpy as np

from tlx.functional.reweight import CENTRES, SCALES, check_mixture, likelihood_ratio
from tlx.objectives.reweighted import Reweighted


@dataclass(frozen=True, kw_only=True)
class Kliep(Reweighted):
    """The Kullback-Leibler importance estimation procedure (Sugiyama et al., 2008).

    w is a sum of Gaussians about `centres` examples of the target, drawn once. Its mean over the source is 1, and its
    mean logarithm over the target is maximal.

    The squared width is one of `scales` times the mean squared distance among all examples. Among several scales, the
    one with the greatest likelihood of held-out fifths of the target is chosen, as in the paper.
    """

    scales: tuple[float, ...] = SCALES
    centres: int = CENTRES

    def __post_init__(self) -> None:
        super().__post_init__()
        check_mixture(self.scales, self.centres, "Kliep")

    def counts(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        return likelihood_ratio(source, target, scales=self.scales, centres=self.centres)
