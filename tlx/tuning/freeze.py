"""Still up to a stage, learning above it."""

from dataclasses import dataclass

from tlx.trees import near_miss
from tlx.tuning.base import Tuning, parametric
from tlx.tuning.full import check_decay, decayed
from tlx.types import Model, Phase


@dataclass(frozen=True, kw_only=True)
class Freeze(Tuning):
    """Freeze every stage up to and including `through`; above it the rate falls by `decay` a layer from the last one.

    In a model of several branches these are the stages that lie no deeper (see `Stage.depth`).

    The layers, and so the rates of what is left to learn, are those of `Full(decay=...)`.
    """

    chooses = True

    through: str
    decay: float = 1.0

    def __post_init__(self) -> None:
        check_decay(self.decay)

    def phases(self, model: Model) -> tuple[Phase, ...]:
        """Raises ValueError for a stage that does not exist or leaves nothing to learn."""
        stages = parametric(model)
        if self.through not in stages:
            raise ValueError(f"Freeze(through={self.through!r}): no such stage{near_miss(self.through, stages)}")
        frozen = [name for name in stages if model.depths[name] <= model.depths[self.through]]
        if frozen == stages:
            raise ValueError(f"Freeze(through={self.through!r}) leaves nothing to learn: it is the last stage")
        return (Phase(1.0, decayed(model, self.decay, frozen=frozen)),)
