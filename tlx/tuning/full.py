"""Train all parameters."""

from collections.abc import Collection
from dataclasses import dataclass

from tlx.tuning.base import Tuning, depths, stage_rule
from tlx.types import Learn, Model, Phase, Rule


@dataclass(frozen=True, kw_only=True)
class Full(Tuning):
    """Train all parameters; with `decay` below 1, lower layers have a smaller rate (Bao et al., 2022).

    The rate of a layer is decay ** (its distance from the last one). The layers are those of `param_groups_layer_decay`
    in timm, for every architecture. In a transformer with N blocks the head has the full rate, block n (from 0) decay
    ** (N - n), and the stem decay ** (N + 1). The last norm of a ViT counts with the last block (BEiT gives it the full
    rate). BERT's pooler counts with the head, as does the dense layer in the heads of RoBERTa, ELECTRA and DistilBERT.
    """

    chooses = True

    decay: float = 1.0

    def __post_init__(self) -> None:
        check_decay(self.decay)

    def phases(self, model: Model) -> tuple[Phase, ...]:
        return (Phase(1.0, decayed(model, self.decay)),)


def check_decay(decay: float) -> None:
    """Raise ValueError for a decay outside (0, 1]."""
    if not 0.0 < decay <= 1.0:
        raise ValueError(f"decay is {decay}; expected a learning rate multiplier per layer in (0, 1]")


def decayed(model: Model, decay: float, frozen: Collection[str] = ()) -> tuple[Rule, ...]:
    """Return one rule per stage: the rate decay ** (its distance, see `depths`), None for the `frozen` stages."""
    return tuple(
        stage_rule(name, None if name in frozen else Learn(lr=decay**depth)) for name, depth in depths(model).items()
    )
