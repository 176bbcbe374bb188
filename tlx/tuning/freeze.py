"""Freeze the stages up to a given one, and train those above it."""

from dataclasses import dataclass

from tlx.trees import near_miss
from tlx.tuning.base import Tuning, parametric
from tlx.tuning.full import check_decay, decayed
from tlx.types import Model, Phase


@dataclass(frozen=True, kw_only=True)
class Freeze(Tuning):
    """Freeze every stage up to and including `through`, and train the stages above it.

    Each layer below the last one multiplies the learning rate by `decay`. In a model of several branches, the frozen
    stages are those no deeper than `through` (see `Stage.depth`).

    The layers, and thus the learning rates of the trained stages, are those of `Full(decay=...)`.
    """

    chooses = True

    through: str
    decay: float = 1.0

    def __post_init__(self) -> None:
        check_decay(self.decay)

    def phases(self, model: Model) -> tuple[Phase, ...]:
        """Return the only phase; raise ValueError for a stage that does not exist or leaves nothing to learn."""
        stages = parametric(model)
        if self.through not in stages:
            raise ValueError(
                f"Freeze(through={self.through!r}): the model has no such stage{near_miss(self.through, stages)}"
            )
        frozen = [name for name in stages if model.depths[name] <= model.depths[self.through]]
        if frozen == stages:
            raise ValueError(
                f"Freeze(through={self.through!r}) freezes all parameters, because it is the last stage; name an "
                "earlier stage"
            )
        return (Phase(1.0, decayed(model, self.decay, frozen=frozen)),)
