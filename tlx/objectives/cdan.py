"""CDAN: a discriminator between two streams that reads features and predictions together."""

import math
from collections.abc import Collection
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from tlx.functional.discrepancy import reversed_gradient
from tlx.functional.losses import entropy
from tlx.models import features
from tlx.objectives.base import Needs, weighed
from tlx.objectives.between import Between, gathered
from tlx.objectives.checks import read_features
from tlx.objectives.discriminator import check_width, discriminate, discriminator, domain_risk
from tlx.objectives.ramp import Ramp, Weight, current
from tlx.trees import Tree, added
from tlx.types import Array, Key, Model, Setting, View


@dataclass(frozen=True, kw_only=True)
class Cdan(Between):
    """Conditional adversarial training (Long et al., 2018).

    It equals `Dann`, but the discriminator reads the outer product of f, the input of the head, and p, the softmax of
    its logits. p has no gradient.

    With `projection` d the discriminator reads (R f) * (Q p) / sqrt(d) instead, where R and Q are fixed normal
    matrices. With `entropy` (CDAN+E) an example has the weight 1 + exp(-H(p)), divided by the mean weight over both
    streams.
    """

    width: int = 256
    projection: int | None = None
    entropy: bool = True
    reversal: Weight = Ramp(0.0, 1.0, shape="sigmoid")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_width(self.width, "Cdan")
        if self.projection is not None and self.projection < 1:
            raise ValueError(f"Cdan: projection is {self.projection}; expected 1 or more, or None")

    def needs(self, streams: Collection[str]) -> Needs:
        return super().needs(streams)._replace(exclusive=True, features=True)

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        inputs = self.projection or read_features(model, "Cdan") * (model.outputs or 1)
        return added(params, discriminator("cdan", inputs, self.width, key), "Cdan")

    def memory(self, setting: Setting) -> Tree:
        """Return the fixed matrices R and Q, [W, d] and [C, d], by name; empty without `projection`."""
        if self.projection is None:
            return {}
        sizes = {"features": read_features(setting.model, "Cdan"), "classes": setting.task.outputs}
        keys = jax.random.split(jax.random.key(0), len(sizes))
        return {
            name: jax.random.normal(key, (size, self.projection))
            for key, (name, size) in zip(keys, sizes.items(), strict=True)
        }

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        scale = current(self.reversal, view.tick)
        domain_logits, certainty = {}, {}
        for stream in (self.source, self.target):
            taps = view.taps[stream]
            logits = jax.lax.stop_gradient(taps["logits"].astype(jnp.float32))
            f, p = features(taps).astype(jnp.float32), jax.nn.softmax(logits, -1)
            if self.projection is None:
                joint = (p[:, :, None] * f[:, None]).reshape(len(f), -1)
            else:
                joint = (f @ view.memory["features"]) * (p @ view.memory["classes"]) / math.sqrt(self.projection)
            domain_logits[stream] = discriminate(view.params["cdan"], reversed_gradient(joint, scale))
            certainty[stream] = 1.0 + jnp.exp(-entropy(logits)) if self.entropy else jnp.ones(len(f))
        mean = jnp.concatenate([gathered(view, weights) for weights in certainty.values()]).mean()
        counts = {stream: weights / mean for stream, weights in certainty.items()}
        risk, accuracy = domain_risk(view, self.source, self.target, domain_logits, counts)
        return weighed(self.weight, risk, view, risk=risk, accuracy=accuracy, reversal=scale)
