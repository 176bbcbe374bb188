"""Train the head alone."""

from dataclasses import dataclass

from tlx.tuning.base import Tuning, with_head
from tlx.types import Model, Phase


@dataclass(frozen=True, kw_only=True)
class Probe(Tuning):
    """Train the last stage on frozen features (a linear probe where the head is linear)."""

    chooses = True

    def phases(self, model: Model) -> tuple[Phase, ...]:
        return with_head(model, "Probe")
