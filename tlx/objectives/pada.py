"""PADA: weight the source's classes by how often the model predicts them on the target."""

from collections.abc import Collection
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from tlx.functional.discrepancy import reversed_gradient
from tlx.models import features
from tlx.objectives.base import Needs, mean_over, task_losses, weighed
from tlx.objectives.between import Between, gathered
from tlx.objectives.checks import read_features
from tlx.objectives.discriminator import check_width, discriminate, discriminator, domain_risk, effective_share
from tlx.objectives.ramp import Ramp, Weight, current
from tlx.trees import Tree, added
from tlx.types import Array, Key, Model, View


@dataclass(frozen=True, kw_only=True)
class Pada(Between):
    """Partial adversarial domain adaptation (Cao et al., 2018), in the place of `Supervised` on the source.

    An example of the class c has the weight g_c = p_c / max p, both in the source's risk and in the risk of a
    discriminator as in `Dann`. p is the mean softmax over the target and has no gradient.

    The mean is over the batch, with the current model; the paper uses the whole target, every few hundred steps. The
    metric `effective` is the effective share of the source's examples, (sum g)^2 / (N sum g^2).
    """

    width: int = 256
    reversal: Weight = Ramp(0.0, 1.0, shape="sigmoid")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_width(self.width, "Pada")

    def needs(self, streams: Collection[str]) -> Needs:
        return super().needs(streams)._replace(labels=(self.source,), exclusive=True, features=True)

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        return added(params, discriminator("pada", read_features(model, "Pada"), self.width, key), "Pada")

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        scale = current(self.reversal, view.tick)
        logits = jax.lax.stop_gradient(view.taps[self.target]["logits"].astype(jnp.float32))
        classes = gathered(view, jax.nn.softmax(logits, -1)).mean(0)
        counts = {
            self.source: (classes / classes.max())[view.batch[self.source]["label"]],
            self.target: jnp.ones(len(logits)),
        }
        losses = task_losses(view, self.source)
        risk = mean_over(view, self.source, counts[self.source] * losses)
        domain_logits = {
            stream: discriminate(view.params["pada"], reversed_gradient(features(view.taps[stream]), scale))
            for stream in (self.source, self.target)
        }
        discriminator_risk, accuracy = domain_risk(view, self.source, self.target, domain_logits, counts)
        return weighed(
            self.weight, risk + discriminator_risk, view,
            risk=risk, discriminator=discriminator_risk, accuracy=accuracy,
            effective=effective_share(gathered(view, counts[self.source])), reversal=scale,
        )  # fmt: skip
