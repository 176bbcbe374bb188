"""Features by which a discriminator cannot tell the target from those examples of the source that look like it."""

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
    """Importance weighted adversarial nets (Zhang et al., 2018): as `Dann`, but in the discriminator's risk an example
    of the source counts w = 1 - D(f), over its mean in the batch. D is a second discriminator on the same features,
    trained beside it, of which these hear nothing: an example that is easily known for the source's hardly counts.

    The paper's D reads a source extractor of its own, trained before; this one is shared. Its entropy of the target is
    Entropy(on="unlabelled"). `effective` is logged, the effective share of the source's examples,
    (sum w)^2 / (N sum w^2).
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
        for name, part in zip(("iwan/apart", "iwan/weigher"), jax.random.split(key), strict=True):
            leaves |= discriminator(name, inputs, self.width, part)
        return added(params, leaves, "Iwan")

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        scale, params = current(self.reversal, view.tick), view.params["iwan"]
        weigher_logits, domain_logits = {}, {}
        for stream in (self.source, self.target):
            f = features(view.taps[stream])
            weigher_logits[stream] = discriminate(params["weigher"], jax.lax.stop_gradient(f))
            domain_logits[stream] = discriminate(params["apart"], reversed_gradient(f, scale))
        # 1 - D, as a sigmoid of the negative logit.
        weight = jax.nn.sigmoid(-jax.lax.stop_gradient(weigher_logits[self.source]))
        every = gathered(view, weight)
        counts = {
            self.source: relative_to_mean(weight, every),
            self.target: jnp.ones(len(domain_logits[self.target])),
        }
        weigher, _ = domain_risk(view, self.source, self.target, weigher_logits)
        risk, right = domain_risk(view, self.source, self.target, domain_logits, counts)
        return weighed(
            self.weight, risk + weigher, view,
            risk=risk, weigher=weigher, accuracy=right, effective=effective_share(every), reversal=scale,
        )  # fmt: skip
