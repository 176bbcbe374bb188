"""MCC: minimise the confusion between classes."""

from collections.abc import Collection
from dataclasses import dataclass

from tlx.functional.discrepancy import confusion
from tlx.objectives.base import Needs, Term, check_weight, weighed
from tlx.objectives.between import gathered
from tlx.objectives.ramp import Weight
from tlx.types import Array, View


@dataclass(frozen=True, kw_only=True)
class Mcc(Term):
    """Minimum class confusion (Jin et al., 2020).

    The loss is `weight` times the class confusion on the stream `on`, with the logits divided by `temperature`. The
    term reads no labels.
    """

    on: str = "unlabelled"
    temperature: float = 2.5
    weight: Weight = 1.0

    def __post_init__(self) -> None:
        check_weight(self, "weight")
        if self.temperature <= 0:
            raise ValueError(f"Mcc: temperature is {self.temperature}; expected a number above 0")

    def needs(self, streams: Collection[str]) -> Needs:
        return Needs(forward=(self.on,), exclusive=True, features=True)

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        value = confusion(gathered(view, view.taps[self.on]["logits"]), self.temperature)
        return weighed(self.weight, value, view, confusion=value)
