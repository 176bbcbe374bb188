"""Only the head moves."""

from dataclasses import dataclass

from tlx.tuning.base import REST_STILL, Tuning, head_rule
from tlx.types import Model, Phase


@dataclass(frozen=True, kw_only=True)
class Probe(Tuning):
    """The last stage learns on features that stay as they came (a linear probe where the head is linear)."""

    def phases(self, model: Model) -> tuple[Phase, ...]:
        return (Phase(1.0, (head_rule(model, "Probe"), REST_STILL)),)
