"""ADDA: train a target encoder until a discriminator cannot distinguish its features from the source encoder's."""

from collections.abc import Collection
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from tlx.models import features, forward
from tlx.objectives.base import Needs, Preview, mean_over, weighed
from tlx.objectives.between import Between
from tlx.objectives.checks import read_features
from tlx.objectives.discriminator import check_width, discriminate, discriminator, domain_risk
from tlx.objectives.leaves import below, stage_names
from tlx.objectives.reference import remember, remembered
from tlx.trees import Tree, added
from tlx.types import Array, Key, Model, Setting, Turn, View


@dataclass(frozen=True, kw_only=True)
class Adda(Between):
    """Adversarial discriminative domain adaptation (Tzeng et al., 2017, equation 9), with `update=Alternating()`.

    This term is the second stage of the paper: its `weights` come from an earlier run that was trained on the source.

    The source encoder is the model at the start of the run, in evaluation mode. The target encoder is the model that
    learns; it starts as a copy of the source encoder. A step takes two turns: (A) the discriminator minimises its risk
    of classifying the source encoder's features of the source against the target encoder's features of the target; (B)
    the target encoder minimises the discriminator's risk on the target with inverted labels, -log D. The head stays
    frozen under every tuning.

    The discriminator has two hidden layers of `width` units.
    """

    width: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        check_width(self.width, "Adda")

    def needs(self, streams: Collection[str]) -> Needs:
        # The target encoder never reads the source, so the source must not change its running statistics.
        return Needs(forward=(self.target,), batch=(self.source,), features=False, taps=("features", "head"))

    def check(self, preview: Preview) -> None:
        """Raise ValueError where some part of the source encoder or of its head is in no checkpoint."""
        stages = below(stage_names(preview.model))
        if paths := sorted(path for path in preview.new if path.startswith(stages)):
            raise ValueError(
                f"Adda adapts a model that was trained on the source, but {paths[0]!r} is not in the checkpoint "
                "and is drawn at random: start from a run that trained on the source: weights=Weights(...)"
            )

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        return added(params, discriminator("adda", read_features(model, "Adda"), self.width, key), "Adda")

    def memory(self, setting: Setting) -> Tree:
        """Return the initial parameters and statistics of the source encoder."""
        return remember(setting)

    def turns(self, model: Model) -> tuple[Turn, ...]:
        return Turn(below(["adda"])), Turn(below(stage_names(model)[:-1]))

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        source_taps, _ = forward(view.model, remembered(view), view.batch[self.source], dtype=view.dtype)
        inputs = {self.source: features(source_taps), self.target: features(view.taps[self.target])}
        logits = {stream: discriminate(view.params["adda"], x.astype(jnp.float32)) for stream, x in inputs.items()}
        risk, accuracy = domain_risk(view, self.source, self.target, logits)
        fooled = mean_over(view, self.target, jax.nn.softplus(-logits[self.target]))
        return weighed(self.weight, (risk, fooled)[view.turn], view, risk=risk, fooled=fooled, accuracy=accuracy)
