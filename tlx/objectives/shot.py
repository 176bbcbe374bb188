"""SHOT: adapt the features of a target to the frozen head of a source. Shapes: N examples, W width, C classes."""

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
    """Source hypothesis transfer (Liang et al., 2020) on the stream `on`, without source data.

    The loss is `weight` times (mean entropy - entropy of the mean prediction + `pseudo` times the cross-entropy to
    centroid labels).

    The head stays frozen, and the stages below it learn features that fit it. A tuning that trains the head is
    rejected; the paper's tuning is `Rules(("head/.*", None), (".*", Learn()))`. The labels follow the paper (equations
    4 to 6), but use the batch instead of the data set: the paper recomputes them before each epoch from all examples,
    and this term at each step from the (global) batch. They are thus more recent but noisier, so use a batch with
    several examples per class. As in the authors' code, a class that no example is assigned to has no centroid. The
    metric `diversity` is the entropy of the mean prediction.
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
        """Raise ValueError for a head that is in no checkpoint."""
        if paths := drawn_head(preview.model, preview.new):
            raise ValueError(
                f"Shot adapts features to the pretrained head, but {paths[0]!r} is not in the checkpoint and is "
                "drawn at random: start from a classifier of the same classes: weights=Weights(...)"
            )

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        logits = gathered(view, view.taps[self.on]["logits"])
        mean_entropy = entropy(logits).mean()
        p = jax.nn.softmax(logits.astype(jnp.float32), -1)
        mean = p.mean(0)
        diversity = -(mean * jnp.log(jnp.where(mean > 0, mean, 1.0))).sum()
        labels = centroid_labels(*jax.lax.stop_gradient((rows(view, self.on).astype(jnp.float32), p)))
        risk = cross_entropy(logits, labels).mean()
        total = mean_entropy - diversity + current(self.pseudo, view.tick) * risk
        return weighed(self.weight, total, view, entropy=mean_entropy, diversity=diversity, pseudo=risk)


def centroid_labels(features: Array, p: Array) -> Array:
    """Return the class of the nearest centroid by cosine similarity: [N, W], [N, C] -> [N].

    The first centroids are the means of the features weighted by the probabilities `p`, for the classes that are the
    most likely class of some example. The second centroids are the means of the examples that are nearest to each first
    centroid (Liang et al., 2020, equations 4 to 6).
    """
    directions = unit(features)

    def nearest(shares: Array, present: Array) -> Array:
        # A sum has the direction of the mean, and only the direction matters.
        cosines = directions @ unit(shares.T @ features).T
        return jnp.where(present, cosines, -jnp.inf).argmax(-1)

    classes = p.shape[-1]
    first = nearest(p, members(p.argmax(-1), classes).any(0))
    membership = members(first, classes)
    return nearest(membership.astype(features.dtype), membership.any(0))


def members(labels: Array, classes: int) -> Array:
    """Return which class each example belongs to: [N] -> booleans [N, C]."""
    return labels[:, None] == jnp.arange(classes)


def unit(x: Array) -> Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
