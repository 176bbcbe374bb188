"""Only the head moves."""

from dataclasses import dataclass

from tlx.tuning.base import REST_STILL, Tuning, parametric, stage_rule
from tlx.types import Learn, Model, Phase


@dataclass(frozen=True, kw_only=True)
class Probe(Tuning):
    """The last stage learns on features that stay as they came (a linear probe where the head is linear)."""

    def phases(self, model: Model) -> tuple[Phase, ...]:
        stages = parametric(model)
        if len(stages) < 2:
            raise ValueError(f"Probe() needs a stage below the head; this model has {stages}; use Rules(...)")
        return (Phase(1.0, (stage_rule(stages[-1], Learn()), REST_STILL)),)
