"""M3SDA: match the moments of the features of several sources and a target."""

from collections.abc import Collection
from dataclasses import dataclass

from tlx.functional.discrepancy import moment_distance
from tlx.objectives.base import Needs, Term, weighed
from tlx.objectives.between import check_sources, rows
from tlx.objectives.ramp import Weight
from tlx.objectives.streams import several
from tlx.types import Array, View


@dataclass(frozen=True, kw_only=True)
class M3sda(Term):
    """Moment matching among several sources (Peng et al., 2019, equations 2 and 3).

    The loss is `weight` times the distance of the first `moments` moments of the inputs of the head: between each
    source and the target, and between each two sources. The paper's pairs of classifiers are left out.

    `sources` are the streams of the sources; () takes all sources of the data.
    """

    sources: tuple[str, ...] = ()
    target: str = "unlabelled"
    moments: int = 2
    weight: Weight = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sources(self.sources, self.target, "M3sda")
        if self.moments < 1:
            raise ValueError(f"M3sda: moments is {self.moments}; expected 1 or more")

    def needs(self, streams: Collection[str]) -> Needs:
        return Needs(forward=self.compared(streams), features=True, taps=("features",))

    def compared(self, streams: Collection[str]) -> tuple[str, ...]:
        """Return the streams of the sources, followed by the stream of the target."""
        return (*(self.sources or several("source", streams)), self.target)

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        *sources, target = (rows(view, stream) for stream in self.compared(view.batch))
        distance = moment_distance(sources, target, self.moments)
        return weighed(self.weight, distance, view, distance=distance)
