"""Several sources, of which the hardest count most."""

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
    """Multisource adversarial training in its soft version (Zhao et al., 2018), in the place of `Supervised`: `weight`
    times log(sum_i exp(gamma v_i)) / gamma over the `sources`, streams with labels, v_i being the task's mean loss on
    source i minus `share` times the risk of a discriminator of its own, that tells it from the target.

    The weights of the sources are thus not learned but follow: softmax(gamma v), which is logged (weights that are
    learned to make the loss small would all go to the easiest source). Of the discriminator's two gradients, its own
    makes its risk small, the features' makes it large, times `reversal`. The paper subtracts the risk; published code
    adds it under a reversed gradient, which trains the same but makes a source that is easily told apart count less.
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
            raise ValueError("Mdan: sources is (); name the streams of the sources, each of which has a discriminator")
        if self.gamma <= 0:
            raise ValueError(f"Mdan: gamma is {self.gamma}; it is above 0")

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
        risks, apart = [], []
        for number, source in enumerate(self.sources):
            # The risk is subtracted: its discriminator hears it reversed, and the features as it is, times the scale.
            params = jax.tree.map(lambda leaf: reversed_gradient(leaf, jnp.ones(())), view.params["mdan"][str(number)])
            logits = {
                stream: discriminate(params, reversed_gradient(features(view.taps[stream]), -scale))
                for stream in (source, self.target)
            }
            apart.append(domain_risk(view, source, self.target, logits)[0])
            loss = task_losses(view, source)
            risks.append(mean_over(view, source, loss))
        # Of the whole batch, for the sum of exponentials is no mean over examples.
        values = over_devices(view, jnp.stack(risks) - self.share * jnp.stack(apart))
        value = jax.nn.logsumexp(self.gamma * values) / self.gamma
        metrics = {"reversal": scale, "discriminator": sum(apart, jnp.zeros(())) / len(apart)}
        for number, (risk, counts) in enumerate(zip(risks, jax.nn.softmax(self.gamma * values), strict=True)):
            metrics |= {f"risk_{number}": risk, f"weight_{number}": counts}
        return weighed(self.weight, value, view, **metrics)
