"""IWAN: a discriminator between the target and those source examples that resemble it."""

from collections.abc import Collection
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from tlx.functional.discrepancy import reversed_gradient
from tlx.models import features
from tlx.objectives.base import Needs, weighed
from tlx.objectives.between import Between, gathered
from tlx.objectives.checks import read_features
from tlx.objectives.discriminator import (
    check_width,
    discriminate,
    discriminator,
    domain_risk,
    effective_share,
    relative_to_mean,
)
from tlx.objectives.ramp import Ramp, Weight, current
from tlx.trees import Tree, added
from tlx.types import Array, Key, Model, View


@dataclass(frozen=True, kw_only=True)
class Iwan(Between):
    """Importance weighted adversarial nets (Zhang et al., 2018).

    It equals `Dann`, but in the discriminator's risk an example of the source has the weight w = 1 - D(f), divided by
    its mean in the batch. D is a second discriminator on the same features, trained in the same run; its gradient does
    not reach the features. A source example that D recognises easily thus has little weight.

    The paper's D reads a separate source extractor that was trained before; here D and the model share the features.
    The paper's entropy of the target is the term Entropy(on="unlabelled"). The metric `effective` is the effective
    share of the source's examples, (sum w)^2 / (N sum w^2).
    """

    width: int = 256
    reversal: Weight = Ramp(0.0, 1.0, shape="sigmoid")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_width(self.width, "Iwan")

    def needs(self, streams: Collection[str]) -> Needs:
        return super().needs(streams)._replace(features=True)

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        inputs, leaves = read_features(model, "Iwan"), dict[str, Array]()
        for name, part_key in zip(("iwan/apart", "iwan/weigher"), jax.random.split(key), strict=True):
            leaves |= discriminator(name, inputs, self.width, part_key)
        return added(params, leaves, "Iwan")

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        scale, params = current(self.reversal, view.tick), view.params["iwan"]
        weigher_logits, domain_logits = {}, {}
        for stream in (self.source, self.target):
            f = features(view.taps[stream])
            weigher_logits[stream] = discriminate(params["weigher"], jax.lax.stop_gradient(f))
            domain_logits[stream] = discriminate(params["apart"], reversed_gradient(f, scale))
        # 1 - D as the sigmoid of the negative logit, which does not round to 0 for D near 1.
        weight = jax.nn.sigmoid(-jax.lax.stop_gradient(weigher_logits[self.source]))
        batch_weights = gathered(view, weight)
        counts = {
            self.source: relative_to_mean(weight, batch_weights),
            self.target: jnp.ones(len(domain_logits[self.target])),
        }
        weighting, _ = domain_risk(view, self.source, self.target, weigher_logits)
        risk, accuracy = domain_risk(view, self.source, self.target, domain_logits, counts)
        return weighed(
            self.weight, risk + weighting, view,
            risk=risk, weigher=weighting, accuracy=accuracy, effective=effective_share(batch_weights), reversal=scale,
        )  # fmt: skip
