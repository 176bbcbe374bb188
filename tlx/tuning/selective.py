"""Tunings that add nothing and let a few of the model's own numbers move: its biases, its norms."""

from dataclasses import dataclass

from tlx.tuning.base import Tuning, either, groups, with_head
from tlx.types import Learn, Model, Phase


@dataclass(frozen=True, kw_only=True)
class BitFit(Tuning):
    """Every bias and the head learn (Ben Zaken et al., 2022)."""

    def phases(self, model: Model) -> tuple[Phase, ...]:
        return with_head(model, "BitFit", (r".*/bias", Learn(weight_decay=0.0)))


@dataclass(frozen=True, kw_only=True)
class NormTuning(Tuning):
    """The scales and shifts of every norm, and the head, learn (for batch norm, Frankle et al., 2021)."""

    def phases(self, model: Model) -> tuple[Phase, ...]:
        """Raises ValueError for a model without norms."""
        norms = [path for path, group in groups(model.params) if group.keys() == {"scale", "bias"}]
        if not norms:
            raise ValueError(f"NormTuning() finds no norm (a scale and a bias) in {type(model.config).__name__}")
        found = [f"{path}/{name}" for path in norms for name in ("scale", "bias")]
        return with_head(model, "NormTuning", either(found, Learn(weight_decay=0.0)))
