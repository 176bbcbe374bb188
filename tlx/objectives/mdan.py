"""MDAN: train on several sources, with more weight on the hardest ones."""

from collections.abc import Collection
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from tlx.functional.discrepancy import reversed_gradient
from tlx.models import features
from tlx.objectives.base import Needs, Term, check_weight, mean_over, task_losses, weighed
from tlx.objectives.between import check_sources, over_devices
from tlx.objectives.checks import read_features
from tlx.objectives.discriminator import check_width, discriminate, discriminator, domain_risk
from tlx.objectives.ramp import Ramp, Weight, current
from tlx.trees import Tree, added
from tlx.types import Array, Key, Model, View


@dataclass(frozen=True, kw_only=True)
class Mdan(Term):
    """Multisource adversarial training in its soft version (Zhao et al., 2018), in the place of `Supervised`.

    The loss is `weight` times log(sum_i exp(gamma v_i)) / gamma over the `sources`, which are streams with labels. v_i
    is the task's mean loss on source i minus `share` times the risk of a discriminator between this source and the
    target. Each source has its own discriminator.

    The weights of the sources are therefore not learned; they are softmax(gamma v), which is logged. (Learned weights
    that minimise the loss would all move to the easiest source.) The gradient for the discriminator's parameters
    minimises its risk; the gradient for the features maximises it, times `reversal`. The paper subtracts the risk.
    Published code adds it under a reversed gradient, which trains the same way but gives less weight to a source that
    is easy to distinguish from the target.
    """

    sources: tuple[str, ...] = ("source/0", "source/1")
    target: str = "unlabelled"
    gamma: float = 10.0
    share: float = 0.01
    width: int = 256
    reversal: Weight = Ramp(0.0, 1.0, shape="sigmoid")
    weight: Weight = 1.0

    def __post_init__(self) -> None:
        check_weight(self, "weight", "reversal", "share")
        check_width(self.width, "Mdan")
        check_sources(self.sources, self.target, "Mdan")
        if not self.sources:
            raise ValueError(
                "Mdan: sources is (); name the streams of the sources, because Mdan trains a discriminator for each "
                "of them"
            )
        if self.gamma <= 0:
            raise ValueError(f"Mdan: gamma is {self.gamma}; expected a number above 0")

    def needs(self, streams: Collection[str]) -> Needs:
        forward = (*self.sources, self.target)
        return Needs(forward=forward, labels=self.sources, features=True, taps=("features",))

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        inputs, leaves = read_features(model, "Mdan"), dict[str, Array]()
        for number in range(len(self.sources)):
            leaves |= discriminator(f"mdan/{number}", inputs, self.width, jax.random.fold_in(key, number))
        return added(params, leaves, "Mdan")

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        scale = current(self.reversal, view.tick)
        risks, domain_risks = [], []
        for number, source in enumerate(self.sources):
            # The risk is subtracted, so the discriminator needs a reversed gradient, the features only a scaled one.
            params = jax.tree.map(lambda leaf: reversed_gradient(leaf, jnp.ones(())), view.params["mdan"][str(number)])
            logits = {
                stream: discriminate(params, reversed_gradient(features(view.taps[stream]), -scale))
                for stream in (source, self.target)
            }
            domain_risks.append(domain_risk(view, source, self.target, logits)[0])
            losses = task_losses(view, source)
            risks.append(mean_over(view, source, losses))
        # Of the whole batch, because the log-sum-exp is not a mean over examples.
        values = over_devices(view, jnp.stack(risks) - self.share * jnp.stack(domain_risks))
        value = jax.nn.logsumexp(self.gamma * values) / self.gamma
        metrics = {"reversal": scale, "discriminator": sum(domain_risks, jnp.zeros(())) / len(domain_risks)}
        for number, (risk, source_weight) in enumerate(zip(risks, jax.nn.softmax(self.gamma * values), strict=True)):
            metrics |= {f"risk_{number}": risk, f"weight_{number}": source_weight}
        return weighed(self.weight, value, view, **metrics)
