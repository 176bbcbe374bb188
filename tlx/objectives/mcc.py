"""Classes that are not confused with one another."""

from dataclasses import dataclass
from typing import ClassVar

from tlx.functional.discrepancy import confusion
from tlx.objectives.apart import gathered
from tlx.objectives.base import Term, check_classes, check_weight, weighed
from tlx.objectives.ramp import Weight
from tlx.trees import Tree
from tlx.types import Array, Setting, View


@dataclass(frozen=True, kw_only=True)
class Mcc(Term):
    """Minimum class confusion (Jin et al., 2020): `weight` times how much the classes are confused on the stream `on`,
    whose labels it does not read, with the logits divided by `temperature`."""

    on: str = "unlabelled"
    temperature: float = 2.5
    weight: Weight = 1.0

    couples: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_weight(self, "weight")
        if self.temperature <= 0:
            raise ValueError(f"Mcc: temperature is {self.temperature}; it is above 0")

    def memory(self, setting: Setting) -> Tree:
        """Raises ValueError for a task that is no classification."""
        check_classes(setting.task, "Mcc")
        return {}

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        found = confusion(gathered(view, view.taps[self.on]["logits"]), self.temperature)
        return weighed(self.weight, found, view, confusion=found)
