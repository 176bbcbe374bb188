"""Features of a target that a source's head can read. Shapes: N examples, W width, C classes."""

from collections.abc import Collection
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from tlx.functional.losses import cross_entropy, entropy
from tlx.objectives.base import Needs, Preview, Term, check_weight, weighed
from tlx.objectives.between import gathered, rows
from tlx.objectives.leaves import drawn_head
from tlx.objectives.ramp import Weight, current
from tlx.types import Array, View


@dataclass(frozen=True, kw_only=True)
class Shot(Term):
    """Source hypothesis transfer (Liang et al., 2020) on the stream `on`, without any source: `weight` times (mean
    entropy - entropy of the mean prediction + `pseudo` times the cross-entropy to labels by centroids).

    The head stays frozen, and the stages below it learn features that fit it: a tuning that trains the head is
    rejected, and `Rules(("head/.*", None), (".*", Learn()))` is the paper's. The labels are the paper's (equations 4 to
    6) of the batch in the place of the data set: there they are computed anew before each epoch from all examples, here
    at each step from those of the (global) batch. So they are as fresh as can be, and noisier: a batch of several
    examples a class is wanted. As in the authors' code, a class that no example is taken for has no centroid.
    `diversity` is logged, the entropy of the mean prediction.
    """

    on: str = "unlabelled"
    pseudo: Weight = 0.3
    weight: Weight = 1.0

    def __post_init__(self) -> None:
        check_weight(self, "weight", "pseudo")

    def needs(self, streams: Collection[str]) -> Needs:
        return Needs(
            forward=(self.on,),
            frozen_head=True,
            exclusive=True,
            features=True,
            taps=("head", "features"),
        )

    def check(self, preview: Preview) -> None:
        """Raise ValueError for a head that no checkpoint holds."""
        if fresh := drawn_head(preview.model, preview.fresh):
            raise ValueError(
                f"Shot adapts features to the pretrained head, and {fresh[0]!r} is drawn at random: start from a "
                "classifier of the same classes: weights=Weights(...)"
            )

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        logits = gathered(view, view.taps[self.on]["logits"])
        sure = entropy(logits).mean()
        p = jax.nn.softmax(logits.astype(jnp.float32), -1)
        mean = p.mean(0)
        diversity = -(mean * jnp.log(jnp.where(mean > 0, mean, 1.0))).sum()
        labels = centroid_labels(*jax.lax.stop_gradient((rows(view, self.on).astype(jnp.float32), p)))
        risk = cross_entropy(logits, labels).mean()
        total = sure - diversity + current(self.pseudo, view.tick) * risk
        return weighed(self.weight, total, view, entropy=sure, diversity=diversity, pseudo=risk)


def centroid_labels(features: Array, p: Array) -> Array:
    """Return the class of the nearest centroid by the cosine: [N, W], [N, C] -> [N].

    The centroids are at first the means of the features weighed by the probabilities `p`, of the classes that are
    likeliest for some example; then those of the examples that are nearest to each (Liang et al., 2020, equations 4 to
    6).
    """
    directions = unit(features)

    def nearest(shares: Array, present: Array) -> Array:
        # A sum points where a mean does.
        likeness = directions @ unit(shares.T @ features).T
        return jnp.where(present, likeness, -jnp.inf).argmax(-1)

    classes = p.shape[-1]
    first = nearest(p, members(p.argmax(-1), classes).any(0))
    member = members(first, classes)
    return nearest(member.astype(features.dtype), member.any(0))


def members(labels: Array, classes: int) -> Array:
    """Booleans [N, C]."""
    return labels[:, None] == jnp.arange(classes)


def unit(x: Array) -> Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
