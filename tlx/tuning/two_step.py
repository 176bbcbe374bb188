"""Train the head first, then everything: two phases, each with its own schedule."""

from dataclasses import dataclass

from tlx.tuning.base import REST_STILL, Tuning, depths, head_rule, stage_rule
from tlx.tuning.full import check_decay, decayed
from tlx.types import Learn, Model, Phase


@dataclass(frozen=True, kw_only=True)
class LinearThenFull(Tuning):
    """Train the last stage alone for `share` of the run, then everything from there (LP-FT, Kumar et al., 2022).

    With `decay` below 1 the rate of a layer in the second phase is decay ** (its distance from the last one), as in
    `Full`.
    """

    share: float = 0.5
    decay: float = 1.0

    def __post_init__(self) -> None:
        check_share(self.share)
        check_decay(self.decay)

    def phases(self, model: Model) -> tuple[Phase, ...]:
        first = (head_rule(model, type(self).__name__), REST_STILL)
        second = decayed(model, self.decay)
        return Phase(self.share, first, restart=True), Phase(1 - self.share, second, restart=True)


@dataclass(frozen=True, kw_only=True)
class FineTune(Tuning):
    """Train the last stage alone for `share` of the run, then everything: fastai's `fine_tune` (Howard and Gugger,
    2020).

    Each phase has its own one-cycle. In the first phase the rate rises nearly throughout. In the second phase, at half
    the rate, it starts at a fifth of its peak and rises during the first 0.3 of the phase. The rates of the second
    phase fall in equal ratios from the last layer to the first (see `Full`), which has 1 / `ratio` of the last layer's
    rate. The momentum (Adam's beta1) goes from 0.95 to 0.85 and back. fastai's epochs are shares here: the default
    corresponds to `fine_tune(3)`, with its one frozen epoch. fastai trains the norms of frozen stages; here they stay
    frozen.
    """

    share: float = 0.25
    ratio: float = 100.0

    def __post_init__(self) -> None:
        check_share(self.share)
        if self.ratio < 1:
            raise ValueError(
                f"ratio is {self.ratio}; expected 1 or more, because the learning rate of the lowest layer is divided "
                "by it"
            )

    def phases(self, model: Model) -> tuple[Phase, ...]:
        cycle = Learn(schedule="one-cycle")
        first = (head_rule(model, type(self).__name__, cycle), REST_STILL)
        distances = depths(model)
        lowest = max(distances.values())
        rates = {name: 0.5 * self.ratio ** (-depth / lowest) for name, depth in distances.items()}
        second = tuple(stage_rule(name, cycle._replace(lr=rate)) for name, rate in rates.items())
        settings = (("cycle_end", 1e5), ("cycle_momentum", (0.95, 0.85)))
        return (
            Phase(self.share, first, restart=True, optim=(("cycle_peak", 0.99), ("cycle_start", 25.0), *settings)),
            Phase(1 - self.share, second, restart=True, optim=(("cycle_peak", 0.3), ("cycle_start", 5.0), *settings)),
        )


def check_share(share: float) -> None:
    """Raise ValueError for a share outside (0, 1)."""
    if not 0 < share < 1:
        raise ValueError(f"share is {share}; expected the share of the first phase in (0, 1)")
