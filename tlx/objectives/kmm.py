"""KMM: weight the source so that its kernel mean matches the target's."""

from dataclasses import dataclass

import numpy as np

from tlx.functional.reweight import LANDMARKS, check_bounds, mean_matching
from tlx.objectives.reweighted import Reweighted


@dataclass(frozen=True, kw_only=True)
class Kmm(Reweighted):
    """Kernel mean matching (Huang et al., 2007).

    The weights w minimise the distance between the means of the source and of the target in the space of a Gaussian
    kernel, with 0 <= w <= `most` (1000 in the paper) and |mean w - 1| <= `slack` (None is the paper's (sqrt(N) - 1) /
    sqrt(N)).

    The kernel's squared width is `scale` times the mean squared distance among all examples. Where both streams
    together have more than `landmarks` examples, the kernel is Nystroem's approximation with that number of landmarks,
    drawn once: time grows as N times the square of `landmarks`, and no N x N matrix is stored.
    """

    scale: float = 1.0
    most: float = 10.0
    slack: float | None = None
    landmarks: int = LANDMARKS

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(self.scale, self.most, self.slack, self.landmarks, "Kmm")

    def counts(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        return mean_matching(
            source, target, scale=self.scale, most=self.most, slack=self.slack, landmarks=self.landmarks
        )
