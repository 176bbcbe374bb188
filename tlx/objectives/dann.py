"""DANN: a discriminator between two streams with a reversed gradient."""

from dataclasses import dataclass

from tlx.functional.discrepancy import reversed_gradient
from tlx.models import features
from tlx.objectives.base import weighed
from tlx.objectives.between import Between
from tlx.objectives.checks import read_features
from tlx.objectives.discriminator import check_width, discriminate, discriminator, domain_risk
from tlx.objectives.ramp import Ramp, Weight, current
from tlx.trees import Tree, added
from tlx.types import Array, Key, Model, View


@dataclass(frozen=True, kw_only=True)
class Dann(Between):
    """Domain-adversarial training (Ganin et al., 2016).

    The loss is `weight` times the mean cross-entropy of a discriminator that classifies the input of the head by its
    stream. Its gradient reaches the features reversed, times `reversal`. The default is the paper's: 2 / (1 + exp(-10
    p)) - 1, with p the progress of the run.

    The discriminator has two hidden layers of `width` units and learns under every tuning.
    """

    width: int = 256
    reversal: Weight = Ramp(0.0, 1.0, shape="sigmoid")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_width(self.width, "Dann")

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        return added(params, discriminator("dann", read_features(model, "Dann"), self.width, key), "Dann")

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        scale = current(self.reversal, view.tick)
        logits = {
            stream: discriminate(view.params["dann"], reversed_gradient(features(view.taps[stream]), scale))
            for stream in (self.source, self.target)
        }
        risk, accuracy = domain_risk(view, self.source, self.target, logits)
        return weighed(self.weight, risk, view, risk=risk, accuracy=accuracy, reversal=scale)
