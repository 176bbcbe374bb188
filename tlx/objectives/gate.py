"""Gate against negative transfer: weight source examples in every step by their similarity to the target."""

from collections.abc import Collection
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from tlx.functional.discrepancy import reversed_gradient
from tlx.models import features
from tlx.objectives.base import Needs, mean_over, task_losses, weighed
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
class Gate(Between):
    """The gate against negative transfer (Wang et al., 2019, equations 7 to 9), in the place of `Supervised`.

    One discriminator D reads the input of the head and a label, or no label. It learns two tasks: to classify the
    target's unlabelled examples against the source's without labels, and the target's labelled examples against the
    source's with their labels. Each stream of a pair has the weight one half, as in `Dann`. The risk is that of the
    `labelled` stream, plus `share` times the mean over the source of w times each example's loss, with w = D(f, y) / (1
    - D(f, y)), which has no gradient. Without that stream, or where it is the `source` itself, w uses D without a
    label. The features receive the discriminator's gradient reversed, times `reversal` (mu in the paper).

    `most` bounds w, and `normalised` divides w by its mean over the batch. The defaults None and False are the paper's;
    with them one example may dominate the loss (on digits, a batch's mean w rose to 10^8), and `most=10,
    normalised=True` prevents this. The odds are cut at exp(20) in any case, because beyond it one example would
    outweigh the whole source. The metric `effective` is the effective share of the source's examples, (sum w)^2 / (N
    sum w^2).
    """

    labelled: str = "labelled"
    share: float = 1.0
    most: float | None = None
    normalised: bool = False
    width: int = 256
    reversal: Weight = Ramp(0.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_width(self.width, "Gate")
        if self.most is not None and self.most <= 0:
            raise ValueError(f"Gate: most is {self.most}; expected a number above 0, or None")
        if self.share < 0:
            raise ValueError(f"Gate: share is {self.share}; expected 0 or more")

    def needs(self, streams: Collection[str]) -> Needs:
        labelled = (self.labelled,) if self.knows(streams) else ()
        return Needs(
            forward=(self.source, self.target, *labelled),
            labels=(self.source, *labelled),
            exclusive=True,
            features=True,
            taps=("features",),
        )

    def knows(self, streams: Collection[str]) -> bool:
        """Return whether the streams contain labelled examples of the target besides the source."""
        return self.labelled in streams and self.labelled != self.source

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        inputs = read_features(model, "Gate") + (model.outputs or 0) + 1
        return added(params, discriminator("gate", inputs, self.width, key), "Gate")

    def weights(self, odds: Array) -> Array:
        """Return the weights w [B] of log-odds [B], before normalisation."""
        # A ratio of densities: far beyond this bound, one example would outweigh the whole source.
        weight = jnp.exp(jnp.minimum(odds, 20.0))
        return weight if self.most is None else jnp.minimum(weight, self.most)

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        scale, classes = current(self.reversal, view.tick), view.task.outputs

        def logit(stream: str, with_label: bool) -> Array:
            f = reversed_gradient(features(view.taps[stream]).astype(jnp.float32), scale)
            return log_odds(view.params["gate"], f, view.batch[stream]["label"] if with_label else None, classes)

        # These are log-odds of the target, so the target is the positive class.
        logits = {stream: logit(stream, False) for stream in (self.target, self.source)}
        domain, _ = domain_risk(view, self.target, self.source, logits)
        risk = jnp.zeros(())
        if self.knows(view.batch):
            logits = {stream: logit(stream, True) for stream in (self.labelled, self.source)}
            domain += domain_risk(view, self.labelled, self.source, logits)[0]
            labelled_losses = task_losses(view, self.labelled)
            risk = mean_over(view, self.labelled, labelled_losses)
        weight = self.weights(jax.lax.stop_gradient(logits[self.source]))
        batch_weights = gathered(view, weight)
        effective = effective_share(batch_weights)
        if self.normalised:
            weight = relative_to_mean(weight, batch_weights)
        source_losses = task_losses(view, self.source)
        gated = mean_over(view, self.source, weight * source_losses)
        return weighed(
            self.weight, risk + self.share * gated + domain, view,
            risk=risk, gated=gated, discriminator=domain, effective=effective,
            weight_mean=batch_weights.mean(), reversal=scale,
        )  # fmt: skip


def log_odds(params: Tree, f: Array, label: Array | None, classes: int) -> Array:
    """Return log D / (1 - D), the log-odds that an example belongs to the target: [B].

    Args:
        params: the discriminator's parameters.
        f: the features, [B, W].
        label: the classes [B], or None for no label.
        classes: the number of classes.
    """
    label = jnp.full(len(f), classes) if label is None else label
    return discriminate(params, jnp.concatenate([f, jax.nn.one_hot(label, classes + 1)], -1))
