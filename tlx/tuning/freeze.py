"""Still up to a stage, learning above it."""

from dataclasses import dataclass

from tlx.trees import near_miss
from tlx.tuning.base import Tuning, parametric, stage_rule
from tlx.tuning.full import check_decay, decayed
from tlx.types import Model, Phase


@dataclass(frozen=True, kw_only=True)
class Freeze(Tuning):
    """Every stage up to and including `through` is frozen; above it the rate falls by `decay` a stage from the last."""

    through: str
    decay: float = 1.0

    def __post_init__(self) -> None:
        check_decay(self.decay)

    def phases(self, model: Model) -> tuple[Phase, ...]:
        """Raises ValueError for a stage that does not exist or leaves nothing to learn."""
        stages = parametric(model)
        if self.through not in stages:
            raise ValueError(f"Freeze(through={self.through!r}): no such stage{near_miss(self.through, stages)}")
        cut = stages.index(self.through) + 1
        if cut == len(stages):
            raise ValueError(f"Freeze(through={self.through!r}) leaves nothing to learn: it is the last stage")
        still = tuple(stage_rule(name, None) for name in stages[:cut])
        return (Phase(1.0, still + decayed(stages[cut:], self.decay)),)
