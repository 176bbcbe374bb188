"""MDD: a second head that disagrees with the first on one stream only, and features that prevent this."""

from collections.abc import Collection
from dataclasses import dataclass

import jax

from tlx.functional.discrepancy import reversed_gradient
from tlx.functional.losses import log_odds
from tlx.models import features
from tlx.objectives.base import Needs, mean_over, weighed
from tlx.objectives.between import Between
from tlx.objectives.checks import read_features
from tlx.objectives.discriminator import check_width, perceive, perceptron
from tlx.objectives.ramp import Ramp, Weight, current
from tlx.trees import Tree, added
from tlx.types import Array, Key, Model, View


@dataclass(frozen=True, kw_only=True)
class Mdd(Between):
    """Margin disparity discrepancy (Zhang et al., 2019, section 4).

    A second head with the probabilities p learns to predict the class h of the first head on the source, and to avoid
    it on the target. The loss is `weight` times -D, with

        D = margin E_source[log p_h] + E_target[log(1 - p_h)].

    h is the class with the largest logit of the first head, which receives no gradient from this term. The gradient
    reaches the inputs of the heads, f, reversed, times `reversal`; the default is the authors' ramp up to 0.1. The
    second head has one hidden layer of `width` units and learns under every tuning. D is logged as `disparity`.
    """

    margin: float = 4.0
    width: int = 1024
    reversal: Weight = Ramp(0.0, 0.1, shape="sigmoid")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_width(self.width, "Mdd")
        if self.margin <= 0:
            raise ValueError(f"Mdd: margin is {self.margin}; expected a number above 0")

    def needs(self, streams: Collection[str]) -> Needs:
        return super().needs(streams)._replace(exclusive=True)

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        widths = (read_features(model, "Mdd"), self.width, model.outputs or 1)
        return added(params, perceptron("mdd", widths, key), "Mdd")

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        scale = current(self.reversal, view.tick)

        def odds(stream: str) -> Array:
            """Return log p_h / (1 - p_h) of every example, [B]."""
            f = reversed_gradient(features(view.taps[stream]), scale)
            return log_odds(perceive(view.params["mdd"], f), view.taps[stream]["logits"].argmax(-1))

        agree = mean_over(view, self.source, jax.nn.softplus(-odds(self.source)))
        differ = mean_over(view, self.target, jax.nn.softplus(odds(self.target)))
        risk = self.margin * agree + differ
        return weighed(self.weight, risk, view, disparity=-risk, reversal=scale)
