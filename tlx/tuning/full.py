"""Everything moves."""

from dataclasses import dataclass

from tlx.tuning.base import Tuning, parametric, stage_rule
from tlx.types import Learn, Model, Phase


@dataclass(frozen=True, kw_only=True)
class Full(Tuning):
    """All parameters learn. With `decay` below 1 the rate of a stage is decay ** (its distance from the last one)."""

    decay: float = 1.0

    def __post_init__(self) -> None:
        check_decay(self.decay)

    def phases(self, model: Model) -> tuple[Phase, ...]:
        return (Phase(1.0, decayed(parametric(model), self.decay)),)


def check_decay(decay: float) -> None:
    if not 0.0 < decay <= 1.0:
        raise ValueError(f"decay is {decay}; a rate multiplier a stage lies in (0, 1]")


def decayed(stages: list[str], decay: float) -> tuple[tuple[str, Learn | None], ...]:
    """A rule a stage, the last at the full rate (layer-wise decay, as in BEiT and timm)."""
    last = len(stages) - 1
    return tuple(stage_rule(name, Learn(lr=decay ** (last - n))) for n, name in enumerate(stages))
